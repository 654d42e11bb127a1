//! One token after the other.

use lowrank_kernels::random::Philox;

use super::GenerationSettings;
use super::writer::Writer;
use crate::Result;
use crate::data::metrics::argmax;

/// Streams of a seed that texts are sampled from: far from those of training.
const TEXT_STREAMS: u64 = 1 << 40;

/// Writes each text until it ends.
pub(super) fn write(
    mut writer: Writer<'_>,
    texts: usize,
    settings: &GenerationSettings,
    watch: &mut dyn FnMut(usize, Option<u32>) -> bool,
) -> Result<Vec<Vec<u32>>> {
    let mut written: Vec<Vec<u32>> = vec![Vec::new(); texts];
    // Each text draws from a stream of its own, so that it is the same beside others.
    let mut generators: Vec<Philox> =
        (0..texts as u64).map(|text| Philox::new(settings.seed, TEXT_STREAMS + text)).collect();
    // The texts that are still written, in the order of the writer's.
    let mut open: Vec<usize> = (0..texts).collect();
    let mut tokens = Vec::new();
    while settings.max_new_tokens > written.get(open[0]).map_or(0, Vec::len) {
        let mut logits = if tokens.is_empty() { writer.first()? } else { writer.next(&tokens)? };
        tokens.clear();
        let mut still = Vec::with_capacity(open.len());
        for (place, row) in logits.rows().enumerate() {
            let text = open[place];
            let token = choose(row, settings, &mut generators[text]);
            written[text].push(token);
            let wanted = watch(text, Some(token));
            if wanted && !settings.eos_token_ids.contains(&token) {
                still.push(place);
                tokens.push(token);
            }
        }
        if still.is_empty() || writer.room() == 0 {
            break;
        }
        if still.len() < open.len() {
            writer.keep(&still)?;
            open = still.into_iter().map(|place| open[place]).collect();
        }
    }
    Ok(written)
}

/// The likeliest token, or one that is drawn.
///
/// # Source
/// Transformers' order: temperature, top-k, top-p. The nucleus of Holtzman et al. (arXiv 1904.09751) holds the token that
/// takes the sum past `top_p`.
fn choose(logits: &mut [f32], settings: &GenerationSettings, generator: &mut Philox) -> u32 {
    if settings.temperature == 0.0 {
        return argmax(logits);
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let value = |token: &u32| logits.get(*token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let descending = |a: &u32, b: &u32| value(b).total_cmp(&value(a)).then(a.cmp(b));
    if settings.top_k > 0 && settings.top_k < order.len() {
        order.select_nth_unstable_by(settings.top_k - 1, descending);
        order.truncate(settings.top_k);
    }
    order.sort_unstable_by(descending);
    let largest = order.first().map_or(0.0, value);
    let weight = |token: &u32| f64::from((value(token) - largest) / settings.temperature).exp();
    let weights: Vec<f64> = order.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let enough = weights.iter().position(|weight| {
        kept += weight / total;
        kept >= f64::from(settings.top_p)
    });
    let count = enough.map_or(weights.len(), |last| last + 1);
    let nucleus: f64 = weights[..count].iter().sum();
    let mut rest = f64::from(generator.uniform_f32()) * nucleus;
    for (token, weight) in order.iter().zip(&weights[..count]) {
        rest -= weight;
        if rest < 0.0 {
            return *token;
        }
    }
    order.get(count.saturating_sub(1)).copied().unwrap_or_else(|| argmax(logits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(settings: &GenerationSettings, count: usize) -> Vec<usize> {
        let mut generator = Philox::new(7, 0);
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let mut counts = vec![0; 4];
        for _ in 0..count {
            counts[choose(&mut logits.clone(), settings, &mut generator) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let settings = GenerationSettings { temperature: 1.0, ..GenerationSettings::default() };
        let counts = drawn(&settings, 20_000);
        for (count, share) in counts.iter().zip([0.5, 0.3, 0.15, 0.05]) {
            assert!((*count as f64 / 20_000.0 - share).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_rest_out() {
        let settings = GenerationSettings { temperature: 1.0, ..GenerationSettings::default() };
        let top_k = drawn(&GenerationSettings { top_k: 2, ..settings.clone() }, 2_000);
        assert!(top_k[1] > 0 && top_k[2] == 0 && top_k[3] == 0, "{top_k:?}");
        // The second token takes the sum past 0.6, and is in.
        let top_p = drawn(&GenerationSettings { top_p: 0.6, ..settings.clone() }, 2_000);
        assert!(top_p[1] > 0 && top_p[2] == 0, "{top_p:?}");
        let cold = drawn(&GenerationSettings { temperature: 0.01, ..settings }, 500);
        assert_eq!(cold[0], 500, "the likeliest alone");
    }
}
