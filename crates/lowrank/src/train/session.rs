//! A run in progress.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowrank_kernels::{Tier, memory, parallel};

use super::adapted_model::{AdaptedModel, Use};
use super::checkpoint::{Checkpoint, State};
use super::dataset::{RunData, note_losses, reader};
use super::evaluate::evaluate;
use super::events::{Observer, Start, StepReport, Summary};
use super::optimizer::{AdamW, AdamWConfig};
use super::output::{self, MetricsLog, RUN_FILE};
use super::reading::Reading;
use super::run::RunOptions;
use super::run_file::{EvalEvery, Method, RunFile};
use super::settings::{Selection, check_settings, name_of, settings};
use super::snapshot::{self, Snapshot};
use super::subject::Subject;
use super::trainer::{Step, Trainer};
use crate::adapter::Init;
use crate::data::{Batch, BatchPlan, Dataset, Position, TaskInfo};
use crate::hub::{self, RepositoryKind, SUMMARY_FILE, write_atomically};
use crate::models::{self, Head, HeadSpec, ModelConfig};
use crate::tape::AdapterId;
use crate::{Error, Result};

/// Losses that the summary's mean is taken of.
const RECENT_LOSSES: usize = 100;

/// Ends the work if the user wants it ended.
pub(super) fn check_stop(stop: &AtomicBool, step: usize) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted { step }) } else { Ok(()) }
}

/// The model that one run, or several at once, train on.
pub(super) struct Base {
    pub adapted: AdaptedModel,
    folder: PathBuf,
    head: (Head, usize),
}

impl Base {
    fn load(run: &RunFile, folder: PathBuf, config: ModelConfig, task: &TaskInfo) -> Result<Self> {
        let purpose = if run.method == Method::Full { Use::FullTraining } else { Use::Training };
        let head = HeadSpec { style: run.head, ..HeadSpec::new(task.head, task.num_labels) };
        let compute = (Some(run.compute()), run.train.operands);
        let adapted = AdaptedModel::load_base(&folder, config, head, compute, run.load_in, purpose)?;
        Ok(Self { adapted, folder, head: (task.head, task.num_labels) })
    }

    /// Checks that it is the model of another run as well.
    fn check(&self, folder: &Path, task: &TaskInfo) -> Result<()> {
        if self.folder != folder {
            return Err(Error::setting("adapters", "all of them are trained on one model"));
        }
        if self.head != (task.head, task.num_labels) {
            let reason = format!(
                "{} has {} labels where the first adapter has {}: adapters that are trained at once share the form of the \
                 head",
                task.name, task.num_labels, self.head.1
            );
            return Err(Error::setting("adapters", reason));
        }
        Ok(())
    }
}

/// A run in progress.
pub(super) struct Session<'a> {
    run: &'a RunFile,
    subject: Subject,
    task: TaskInfo,
    selection: Selection,
    train: Arc<dyn Dataset>,
    validation: Option<Box<dyn Dataset>>,
    trainer: Trainer,
    /// There once the run has begun.
    log: Option<MetricsLog>,
    state: State,
    total_steps: usize,
    best: Option<Snapshot>,
}

