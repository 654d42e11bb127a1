//! Padded tensors, as Python programs hold them, into ragged batches, and outputs back.

mod tensors;
#[cfg(test)]
mod tests;

use std::path::Path;

use self::tensors::{Integers, integers, matching, numbers_f32, token};
use crate::data::{Batch, BatchSource, IGNORED, Labels, Pixels, TokenRows};
use crate::hub::Checkpoint;
use crate::models::{Head, ModelInfo};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A batch, and where its outputs are in the padded form.
#[derive(Clone, Debug)]
pub struct Padded {
    /// The batch without padding.
    pub batch: Batch,
    /// Rows and columns of the padded outputs of a head on tokens, and the place of each token among them.
    places: Option<(usize, usize, Vec<usize>)>,
}

impl Padded {
    /// Outputs of a head in the padded form: those of tokens are zero at padded places.
    pub fn pad(&self, logits: &Tensor) -> Tensor {
        let logits = logits.to_dtype(DType::F32);
        let Some((rows, columns, places)) = &self.places else { return logits };
        let width = logits.shape().width();
        let mut out = Tensor::zeros([*rows, *columns, width], DType::F32);
        let values = out.make_mut::<f32>();
        for (row, place) in logits.as_slice::<f32>().chunks_exact(width).zip(places) {
            values[place * width..][..width].copy_from_slice(row);
        }
        out
    }
}

/// Reads the tensors of a safetensors file, named as in Transformers, as one ragged batch: `input_ids`,
/// `attention_mask`, `token_type_ids`, `decoder_input_ids` or `pixel_values`, and `labels` or `start_positions` and
/// `end_positions`, as far as the model reads them.
///
/// # Shapes
/// `[B, T]`; labels of sequences and positions `[B]` or `[B, 1]`; pixels `[B, C, H, W]`; int64 or float32. Absent masks
/// are all ones, absent segments all zeros; absent `decoder_input_ids` are the labels shifted right.
///
/// # Errors
/// If what the model reads is missing, a tensor has another shape or type or is none of the model's, a value is out of
/// range, a row has no token, or a token is hidden between others where the model counts the rows between them.
pub fn read_padded(path: &Path, info: &ModelInfo) -> Result<Padded> {
    let file = Checkpoint::open_file(path)?;
    let known = known_tensors(info);
    if let Some(name) = file.names().find(|name| !known.contains(name)) {
        return Err(Error::tensor(path, name, format!("{} does not read it", info.architecture)));
    }
    if info.kind == Head::ImageClassification {
        return read_images(path, &file, info);
    }
    let text = Text::read(path, &file, info)?;
    let Text { rows, columns, .. } = text;
    let examples = (0..rows as u32).collect();
    let places = info.kind.is_on_tokens().then(|| (rows, columns, text.places.clone()));
    let batch = |labels, target| Batch { source: text.source(), target, labels, examples };
    match info.kind {
        Head::QuestionAnswering => {
            let starts = text.positions_of(path, &file, "start_positions")?;
            let ends = text.positions_of(path, &file, "end_positions")?;
            let labels = match (starts, ends) {
                (Some(starts), Some(ends)) => Labels::Spans { starts, ends },
                (None, None) => Labels::None,
                (Some(_), None) => return Err(Error::tensor(path, "end_positions", "it is missing")),
                (None, Some(_)) => return Err(Error::tensor(path, "start_positions", "it is missing")),
            };
            Ok(Padded { batch: batch(labels, None), places })
        }
        Head::TokenClassification | Head::CausalLm => {
            let labels = matching(path, &file, "labels", &[rows, columns])?;
            let labels = labels.map(|labels| text.token_labels(&labels, info.kind == Head::CausalLm));
            let labels = match labels {
                Some(labels) => Labels::Tokens(check_classes(path, labels, info.num_labels)?),
                None => Labels::None,
            };
            Ok(Padded { batch: batch(labels, None), places })
        }
        Head::Seq2SeqLm => {
            let (target, labels, places) = read_answers(path, &file, rows, info)?;
            Ok(Padded { batch: batch(labels, Some(target)), places: Some(places) })
        }
        _ => {
            let labels = labels_of_sequences(path, &file, rows, info.num_labels)?;
            Ok(Padded { batch: batch(labels, None), places })
        }
    }
}

/// As [`read_padded`], without the way back.
///
/// # Errors
/// As [`read_padded`].
pub fn read_batch(path: &Path, info: &ModelInfo) -> Result<Batch> {
    read_padded(path, info).map(|padded| padded.batch)
}

