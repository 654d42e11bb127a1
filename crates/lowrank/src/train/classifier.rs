//! A model with its tokeniser and its adapters, ready to be asked or trained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowrank_kernels::{Compute, Tier};

use crate::adapter::{AdapterFile, Plan, is_attached};
use crate::data::{Batch, Labels, Tokenizer};
use crate::hub::{self, Checkpoint, RepositoryKind};
use crate::models::{self, EncoderConfig, Inputs, LoadReport, Model};
use crate::tape::{AdapterId, Layout, Tape, Var, ops};
use crate::tensor::DType;
use crate::{Error, Result};

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// The type of rows and GEMM operands; absent: the one that suits the machine.
    pub compute: Option<Compute>,
    /// The width of the logits; absent: the adapter's head, or the configuration.
    pub num_labels: Option<usize>,
}

/// The type that `auto` means: bf16 where the machine multiplies it faster.
pub fn default_compute() -> Compute {
    if Tier::active().prefers_bf16() { Compute::Bf16 } else { Compute::F32 }
}

/// A sequence classifier: the model, its files, and how it computes.
pub struct Classifier {
    model: Box<dyn Model>,
    config: EncoderConfig,
    folder: PathBuf,
    compute: Compute,
    report: LoadReport,
    adapters: Vec<Attached>,
}

/// An adapter on a [`Classifier`].
#[derive(Clone, Debug)]
pub struct Attached {
    /// What the model knows it by.
    pub id: AdapterId,
    /// Its name: the folder or id that it was loaded from.
    pub name: String,
    /// What it changed.
    pub plan: Plan,
}

impl Classifier {
    /// Loads a model, from a folder or from the Hub, and puts an adapter on it.
    ///
    /// # Errors
    /// If a file is missing or malformed, a tensor does not fit, or the adapter does not bind.
    pub fn load(model: &str, adapter: Option<&str>, options: LoadOptions) -> Result<Self> {
        let adapter = adapter.map(|name| Ok::<_, Error>((name, open_adapter(name)?))).transpose()?;
        let folder = hub::resolve(model, RepositoryKind::Model)?.path;
        let config = models::read_config(&folder)?;
        let from_adapter = adapter.as_ref().and_then(|(_, file)| file.num_labels());
        let num_labels = options.num_labels.or(from_adapter).unwrap_or(config.labels.len());
        if let Some(labels) = from_adapter.filter(|labels| *labels != num_labels) {
            let reason = format!("its head has {labels} outputs where {num_labels} are wanted");
            return Err(Error::file(
                adapter.as_ref().map_or(Path::new(""), |(_, file)| file.folder()),
                reason,
            ));
        }
        let mut classifier = Self::load_base(&folder, config, num_labels, options.compute)?;
        if let Some((name, file)) = adapter {
            classifier.attach_file(name, &file)?;
        }
        Ok(classifier)
    }

    /// A model from its folder, without an adapter; `config` is the folder's.
    pub(super) fn load_base(
        folder: &Path,
        config: EncoderConfig,
        num_labels: usize,
        compute: Option<Compute>,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let mut model = models::from_config(&config, num_labels);
        let report = models::load(&mut *model, &checkpoint)?;
        let compute = compute.unwrap_or_else(default_compute);
        Ok(Self { model, config, folder: folder.to_path_buf(), compute, report, adapters: Vec::new() })
    }

    /// A classifier around a model that is there already.
    pub fn from_model(model: Box<dyn Model>, config: EncoderConfig, compute: Compute) -> Self {
        let report = LoadReport::default();
        Self { model, config, folder: PathBuf::new(), compute, report, adapters: Vec::new() }
    }

    /// Puts one more adapter on the loaded model, from a folder or the Hub.
    ///
    /// # Errors
    /// As [`AdapterFile::open`] and [`AdapterFile::attach`].
    pub fn attach(&mut self, name: &str) -> Result<AdapterId> {
        let file = open_adapter(name)?;
        self.attach_file(name, &file)
    }

