//! How a model is brought into memory, with its adapter.

use std::path::{Path, PathBuf};

use lowrank_kernels::{Compute, Tier};

use super::AdaptedModel;
use crate::adapter::AdapterFile;
use crate::hub::{self, ADAPTER_CONFIG, Checkpoint, RepositoryKind};
use crate::models::{
    self, Head, HeadSpec, HeadStyle, LoadIn, LoadReport, Model, ModelConfig, Needs, Operands, Placement,
};
use crate::{Error, Result};

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// The type of rows and GEMM operands; absent: the one that suits the machine.
    pub compute: Option<Compute>,
    /// The width of the logits; absent: the adapter's head, or the configuration.
    pub num_labels: Option<usize>,
    /// What is predicted; absent: what the adapter, the configuration or the architecture is for.
    pub head: Option<Head>,
    /// The layers of the head.
    pub style: HeadStyle,
    /// What the weights are loaded as.
    pub load_in: LoadIn,
    /// What the products with frozen weights are made of.
    pub operands: Operands,
}

/// What a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::train) enum Use {
    /// Answers.
    Asking,
    /// An adapter's training.
    Training,
    /// The training of every weight.
    FullTraining,
    /// The measure of another model: as the checkpoint has it, however little memory there is.
    Reference,
}

/// What becomes of `compute = "int8"` where weights are streamed.
const FLOATING: &str = "products stay in floating numbers where weights are read from their file, and compute = \"int8\" \
                        changes nothing";
/// What becomes of it where memory is short.
const TURNED: &str =
    "there is no memory to keep the transposes of weights in 8 bits, which each pass makes again";

/// The type that `auto` means: bf16 where the machine multiplies it faster.
pub fn default_compute() -> Compute {
    if Tier::active().prefers_bf16() { Compute::Bf16 } else { Compute::F32 }
}

impl AdaptedModel {
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
        let of_adapter = adapter.as_ref().and_then(|(_, file)| file.head());
        let kind = options.head.or(of_adapter).or(config.head).unwrap_or(config.usual_head());
        let style = match adapter.as_ref().and_then(|(_, file)| file.head_style()) {
            Some(style) if options.style == HeadStyle::Default => style,
            // A model that was trained whole has it among its own weights.
            None if options.style == HeadStyle::Default && from_adapter.is_none() => {
                let checkpoint = Checkpoint::open(&folder)?;
                let own = HeadStyle::of_tensors(|name| checkpoint.get(name).is_some());
                own.unwrap_or_default()
            }
            _ => options.style,
        };
        let head = HeadSpec { style, ..HeadSpec::new(kind, num_labels) };
        if let Some(labels) = from_adapter.filter(|labels| *labels != num_labels) {
            let reason = format!("its head has {labels} outputs where {num_labels} are wanted");
            return Err(Error::Usage(reason).unsuitable(adapter.as_ref().map_or("", |(name, _)| name)));
        }
        let mut adapted = Self::load_base(
            &folder,
            config,
            head,
            (options.compute, options.operands),
            options.load_in,
            Use::Asking,
        )?;
        if let Some((name, file)) = adapter {
            adapted.attach_file(name, &file)?;
        }
        Ok(adapted)
    }

    /// A model from its folder, without an adapter; `config` is the folder's.
    pub(in crate::train) fn load_base(
        folder: &Path,
        config: ModelConfig,
        head: HeadSpec,
        (compute, operands): (Option<Compute>, Operands),
        load_in: LoadIn,
        purpose: Use,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let mut model = models::from_config(&config, head)?;
        let compute = compute.unwrap_or_else(default_compute);
        let training = purpose == Use::Training;
        // What is there before anything is loaded.
        let plan = || {
            let needs = Needs::of(&*model, Some(&checkpoint), (compute, operands), training);
            Ok::<_, Error>((needs, models::planned_memory()?))
        };
        let (placement, mut placement_note) = match (load_in, purpose) {
            (LoadIn::Int8, _) => (Placement::Int8, None),
            (LoadIn::Mapped, _) => (Placement::Mapped, None),
            // What is trained is in memory in any case.
            (LoadIn::Auto, Use::FullTraining) => (Placement::Packed, None),
            (LoadIn::Auto, Use::Reference) => {
                let (needs, available) = plan()?;
                (needs.choose_unchanged(available), None)
            }
            (LoadIn::Auto, _) => {
                let (needs, available) = plan()?;
                needs.choose(available)
            }
        };
        let keep_transposes = operands == Operands::Int8 && {
            let (needs, available) = plan()?;
            needs.keeps_transposes(placement, available)
        };
        let report = models::load_as(&mut *model, &checkpoint, placement)?;
        let mut operands = operands;
        if operands == Operands::Int8 {
            let note = if placement == Placement::Mapped {
                operands = Operands::Rows;
                Some(FLOATING)
            } else if models::multiply_in_int8(&mut *model, compute, keep_transposes)? == 0 {
                let reason = "no weight of this model can be multiplied in 8 bits; leave it at \"auto\"";
                return Err(Error::setting("train.compute", reason));
            } else {
                (!keep_transposes).then_some(TURNED)
            };
            let notes = placement_note.into_iter().chain(note.map(str::to_owned));
            placement_note = notes.reduce(|note, also| format!("{note}; {also}"));
        }
        let folder = folder.to_path_buf();
        Ok(Self {
            model,
            config,
            folder,
            compute,
            operands,
            report,
            placement,
            placement_note,
            adapters: Vec::new(),
        })
    }

    /// A classifier around a model that is there already.
    pub fn from_model(model: Box<dyn Model>, config: ModelConfig, compute: Compute) -> Self {
        let report = LoadReport::default();
        let (folder, placement) = (PathBuf::new(), Placement::Packed);
        Self {
            model,
            config,
            folder,
            compute,
            operands: Operands::Rows,
            report,
            placement,
            placement_note: None,
            adapters: Vec::new(),
        }
    }
}

/// Opens an adapter's folder, perhaps of the Hub.
///
/// # Errors
/// As [`AdapterFile::open`]; what is wrong in the folder is no setting of the caller's.
pub(in crate::train) fn open_adapter(name: &str) -> Result<AdapterFile> {
    let folder = hub::resolve(name, RepositoryKind::Adapter)?.path;
    AdapterFile::open(&folder).map_err(|error| match error {
        Error::Setting { .. } | Error::UnknownName { .. } => {
            Error::file(folder.join(ADAPTER_CONFIG), error.to_string())
        }
        other => other,
    })
}
