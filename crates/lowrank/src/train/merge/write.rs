//! The weights of a merged model, written one after the other.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use lowrank_kernels::RowsMut;
use serde_json::json;

use crate::adapter::{BaseValues, Changes, Pair, Product, not_finite, write_rows};
use crate::hub::{
    Checkpoint, INDEX_FILE, MODEL_FILE, StoredDtype, StreamError, TensorHeader, TensorView,
    stream_safetensors, to_tensor, write_atomically,
};
use crate::models::eight_bits::is_companion;
use crate::models::{Keys, ModelInfo, TensorRows, is_inside, keys_of, layers_of_expert, parts_of};
use crate::nn::for_each_parameter;
use crate::tape::{AdapterId, Leaf, Parameter, TokenRows, is_finite};
use crate::tensor::{DType, Tensor};
use crate::train::AdaptedModel;
use crate::{Error, Result};

/// Elements that are merged at a time: 4 MiB of f32.
const BLOCK: usize = 1 << 20;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub merged: usize,
    pub replaced: usize,
    pub bytes: u64,
    /// Whether the layer before a language model's logits has a value of its own now.
    pub unties_output: bool,
    /// Whether an adapter brought a head.
    pub has_new_head: bool,
    /// The type that keeps the fewest digits of what was changed.
    coarsest: Option<StoredDtype>,
}

impl Written {
    /// How far outputs may be off, as a part of the largest: 32 times what rounding to the stored type loses of a weight,
    /// or what sums in f32 lose of an output.
    pub fn relative_tolerance(&self) -> f32 {
        match self.coarsest {
            Some(StoredDtype::BF16) => 32.0 * f32::powi(2.0, -9),
            Some(StoredDtype::F16) => 32.0 * f32::powi(2.0, -12),
            _ => 1e-4,
        }
    }
}

/// A tensor of the result.
struct Output<'a> {
    key: String,
    dtype: StoredDtype,
    shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    /// As it is in the base model.
    Stored(&'a [u8]),
    /// With products added to what the base model has, which is the weight itself or has rows and columns exchanged, or
    /// with rows in the place of its own.
    Sum {
        view: TensorView<'a>,
        weight: &'a Leaf,
        pairs: &'a [Pair],
        transposed: bool,
        rows: Option<&'a TokenRows>,
    },
    /// With products added to parts of it, which are those of different parameters.
    Parts { view: TensorView<'a>, parts: Vec<SumOfPart<'a>> },
    /// With products added to a value in the form that it has in the model, of which it is these rows.
    Made { start: Leaf, pairs: &'a [Pair], parameter: &'a Parameter, rows: Range<usize> },
}

/// Products that are added to rows of a tensor.
struct SumOfPart<'a> {
    /// The first of them.
    first: usize,
    /// Which rows of the parameter they are.
    rows: Range<usize>,
    weight: &'a Leaf,
    pairs: &'a [Pair],
}

/// Products that are added to a block of rows after the other.
struct SumOfRows<'p> {
    /// The first row of the tensor.
    first: usize,
    /// The rows of the products.
    rows: Range<usize>,
    width: usize,
    products: &'p [Product],
    /// Rows in the place of the tensor's own.
    own: Option<&'p TokenRows>,
}

