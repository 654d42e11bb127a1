//! RoBERTa (Liu et al., arXiv 1907.11692) and XLM-RoBERTa (Conneau et al., arXiv 1911.02116), as Transformers'
//! `RobertaForSequenceClassification`: BERT's encoder, other positions, another head.

use super::bert::BertModel;
use super::{EncoderConfig, Inputs, Model, ModelInfo};
use crate::module;
use crate::nn::{Linear, assign_names};
use crate::tape::{Layout, Tape, Var, ops};
use crate::{Error, Result};

/// An encoder and a two-layer head on the first token.
#[derive(Debug)]
pub struct RobertaForSequenceClassification {
    roberta: BertModel,
    classifier: RobertaClassificationHead,
    pad_token_id: u32,
    info: ModelInfo,
}

module!(RobertaForSequenceClassification { "roberta" => roberta, "classifier" => classifier });

impl RobertaForSequenceClassification {
    /// The model's shape, without values.
    pub fn new(config: &EncoderConfig, num_labels: usize) -> Self {
        let architecture = match config.model_type.as_str() {
            "xlm-roberta" => "XLMRobertaForSequenceClassification",
            _ => "RobertaForSequenceClassification",
        };
        let mut model = Self {
            roberta: BertModel::new(config, false),
            classifier: RobertaClassificationHead {
                dense: Linear::new(config.hidden_size, config.hidden_size, true),
                out_proj: Linear::new(config.hidden_size, num_labels, true),
                dropout: config.classifier_dropout,
            },
            pad_token_id: config.pad_token_id,
            info: ModelInfo::sequence_classifier(config, architecture, "roberta", num_labels),
        };
        assign_names(&mut model);
        model
    }
}

impl Model for RobertaForSequenceClassification {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward(&self, tape: &mut Tape, inputs: &Inputs<'_>) -> Result<Var> {
        let positions = table_positions(inputs.ids, inputs.positions, &inputs.layout, self.pad_token_id)?;
        let first = self.roberta.forward_first(tape, inputs, &positions)?;
        self.classifier.forward(tape, &first)
    }
}

/// Rows of the position table: they begin at `pad + 1`. A padding token inside a text takes the padding row and does
/// not count, as in Transformers.
///
/// # Errors
/// If the tokens, their positions and the layout are not of one length, or a position has no row.
fn table_positions(ids: &[u32], positions: &[u32], layout: &Layout, pad: u32) -> Result<Vec<u32>> {
    if (ids.len(), positions.len()) != (layout.rows(), layout.rows()) {
        let (ids, positions, rows) = (ids.len(), positions.len(), layout.rows());
        return Err(Error::Usage(format!("{ids} ids and {positions} positions for {rows} tokens")));
    }
    let mut rows = Vec::with_capacity(ids.len());
    for pair in layout.offsets().windows(2) {
        let mut pads = 0_i64;
        for token in pair[0]..pair[1] {
            if ids[token] == pad {
                rows.push(pad);
                pads += 1;
                continue;
            }
            let row = i64::from(pad) + 1 + i64::from(positions[token]) - pads;
            rows.push(u32::try_from(row).map_err(|_| {
                let position = positions[token];
                Error::Usage(format!("position {position} after {pads} padding tokens has no row"))
            })?);
        }
    }
    Ok(rows)
}

/// A dense layer with tanh, then the projection to the labels.
#[derive(Debug)]
pub struct RobertaClassificationHead {
    dense: Linear,
    out_proj: Linear,
    dropout: f32,
}

module!(RobertaClassificationHead { "dense" => dense, "out_proj" => out_proj; "dropout" });

impl RobertaClassificationHead {
    fn forward(&self, tape: &mut Tape, first: &Var) -> Result<Var> {
        let first = ops::dropout(tape, first, self.dropout)?;
        let inner = self.dense.forward(tape, &first)?;
        let inner = ops::activation(tape, &inner, ops::Activation::Tanh)?;
        let inner = ops::dropout(tape, &inner, self.dropout)?;
        self.out_proj.forward(tape, &inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_after_the_padding_row_and_skip_padding_inside_a_text() {
        let layout = Layout::from_lengths(&[3, 2], None);
        let rows = table_positions(&[5, 1, 6, 7, 8], &[0, 1, 2, 0, 1], &layout, 1);
        assert_eq!(rows.unwrap(), [2, 1, 3, 2, 3]);
    }

    #[test]
    fn tokens_without_a_position_are_an_error() {
        let layout = Layout::from_lengths(&[3], None);
        for (ids, positions) in [
            (&[5, 6][..], &[0, 1, 2][..]),
            (&[5, 6, 7], &[0, 1]),
            (&[5, 6, 7, 8], &[0, 1, 2, 3]),
            (&[0, 0, 5], &[0, 0, 0]),
            (&[5, 6, 7], &[0, 1, u32::MAX]),
        ] {
            let result = table_positions(ids, positions, &layout, 0);
            let result = result.and_then(|_| table_positions(ids, positions, &layout, 1));
            assert!(result.is_err(), "{ids:?} at {positions:?}");
        }
    }
}