impl<'a> Session<'a> {
    /// Loads the model, unless another run has, and the data, and the checkpoint that is to be gone on from. The run's
    /// adapter is then on the model, and must be in all that follows.
    pub fn open(
        run: &'a RunFile,
        base: &mut Option<Base>,
        options: RunOptions,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let folder = hub::resolve(&run.model_source(), RepositoryKind::Model)?.path;
        let config = models::read_config(&folder)?;
        let data = RunData::open(run, &config)?;
        let task = data.task.info().clone();
        let selection = Selection::of(run, &task, data.files.validation.is_some())?;
        let compute = run.compute();
        let is_first = base.is_none();
        let base = match base {
            Some(base) => base.check(&folder, &task).map(|()| base)?,
            None => base.insert(Base::load(run, folder.clone(), config, &task)?),
        };
        let adapted = &mut base.adapted;
        if is_first {
            adapted.notes().iter().for_each(|note| observer.note(note));
        }
        // Directions of inputs are known only with the data.
        let by_data = run.method == Method::Lora
            && run.init_adapter.is_none()
            && matches!(run.lora.init_lora_weights, Init::Eva);
        let subject = if by_data { None } else { Some(Subject::prepare(run, adapted)?) };
        if is_first {
            note_skipped(adapted, observer);
        }
        check_stop(stop, 0)?;

        let reader = reader(run, &folder, adapted.model().info(), observer);
        let train: Arc<dyn Dataset> =
            data.task.training_set(&data.files.train, run.data.limit, &reader)?.into();
        let validation = data.files.validation.as_ref();
        let validation = validation.map(|files| data.task.dataset(files, 0, true, &reader)).transpose()?;
        let length = reader.max_length;
        note_losses(&*train, "training", length, observer);
        validation.iter().for_each(|data| note_losses(&**data, "validation", length, observer));
        check_stop(stop, 0)?;

        let subject = match subject {
            Some(subject) => subject,
            None => Subject::prepare_by_data(run, adapted, &*train, observer, stop)?,
        };
        let (trainer, total_steps) = trainer(run, train.len(), adapted)?;
        let sets = [Some(&*train), validation.as_deref()];
        let settings = settings(run, compute, &selection, sets, adapted);
        let resumed = if options.resume { Checkpoint::newest(&run.output)? } else { None };
        let state = match &resumed {
            Some(checkpoint) => {
                check_settings(&run.output, &checkpoint.state.settings, &settings)?;
                checkpoint.state.clone()
            }
            None => State::new(settings),
        };
        let mut session = Self {
            run,
            subject,
            task,
            selection,
            train,
            validation,
            trainer,
            log: None,
            state,
            total_steps,
            best: None,
        };
        if let Some(checkpoint) = resumed {
            observer.note(&format!("going on after step {}", session.state.step));
            session.go_on(adapted, checkpoint)?;
        }
        Ok(session)
    }

    /// Makes the output folder ready: nothing is written before all is known to fit.
    pub fn begin(&mut self, overwrite: bool) -> Result<()> {
        let run = self.run;
        if overwrite {
            output::clear(&run.output)?;
        }
        std::fs::create_dir_all(&run.output).map_err(Error::io(&run.output))?;
        self.log = Some(MetricsLog::open(&run.output, self.state.metrics_bytes)?);
        let text = run.text();
        write_atomically(run.output.join(RUN_FILE), |file| file.write_all(text.as_bytes()))
    }

    /// Puts back what a checkpoint holds.
    fn go_on(&mut self, adapted: &mut AdaptedModel, checkpoint: Checkpoint) -> Result<()> {
        snapshot::restore(adapted.model_mut(), &checkpoint.values)?;
        let (model, steps) = (adapted.model_mut(), self.state.step as u64);
        self.trainer.optimizer_mut().restore(model, steps, checkpoint.moments)?;
        self.best = checkpoint.best;
        Ok(())
    }

    /// The adapter that is trained, if it is one.
    pub fn adapter(&self) -> Option<AdapterId> {
        self.subject.adapter()
    }

    /// Tells that the steps begin.
    pub fn started(&self, adapted: &AdaptedModel, observer: &mut dyn Observer) {
        observer.started(&Start {
            first_step: self.state.step,
            total_steps: self.total_steps,
            parameters: self.subject.count(adapted),
            examples: self.train.len(),
            log_every: self.run.train.log_every,
        });
    }

    /// The training data, where the next step is in it, and how many are left.
    pub fn feed(&self) -> (Arc<dyn Dataset>, BatchPlan, Position, usize) {
        let left = self.total_steps.saturating_sub(self.state.step);
        (Arc::clone(&self.train), plan(self.run), self.state.position, left)
    }

