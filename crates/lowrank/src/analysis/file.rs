//! The matrices of a file: a model's weights, and the products of an adapter's pairs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::matrix::Matrix;
use super::product::Product;
use crate::adapter::{self, Adapted, LoraConfig, PREFIX, PerLayer, layers_of_pair};
use crate::hub::{ADAPTER_CONFIG, Checkpoint, TensorView, adapter_weights};
use crate::models::eight_bits::is_companion;
use crate::nn::Expert;
use crate::{Error, Result};

/// The endings of the keys of a pair: `A`, `B`, and whether it belongs to an embedding.
const PAIRS: [(&str, &str, bool); 2] =
    [(".lora_A.weight", ".lora_B.weight", false), (".lora_embedding_A", ".lora_embedding_B", true)];

/// The ending of the key of a magnitude, which a convolution has with more dimensions.
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// What the modules are called below which a pair is that of all experts.
const STACKS: [&str; 2] = ["experts", "base_layer"];

/// What the module is called whose parameters are the weights of all experts.
const EXPERTS: &str = "experts";

/// The matrices of a safetensors file, a model folder or an adapter folder, in the order of their names.
#[derive(Debug)]
pub struct MatrixFile {
    checkpoint: Checkpoint,
    entries: Vec<Entry>,
    skipped: Skipped,
    config: Option<LoraConfig>,
    fan_in_fan_out: bool,
}

/// Tensors that are no matrices of floating numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Vectors and scalars: biases, the weights of norms.
    pub vectors: usize,
    /// Matrices of whole numbers, and of types that nothing here computes with.
    pub not_floating: usize,
    /// What belongs to weights in 8 bits: scales, and columns that are kept in bf16.
    pub companions: usize,
}

