//! A whole run: from a run file to a folder with the result.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::checkpoint::State;
use super::events::{Observer, Summary};
use super::lanes::Lanes;
use super::output::{self, Found};
use super::run_file::{Method, RunFile};
use super::session::{Base, Session};
use super::settings::first_difference;
use crate::hub::ADAPTER_CONFIG;
use crate::{Error, Result};

/// What to do with an output folder that holds a run already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Go on from the newest checkpoint, or begin where there is none.
    pub resume: bool,
    /// Remove what is there and begin.
    pub overwrite: bool,
}

/// Runs a run file to its end and returns what `summary.json` says. `stop` is looked at after each step and each batch of
/// an evaluation: when it is set, a checkpoint is written and the run ends with [`Error::Interrupted`].
///
/// # Errors
/// If the output holds a run and neither option says what to do with it; if the checkpoint to resume from was made
/// with other settings; if a file, the model or the data cannot be used; if a number is not finite.
pub fn run(
    run: &RunFile,
    options: RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary> {
    let runs = [(String::new(), run.clone())];
    run_together(&runs, options, observer, stop)
        .map(|summaries| summaries.into_iter().next().unwrap_or_default())
}

/// Runs several run files with their names at once, on one model: each takes a step in turn, and is what it would be alone.
/// Returns what the `summary.json` of each says.
///
/// # Errors
/// As [`run`]; if one trains the whole model, or they are not for one model with one form of head.
pub fn run_together(
    runs: &[(String, RunFile)],
    options: RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Vec<Summary>> {
    let begun = Instant::now();
    if runs.len() > 1 && runs.iter().any(|(_, run)| run.method == Method::Full) {
        return Err(Error::setting("method", "\"full\" trains the model that several adapters would share"));
    }
    let named = |name: &str, error: Error| if name.is_empty() { error } else { error.of_adapter(name) };
    // All are looked at before one of them is opened, which takes a while.
    let mut summaries = Vec::new();
    for (name, run) in runs {
        if runs.len() > 1 {
            observer.turn(name);
        }
        let beside = if name.is_empty() { Ok(()) } else { refuse_folder_of_one(run) };
        let summary = beside.and_then(|()| prepare(run, runs, options, observer));
        summaries.push(summary.map_err(|error| named(name, error))?);
    }
    let mut lanes: Option<Lanes<'_>> = None;
    let opened: Vec<usize> = (0..runs.len()).filter(|place| summaries[*place].is_none()).collect();
    for (name, run) in opened.iter().map(|place| &runs[*place]) {
        if runs.len() > 1 {
            observer.turn(name);
        }
        let mut open = |base: &mut Option<Base>| {
            Session::open(run, base, options, observer, stop).map_err(|error| named(name, error))
        };
        lanes = Some(match lanes {
            Some(lanes) => lanes.open(name, open)?,
            None => {
                let mut base = None;
                let session = open(&mut base)?;
                let base = base.ok_or_else(|| Error::Usage("no model was loaded".into()))?;
                Lanes::new(base, name, session, begun)
            }
        });
    }
    if let Some(mut lanes) = lanes {
        lanes.begin(options.overwrite)?;
        lanes.train(observer, stop)?;
        for (place, summary) in opened.into_iter().zip(lanes.finish(observer)?) {
            summaries[place] = Some(summary);
        }
    }
    Ok(summaries.into_iter().flatten().collect())
}

/// Looks at the output folder of one of several runs; a finished one that is to be resumed gives its summary.
fn prepare(
    run: &RunFile,
    runs: &[(String, RunFile)],
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Option<Summary>> {
    runs.iter().try_for_each(|(_, other)| refuse_sources(run, &other.output))?;
    output::check_folder(&run.output)?;
    output::check_unused(&run.output)?;
    if options.overwrite {
        // The old run may be anything, and goes only when this one is ready to begin.
        return Ok(None);
    }
    match output::look(&run.output)? {
        Found::Nothing => {}
        Found::Finished(summary) if options.resume => {
            if let Some(change) = changed_since(run)? {
                let reason = format!(
                    "it holds a finished run, and not this one: {change}; add --overwrite to begin anew"
                );
                return Err(Error::file(&run.output, reason));
            }
            observer.note(&format!("{}: the run is finished already", run.output.display()));
            return Ok(Some(*summary));
        }
        Found::Unfinished if options.resume => {}
        Found::Finished(_) => {
            let reason = "it holds a finished run: choose another output, or add --overwrite to replace it";
            return Err(Error::file(&run.output, reason));
        }
        Found::Unfinished => {
            let reason = "it holds an unfinished run: add --resume to go on, or --overwrite to begin anew";
            return Err(Error::file(&run.output, reason));
        }
    }
    Ok(None)
}

/// The first setting that differs from those of the run in the output, as far as that kept a checkpoint.
fn changed_since(run: &RunFile) -> Result<Option<String>> {
    let Some(old) = State::newest(&run.output)?.map(|state| state.settings) else { return Ok(None) };
    let mut new = run.decisive_settings();
    // What these came to mean is known only with the data and the model.
    for key in ["train.keep_best", "load_in"] {
        new.remove(key);
    }
    let old = old.into_iter().filter(|(key, _)| new.contains_key(key)).collect();
    Ok(first_difference(&old, &new))
}

/// Folders of several adapters do not stand in that of a single one.
fn refuse_folder_of_one(run: &RunFile) -> Result<()> {
    match run.output.parent().filter(|folder| folder.join(ADAPTER_CONFIG).is_file()) {
        None => Ok(()),
        Some(folder) => {
            Err(Error::file(folder, "it holds the adapter of one run; choose another output for several"))
        }
    }
}

/// What a run starts from must not be what a run replaces.
fn refuse_sources(run: &RunFile, output: &Path) -> Result<()> {
    let Ok(output) = output.canonicalize() else { return Ok(()) };
    let sources = [("model", Some(run.model_source())), ("init_adapter", run.init_adapter_source())];
    for (key, source) in sources {
        if source.is_some_and(|source| Path::new(&source).canonicalize().is_ok_and(|path| path == output)) {
            let reason = format!("it is the folder of {key}, which the run would replace; choose another");
            return Err(Error::setting("output", reason));
        }
    }
    Ok(())
}
