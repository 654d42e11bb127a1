//! RoBERTa (Liu et al., arXiv 1907.11692) and XLM-RoBERTa (Conneau et al., arXiv 1911.02116), as Transformers'
//! `RobertaForSequenceClassification` and its siblings: BERT's encoder, other positions, another head.

use super::bert::{self, BertModel};
use super::encoder::{Body, Classifier, Encoder, EncoderHead, RobertaClassificationHead};
use super::{EncoderConfig, HeadSpec, Tokens};
use crate::nn::Linear;
use crate::{Error, Result};

/// The model's shape, without values.
pub fn new(config: &EncoderConfig, head: HeadSpec) -> Encoder {
    let (width, dropout) = (config.hidden_size, config.classifier_dropout);
    let layers = EncoderHead::of(head, width, config.layer_norm_eps, [dropout, 0.0], |labels| {
        EncoderHead::Classifier(Classifier::Roberta(RobertaClassificationHead {
            dense: Linear::new(width, width, true),
            out_proj: Linear::new(width, labels, true),
            dropout,
        }))
    });
    let class = if config.model_type == "xlm-roberta" { "XLMRoberta" } else { "Roberta" };
    let info = bert::info(config, head, &layers, class, "roberta");
    Encoder::new(Body::Roberta(BertModel::new(config, false), config.pad_token_id), layers, info)
}

/// Rows of the position table: they begin at `pad + 1`. A padding token inside a text takes the padding row and does
/// not count, as in Transformers.
///
/// # Errors
/// If the tokens, their positions and the layout are not of one length, or a position has no row.
pub(super) fn table_positions(text: &Tokens<'_>, pad: u32) -> Result<Vec<u32>> {
    let Tokens { ids, positions, layout, .. } = text;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::Layout;

    fn rows(ids: &[u32], positions: &[u32], lengths: &[usize], pad: u32) -> Result<Vec<u32>> {
        let layout = Layout::from_lengths(lengths, None);
        table_positions(&Tokens { ids, type_ids: &[], positions, layout }, pad)
    }

    #[test]
    fn positions_begin_after_the_padding_row_and_skip_padding_inside_a_text() {
        assert_eq!(rows(&[5, 1, 6, 7, 8], &[0, 1, 2, 0, 1], &[3, 2], 1).unwrap(), [2, 1, 3, 2, 3]);
    }

    #[test]
    fn tokens_without_a_position_are_an_error() {
        for (ids, positions) in [
            (&[5, 6][..], &[0, 1, 2][..]),
            (&[5, 6, 7], &[0, 1]),
            (&[5, 6, 7, 8], &[0, 1, 2, 3]),
            (&[0, 0, 5], &[0, 0, 0]),
            (&[5, 6, 7], &[0, 1, u32::MAX]),
        ] {
            let result = rows(ids, positions, &[3], 0).and_then(|_| rows(ids, positions, &[3], 1));
            assert!(result.is_err(), "{ids:?} at {positions:?}");
        }
    }
}
