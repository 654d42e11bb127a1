//! What a model writes for the examples of a batch.

use super::adapted_model::AdaptedModel;
use crate::Result;
use crate::data::Batch;
use crate::generate::{Author, GenerationSettings, generate};
use crate::tape::AdapterId;

/// The likeliest tokens after each text of a batch, at most `most` of them; neighbours of the same text are answered once.
pub(super) fn write(
    adapted: &AdaptedModel,
    adapter: Option<AdapterId>,
    batch: &Batch,
    most: usize,
    ends: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let Some(text) = batch.text() else { return Ok(Vec::new()) };
    let texts: Vec<&[u32]> = text.offsets.windows(2).map(|pair| &text.ids[pair[0]..pair[1]]).collect();
    let different: Vec<Vec<u32>> = texts.chunk_by(|a, b| a == b).map(|same| same[0].to_vec()).collect();
    let settings = GenerationSettings {
        max_new_tokens: most,
        eos_token_ids: ends.to_vec(),
        ..GenerationSettings::default()
    };
    let author = Author { model: adapted.model(), compute: adapted.compute(), adapter };
    let written = generate(author, &different, &settings, &mut |_, _| true)?;
    let counts = texts.chunk_by(|a, b| a == b).map(<[_]>::len);
    let repeated =
        written.into_iter().zip(counts).flat_map(|(tokens, count)| std::iter::repeat_n(tokens, count));
    Ok(repeated.map(|tokens| without_end(tokens, ends)).collect())
}

/// The tokens without the one that ends them.
pub(super) fn without_end(mut tokens: Vec<u32>, ends: &[u32]) -> Vec<u32> {
    if tokens.last().is_some_and(|last| ends.contains(last)) {
        tokens.pop();
    }
    tokens
}
