//! A model with its tokeniser and its adapters, ready to be asked or trained.

mod load;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowrank_kernels::Compute;

pub use self::load::{LoadOptions, default_compute};
pub(super) use self::load::{Use, open_adapter};
use super::output::RUN_FILE;
use crate::adapter::{AdapterFile, Plan, changes_nothing, is_attached};
use crate::data::{Batch, BatchSource, IGNORED, Labels, TokenRows, Tokenizer};
use crate::generate::end_tokens;
use crate::hub::{self, RepositoryKind};
use crate::models::{Images, Inputs, LoadReport, Model, ModelConfig, Operands, Placement, Source, Tokens};
use crate::nn::for_each_parameter;
use crate::tape::{AdapterId, Layout, Tape, Var, ops};
use crate::tensor::DType;
use crate::{Error, Result};

/// A model with its files, its adapters, and the type that it computes in.
pub struct AdaptedModel {
    model: Box<dyn Model>,
    config: ModelConfig,
    folder: PathBuf,
    compute: Compute,
    operands: Operands,
    report: LoadReport,
    placement: Placement,
    placement_note: Option<String>,
    adapters: Vec<Attached>,
}

/// An adapter on a [`AdaptedModel`].
#[derive(Clone, Debug)]
pub struct Attached {
    /// What the model knows it by.
    pub id: AdapterId,
    /// Its name: the folder or id that it was loaded from.
    pub name: String,
    /// What it changed.
    pub plan: Plan,
}

impl AdaptedModel {
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
        let plan = file.attach(&mut *self.model, &info, id).map_err(|error| error.unsuitable(name))?;
        self.adapters.push(Attached { id, name: name.to_owned(), plan });
        Ok(id)
    }

    /// An id that no adapter has, neither one of [`AdaptedModel::adapters`] nor one that was put on the model itself.
    fn next_id(&self) -> Result<AdapterId> {
        (0..=u16::MAX)
            .map(AdapterId)
            .find(|id| self.adapter(*id).is_err() && !is_attached(&*self.model, *id))
            .ok_or_else(|| Error::Usage("the model has as many adapters as it can have".into()))
    }

    /// The adapters that [`AdaptedModel::load`] and [`AdaptedModel::attach`] put on the model, the first one first.
    pub fn adapters(&self) -> &[Attached] {
        &self.adapters
    }

    /// The one of [`AdaptedModel::adapters`] with this id.
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

    /// The model, for training. What is put on it this way is not among [`AdaptedModel::adapters`].
    pub fn model_mut(&mut self) -> &mut dyn Model {
        &mut *self.model
    }

    /// The configuration that the model was made from.
    pub fn config(&self) -> &ModelConfig {
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

    /// What products with frozen weights are made of.
    pub fn operands(&self) -> Operands {
        self.operands
    }

    /// Where the weights are kept.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// What was chosen for [`LoadIn::Auto`](crate::models::LoadIn::Auto) and why, where it is not the usual.
    pub fn placement_note(&self) -> Option<&str> {
        self.placement_note.as_deref()
    }

    /// What there is to say of how it was loaded, a sentence each: the placement if it is not the usual one, weights that
    /// are not tied, and adapters that change nothing.
    pub fn notes(&self) -> Vec<String> {
        let idle = self.adapters.iter().filter(|attached| changes_nothing(&*self.model, attached.id));
        let idle = idle.map(|attached| {
            format!("{}: the adapter changes nothing: the model answers under it as without", attached.name)
        });
        let eight = self
            .adapters
            .iter()
            .filter(|attached| !self.is_in_eight_bits() && trained_in_eight_bits(&attached.name));
        let eight = eight.map(|attached| {
            format!(
                "{}: it was trained on weights in 8 bits, and these are not: --load-in int8",
                attached.name
            )
        });
        let found = self.placement_note.clone().into_iter().chain(self.report.untied_note());
        found.chain(idle).chain(eight).collect()
    }

    /// Whether any weight is in 8 bits, in memory, in the model's file or in products.
    fn is_in_eight_bits(&self) -> bool {
        let mut found = self.placement == Placement::Int8 || self.operands == Operands::Int8;
        for_each_parameter(&*self.model, |_, parameter| {
            found |= parameter.base().is_some_and(|leaf| leaf.as_quantized().is_some());
        });
        found
    }

    /// The model's tokeniser.
    ///
    /// # Errors
    /// If the folder has none, or one whose ids go beyond the model's table.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_folder(&self.folder)
    }

    /// The tokens that end what this model writes.
    ///
    /// # Errors
    /// As [`end_tokens`].
    pub fn end_tokens(&self) -> Result<Vec<u32>> {
        end_tokens(&self.folder, self.model.info())
    }

    /// The logits of a batch, each sequence under `adapter`: `[sequences, num_labels]`, or `[tokens, num_labels]` of a
    /// head on tokens.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        batch: &Batch,
        adapter: Option<AdapterId>,
    ) -> Result<Var> {
        self.forward_adapters(tape, batch, &vec![adapter; batch.sequences()], None)
    }

    /// As [`AdaptedModel::forward`], with an adapter for each sequence, and for those `rows` alone of a head on tokens.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_adapters<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        batch: &Batch,
        adapters: &[Option<AdapterId>],
        rows: Option<&[usize]>,
    ) -> Result<Var> {
        let layout = |offsets: Vec<usize>| Layout::new(offsets, batch.examples.clone(), adapters.to_vec());
        let tokens = |tokens: &'_ TokenRows| layout(tokens.offsets.clone());
        let source = match &batch.source {
            BatchSource::Tokens(text) => Source::Tokens(as_tokens(text, tokens(text)?)),
            BatchSource::Images(pixels) => Source::Images(Images {
                pixels: &pixels.values,
                channels: pixels.channels,
                height: pixels.height,
                width: pixels.width,
                layout: layout((0..=batch.sequences()).collect())?,
            }),
        };
        let target = match &batch.target {
            Some(target) => Some(as_tokens(target, tokens(target)?)),
            None => None,
        };
        self.model.forward(tape, &Inputs { source, target, rows, cache: None })
    }

    /// How many tokens the model reads and writes for a batch; of an image one for each patch, and one for its class.
    pub fn tokens(&self, batch: &Batch) -> usize {
        match (&batch.source, self.model.info().image) {
            (BatchSource::Images(pixels), Some(shape)) => {
                batch.sequences() * shape.tokens(pixels.height, pixels.width)
            }
            _ => batch.tokens(),
        }
    }

    /// The loss of a batch against its labels, its sum divided by `denominator`. Of a head on tokens, only the rows that
    /// have a target are computed.
    ///
    /// # Errors
    /// As [`AdaptedModel::forward`] and [`loss`].
    pub fn loss<'m>(
        &'m self,
        tape: &mut Tape<'m>,
        batch: &Batch,
        adapter: Option<AdapterId>,
        denominator: f32,
    ) -> Result<Var> {
        let Labels::Tokens(tokens) = &batch.labels else {
            let logits = self.forward(tape, batch, adapter)?;
            return loss(tape, &logits, &batch.labels, denominator);
        };
        let rows: Vec<usize> =
            tokens.iter().enumerate().filter(|(_, token)| **token != IGNORED).map(|(row, _)| row).collect();
        let targets: Vec<i64> = rows.iter().filter_map(|row| tokens.get(*row)).copied().collect();
        let logits = self.forward_adapters(tape, batch, &vec![adapter; batch.sequences()], Some(&rows))?;
        loss(tape, &logits, &Labels::Tokens(targets), denominator)
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

/// Whether the run that made an adapter says that its base was in 8 bits.
fn trained_in_eight_bits(adapter: &str) -> bool {
    let is_int8 = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str) == Some("int8");
    run_of(adapter).is_some_and(|run| {
        is_int8(run.get("load_in")) || is_int8(run.get("train").and_then(|train| train.get("compute")))
    })
}

