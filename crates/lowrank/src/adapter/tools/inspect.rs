//! What an adapter is made of.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::folder::AdapterFolder;
use crate::Result;
use crate::analysis::Tolerance;
use crate::hub::{TensorView, to_tensor};
use crate::text::{cell, fitting, number, write_columns};

/// An adapter folder, looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The folder.
    pub path: PathBuf,
    /// Everything that its configuration says.
    pub config: Map<String, Value>,
    /// The layers that it adds a product to, in the order of their names.
    pub layers: Vec<InspectedLayer>,
    /// The tensors beside these pairs.
    pub others: Vec<InspectedTensor>,
    /// The elements of all tensors.
    pub elements: usize,
    /// The bytes of all tensors.
    pub bytes: usize,
}

/// A layer that an adapter adds a product to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InspectedLayer {
    /// Its name.
    pub name: String,
    /// The shape of `B·A`.
    pub shape: [usize; 2],
    /// The rank of the pair.
    pub r: usize,
    /// What its product is multiplied by.
    pub scaling: f32,
    /// `‖A‖_F`.
    pub norm_a: f64,
    /// `‖B‖_F`.
    pub norm_b: f64,
    /// `‖s·B·A‖_F`.
    pub norm: f64,
    /// How many singular values are above PyTorch's tolerance.
    pub rank: usize,
    /// The exponential of the entropy of the singular values.
    pub effective_rank: f64,
    /// The bytes of the pair.
    pub bytes: usize,
}

/// A head, another module to save, or a bias.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InspectedTensor {
    /// Its key in the file.
    pub key: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type of its elements.
    pub dtype: String,
    /// The root of the sum of all squares; absent where it is not computed.
    pub norm: Option<f64>,
    /// Its bytes.
    pub bytes: usize,
}

/// Looks at an adapter: a folder, or a Hub id.
///
/// # Errors
/// If it cannot be read, or a pair is incomplete or holds a value that is not finite.
pub fn inspect(adapter: &str) -> Result<Inspection> {
    let folder = AdapterFolder::open(adapter)?;
    let mut layers = Vec::new();
    for layer in folder.layers() {
        let product = folder.product(layer)?;
        let spectrum = product.spectrum()?;
        let keys = layer.keys();
        let bytes = keys.iter().filter_map(|key| folder.checkpoint().get(key)).map(|view| view.bytes.len());
        let sharing = layer.expert().map_or(1, |expert| expert.of);
        layers.push(InspectedLayer {
            name: layer.name().to_owned(),
            shape: spectrum.shape(),
            r: product.r(),
            scaling: layer.adapted.scaling,
            norm_a: product.a().frobenius_norm()?,
            norm_b: product.b().frobenius_norm()?,
            norm: spectrum.frobenius_norm(),
            rank: spectrum.rank(Tolerance::Usual),
            effective_rank: spectrum.effective_rank(),
            bytes: bytes.sum::<usize>() / sharing,
        });
    }
    let others = folder.others().map(|(key, view)| InspectedTensor {
        key: key.to_owned(),
        shape: view.shape.to_vec(),
        dtype: view.dtype.to_string(),
        norm: norm(key, &view),
        bytes: view.bytes.len(),
    });
    let others = others.collect();
    let views = || folder.checkpoint().names().filter_map(|key| folder.checkpoint().get(key));
    Ok(Inspection {
        path: folder.path().to_path_buf(),
        config: folder.settings().clone(),
        layers,
        others,
        elements: views().map(|view| view.shape.iter().product::<usize>()).sum(),
        bytes: views().map(|view| view.bytes.len()).sum(),
    })
}

fn norm(key: &str, view: &TensorView<'_>) -> Option<f64> {
    let values = to_tensor(key, view).ok()?.to_f32_vec();
    Some(values.into_iter().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt())
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = [
            "base_model_name_or_path",
            "task_type",
            "r",
            "lora_alpha",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
            "lora_bias",
            "use_dora",
            "trainable_token_indices",
            "bias",
            "target_modules",
            "target_parameters",
            "modules_to_save",
        ];
        for key in keys {
            if let Some(value) = self.config.get(key).filter(|value| !is_unset(value)) {
                writeln!(f, "{key}: {value}")?;
            }
        }
        let header = ["layer", "shape", "r", "scaling", "norm A", "norm B", "norm", "rank", "eff."];
        let mut lines = vec![header.map(str::to_owned).to_vec()];
        for layer in &self.layers {
            let [rows, columns] = layer.shape;
            lines.push(vec![
                // A name comes from a file, and may hold what a terminal obeys.
                layer.name.escape_debug().to_string(),
                format!("{rows}x{columns}"),
                layer.r.to_string(),
                cell(f64::from(layer.scaling)),
                cell(layer.norm_a),
                cell(layer.norm_b),
                cell(layer.norm),
                layer.rank.to_string(),
                cell(layer.effective_rank),
            ]);
        }
        write_columns(f, &lines)?;
        for InspectedTensor { key, shape, dtype, norm, .. } in &self.others {
            let norm = norm.map_or(String::new(), |norm| format!(", norm {}", number(norm)));
            let rest = format!(": {dtype} {shape:?}{norm}");
            writeln!(f, "{}{rest}", fitting(key, &rest))?;
        }
        let (layers, others, elements) = (self.layers.len(), self.others.len(), self.elements);
        write!(f, "{layers} layers and {others} other tensors: {elements} values, {} bytes", self.bytes)
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}
