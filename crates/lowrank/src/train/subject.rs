//! What a run trains: an adapter with its head, or the whole model.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::adapted_model::{AdaptedModel, open_adapter};
use super::events::Observer;
use super::run_file::{Method, RunFile};
use super::session;
use crate::adapter::{self, Eva, LoraConfig, ParameterCount, Plan};
use crate::data::image::{ImageProcessor, PREPROCESSOR_CONFIG};
use crate::data::{Batches, Dataset, Position, TaskInfo};
use crate::hub::{MODEL_CONFIG, MODEL_FILE, READER_FILES, Tensors, write_atomically, write_tensors};
use crate::models::{self, HeadSpec, Model, TensorRows, written_as};
use crate::nn::{for_each_parameter, for_each_parameter_mut};
use crate::tape::{AdapterId, Tape};
use crate::tensor::DType;
use crate::{Error, Result};

/// The adapter that a run trains.
pub(super) const ADAPTER: AdapterId = AdapterId(0);

/// Steps of data that are looked at for directions, at most.
const MOST_STEPS: usize = 64;

/// What is trained.
pub enum Subject {
    /// An adapter.
    Adapter {
        /// Its configuration.
        config: Box<LoraConfig>,
        /// What it changes.
        plan: Plan,
    },
    /// Every parameter.
    Model,
}

impl Subject {
    /// Makes a head where the model has none, puts a fresh adapter on the model or the one to start from, and marks
    /// what is trained.
    ///
    /// # Errors
    /// As [`adapter::attach`] and [`AdapterFile::attach`](adapter::AdapterFile::attach); if `[lora]` disagrees with the
    /// adapter to start from.
    pub fn prepare(run: &RunFile, adapted: &mut AdaptedModel) -> Result<Self> {
        let (seed, info) = (run.train.seed, adapted.model().info().clone());
        models::initialise_head(adapted.model_mut(), seed)?;
        if run.method == Method::Full {
            refuse_int8(adapted)?;
            for_each_parameter_mut(adapted.model_mut(), |_, parameter| {
                parameter.leaves_mut().for_each(|leaf| leaf.set_trainable(true));
            });
            return Ok(Self::Model);
        }
        let Some(name) = run.init_adapter_source() else {
            let model = adapted.model_mut();
            let plan = adapter::attach(model, &info, &run.lora, ADAPTER, seed)?;
            return Ok(Self::Adapter { config: Box::new(run.lora.clone()), plan });
        };
        let file = open_adapter(&name)?;
        run.agree_with(file.config())?;
        let plan =
            file.attach(adapted.model_mut(), &info, ADAPTER).map_err(|error| error.unsuitable(&name))?;
        // PEFT names every head that it knows; those that the model has not are left out.
        let config = file.config_for(adapted.model(), &info)?;
        let wanted = file.plan_with(adapted.model(), &info, &run.given_over(&config));
        if wanted? != plan {
            let reason =
                "its targets or modules are not those of init_adapter; leave [lora] out to take them over";
            return Err(Error::setting("lora", reason));
        }
        adapter::check_parameters(&config).map_err(|error| error.unsuitable(&name))?;
        adapter::set_trainable(adapted.model_mut(), ADAPTER, true);
        Ok(Self::Adapter { config: Box::new(config), plan })
    }

    /// As [`Subject::prepare`], for an adapter that begins along the directions of the inputs in the training data:
    /// these go through the base model until the directions are settled.
    ///
    /// # Errors
    /// As [`Subject::prepare`] and [`Eva::new`](adapter::Eva::new); if a batch cannot be made.
    pub(super) fn prepare_by_data(
        run: &RunFile,
        adapted: &mut AdaptedModel,
        train: &dyn Dataset,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let (seed, info) = (run.train.seed, adapted.model().info().clone());
        models::initialise_head(adapted.model_mut(), seed)?;
        let plan = adapter::plan(adapted.model(), &info, &run.lora)?;
        let eva = Arc::new(Mutex::new(Eva::new(&plan, &run.lora)?));
        let locked = || eva.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = session::plan(run);
        let steps = batches.steps_per_epoch(train.len()).min(MOST_STEPS);
        let mut shown = 0;
        Batches::new(train, batches, Position::default())?.ahead(steps, |feed| {
            for _ in 0..steps {
                for batch in feed.next_step()?.batches {
                    session::check_stop(stop, 0)?;
                    let watcher = Arc::clone(&eva);
                    let mut tape = Tape::inference(adapted.compute()).watched(move |weight, rows| {
                        watcher.lock().unwrap_or_else(PoisonError::into_inner).show(weight, rows);
                    });
                    adapted.forward(&mut tape, &batch, None)?;
                    locked().end_of_batch();
                    shown += batch.sequences();
                }
                if locked().is_settled() {
                    break;
                }
            }
            Ok(())
        })?;
        let (plan, config) = locked().attach(adapted.model_mut(), &info, &run.lora, ADAPTER, seed)?;
        let ranks = plan.targets.linears.iter().map(|layer| layer.r);
        observer.note(&format!(
            "eva: {} layers with ranks {} to {}, from the inputs of {shown} examples",
            plan.targets.linears.len(),
            ranks.clone().min().unwrap_or(0),
            ranks.max().unwrap_or(0),
        ));
        Ok(Self::Adapter { config: Box::new(config), plan })
    }

    /// The adapter that a batch uses in this run.
    pub fn adapter(&self) -> Option<AdapterId> {
        matches!(self, Self::Adapter { .. }).then_some(ADAPTER)
    }

