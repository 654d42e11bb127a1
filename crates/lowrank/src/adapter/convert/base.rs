//! The base model of an adapter that is converted: its shape.

use std::collections::BTreeMap;
use std::path::Path;

use super::AdapterForm;
use crate::adapter::AdapterFile;
use crate::hub::{self, Checkpoint, RepositoryKind};
use crate::models::{self, HeadSpec, Model, ModelConfig, ModelInfo};
use crate::nn::{ModuleKind, for_each_embedding, for_each_linear, for_each_module, for_each_parameter};
use crate::{Error, Result};

/// A layer that can have a low-rank pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    /// What `A` reads: inputs, or the entries of a table.
    pub inputs: usize,
    /// What `B` gives.
    pub outputs: usize,
    pub is_embedding: bool,
    /// Whether PEFT calls its weight `fan_in_fan_out`.
    pub is_transposed: bool,
}

/// A model without values.
pub(super) struct Base {
    /// As it was given.
    pub name: String,
    pub config: ModelConfig,
    head: HeadSpec,
    model: Box<dyn Model>,
    layers: BTreeMap<String, Layer>,
    /// Names that files have for modules, with those of today.
    names: BTreeMap<String, String>,
}

impl Base {
    /// Reads a model's configuration; what an adapter brings along decides on the head.
    pub fn open(name: &str, form: AdapterForm, adapter: &Path) -> Result<Self> {
        let config = models::read_config(&hub::resolve(name, RepositoryKind::Configuration)?.path)?;
        let mut kind = config.head.unwrap_or(config.usual_head());
        let (mut labels, mut style) = (None, None);
        if form == AdapterForm::Peft {
            let file = AdapterFile::open(adapter)?;
            (labels, style) = (file.num_labels(), file.head_style());
            kind = file.head().unwrap_or(kind);
        } else if form == AdapterForm::Loralib {
            let file = Checkpoint::open_file(adapter)?;
            let of_head = |name: &&str| file.get(name).and_then(|view| view.shape.first().copied());
            labels =
                ["classifier.weight", "classifier.out_proj.weight", "score.weight"].iter().find_map(of_head);
        }
        let labels = labels.unwrap_or(config.labels.len());
        let head = HeadSpec { style: style.unwrap_or_default(), ..HeadSpec::new(kind, labels) };
        let model = models::from_config(&config, head)?;
        let mut layers = BTreeMap::new();
        for_each_linear(&*model, |path, linear| {
            let (inputs, outputs) = (linear.inputs(), linear.outputs());
            let is_transposed = linear.weight.is_transposed();
            layers.insert(path.to_owned(), Layer { inputs, outputs, is_embedding: false, is_transposed });
        });
        for_each_embedding(&*model, |path, table| {
            let (inputs, outputs) = (table.entries(), table.width());
            let layer = Layer { inputs, outputs, is_embedding: true, is_transposed: false };
            layers.insert(path.to_owned(), layer);
        });
        for_each_module(&*model, |path, kind| {
            // PEFT's pair of a convolution is one, and that of a table that nothing looks up has no effect.
            if matches!(kind, ModuleKind::Convolution | ModuleKind::Table) {
                layers.remove(path);
            }
        });
        let names = layers.keys().flat_map(|path| names_of(path, model.info())).collect();
        Ok(Self { name: name.to_owned(), config, head, model, layers, names })
    }

    /// What there is to know of it.
    pub fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    /// It itself.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// The same once more, to put an adapter on.
    pub fn model_again(&self) -> Result<Box<dyn Model>> {
        models::from_config(&self.config, self.head)
    }

    /// The name of today of the layer that a file calls so: by its full name, that of older versions of Transformers,
    /// or one from the bare model on.
    pub fn find(&self, written: &str) -> Option<(&str, Layer)> {
        let name = self.names.get(written)?;
        self.layers.get_key_value(name).map(|(name, layer)| (&**name, *layer))
    }

    /// The names under which files may know layers, with the layers'.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names.iter().map(|(written, name)| (&**written, &**name))
    }

    /// The name of today of the parameter that a file calls so.
    pub fn parameter(&self, written: &str) -> Option<String> {
        let mut found = None;
        for_each_parameter(&*self.model, |path, _| {
            if names_of(path, self.info()).iter().any(|(name, _)| name == written) {
                found = Some(path.to_owned());
            }
        });
        found
    }

    /// Whether the layer before the logits has no value of its own.
    pub fn is_tied(&self) -> bool {
        let Some(output) = self.info().output.map(|output| format!("{output}.weight")) else { return false };
        let mut tied = false;
        for_each_parameter(&*self.model, |path, parameter| {
            tied |= path == output && parameter.tie().is_some()
        });
        tied
    }

    /// The error of a layer that is not there.
    pub fn unknown(&self, file: &Path, key: &str, written: &str) -> Error {
        let nearest = crate::nearest::nearest(written, self.names.keys().map(String::as_str));
        let hint = nearest.first().map_or(String::new(), |name| format!("; did you mean {name}?"));
        Error::tensor(file, key, format!("{} has no layer {written:?} that can be adapted{hint}", self.name))
    }
}

/// What files call a layer, each with its name of today.
fn names_of(path: &str, info: &ModelInfo) -> Vec<(String, String)> {
    let mut names = vec![path.to_owned()];
    names.extend(info.older_name.map(|older| older(path)));
    let bare = |name: &String| Some(name.strip_prefix(info.base_prefix)?.strip_prefix('.')?.to_owned());
    let bare: Vec<String> = names.iter().filter_map(bare).collect();
    names.extend(bare);
    names.into_iter().map(|name| (name, path.to_owned())).collect()
}