/// The run file of the run that made an adapter, if it lies beside it.
pub(super) fn run_of(adapter: &str) -> Option<toml::Table> {
    let folder = hub::resolve(adapter, RepositoryKind::Adapter).ok()?.path;
    std::fs::read_to_string(folder.join(RUN_FILE)).ok()?.parse().ok()
}

/// Rows of tokens as a model reads them.
pub(super) fn as_tokens(rows: &TokenRows, layout: Arc<Layout>) -> Tokens<'_> {
    Tokens { ids: &rows.ids, type_ids: &rows.type_ids, positions: &rows.position_ids, layout }
}

/// The loss of logits against labels, its sum divided by `denominator`: cross-entropy for classes and tokens, squared error
/// for numbers, the mean of two cross-entropies for spans.
///
/// # Errors
/// If there are no labels, or they do not fit the logits.
pub fn loss(tape: &mut Tape, logits: &Var, labels: &Labels, denominator: f32) -> Result<Var> {
    match labels {
        Labels::Classes(classes) | Labels::Tokens(classes) => {
            ops::cross_entropy(tape, logits, classes, denominator)
        }
        Labels::Scores(scores) => ops::squared_error(tape, logits, scores, denominator),
        Labels::Spans { starts, ends } => {
            // Starts and ends that do not count are not divided by; in training data there are none.
            let share = |count: usize| denominator * count as f32 / labels.len().max(1) as f32;
            let [starting, ending] = ops::span_targets(logits.layout(), starts, ends).map(share);
            let denominators = ops::SpanDenominators { starts: starting, ends: ending };
            ops::span_loss(tape, logits, starts, ends, denominators)
        }
        Labels::None => Err(Error::Usage("these examples have no labels".into())),
    }
}