    /// Evaluates the state, if that was still to be done when the run was interrupted.
    pub fn catch_up(
        &mut self,
        adapted: &mut AdaptedModel,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        if self.state.evaluation_due { self.evaluate(adapted, observer, stop) } else { Ok(()) }
    }

    /// Takes one step on these batches; the step after it is at `position`.
    pub fn take(
        &mut self,
        adapted: &mut AdaptedModel,
        (batches, position): (Vec<Batch>, Position),
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let adapter = self.subject.adapter();
        let result = self.trainer.step(adapted, adapter, &batches).map_err(|e| self.advise(e))?;
        self.state.position = position;
        self.count(&result);
        let report = StepReport { step: self.state.step, total_steps: self.total_steps, result };
        self.log.iter_mut().try_for_each(|log| log.step(&report))?;
        observer.step(&report);

        let step = self.state.step;
        let (last, epoch_ends) = (step == self.total_steps, self.state.position.step == 0);
        let every = self.run.train.eval_every;
        self.state.evaluation_due = self.validation.is_some() && (last || is_due(every, step, epoch_ends));
        self.catch_up(adapted, observer, stop)?;
        let over = self.is_over();
        let saves = match self.run.train.save_every {
            0 => epoch_ends,
            steps => step.is_multiple_of(steps),
        };
        let interrupted = if over { Ok(()) } else { check_stop(stop, step) };
        // The last steps, too: the result that is written next may not fit on the disk.
        let saved = if saves || over || interrupted.is_err() { self.save(adapted) } else { Ok(()) };
        match saved {
            // It would have been larger than the result: that may have room yet.
            Err(error) if over => observer.note(&format!("the last checkpoint is not written: {error}")),
            saved => saved?,
        }
        interrupted
    }

    /// Whether no step is left, or none is wanted.
    pub fn is_over(&self) -> bool {
        self.state.step >= self.total_steps || self.is_out_of_patience()
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

    /// Evaluates the state. Interrupted, it leaves a checkpoint that does so when the run goes on.
    fn evaluate(
        &mut self,
        adapted: &mut AdaptedModel,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let (step, examples) = (self.state.step, validation.len());
        let mut progress = |done| {
            observer.evaluating(done, examples);
            check_stop(stop, step)
        };
        let adapter = self.subject.adapter();
        let result = evaluate(adapted, adapter, &**validation, &self.task, &mut progress);
        if matches!(result, Err(Error::Interrupted { .. })) {
            self.save(adapted)?;
        }
        let scores = result?;
        if scores.get("loss").is_some_and(|loss| !loss.is_finite()) {
            let tensor = "the loss on the validation data".to_owned();
            let error = Error::NotFinite { step, tensor, advice: "lower the learning rate".into() };
            return Err(self.advise(error));
        }
        self.log.iter_mut().try_for_each(|log| log.evaluation(step, &scores))?;
        observer.evaluated(step, &scores);
        if self.selection.improves(&scores, self.state.best.as_ref().map(|(_, best)| best)) {
            self.state.best = Some((step, scores.clone()));
            self.state.stale_evaluations = 0;
            self.best = self.selection.keep.then(|| snapshot::take(adapted.model_mut()));
        } else {
            self.state.stale_evaluations += 1;
        }
        self.state.scores = scores;
        self.state.evaluation_due = false;
        Ok(())
    }

    /// Writes a checkpoint.
    pub fn save(&mut self, adapted: &mut AdaptedModel) -> Result<()> {
        self.state.metrics_bytes = self.log.as_ref().map_or(0, MetricsLog::bytes);
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            values: snapshot::take(adapted.model_mut()),
            moments: self.trainer.optimizer().moments(adapted.model_mut()),
            best: self.best.clone(),
        };
        checkpoint.write(&self.run.output, self.run.train.save_total_limit).map(|_| ())
    }