/// What is analysed under a name.
#[derive(Clone, Debug)]
pub enum Subject<'a> {
    /// A tensor of the file.
    Matrix(Matrix<'a>),
    /// What an adapter adds to a weight.
    Product(Product<'a>),
}

#[derive(Debug)]
struct Entry {
    name: String,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Matrix,
    /// One of a stack.
    Expert {
        key: String,
        number: usize,
    },
    Pair {
        a: String,
        b: String,
        of_embedding: bool,
        layer: Option<Box<Adapted>>,
    },
}

impl MatrixFile {
    /// Opens a file of tensors, the weights of a model folder, or an adapter folder. Beside an adapter's tensors,
    /// `adapter_config.json` says by what its products are scaled; where it is missing, by 1.
    ///
    /// # Errors
    /// If there are no weights, a file is malformed, half a pair is missing, or the configuration is of a variant of
    /// LoRA that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let (checkpoint, folder): (Checkpoint, PathBuf) = if !path.exists() {
            let reason = "no such file or folder; a safetensors file, a model or an adapter folder is needed";
            return Err(Error::file(path, reason));
        } else if path.is_file() {
            let folder = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
            (Checkpoint::open_file(path)?, folder)
        } else if adapter_weights(path).is_some() {
            (Checkpoint::open_adapter(path)?, path.to_path_buf())
        } else {
            (Checkpoint::open(path)?, path.to_path_buf())
        };
        let (mut entries, skipped) = entries(&checkpoint)?;
        let has_pairs = entries.iter().any(|entry| matches!(entry.keys, Keys::Pair { .. }));
        let (config, fan_in_fan_out) = if has_pairs && folder.join(ADAPTER_CONFIG).is_file() {
            (Some(adapter::read_config_of_products(&folder)?), adapter::fan_in_fan_out(&folder)?)
        } else {
            (None, false)
        };
        if let Some(config) = &config {
            entries = with_layers(entries, config, &checkpoint)?;
        }
        Ok(Self { checkpoint, entries, skipped, config, fan_in_fan_out })
    }

    /// The names, sorted: a tensor's key, for an expert's weight that of the stack with the expert's number, as in
    /// `mlp.experts.down_proj[3]`, and for a pair the module that it adapts.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The names that some names mean, sorted: that of a stack means all of its experts.
    pub fn meant<'n>(&'n self, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
        let mut meant: Vec<&str> = Vec::new();
        for name in names {
            let first = self.entries.partition_point(|entry| expert_of(&entry.name) < (name, Some(0)));
            let experts = self.entries[first..].iter().map(|entry| entry.name.as_str());
            let before = meant.len();
            meant.extend(
                experts.take_while(|expert| matches!(expert_of(expert), (stack, Some(_)) if stack == name)),
            );
            if meant.len() == before {
                meant.push(name);
            }
        }
        meant.sort_by_key(|name| expert_of(name));
        meant.dedup();
        meant
    }

    /// Whether a matrix or pair has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    fn place(&self, name: &str) -> Option<usize> {
        let place =
            self.entries.binary_search_by(|entry| expert_of(&entry.name).cmp(&expert_of(name))).ok()?;
        (self.entries[place].name == name).then_some(place)
    }

    /// What there is beside the matrices.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// The configuration beside an adapter's tensors.
    pub fn config(&self) -> Option<&LoraConfig> {
        self.config.as_ref()
    }

    /// Whether the weights that the adapter changes are stored as `[inputs, outputs]`.
    pub fn fan_in_fan_out(&self) -> bool {
        self.fan_in_fan_out
    }

    /// The matrix or product of a name; a tensor that is not among [`MatrixFile::names`] is refused with the reason.
    ///
    /// # Errors
    /// If there is no such tensor, it is no matrix of floating numbers, or the shapes of a pair do not go together.
    pub fn get(&self, name: &str) -> Result<Subject<'_>> {
        let (a, b, of_embedding, layer) = match self.place(name).map(|place| &self.entries[place].keys) {
            Some(Keys::Pair { a, b, of_embedding, layer }) => (a, b, of_embedding, layer),
            Some(Keys::Expert { key, number }) => {
                return self.expert(name, key, *number).map(Subject::Matrix);
            }
            Some(Keys::Matrix) | None => return self.matrix(name).map(Subject::Matrix),
        };
        let (mut a, mut b) = (self.matrix(a)?, self.matrix(b)?);
        if let Some(layer) = layer {
            if let Some(Expert { number, of }) = layer.stacked().map(|stacked| stacked.expert) {
                a = a.only_rows(number * layer.r..(number + 1) * layer.r)?;
                b = b.every_column(number, of)?;
            }
            if layer.r != a.rows() {
                let (rows, r) = (a.rows(), layer.r);
                return Err(
                    a.refuse(&format!("it has {rows} rows where {ADAPTER_CONFIG} says that r is {r}"))
                );
            }
        }
        if layer.is_none() && name.rsplit('.').next().is_some_and(|last| STACKS.contains(&last)) {
            let reason = format!(
                "which of its rows are an expert's is in {ADAPTER_CONFIG}, and there is none beside it"
            );
            return Err(a.refuse(&reason));
        }
        let scaling = layer.as_ref().map_or(1.0, |layer| f64::from(layer.scaling));
        let product = Product::new(b, a, scaling)?;
        Ok(Subject::Product(if *of_embedding { product.transposed() } else { product }))
    }

    fn matrix(&self, key: &str) -> Result<Matrix<'_>> {
        let view = self.checkpoint.get(key).ok_or_else(|| Error::unknown("tensor", key, self.names()))?;
        if is_stack(key, &view) {
            let reason =
                format!("it is the weights of {} experts; each has a name, as {key}[0]", view.shape[0]);
            return Err(Error::tensor(view.file, key, reason));
        }
        Matrix::from_view(key, &view)
    }

    fn expert(&self, name: &str, key: &str, number: usize) -> Result<Matrix<'_>> {
        let view = self.checkpoint.get(key).ok_or_else(|| Error::unknown("tensor", key, self.names()))?;
        let size = view.bytes.len() / view.shape[0];
        let bytes = &view.bytes[number * size..(number + 1) * size];
        let range = view.range.start + number * size..view.range.start + (number + 1) * size;
        Matrix::from_view(name, &TensorView { shape: &view.shape[1..], bytes, range, ..view })
    }
}