/// What is to be written.
pub(super) struct Merging<'a> {
    checkpoint: &'a Checkpoint,
    base: BaseValues,
    changes: Changes,
    info: &'a ModelInfo,
    /// The parameters with their names and their keys in the base model.
    parameters: Vec<(&'a Parameter, String, String)>,
    /// The parameters that are no tensors by themselves there, by their names.
    parts: BTreeMap<String, Vec<TensorRows>>,
    untied: Vec<(String, &'static str)>,
    has_new_head: bool,
}

impl<'a> Merging<'a> {
    /// What the adapter of this id changes in the model of a checkpoint.
    pub fn new(adapted: &'a AdaptedModel, adapter: AdapterId, checkpoint: &'a Checkpoint) -> Result<Self> {
        let model = adapted.model();
        let changes = Changes::of(model, adapter)?;
        let keys = keys_of(model, checkpoint);
        let mut parameters = Vec::new();
        for_each_parameter(model, |path, parameter| {
            let key = keys.get(path).cloned().unwrap_or_else(|| path.to_owned());
            parameters.push((parameter, path.to_owned(), key));
        });
        let changed =
            |path: &str| changes.pairs.contains_key(path) || changes.replacements.contains_key(path);
        let untied: Vec<(String, &'static str)> = parameters
            .iter()
            .filter_map(|(parameter, path, _)| Some((path.clone(), parameter.shares()?)))
            .filter(|(path, target)| changed(path) || changed(target))
            .collect();
        let output = model.info().output.map(|output| format!("{output}.weight"));
        let is_t5 = model.info().base_prefix.is_empty() && output.as_deref() == Some("lm_head.weight");
        if let Some((path, target)) = untied.iter().find(|(path, _)| is_t5 || Some(path) != output.as_ref()) {
            let reason = format!(
                "{path} would have another value than {target}, and Transformers gives them one value in this \
                 architecture; load the adapter beside the base model instead"
            );
            return Err(Error::Usage(reason));
        }
        let in_head = |path: &String| model.info().head.iter().any(|module| is_inside(path, module));
        let has_new_head = changes.replacements.keys().any(in_head);
        let (info, parts) = (model.info(), parts_of(model, checkpoint));
        let base = BaseValues::of(model);
        Ok(Self { checkpoint, base, changes, info, parameters, parts, untied, has_new_head })
    }

    /// Writes the files.
    pub fn write(&self, folder: &Path) -> Result<Written> {
        let files = self.files()?;
        let mut written = Written {
            unties_output: !self.untied.is_empty(),
            has_new_head: self.has_new_head,
            replaced: self.changes.replacements.len() + self.changes.rows.len(),
            merged: self.changes.pairs.len(),
            ..Written::default()
        };
        let changed = files.iter().flat_map(|(_, outputs)| outputs);
        let changed = changed.filter(|output| !matches!(output.content, Content::Stored(_)));
        let digits = |dtype: &StoredDtype| match dtype {
            StoredDtype::BF16 => 0,
            StoredDtype::F16 => 1,
            _ => 2,
        };
        written.coarsest = changed.map(|output| output.dtype).min_by_key(digits);
        let mut places = BTreeMap::new();
        for (name, outputs) in &files {
            let headers: Vec<TensorHeader<'_>> = outputs
                .iter()
                .map(|output| TensorHeader { name: &output.key, dtype: output.dtype, shape: &output.shape })
                .collect();
            let bytes: usize = headers.iter().filter_map(TensorHeader::bytes).sum();
            written.bytes += bytes as u64;
            places.extend(outputs.iter().map(|output| (output.key.clone(), name.clone())));
            let by_key: BTreeMap<&str, &Output<'_>> =
                outputs.iter().map(|output| (output.key.as_str(), output)).collect();
            stream_safetensors(folder.join(name), &headers, &[("format", "pt")], |key, file| {
                by_key.get(key).map_or(Ok(()), |output| output.write(file))
            })?;
        }
        if files.len() > 1 || files.iter().any(|(name, _)| name != MODEL_FILE) {
            let index = json!({ "metadata": { "total_size": written.bytes }, "weight_map": places });
            let text = serde_json::to_string_pretty(&index).unwrap_or_default();
            write_atomically(folder.join(INDEX_FILE), |file| writeln!(file, "{text}"))?;
        }
        Ok(written)
    }

    /// The tensors of each file: those of the base model's, and at the end of the last what has no place there.
    fn files(&self) -> Result<Vec<(String, Vec<Output<'_>>)>> {
        let whole = self.parameters.iter().filter(|(_, path, _)| !self.parts.contains_key(path));
        let by_key: BTreeMap<&str, (&Parameter, &str)> =
            whole.map(|(parameter, path, key)| (&**key, (*parameter, &**path))).collect();
        let parts = self.parts_by_key();
        let mut files = Vec::new();
        for (file, keys) in self.checkpoint.files() {
            let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let mut outputs = Vec::new();
            for key in keys.into_iter().filter(|key| !is_companion(self.checkpoint, key)) {
                let Some(view) = self.checkpoint.get(key) else { continue };
                match (by_key.get(key).copied(), parts.get(key)) {
                    (Some((parameter, path)), _) => outputs.extend(self.outputs(key, view, parameter, path)?),
                    (None, Some(parts)) => outputs.push(self.output_of_parts(key, view, parts)?),
                    (None, None) => outputs.push(Output::stored(key, view)),
                }
            }
            files.push((name, outputs));
        }
        let dtype = self.usual_dtype();
        let mut new = Vec::new();
        for (parameter, path, key) in &self.parameters {
            if let Some(start) = self.own_value(path)?.filter(|_| self.checkpoint.get(key).is_none()) {
                new.extend(self.made(key, dtype, parameter, path, &start));
            }
        }
        files.last_mut().into_iter().for_each(|(_, outputs)| outputs.append(&mut new));
        Ok(files)
    }

    /// What parameters are part of each tensor, in the order of its rows.
    fn parts_by_key(&self) -> BTreeMap<&str, Vec<(&Parameter, &str, &TensorRows)>> {
        let mut by_key: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (parameter, path, _) in &self.parameters {
            for part in self.parts.get(path).into_iter().flatten() {
                by_key.entry(&part.key).or_default().push((*parameter, path.as_str(), part));
            }
        }
        by_key.values_mut().for_each(|parts| parts.sort_by_key(|(_, _, part)| part.first));
        by_key
    }

    /// What becomes of a tensor of the base model of which parameters are parts.
    fn output_of_parts<'m>(
        &'m self,
        key: &str,
        view: TensorView<'m>,
        parts: &[(&'m Parameter, &'m str, &TensorRows)],
    ) -> Result<Output<'m>> {
        if parts.iter().all(|(_, path, _)| self.pairs(path).is_empty()) {
            return Ok(Output::stored(key, view));
        }
        let sum = |(parameter, path, part): &(&'m Parameter, &'m str, &TensorRows)| {
            let (weight, rows) = (parameter.active(None)?, part.rows.clone());
            Ok(SumOfPart { first: part.first, rows, weight, pairs: self.pairs(path) })
        };
        let parts = parts.iter().map(sum).collect::<Result<_>>()?;
        let (dtype, shape) = (view.dtype, view.shape.to_vec());
        Ok(Output { key: key.to_owned(), dtype, shape, content: Content::Parts { view, parts } })
    }

    /// What becomes of a tensor of the base model that is a parameter: one tensor, but for experts that were joined there
    /// to be in 8 bits.
    fn outputs<'m>(
        &'m self,
        key: &str,
        view: TensorView<'m>,
        parameter: &'m Parameter,
        path: &'m str,
    ) -> Result<Vec<Output<'m>>> {
        let (dtype, shape) = (view.dtype, view.shape.to_vec());
        let dense = if dtype == StoredDtype::I8 { StoredDtype::BF16 } else { dtype };
        if let Some(start) = self.own_value(path)? {
            return Ok(self.made(key, dense, parameter, path, &start));
        }
        let eight_bits = parameter.base().filter(|leaf| leaf.as_quantized().is_some());
        if let Some(leaf) = eight_bits {
            return Ok(self.made(key, dense, parameter, path, leaf));
        }
        let pairs = self.pairs(path);
        let rows = self.changes.rows.get(parameter.shares().unwrap_or(path));
        if pairs.is_empty() && rows.is_none() {
            return Ok(vec![Output::stored(key, view)]);
        }
        let transposed = parameter.is_transposed();
        let weight = self.base.get(parameter)?;
        let content = Content::Sum { view, weight, pairs, transposed, rows };
        Ok(vec![Output { key: key.to_owned(), dtype, shape, content }])
    }

    /// The tensors, under this key or those that Transformers has for an expert's layers, of a value that starts from a
    /// leaf.
    fn made<'m>(
        &'m self,
        key: &str,
        dtype: StoredDtype,
        parameter: &'m Parameter,
        path: &'m str,
        start: &Leaf,
    ) -> Vec<Output<'m>> {
        let shape = parameter.file_shape();
        let made = |key: &str, shape: Vec<usize>, rows: Range<usize>| {
            let content = Content::Made { start: start.clone(), pairs: self.pairs(path), parameter, rows };
            Output { key: key.to_owned(), dtype, shape, content }
        };
        let keys = Keys::new(self.info, self.checkpoint);
        let layers = layers_of_expert(self.info, path, shape.rows()).filter(|_| keys.key(path) == key);
        let Some(layers) = layers else { return vec![made(key, shape.dims().to_vec(), 0..shape.rows())] };
        let layer =
            |layer: TensorRows| made(keys.key(&layer.key), vec![layer.rows.len(), shape.width()], layer.rows);
        layers.into_iter().map(layer).collect()
    }

    fn pairs(&self, path: &str) -> &[Pair] {
        self.changes.pairs.get(path).map_or(&[], Vec::as_slice)
    }

    /// What a parameter starts from that does not have the base model's value under its own name: one that an adapter
    /// put in its place, or that of the parameter which it no longer is another name of.
    fn own_value(&self, path: &str) -> Result<Option<Leaf>> {
        if let Some(leaf) = self.changes.replacements.get(path) {
            return Ok(Some(leaf.clone()));
        }
        let Some((_, target)) = self.untied.iter().find(|(name, _)| name == path) else { return Ok(None) };
        let target = self.parameters.iter().find(|(_, path, _)| path == target);
        target.map(|(parameter, _, _)| parameter.active(None).cloned()).transpose()
    }

    /// The type of what is new: that of the weights which are merged.
    fn usual_dtype(&self) -> StoredDtype {
        let merged = self.parameters.iter().filter(|(_, path, _)| self.changes.pairs.contains_key(path));
        let mut types = merged.filter_map(|(_, path, key)| {
            let part = self.parts.get(path).and_then(|parts| parts.first());
            Some(self.checkpoint.get(part.map_or(key, |part| &part.key))?.dtype)
        });
        match types.next() {
            Some(StoredDtype::I8) => StoredDtype::BF16,
            found => found.unwrap_or(StoredDtype::F32),
        }
    }
}