    /// Puts the best state back, writes the result, and the summary last of all.
    pub fn finish(&self, adapted: &mut AdaptedModel, begun: Instant) -> Result<Summary> {
        if let Some(best) = &self.best {
            snapshot::restore(adapted.model_mut(), best)?;
        }
        let (best_step, eval) = match &self.state.best {
            Some((step, scores)) if self.selection.keep => (*step, scores.clone()),
            _ => (self.state.step, self.state.scores.clone()),
        };
        self.subject.save(self.run, adapted, &self.task)?;
        let parameters = self.subject.count(adapted);
        let (state, seconds) = (&self.state, self.state.train_seconds.max(1e-9));
        let summary = Summary {
            model: self.run.model.clone(),
            task: self.task.name.clone(),
            labels: self.task.labels.clone(),
            data: Reading::of(self.run),
            method: self.subject.method().to_owned(),
            steps: state.step,
            epochs: state.examples as f64 / self.train.len().max(1) as f64,
            stopped_early: state.step < self.total_steps,
            best_step,
            eval,
            train_loss: state.recent_losses.iter().sum::<f64>() / state.recent_losses.len().max(1) as f64,
            trainable_parameters: parameters.trainable,
            all_parameters: parameters.all,
            examples: self.train.len(),
            truncated_examples: self.train.truncated(),
            skipped_examples: self.train.skipped(),
            tokens: state.tokens,
            train_seconds: state.train_seconds,
            total_seconds: begun.elapsed().as_secs_f64(),
            examples_per_second: state.examples as f64 / seconds,
            tokens_per_second: state.tokens as f64 / seconds,
            peak_rss_bytes: memory::peak_rss_bytes(),
            dtype: name_of(adapted.compute()).to_owned(),
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
        let kept = match State::newest(&self.run.output) {
            Ok(Some(state)) => format!("the checkpoint of step {} is kept", state.step),
            _ => "no checkpoint was written yet".to_owned(),
        };
        let advice =
            format!("{kept}, for the settings that it is of; {advice}, and begin anew with --overwrite");
        Error::NotFinite { step, tensor, advice }
    }
}

/// The trainer of a run, and how many steps it takes.
fn trainer(run: &RunFile, examples: usize, adapted: &mut AdaptedModel) -> Result<(Trainer, usize)> {
    let steps_per_epoch = plan(run).steps_per_epoch(examples);
    let total_steps = match run.train.max_steps {
        0 => run.train.epochs.saturating_mul(steps_per_epoch),
        steps => steps,
    };
    let optimizer = AdamWConfig {
        weight_decay: run.train.weight_decay,
        max_grad_norm: run.train.max_grad_norm,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(optimizer);
    optimizer
        .set_rates(adapted.model_mut(), &run.learning_rates())
        .map_err(|error| error.in_section("train"))?;
    let trainer = Trainer::new(optimizer, run.schedule(total_steps), run.train.seed);
    Ok((trainer.with_gradient_checkpointing(run.train.gradient_checkpointing), total_steps))
}

pub(super) fn plan(run: &RunFile) -> BatchPlan {
    BatchPlan {
        batch_size: run.train.batch_size,
        gradient_accumulation: run.train.gradient_accumulation,
        shuffle: run.train.shuffle,
        seed: run.train.seed,
        pass: Some(run.train.seed),
    }
}

fn is_due(every: EvalEvery, step: usize, epoch_ends: bool) -> bool {
    match every {
        EvalEvery::Epoch => epoch_ends,
        EvalEvery::Steps(steps) => step.is_multiple_of(steps.max(1)),
    }
}

fn note_skipped(adapted: &AdaptedModel, observer: &mut dyn Observer) {
    let report = adapted.report();
    if !report.skipped.is_empty() {
        observer.note(&format!("not used by this task: {}", report.skipped.join(", ")));
    }
    if !report.missing_head.is_empty() {
        observer.note(&format!("new head: {}", report.missing_head.join(", ")));
    }
}