    /// `lora` or `full`.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => "lora",
            Self::Model => "full",
        }
    }

    /// How much is trained.
    pub fn count(&self, adapted: &AdaptedModel) -> ParameterCount {
        match self {
            Self::Adapter { plan, .. } => ParameterCount::with_adapter(adapted.model(), plan),
            Self::Model => {
                let all = ParameterCount::of_base(adapted.model()).all;
                ParameterCount { trainable: all, all }
            }
        }
    }

    /// Writes the result into the run's output: an adapter folder, or a model folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, run: &RunFile, adapted: &mut AdaptedModel, task: &TaskInfo) -> Result<()> {
        match self {
            Self::Adapter { config, plan } => {
                let info = adapted.model().info().clone();
                adapter::save(adapted.model_mut(), &info, ADAPTER, plan, config, &run.model, &run.output)
            }
            Self::Model => save_model(adapted, task, &run.output),
        }
    }
}

/// Weights in 8 bits cannot be trained.
fn refuse_int8(adapted: &AdaptedModel) -> Result<()> {
    let mut found = None;
    for_each_parameter(adapted.model(), |path, parameter| {
        if found.is_none() && parameter.base().is_some_and(|leaf| leaf.as_quantized().is_some()) {
            found = Some(path.to_owned());
        }
    });
    let Some(path) = found else { return Ok(()) };
    let reason = format!(
        "\"full\" trains every weight, and {path} is in 8 bits, which cannot be trained; load the model as it was \
         before it was quantized, or leave method at \"lora\""
    );
    Err(Error::setting("method", reason))
}

/// Writes a model folder in Hugging Face's layout: weights as f32, the configuration with the task's labels, and the
/// files of the tokeniser and of the image processor as they were.
///
/// # Errors
/// If a file cannot be read or written.
pub fn save_model(adapted: &AdaptedModel, task: &TaskInfo, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_weights(adapted.model(), folder)?;
    for name in READER_FILES {
        let source = adapted.folder().join(name);
        if source.is_file() {
            let bytes = fs::read(&source).map_err(Error::io(&source))?;
            write_atomically(folder.join(name), |file| file.write_all(&bytes))?;
        }
    }
    if let Some(shape) = adapted.model().info().image
        && !adapted.folder().join(PREPROCESSOR_CONFIG).is_file()
    {
        let text = ImageProcessor::square(shape.size).to_json_of(shape.channels).to_string();
        write_atomically(folder.join(PREPROCESSOR_CONFIG), |file| writeln!(file, "{text}"))?;
    }
    let head = NewHead { labels: labels_of(task), regression: task.regression };
    write_config(adapted, task.head.is_new().then_some(&head), folder, |_| ())
}

/// The labels of a task's head, with names for those that have none.
fn labels_of(task: &TaskInfo) -> Vec<String> {
    let mut labels = task.labels.clone();
    labels.extend((labels.len()..task.num_labels).map(|id| format!("LABEL_{id}")));
    labels
}

/// What a model's configuration says of a head that the base model had not.
pub(super) struct NewHead {
    /// The names of its outputs.
    pub labels: Vec<String>,
    /// Whether its one output is to meet a number.
    pub regression: bool,
}

/// Draws a model of the configuration in `folder` and writes its weights there: something to train from scratch.
///
/// # Errors
/// If the configuration cannot be read or has no such head, or the file cannot be written.
pub fn write_random_weights(folder: &Path, head: HeadSpec, seed: u64) -> Result<()> {
    let mut model = models::from_config(&models::read_config(folder)?, head)?;
    models::initialise(&mut *model, seed, DType::F32)?;
    write_weights(&*model, folder)
}

/// Writes every parameter of a model as f32, as a checkpoint in `folder`.
pub(super) fn write_weights(model: &dyn Model, folder: &Path) -> Result<()> {
    let mut tensors = Tensors::new();
    for_each_parameter(model, |path, parameter| {
        let Some(leaf) = parameter.base() else { return };
        let value = parameter.to_file(&leaf.float().to_dtype(DType::F32));
        let rows = value.shape().rows();
        for TensorRows { key, rows: own, .. } in written_as(model.info(), path, rows) {
            let part = if own == (0..rows) { value.clone() } else { value.rows(own) };
            tensors.insert(key, part);
        }
    });
    write_tensors(&folder.join(MODEL_FILE), &tensors)
}

/// Writes the configuration of the base model with this architecture and head, and what `change` makes of it.
///
/// # Errors
/// If the base model's cannot be read, or the file cannot be written.
pub(super) fn write_config(
    adapted: &AdaptedModel,
    head: Option<&NewHead>,
    folder: &Path,
    change: impl FnOnce(&mut Map<String, Value>),
) -> Result<()> {
    let source = adapted.folder().join(MODEL_CONFIG);
    let text = fs::read_to_string(&source).map_err(Error::io(&source))?;
    let mut config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(&source, format!("not a JSON object: {e}")))?;
    config.insert("architectures".into(), json!([adapted.model().info().architecture]));
    if !adapted.model().info().kind.is_language_model() {
        config.remove("num_labels");
    }
    if let Some(NewHead { labels, regression }) = head {
        let ids: Map<String, Value> =
            labels.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let names: Map<String, Value> =
            labels.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
        config.insert("id2label".into(), Value::Object(ids));
        config.insert("label2id".into(), Value::Object(names));
        if *regression {
            config.insert("problem_type".into(), json!("regression"));
        }
    }
    change(&mut config);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    write_atomically(folder.join(MODEL_CONFIG), |file| writeln!(file, "{text}"))
}