impl<'a> Output<'a> {
    /// A tensor of the base model, as it is.
    fn stored(key: &str, view: TensorView<'a>) -> Self {
        let (dtype, shape) = (view.dtype, view.shape.to_vec());
        Self { key: key.to_owned(), dtype, shape, content: Content::Stored(view.bytes) }
    }

    fn write(&self, file: &mut dyn Write) -> std::result::Result<(), StreamError> {
        let value = match &self.content {
            Content::Stored(bytes) => return file.write_all(bytes).map_err(StreamError::Io),
            Content::Sum { view, weight, pairs, transposed, rows } => {
                let products: Vec<_> = pairs.iter().map(|pair| pair.product(*transposed, weight)).collect();
                let (all, width) = match self.shape[..] {
                    [rows, ref inner @ ..] if !inner.is_empty() => (rows, inner.iter().product::<usize>()),
                    ref vector => (1, vector.iter().product()),
                };
                let sum = SumOfRows { first: 0, rows: 0..all, width, products: &products, own: *rows };
                return self.write_sum(view, &sum, file);
            }
            Content::Parts { view, parts } => {
                let width = self.shape.last().copied().unwrap_or(0);
                for SumOfPart { first, rows, weight, pairs } in parts {
                    let products: Vec<_> = pairs.iter().map(|pair| pair.product(false, weight)).collect();
                    let rows = rows.clone();
                    let sum = SumOfRows { first: *first, rows, width, products: &products, own: None };
                    self.write_sum(view, &sum, file)?;
                }
                return Ok(());
            }
            Content::Made { start, pairs, parameter, rows } => {
                let sum = crate::adapter::sum(&self.key, start, pairs).map_err(StreamError::Failed)?;
                let value = parameter.to_file(&sum);
                if *rows == (0..value.shape().rows()) { value } else { value.rows(rows.clone()) }
            }
        };
        self.write_value(&value, file)
    }