fn known_tensors(info: &ModelInfo) -> Vec<&'static str> {
    let mut known = match info.kind {
        Head::ImageClassification => return vec!["pixel_values", "labels"],
        Head::QuestionAnswering => {
            vec!["input_ids", "attention_mask", "start_positions", "end_positions"]
        }
        Head::Seq2SeqLm => vec!["input_ids", "attention_mask", "decoder_input_ids", "labels"],
        _ => vec!["input_ids", "attention_mask", "labels"],
    };
    if info.type_vocab_size > 0 {
        known.push("token_type_ids");
    }
    known
}

/// The text of a file without its padding.
struct Text {
    rows: usize,
    columns: usize,
    tokens: TokenRows,
    /// The place of each token in the padded form.
    places: Vec<usize>,
}

impl Text {
    fn read(path: &Path, file: &Checkpoint, info: &ModelInfo) -> Result<Self> {
        let ids = integers(path, file, "input_ids")?
            .ok_or_else(|| Error::tensor(path, "input_ids", "it is missing"))?;
        let (rows, columns) = ids.matrix(path, "input_ids")?;
        let mask = matching(path, file, "attention_mask", &ids.shape)?;
        let types = matching(path, file, "token_type_ids", &ids.shape)?;
        let hidden = |place: usize| mask.as_ref().is_some_and(|mask| mask[place] == 0);
        let mut tokens = TokenRows::default();
        let mut places = Vec::new();
        for row in 0..rows {
            let reads_first = matches!(info.kind, Head::SequenceClassification) && info.reads_first_token();
            if reads_first && hidden(row * columns) {
                let reason =
                    format!("it hides the first token of row {row}, which the head reads; pad on the right");
                return Err(Error::tensor(path, "attention_mask", reason));
            }
            let mut skipped = 0;
            for column in 0..columns {
                let place = row * columns + column;
                let id = token(path, "input_ids", ids.values[place], info.vocab_size)?;
                if hidden(place) {
                    skipped += u32::from(info.positions_skip_padding && Some(id) == info.pad_token_id);
                    continue;
                }
                let kind = types.as_ref().map_or(0, |types| types[place]);
                tokens.ids.push(id);
                tokens.type_ids.push(token(path, "token_type_ids", kind, info.type_vocab_size.max(1))?);
                tokens.position_ids.push(column as u32 - skipped);
                places.push(place);
            }
            let own = &places[tokens.offsets[row]..];
            let (Some(first), Some(last)) = (own.first(), own.last()) else {
                return Err(Error::tensor(path, "attention_mask", format!("row {row} shows no token")));
            };
            let across = last - first + 1;
            if across > own.len() && info.counts_rows_beyond.is_some_and(|longest| across > longest) {
                let reason = format!(
                    "it hides tokens between others of row {row}, and {} counts the tokens between two that attend to \
                     each other: pad at the ends alone",
                    info.architecture
                );
                return Err(Error::tensor(path, "attention_mask", reason));
            }
            tokens.offsets.push(tokens.ids.len());
        }
        let last = tokens.position_ids.iter().max().map_or(0, |last| *last as usize);
        if info.has_position_table && last >= info.max_length {
            let reason = format!("position {last} is beyond the model's {} positions", info.max_length);
            return Err(Error::tensor(path, "input_ids", reason));
        }
        Ok(Self { rows, columns, tokens, places })
    }

    fn source(&self) -> BatchSource {
        BatchSource::Tokens(self.tokens.clone())
    }

    /// The labels of tokens, or with `next` of the tokens after them: none after padding, as none is on padding.
    fn token_labels(&self, labels: &[i64], next: bool) -> Vec<i64> {
        let mut out = Vec::with_capacity(self.places.len());
        for pair in self.tokens.offsets.windows(2) {
            let places = &self.places[pair[0]..pair[1]];
            out.extend(places.iter().enumerate().map(|(token, place)| match (next, places.get(token + 1)) {
                (false, _) => labels[*place],
                // The next column, and not one behind padding.
                (true, Some(after)) if *after == place + 1 => labels[*after],
                (true, _) => IGNORED,
            }));
        }
        out
    }

    /// Columns of the padded form as tokens of their sequences: a negative one is the first, and one that has no token is
    /// beyond them all.
    fn positions_of(&self, path: &Path, file: &Checkpoint, name: &str) -> Result<Option<Vec<i64>>> {
        let Some(found) = integers(path, file, name)? else { return Ok(None) };
        found.one_each(path, name, self.rows)?;
        let positions = self.tokens.offsets.windows(2).zip(&found.values).enumerate();
        let token_of = |(row, (pair, column)): (usize, (&[usize], &i64))| {
            let place = usize::try_from((*column).max(0)).ok().filter(|column| *column < self.columns);
            let place = place.map(|column| row * self.columns + column);
            let token = self.places[pair[0]..pair[1]].iter().position(|own| Some(*own) == place);
            token.map_or(i64::MAX, |token| token as i64)
        };
        Ok(Some(positions.map(token_of).collect()))
    }
}

type Places = (usize, usize, Vec<usize>);