/// The name of a stack and the number of the expert in it; of any other name, the name.
pub(super) fn expert_of(name: &str) -> (&str, Option<usize>) {
    let number = name.strip_suffix(']').and_then(|name| name.rsplit_once('['));
    match number.map(|(stack, number)| (stack, number.parse())) {
        Some((stack, Ok(number))) => (stack, Some(number)),
        _ => (name, None),
    }
}

fn entries(checkpoint: &Checkpoint) -> Result<(Vec<Entry>, Skipped)> {
    let (mut entries, mut skipped) = (Vec::new(), Skipped::default());
    for key in checkpoint.names() {
        let Some(view) = checkpoint.get(key) else { continue };
        if let Some((name, other, keys)) = pair(key) {
            if checkpoint.get(&other).is_none() {
                let reason = format!("{other} is missing: a pair has both factors");
                return Err(Error::tensor(view.file, key, reason));
            }
            entries.extend(keys.map(|keys| Entry { name, keys }));
        } else if is_companion(checkpoint, key) {
            skipped.companions += 1;
        } else if view.shape.len() < 2 || key.ends_with(MAGNITUDE) {
            skipped.vectors += 1;
        } else if is_stack(key, &view) {
            entries.extend((0..view.shape[0]).map(|number| Entry {
                name: format!("{key}[{number}]"),
                keys: Keys::Expert { key: key.to_owned(), number },
            }));
        } else if is_matrix(&view) {
            entries.push(Entry { name: key.to_owned(), keys: Keys::Matrix });
        } else {
            skipped.not_floating += 1;
        }
    }
    entries.sort_by(|x: &Entry, y| expert_of(&x.name).cmp(&expert_of(&y.name)));
    Ok((entries, skipped))
}

/// Entries of which each pair has what a configuration gives its layer; a pair of experts becomes one of each.
fn with_layers(entries: Vec<Entry>, config: &LoraConfig, checkpoint: &Checkpoint) -> Result<Vec<Entry>> {
    let mut per_layer = PerLayer::new(config)?;
    let is_pair = |entry: &&Entry| matches!(entry.keys, Keys::Pair { .. });
    let names: Vec<String> = entries.iter().filter(is_pair).map(|entry| entry.name.clone()).collect();
    let modules: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut made = Vec::new();
    for Entry { name, keys } in entries {
        let Keys::Pair { a, b, of_embedding, .. } = keys else {
            made.push(Entry { name, keys });
            continue;
        };
        let shapes = [&a, &b].map(|key| checkpoint.get(key).map(|view| view.shape));
        let layers = layers_of_pair(config, &mut per_layer, &name, &modules, shapes);
        for layer in layers.map_err(|error| Error::file(checkpoint.path(), error.to_string()))? {
            let (name, layer) = (layer.path.clone(), Some(Box::new(layer)));
            made.push(Entry { name, keys: Keys::Pair { a: a.clone(), b: b.clone(), of_embedding, layer } });
        }
    }
    made.sort_by(|x, y| expert_of(&x.name).cmp(&expert_of(&y.name)));
    Ok(made)
}

fn is_matrix(view: &TensorView<'_>) -> bool {
    view.shape.len() >= 2 && view.dtype.is_float()
}

/// Whether a tensor is the weights of all experts, one after the other. Of one without elements, the header may claim any
/// number of them.
fn is_stack(key: &str, view: &TensorView<'_>) -> bool {
    let module = key.rsplit('.').nth(1);
    module == Some(EXPERTS) && view.shape.len() == 3 && is_matrix(view) && !view.bytes.is_empty()
}

/// For a factor of a pair: the adapted module, the key of the other factor, and, once a pair, its keys.
fn pair(key: &str) -> Option<(String, String, Option<Keys>)> {
    PAIRS.iter().find_map(|&(of_a, of_b, of_embedding)| {
        let name = |module: &str| module.strip_prefix(PREFIX).unwrap_or(module).to_owned();
        if let Some(module) = key.strip_suffix(of_a) {
            let b = format!("{module}{of_b}");
            let keys = Keys::Pair { a: key.to_owned(), b: b.clone(), of_embedding, layer: None };
            return Some((name(module), b, Some(keys)));
        }
        key.strip_suffix(of_b).map(|module| (name(module), format!("{module}{of_a}"), None))
    })
}
