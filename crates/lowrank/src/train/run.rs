//! A whole run: from a run file to a folder with the result.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowrank_kernels::{Tier, memory, parallel};

use super::checkpoint::{Checkpoint, State};
use super::classifier::{Classifier, LoadOptions};
use super::dataset::{RunData, max_length};
use super::evaluate::{Scores, evaluate};
use super::events::{Observer, Start, StepReport, Summary};
use super::optimizer::{AdamW, AdamWConfig};
use super::output::{self, Found, MetricsLog, RUN_FILE, SUMMARY_FILE};
use super::run_file::{EvalEvery, RunFile};
use super::settings::{best_metric, check_settings, name_of, settings};
use super::snapshot::{self, Snapshot};
use super::subject::Subject;
use super::trainer::{Step, Trainer};
use crate::data::{BatchPlan, Batches, TaskInfo, TokenizedDataset};
use crate::hub::write_atomically;
use crate::{Error, Result};

/// What to do with an output folder that holds a run already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Go on from the newest checkpoint, or begin where there is none.
    pub resume: bool,
    /// Remove what is there and begin.
    pub overwrite: bool,
}

/// Losses that the summary's mean is taken of.
const RECENT_LOSSES: usize = 100;

/// Runs a run file to its end and returns what `summary.json` says. `stop` is looked at after each step: when it is
/// set, a checkpoint is written and the run ends with [`Error::Interrupted`].
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
    let begun = Instant::now();
    if let Some(summary) = prepare(run, options, observer)? {
        return Ok(summary);
    }
    let mut session = Session::open(run, options, observer)?;
    session.train(observer, stop)?;
    session.finish(begun)
}

