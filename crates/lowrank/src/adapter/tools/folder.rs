//! An adapter folder as it is, without the model that it is for.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::adapter::config::LoraConfig;
use crate::adapter::file::PREFIX;
use crate::adapter::layers::{Adapted, PerLayer};
use crate::adapter::peft_config::{self, LORA_BIAS};
use crate::adapter::wrapped::layers_of_pair;
use crate::analysis::{Matrix, Product};
use crate::hub::{self, ADAPTER_CONFIG, ADAPTER_FILE, Checkpoint, RepositoryKind, TensorView, to_tensor};
use crate::nn::Expert;
use crate::{Error, Result};

/// The endings of a pair's keys: `A`, `B`, and the bias of `B`.
const LINEAR: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_B.bias"];
/// The same of an embedding's.
const EMBEDDING: [&str; 3] = [".lora_embedding_A", ".lora_embedding_B", ".lora_embedding_B.bias"];

/// The ending of the key of a magnitude, of a linear layer or an embedding.
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// An adapter folder, opened. Pairs may be incomplete or contradict the configuration: that is found out when they are
/// read.
pub struct AdapterFolder {
    path: PathBuf,
    config: LoraConfig,
    settings: Map<String, Value>,
    checkpoint: Checkpoint,
    layers: Vec<AdapterLayer>,
    /// The places of these by their names.
    places: HashMap<String, usize>,
    /// What is wrong with patterns of the configuration.
    pub(super) unused_patterns: Vec<Error>,
}

/// A layer to which an adapter adds a product.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayer {
    /// Its name, and what the configuration gives it.
    pub adapted: Adapted,
    /// Whether it is an embedding.
    pub is_embedding: bool,
}

impl AdapterLayer {
    /// Its name in the model.
    pub fn name(&self) -> &str {
        &self.adapted.path
    }

    /// The keys of `A`, `B` and the bias of `B`; of an expert, those of all.
    pub(super) fn keys(&self) -> [String; 3] {
        let module = self.adapted.stacked().map_or(self.name(), |stacked| &stacked.module);
        keys(module, self.is_embedding)
    }

    /// Which of the experts it is whose factors are at its keys, if it is one.
    pub(super) fn expert(&self) -> Option<Expert> {
        self.adapted.stacked().map(|stacked| stacked.expert)
    }
}

/// The keys of a pair: of `A`, `B` and the bias of `B`.
pub(super) fn keys(name: &str, is_embedding: bool) -> [String; 3] {
    let endings = if is_embedding { EMBEDDING } else { LINEAR };
    endings.map(|ending| format!("{PREFIX}{name}{ending}"))
}

