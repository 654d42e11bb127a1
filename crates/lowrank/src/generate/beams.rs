//! Beam search.

use super::settings::{EarlyStopping, GenerationSettings};
use super::writer::Writer;
use crate::Result;

/// The log-probability of what must not be chosen, as in Transformers.
const NEVER: f32 = -1.0e9;

/// A text and what it is worth.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<u32>,
    score: f32,
}

/// The texts of one prompt.
struct Search {
    open: Vec<Beam>,
    finished: Vec<Beam>,
    /// Whether an open text may still become better than the worst that is finished.
    may_improve: bool,
}

/// A candidate for the next step: which text it goes on from, with which token, and its log-probability.
#[derive(Clone, Copy)]
struct Candidate {
    beam: usize,
    token: u32,
    score: f32,
}

/// The best text of each prompt, of those that there are where `go_on` says that it is enough. The writer holds each
/// prompt as often as there are beams.
///
/// # Source
/// Transformers' vectorised `_beam_search` (since 4.50), step for step.
pub(super) fn search(
    mut writer: Writer<'_>,
    prompts: usize,
    settings: &GenerationSettings,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<Vec<u32>>> {
    let beams = settings.num_beams;
    let most = settings.max_new_tokens;
    let begin = || {
        let score = |beam: usize| if beam == 0 { 0.0 } else { NEVER };
        let open = (0..beams).map(|beam| Beam { tokens: Vec::new(), score: score(beam) }).collect();
        Search { open, finished: Vec::new(), may_improve: true }
    };
    let mut searches: Vec<Search> = (0..prompts).map(|_| begin()).collect();
    if most == 0 {
        return Ok(vec![Vec::new(); prompts]);
    }
    let mut logits = writer.first()?;
    for length in 1..=most {
        let last = length == most || writer.room() == 0;
        let width = logits.width();
        let mut rows: Vec<&mut [f32]> = logits.rows().collect();
        let (mut order, mut tokens) = (Vec::new(), Vec::new());
        let mut all_end = true;
        for (number, search) in searches.iter_mut().enumerate() {
            let rows = &mut rows[number * beams..(number + 1) * beams];
            let candidates = best_candidates(rows, &search.open, width, settings);
            let ends = |candidate: &Candidate| last || settings.eos_token_ids.contains(&candidate.token);
            all_end &= candidates.iter().all(ends);
            search.finish(&candidates, ends, length, settings);
            search.go_on(&candidates, ends, beams, &mut order, number * beams);
            tokens.extend(search.open.iter().map(|beam| beam.tokens.last().copied().unwrap_or_default()));
            search.look_ahead(length, most, settings);
        }
        let improvable = searches.iter().any(|search| search.may_improve);
        let full = settings.early_stopping == EarlyStopping::WhenFull
            && searches.iter().all(|search| search.finished.len() == beams);
        if !improvable || full || all_end || !go_on() {
            break;
        }
        writer.reorder(&order)?;
        logits = writer.next(&tokens)?;
    }
    let best = |search: Search| search.finished.into_iter().next().or(search.open.into_iter().next());
    Ok(searches.into_iter().map(|search| best(search).map(|beam| beam.tokens).unwrap_or_default()).collect())
}

/// The best continuations of all open texts together, best first: enough that some are left when the best all end.
fn best_candidates(
    rows: &mut [&mut [f32]],
    open: &[Beam],
    width: usize,
    settings: &GenerationSettings,
) -> Vec<Candidate> {
    let keep = (1 + settings.eos_token_ids.len()).max(2) * settings.num_beams;
    let mut all = Vec::new();
    for (beam, (row, from)) in rows.iter_mut().zip(open).enumerate() {
        let shift = log_sum_exp(row);
        // Of one text no more than `keep` can be among the best of all.
        let mut order: Vec<u32> = (0..width as u32).collect();
        let descending = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        if keep < order.len() {
            order.select_nth_unstable_by(keep - 1, descending);
            order.truncate(keep);
        }
        all.extend(order.into_iter().map(|token| Candidate {
            beam,
            token,
            score: (f64::from(row[token as usize]) - shift) as f32 + from.score,
        }));
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.beam, a.token).cmp(&(b.beam, b.token))));
    all.truncate(keep);
    all
}

/// The logarithm of the sum of the exponentials: of a large vocabulary it has more terms than f32 can add.
fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + row.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

impl Search {
    /// Takes what ends among the best candidates into the finished texts, of which the best are kept.
    fn finish(
        &mut self,
        candidates: &[Candidate],
        ends: impl Fn(&Candidate) -> bool,
        length: usize,
        settings: &GenerationSettings,
    ) {
        let full = self.finished.len() == settings.num_beams;
        if !self.may_improve || (full && settings.early_stopping == EarlyStopping::WhenFull) {
            return;
        }
        // Only the best `num_beams` may be results; the others are there to go on with.
        for candidate in candidates.iter().take(settings.num_beams).filter(|candidate| ends(candidate)) {
            let Some(from) = self.open.get(candidate.beam) else { continue };
            let tokens = [&from.tokens[..], &[candidate.token]].concat();
            let score = candidate.score / (length as f32).powf(settings.length_penalty);
            self.finished.push(Beam { tokens, score });
        }
        // Stable: of equals the older stays before.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(settings.num_beams);
    }

    /// The best candidates that do not end become the open texts. `order` gets the writer's text of each.
    fn go_on(
        &mut self,
        candidates: &[Candidate],
        ends: impl Fn(&Candidate) -> bool,
        beams: usize,
        order: &mut Vec<usize>,
        first: usize,
    ) {
        let penalised =
            |c: &Candidate| Candidate { score: c.score + if ends(c) { NEVER } else { 0.0 }, ..*c };
        let mut next: Vec<Candidate> = candidates.iter().map(penalised).collect();
        next.sort_by(|a, b| b.score.total_cmp(&a.score));
        let open = next.iter().take(beams).filter_map(|candidate| {
            let from = self.open.get(candidate.beam)?;
            order.push(first + candidate.beam);
            Some(Beam { tokens: [&from.tokens[..], &[candidate.token]].concat(), score: candidate.score })
        });
        self.open = open.collect();
    }

    /// Works out whether an open text may still become one of the best.
    fn look_ahead(&mut self, length: usize, most: usize, settings: &GenerationSettings) {
        let at_most = settings.early_stopping == EarlyStopping::Never && settings.length_penalty > 0.0;
        let length = if at_most { most } else { length };
        let best = self.open.first().map_or(NEVER, |beam| beam.score);
        let best = best / (length as f32).powf(settings.length_penalty);
        let worst = match self.finished.get(settings.num_beams - 1) {
            Some(worst) => worst.score,
            None => NEVER,
        };
        self.may_improve = self.may_improve && best > worst;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_vocabulary_adds_up() {
        let mut row = vec![-3.0; 1 << 20];
        row[7] = 1.0;
        let expected = 1.0 + (1.0 + ((1 << 20) - 1) as f64 * (-4.0f64).exp()).ln();
        assert!((log_sum_exp(&row) - expected).abs() < 1e-9, "{} {expected}", log_sum_exp(&row));
    }
}