/// What an encoder-decoder is to write. A row ends with its last label; without labels it has no padding.
fn read_answers(
    path: &Path,
    file: &Checkpoint,
    rows: usize,
    info: &ModelInfo,
) -> Result<(TokenRows, Labels, Places)> {
    let labels = integers(path, file, "labels")?;
    let inputs = integers(path, file, "decoder_input_ids")?;
    let (name, shape) = match (&inputs, &labels) {
        (Some(inputs), _) => ("decoder_input_ids", inputs.matrix(path, "decoder_input_ids")?),
        (None, Some(labels)) => ("labels", labels.matrix(path, "labels")?),
        (None, None) => return Err(Error::tensor(path, "decoder_input_ids", "it is missing, as are labels")),
    };
    let columns = shape.1;
    if shape.0 != rows {
        return Err(Error::tensor(path, name, format!("it has {} rows where input_ids has {rows}", shape.0)));
    }
    if let Some(labels) = labels.as_ref().filter(|labels| labels.shape != [rows, columns]) {
        let reason = format!("its shape is {:?} where {name} has {:?}", labels.shape, [rows, columns]);
        return Err(Error::tensor(path, "labels", reason));
    }
    let start = info.decoder_start_token_id.unwrap_or(0);
    let pad = i64::from(info.pad_token_id.unwrap_or(0));
    let (mut target, mut places, mut kept) = (TokenRows::default(), Vec::new(), Vec::new());
    for row in 0..rows {
        let at = |values: &Integers, column: usize| values.values[row * columns + column];
        let length = match &labels {
            Some(labels) => {
                (0..columns).rposition(|column| at(labels, column) != IGNORED).map_or(0, |l| l + 1)
            }
            None => columns,
        };
        if length == 0 {
            return Err(Error::tensor(path, "labels", format!("row {row} has no label")));
        }
        let mut ids = Vec::with_capacity(length);
        for column in 0..length {
            let id = match (&inputs, &labels) {
                (Some(inputs), _) => at(inputs, column),
                (None, Some(labels)) if column > 0 => match at(labels, column - 1) {
                    IGNORED => pad,
                    id => id,
                },
                _ => i64::from(start),
            };
            ids.push(token(path, name, id, info.vocab_size)?);
            places.push(row * columns + column);
            kept.extend(labels.as_ref().map(|labels| at(labels, column)));
        }
        target.push(&ids, &[]);
    }
    let labels = match labels {
        Some(_) => Labels::Tokens(check_classes(path, kept, info.num_labels)?),
        None => Labels::None,
    };
    Ok((target, labels, (rows, columns, places)))
}

fn read_images(path: &Path, file: &Checkpoint, info: &ModelInfo) -> Result<Padded> {
    let (shape, values) = numbers_f32(path, file, "pixel_values")?
        .ok_or_else(|| Error::tensor(path, "pixel_values", "it is missing"))?;
    let channels = info.image.map_or(0, |image| image.channels);
    let [rows, found, height, width] = shape[..] else {
        let reason = format!("its shape is {shape:?}, not [B, C, H, W]");
        return Err(Error::tensor(path, "pixel_values", reason));
    };
    if rows == 0 || found != channels {
        let reason = format!("its shape is {shape:?}; the model sees images of {channels} colours");
        return Err(Error::tensor(path, "pixel_values", reason));
    }
    let labels = labels_of_sequences(path, file, rows, info.num_labels)?;
    let pixels = Pixels { values, channels, height, width };
    Ok(Padded { batch: Batch::of_images(pixels, rows, labels, 0)?, places: None })
}

fn labels_of_sequences(path: &Path, file: &Checkpoint, rows: usize, num_labels: usize) -> Result<Labels> {
    if num_labels == 1 {
        let Some((shape, scores)) = numbers_f32(path, file, "labels")? else { return Ok(Labels::None) };
        tensors::check_one_each(path, "labels", &shape, rows)?;
        return Ok(Labels::Scores(scores));
    }
    let Some(classes) = integers(path, file, "labels")? else { return Ok(Labels::None) };
    classes.one_each(path, "labels", rows)?;
    match classes.values.iter().find(|class| !(0..num_labels as i64).contains(*class)) {
        Some(class) => {
            Err(Error::tensor(path, "labels", format!("{class} is not one of {num_labels} classes")))
        }
        None => Ok(Labels::Classes(classes.values)),
    }
}

/// Classes of tokens, of which −100 is none.
fn check_classes(path: &Path, labels: Vec<i64>, classes: usize) -> Result<Vec<i64>> {
    match labels.iter().find(|label| **label != IGNORED && !(0..classes as i64).contains(*label)) {
        Some(label) => {
            let reason = format!("{label} is neither {IGNORED} nor one of {classes} classes");
            Err(Error::tensor(path, "labels", reason))
        }
        None => Ok(labels),
    }
}