impl AdapterFolder {
    /// Opens an adapter: a folder, or a Hub id.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the adapter is of a kind or a variant that is not supported.
    pub fn open(name: &str) -> Result<Self> {
        let path = hub::resolve(name, RepositoryKind::Adapter)?.path;
        let (config, settings) = peft_config::read_whole(&path)?;
        let checkpoint = Checkpoint::open_adapter(&path)?;
        let names: BTreeSet<(&str, bool)> = checkpoint.names().filter_map(pair_of).collect();
        let modules: BTreeSet<&str> = names.iter().map(|(name, _)| *name).collect();
        let mut per_layer = PerLayer::new(&config)?;
        let mut layers = Vec::new();
        for (name, is_embedding) in names {
            let [a, b, _] = keys(name, is_embedding);
            let shapes = [a, b].map(|key| checkpoint.get(&key).map(|view| view.shape));
            let found = layers_of_pair(&config, &mut per_layer, name, &modules, shapes);
            let found = found.map_err(|error| Error::file(&path, error.to_string()))?;
            layers.extend(found.into_iter().map(|adapted| AdapterLayer { adapted, is_embedding }));
        }
        let unused_patterns = per_layer.unused().collect();
        let place = |(place, layer): (usize, &AdapterLayer)| (layer.name().to_owned(), place);
        let places = layers.iter().enumerate().map(place).collect();
        Ok(Self { path, config, settings, checkpoint, layers, places, unused_patterns })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the configuration means.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Everything that the configuration says.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Whether each `B` has a bias.
    pub fn has_lora_bias(&self) -> bool {
        self.settings.get(LORA_BIAS).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The layers that have a pair, or half of one, in the order of their names.
    pub fn layers(&self) -> &[AdapterLayer] {
        &self.layers
    }

    /// The layer of this name.
    pub fn layer(&self, name: &str) -> Option<&AdapterLayer> {
        self.places.get(name).map(|place| &self.layers[*place])
    }

    /// The dimensions of what `A` reads: the inputs, or the channels and the kernel of a convolution.
    ///
    /// # Errors
    /// If `A` is missing, or is neither a matrix nor a convolution's.
    pub(super) fn inputs(&self, layer: &AdapterLayer) -> Result<&[usize]> {
        let [a, _, _] = layer.keys();
        match (self.tensor(&a)?.shape, layer.is_embedding) {
            ([_, inputs @ ..], false) if (1..=3).contains(&inputs.len()) => Ok(inputs),
            ([_, inputs @ ..], true) if inputs.len() == 1 => Ok(inputs),
            (shape, _) => Err(self.error(&a, format!("its shape is {shape:?}; a factor is a matrix"))),
        }
    }

    /// `s·B·A` of a layer, `[outputs, channels·kernel]` of a convolution; of an embedding, too, for which this is the
    /// transpose of what is added to its table.
    ///
    /// # Errors
    /// If a factor is missing or no matrix, their shapes are not of the rank that the configuration says, or the layer is a
    /// convolution in groups.
    pub fn product(&self, layer: &AdapterLayer) -> Result<Product<'_>> {
        let [a, b, _] = layer.keys();
        let inputs = self.inputs(layer)?;
        let (of_a, of_b) = (self.tensor(&a)?, self.tensor(&b)?);
        let r = layer.adapted.r;
        match of_b.shape {
            [_, _, ones @ ..] if ones.len() + 1 != inputs.len() || ones.iter().any(|one| *one != 1) => {
                let (b_is, a_is) = (of_b.shape, of_a.shape);
                return Err(self.error(
                    &b,
                    format!("its shape is {b_is:?}, where that of the other factor is {a_is:?}"),
                ));
            }
            [_, of_group, _, ..] if *of_group != r && *of_group > 0 && r.is_multiple_of(*of_group) => {
                let groups = r / of_group;
                let reason = format!(
                    "it is that of a convolution in {groups} groups, the blocks of a larger matrix: sums and \
                     approximations of such products have no blocks, and none is computed here"
                );
                return Err(self.error(&b, reason));
            }
            [_, _, ..] => {}
            shape => return Err(self.error(&b, format!("its shape is {shape:?}; a factor is a matrix"))),
        }
        let (mut first, mut second) = (Matrix::from_view(&a, &of_a)?, Matrix::from_view(&b, &of_b)?);
        if let Some(Expert { number, of }) = layer.expert() {
            first = first.only_rows(number * r..(number + 1) * r)?;
            second = second.every_column(number, of)?;
        }
        if first.rows() != r {
            let rows = first.rows();
            return Err(
                self.error(&a, format!("it has {rows} rows where {ADAPTER_CONFIG} says that r is {r}"))
            );
        }
        Product::new(second, first, f64::from(layer.adapted.scaling))
    }

    /// What the bias of `B` adds to a layer's output: scaled, as the product is. None where there is none.
    ///
    /// # Errors
    /// If the configuration says that there is one and it is missing, or the reverse; if its shape or type is wrong.
    pub fn bias(&self, layer: &AdapterLayer) -> Result<Option<Vec<f64>>> {
        let [_, b, bias] = layer.keys();
        match (self.has_lora_bias() && !layer.is_embedding, self.checkpoint.get(&bias)) {
            (false, None) => Ok(None),
            (false, Some(_)) => Err(self.error(
                &bias,
                format!("it is there, but {ADAPTER_CONFIG} does not say that {LORA_BIAS} is true"),
            )),
            (true, None) => Err(self
                .error(&bias, format!("it is missing, but {ADAPTER_CONFIG} says that {LORA_BIAS} is true"))),
            (true, Some(view)) => {
                let outputs = self.tensor(&b)?.shape.first().copied();
                if view.shape.len() != 1 || view.shape.first().copied() != outputs {
                    return Err(self.error(
                        &bias,
                        format!("its shape is {:?}; it is as long as B has rows", view.shape),
                    ));
                }
                let scaling = f64::from(layer.adapted.scaling);
                let values = to_tensor(&bias, &view)?.to_f32_vec();
                Ok(Some(values.into_iter().map(|value| scaling * f64::from(value)).collect()))
            }
        }
    }

    /// Checks that a layer has a magnitude for each of its outputs where the configuration says so, and nowhere else.
    ///
    /// # Errors
    /// If that is not so.
    pub(super) fn check_magnitude(&self, layer: &AdapterLayer) -> Result<()> {
        let key = format!("{PREFIX}{}{MAGNITUDE}", layer.name());
        let [_, b, _] = layer.keys();
        match (self.config.use_dora, self.checkpoint.get(&key)) {
            (false, None) => Ok(()),
            (false, Some(_)) => {
                let reason = format!("it is there, but {ADAPTER_CONFIG} does not say that use_dora is true");
                Err(self.error(&key, reason))
            }
            (true, None) => {
                let reason = format!("it is missing, but {ADAPTER_CONFIG} says that use_dora is true");
                Err(self.error(&key, reason))
            }
            (true, Some(view)) => {
                let outputs = self.tensor(&b)?.shape.first().copied().unwrap_or(0);
                let inputs = self.inputs(layer)?.len();
                let shape = match inputs {
                    1 => vec![outputs],
                    // `[1, outputs, 1, ...]`
                    _ => (0..=inputs).map(|place| if place == 1 { outputs } else { 1 }).collect(),
                };
                if view.shape == shape {
                    return Ok(());
                }
                let reason = format!("its shape is {:?}; it is as long as B has rows: {shape:?}", view.shape);
                Err(self.error(&key, reason))
            }
        }
    }

    /// The layer whose magnitude is at this key.
    pub(super) fn layer_of_magnitude(&self, key: &str) -> Option<&AdapterLayer> {
        self.layer(key.strip_prefix(PREFIX)?.strip_suffix(MAGNITUDE)?)
    }

    /// The tensors that belong to no pair, by their keys: heads and other modules to save, biases, magnitudes.
    pub fn others(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        let keys = self.checkpoint.names().filter(|key| pair_of(key).is_none());
        keys.filter_map(|key| Some((key, self.checkpoint.get(key)?)))
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(super) fn tensor(&self, key: &str) -> Result<TensorView<'_>> {
        self.checkpoint.get(key).ok_or_else(|| self.error(key, "it is missing: a pair has both factors"))
    }

    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::tensor(self.path.join(ADAPTER_FILE), key, reason)
    }
}

/// The module of a key of a pair, and whether it is an embedding.
fn pair_of(key: &str) -> Option<(&str, bool)> {
    let name = key.strip_prefix(PREFIX)?;
    let of = |endings: [&str; 3], is_embedding| {
        endings.iter().find_map(|ending| Some((name.strip_suffix(ending)?, is_embedding)))
    };
    of(LINEAR, false).or_else(|| of(EMBEDDING, true))
}