    fn attach_file(&mut self, name: &str, file: &AdapterFile) -> Result<AdapterId> {
        let id = self.next_id()?;
        let info = self.model.info().clone();
        let plan = file.attach(&mut *self.model, &info, id)?;
        self.adapters.push(Attached { id, name: name.to_owned(), plan });
        Ok(id)
    }

    /// An id that no adapter has, neither one of [`Classifier::adapters`] nor one that was put on the model itself.
    fn next_id(&self) -> Result<AdapterId> {
        (0..=u16::MAX)
            .map(AdapterId)
            .find(|id| self.adapter(*id).is_err() && !is_attached(&*self.model, *id))
            .ok_or_else(|| Error::Usage("the model has as many adapters as it can have".into()))
    }

    /// The adapters that [`Classifier::load`] and [`Classifier::attach`] put on the model, the first one first.
    pub fn adapters(&self) -> &[Attached] {
        &self.adapters
    }

    /// The one of [`Classifier::adapters`] with this id.
    ///
    /// # Errors
    /// If there is none: an adapter that was put on the model itself is known to the caller alone.
    pub fn adapter(&self, id: AdapterId) -> Result<&Attached> {
        self.adapters.iter().find(|attached| attached.id == id).ok_or_else(|| {
            Error::Usage(format!(
                "the adapter {} was not put on by this classifier, which does not know it",
                id.0
            ))
        })
    }

    /// The id of the adapter that was put on first, if there is one.
    pub fn first_adapter(&self) -> Option<AdapterId> {
        self.adapters.first().map(|attached| attached.id)
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// The model, for training. What is put on it this way is not among [`Classifier::adapters`].
    pub fn model_mut(&mut self) -> &mut dyn Model {
        &mut *self.model
    }

    /// The configuration that the model was made from.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The folder that the model was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The type of the rows.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// What loading left out.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The model's tokeniser.
    ///
    /// # Errors
    /// If the folder has none, or one whose ids go beyond the model's table.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_folder(&self.folder)
    }

    /// The logits of a batch, each sequence under `adapter`: `[sequences, num_labels]`.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward(&self, tape: &mut Tape, batch: &Batch, adapter: Option<AdapterId>) -> Result<Var> {
        let adapters = vec![adapter; batch.examples.len()];
        let layout = Layout::new(batch.offsets.clone(), batch.examples.clone(), adapters)?;
        self.forward_layout(tape, batch, layout)
    }

    /// As [`Classifier::forward`], with a layout that gives each sequence an adapter of its own.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_layout(&self, tape: &mut Tape, batch: &Batch, layout: Arc<Layout>) -> Result<Var> {
        let (ids, type_ids, positions) = (&batch.ids[..], &batch.type_ids[..], &batch.position_ids[..]);
        self.model.forward(tape, &Inputs { ids, type_ids, positions, layout })
    }

    /// The logits of a batch as numbers, row by row.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn logits(&self, batch: &Batch, adapter: Option<AdapterId>) -> Result<Vec<f32>> {
        let logits = self.forward(&mut Tape::inference(self.compute), batch, adapter)?;
        Ok(logits.value().to_dtype(DType::F32).as_slice::<f32>().to_vec())
    }
}

/// The loss of logits against labels, its sum divided by `denominator`: cross-entropy for classes, squared error for
/// numbers.
///
/// # Errors
/// If there are no labels, or they do not fit the logits.
pub fn loss(tape: &mut Tape, logits: &Var, labels: &Labels, denominator: f32) -> Result<Var> {
    match labels {
        Labels::Classes(classes) => ops::cross_entropy(tape, logits, classes, denominator),
        Labels::Scores(scores) => ops::squared_error(tape, logits, scores, denominator),
        Labels::None => Err(Error::Usage("these examples have no labels".into())),
    }
}

fn open_adapter(name: &str) -> Result<AdapterFile> {
    AdapterFile::open(&hub::resolve(name, RepositoryKind::Adapter)?.path)
}