/// Looks at the output folder; a finished run that is to be resumed gives its summary.
fn prepare(run: &RunFile, options: RunOptions, observer: &mut dyn Observer) -> Result<Option<Summary>> {
    if options.overwrite {
        // The old run may be anything, and goes only when this one is ready to begin.
        return output::check_folder(&run.output).map(|()| None);
    }
    match output::look(&run.output)? {
        Found::Nothing => {}
        Found::Finished(summary) if options.resume => {
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

/// A run in progress.
struct Session<'a> {
    run: &'a RunFile,
    classifier: Classifier,
    subject: Subject,
    task: TaskInfo,
    /// What the best state is chosen by; none where the last is kept.
    metric: Option<String>,
    train: TokenizedDataset,
    validation: Option<TokenizedDataset>,
    trainer: Trainer,
    log: MetricsLog,
    state: State,
    total_steps: usize,
    best: Option<Snapshot>,
    scores: BTreeMap<usize, Scores>,
    stopped_early: bool,
}

impl<'a> Session<'a> {
    fn open(run: &'a RunFile, options: RunOptions, observer: &mut dyn Observer) -> Result<Self> {
        let data = RunData::open(run)?;
        let task = data.task.info().clone();
        let metric = best_metric(run, &task, data.files.validation.is_some())?;
        let compute = run.compute();
        let load = LoadOptions { compute: Some(compute), num_labels: Some(task.num_labels) };
        let mut classifier = Classifier::load(&run.model_source(), None, load)?;
        let subject = Subject::prepare(run, &mut classifier)?;
        note_skipped(&classifier, observer);

        let tokenizer = classifier.tokenizer()?;
        let info = classifier.model().info().clone();
        let length = max_length(run.data.max_length, &info, observer);
        let train = data.dataset(&data.files.train, run.data.limit, length, &tokenizer, &info)?;
        let validation = data.files.validation.as_ref();
        let validation =
            validation.map(|path| data.dataset(path, 0, length, &tokenizer, &info)).transpose()?;

        let steps_per_epoch = plan(run).steps_per_epoch(train.len());
        let total_steps = match run.train.max_steps {
            0 => run.train.epochs * steps_per_epoch,
            steps => steps,
        };
        let optimizer = AdamWConfig {
            weight_decay: run.train.weight_decay,
            max_grad_norm: run.train.max_grad_norm,
            ..AdamWConfig::default()
        };
        let trainer = Trainer::new(AdamW::new(optimizer), run.schedule(total_steps), run.train.seed);
        let settings = settings(run, compute, &train, metric.as_deref());
        if options.overwrite {
            output::clear(&run.output)?;
        }
        std::fs::create_dir_all(&run.output).map_err(Error::io(&run.output))?;
        let resumed = if options.resume { Checkpoint::newest(&run.output)? } else { None };
        let state = match &resumed {
            Some(checkpoint) => {
                check_settings(&run.output, &checkpoint.state.settings, &settings)?;
                checkpoint.state.clone()
            }
            None => State::new(settings),
        };
        let log = MetricsLog::open(&run.output, state.metrics_bytes)?;
        let mut session = Self {
            run,
            classifier,
            subject,
            task,
            metric,
            train,
            validation,
            trainer,
            log,
            state,
            total_steps,
            best: None,
            scores: BTreeMap::new(),
            stopped_early: false,
        };
        if let Some(checkpoint) = resumed {
            observer.note(&format!("going on after step {}", session.state.step));
            snapshot::restore(session.classifier.model_mut(), &checkpoint.values)?;
            let (model, steps) = (session.classifier.model_mut(), session.state.step as u64);
            session.trainer.optimizer_mut().restore(model, steps, checkpoint.moments)?;
            session.best = checkpoint.best;
        }
        let text = run.text();
        write_atomically(run.output.join(RUN_FILE), |file| file.write_all(text.as_bytes()))?;
        Ok(session)
    }

    fn train(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
        observer.started(&Start {
            first_step: self.state.step,
            total_steps: self.total_steps,
            parameters: self.subject.count(&self.classifier),
            examples: self.train.len(),
            log_every: self.run.train.log_every,
        });
        // The batches borrow the data set, which nothing else of the session may then change.
        let train = std::mem::take(&mut self.train);
        let result = self.steps(&train, observer, stop);
        self.train = train;
        result
    }

    fn steps(
        &mut self,
        train: &TokenizedDataset,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let mut batches = Batches::new(train, plan(self.run), self.state.position)?;
        while self.state.step < self.total_steps && !self.is_out_of_patience() {
            let step = batches.next_step()?;
            let adapter = self.subject.adapter();
            let result =
                self.trainer.step(&mut self.classifier, adapter, &step).map_err(|e| self.advise(e))?;
            self.state.position = batches.position();
            self.count(&result);
            let report = StepReport { step: self.state.step, total_steps: self.total_steps, result };
            self.log.step(&report)?;
            observer.step(&report);

            let (last, epoch_ends) = (self.state.step == self.total_steps, self.state.position.step == 0);
            if last || is_due(self.run.train.eval_every, self.state.step, epoch_ends) {
                self.evaluate(observer)?;
            }
            let saves = match self.run.train.save_every {
                0 => epoch_ends,
                steps => self.state.step.is_multiple_of(steps),
            };
            let interrupted = stop.load(Ordering::Relaxed) && !last;
            if saves || interrupted {
                self.save()?;
            }
            if interrupted {
                return Err(Error::Interrupted { step: self.state.step });
            }
        }
        self.stopped_early = self.state.step < self.total_steps;
        Ok(())
    }

    fn count(&mut self, step: &Step) {
        let state = &mut self.state;
        state.step += 1;
        state.tokens += step.tokens as u64;
        state.examples += step.examples as u64;
        state.train_seconds += step.time.as_secs_f64();
        state.recent_losses.push_back(step.loss);
        if state.recent_losses.len() > RECENT_LOSSES {
            state.recent_losses.pop_front();
        }
    }

    fn is_out_of_patience(&self) -> bool {
        self.run.train.patience > 0 && self.state.stale_evaluations >= self.run.train.patience
    }

    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let step = self.state.step;
        let scores = evaluate(&self.classifier, self.subject.adapter(), validation, &self.task)?;
        if scores.get("loss").is_some_and(|loss| !loss.is_finite()) {
            let tensor = "the loss on the validation data".to_owned();
            let error = Error::NotFinite { step, tensor, advice: "lower the learning rate".into() };
            return Err(self.advise(error));
        }
        self.log.evaluation(step, &scores)?;
        observer.evaluated(step, &scores);
        if let Some(metric) = &self.metric {
            let value = scores.get(metric).copied().unwrap_or(f64::NAN);
            let improved = match self.state.best {
                None => true,
                Some((_, best)) if metric == "loss" => value < best,
                Some((_, best)) => value > best,
            };
            if improved {
                self.state.best = Some((step, value));
                self.state.stale_evaluations = 0;
                self.best = Some(snapshot::take(self.classifier.model_mut()));
            } else {
                self.state.stale_evaluations += 1;
            }
        }
        self.scores.insert(step, scores);
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.state.metrics_bytes = self.log.bytes();
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            values: snapshot::take(self.classifier.model_mut()),
            moments: self.trainer.optimizer().moments(self.classifier.model_mut()),
            best: self.best.clone(),
        };
        checkpoint.write(&self.run.output, self.run.train.save_total_limit).map(|_| ())
    }

    /// Puts the best state back, writes the result, and the summary last of all.
    fn finish(mut self, begun: Instant) -> Result<Summary> {
        if let Some(best) = &self.best {
            snapshot::restore(self.classifier.model_mut(), best)?;
        }
        let best_step = match (&self.best, self.state.best) {
            (Some(_), Some((step, _))) => step,
            _ => self.state.step,
        };
        let eval = match (self.scores.remove(&best_step), &self.validation) {
            (Some(scores), _) => scores,
            // The best evaluation was before the checkpoint that the run was resumed from.
            (None, Some(data)) => evaluate(&self.classifier, self.subject.adapter(), data, &self.task)?,
            (None, None) => Scores::new(),
        };
        self.subject.save(self.run, &mut self.classifier, &self.task)?;
        let parameters = self.subject.count(&self.classifier);
        let (state, seconds) = (&self.state, self.state.train_seconds.max(1e-9));
        let summary = Summary {
            model: self.run.model.clone(),
            task: self.task.name.clone(),
            labels: self.task.labels.clone(),
            method: self.subject.method().to_owned(),
            steps: state.step,
            epochs: state.examples as f64 / self.train.len().max(1) as f64,
            stopped_early: self.stopped_early,
            best_step,
            eval,
            train_loss: state.recent_losses.iter().sum::<f64>() / state.recent_losses.len().max(1) as f64,
            trainable_parameters: parameters.trainable,
            all_parameters: parameters.all,
            examples: self.train.len(),
            truncated_examples: self.train.truncated,
            skipped_examples: self.train.skipped,
            tokens: state.tokens,
            train_seconds: state.train_seconds,
            total_seconds: begun.elapsed().as_secs_f64(),
            examples_per_second: state.examples as f64 / seconds,
            tokens_per_second: state.tokens as f64 / seconds,
            peak_rss_bytes: memory::peak_rss_bytes(),
            dtype: name_of(self.classifier.compute()).to_owned(),
            cpu: Tier::active().to_string(),
            threads: parallel::threads(),
            seed: self.run.train.seed,
        };
        output::write_json(&self.run.output.join(SUMMARY_FILE), &summary)?;
        Ok(summary)
    }

    /// Tells where the last good state is.
    fn advise(&self, error: Error) -> Error {
        let Error::NotFinite { step, tensor, advice } = error else { return error };
        let kept = match Checkpoint::newest(&self.run.output) {
            Ok(Some(checkpoint)) => format!("the checkpoint of step {} is kept", checkpoint.state.step),
            _ => "no checkpoint was written yet".to_owned(),
        };
        Error::NotFinite { step, tensor, advice: format!("{kept}; {advice}") }
    }
}

fn plan(run: &RunFile) -> BatchPlan {
    BatchPlan {
        batch_size: run.train.batch_size,
        gradient_accumulation: run.train.gradient_accumulation,
        shuffle: run.train.shuffle,
        seed: run.train.seed,
    }
}

fn is_due(every: EvalEvery, step: usize, epoch_ends: bool) -> bool {
    match every {
        EvalEvery::Epoch => epoch_ends,
        EvalEvery::Steps(steps) => step.is_multiple_of(steps.max(1)),
    }
}

fn note_skipped(classifier: &Classifier, observer: &mut dyn Observer) {
    let report = classifier.report();
    if !report.skipped.is_empty() {
        observer.note(&format!("not used by this task: {}", report.skipped.join(", ")));
    }
    if !report.missing_head.is_empty() {
        observer.note(&format!("new head: {}", report.missing_head.join(", ")));
    }
}