    /// Writes rows of a weight with products added, a block after the other.
    fn write_sum(
        &self,
        view: &TensorView<'_>,
        sum: &SumOfRows<'_>,
        file: &mut dyn Write,
    ) -> std::result::Result<(), StreamError> {
        let SumOfRows { first, ref rows, width, products, own } = *sum;
        let elements = view.shape.iter().product::<usize>().max(1);
        let bytes = view.bytes.len() / elements * width;
        let block = (BLOCK / width.max(1)).max(1);
        for row in rows.clone().step_by(block) {
            let count = block.min(rows.end - row);
            let start = view.range.start + (first + row - rows.start) * bytes;
            let shape = [count, width];
            let part = TensorView { shape: &shape, range: start..start + count * bytes, ..view.clone() };
            let mut sum = to_tensor(&self.key, &part).map_err(StreamError::Failed)?.to_dtype(DType::F32);
            for product in products {
                product.apply(row, RowsMut::dense(sum.make_mut::<f32>(), count, width));
            }
            if let Some(own) = own {
                write_rows(own, row, RowsMut::dense(sum.make_mut::<f32>(), count, width));
            }
            self.write_value(&sum, file)?;
        }
        Ok(())
    }

    fn write_value(&self, value: &Tensor, file: &mut dyn Write) -> std::result::Result<(), StreamError> {
        let value = value.to_dtype(match self.dtype {
            StoredDtype::BF16 => DType::Bf16,
            StoredDtype::F16 => DType::F16,
            _ => DType::F32,
        });
        if !is_finite(&value) {
            return Err(StreamError::Failed(not_finite(&self.key)));
        }
        file.write_all(value.bytes()).map_err(StreamError::Io)
    }
}
