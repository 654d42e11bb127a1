//! How fast a model trains here: any configuration, random weights, random tokens.

use std::fmt;
use std::time::Duration;

use lowrank_kernels::random::Philox;
use lowrank_kernels::{Compute, memory};
use serde::Serialize;

use super::adapted_model::{AdaptedModel, Use, default_compute};
use super::optimizer::{AdamW, AdamWConfig};
use super::schedule::{Schedule, ScheduleKind};
use super::subject::write_weights;
use super::trainer::Trainer;
use crate::adapter::{self, LoraConfig, ParameterCount};
use crate::data::{Batch, IGNORED, Labels, Pixels, TokenRows};
use crate::models::{self, Head, HeadSpec, LoadIn, ModelConfig, ModelInfo, Needs, Operands, Placement};
use crate::tape::AdapterId;
use crate::tensor::DType;
use crate::{Error, Result};

/// Steps that are not measured.
const WARM_UP_STEPS: usize = 2;
const SEED: u64 = 42;
const ADAPTER: AdapterId = AdapterId(0);

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The model.
    pub config: ModelConfig,
    /// The adapter.
    pub lora: LoraConfig,
    /// Sequences in a step.
    pub batch_size: usize,
    /// The lengths of the sequences, one after the other, and again from the first.
    pub lengths: Vec<usize>,
    /// The tokens that an encoder-decoder writes for each sequence.
    pub target: usize,
    /// What the weights are kept as; automatically: packed.
    pub load_in: LoadIn,
    /// Steps to measure.
    pub steps: usize,
    /// The type that is computed in; absent: the machine's own.
    pub compute: Option<Compute>,
    /// What the products with frozen weights are made of.
    pub operands: Operands,
    /// Whether layers are run again in the backward pass.
    pub gradient_checkpointing: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// The median time of a step.
    pub step_seconds_median: f64,
    /// Sequences in a second.
    pub examples_per_second: f64,
    /// Tokens in a second.
    pub tokens_per_second: f64,
    /// The most memory that the process held.
    pub peak_rss_bytes: u64,
    /// What is trained.
    pub trainable_parameters: u64,
    /// All parameters, counted as PEFT does.
    pub all_parameters: u64,
}

/// Trains a model on random tokens and measures it. Dropout is on as the configuration says. Weights that are not drawn in 8
/// bits are read from a temporary file, as training reads a model's.
///
/// # Errors
/// If a length or a count is 0, or a length beyond the model's positions; if the file cannot be written; or as
/// [`adapter::attach`].
pub fn bench(options: &BenchOptions) -> Result<BenchReport> {
    let compute = options.compute.unwrap_or_else(default_compute);
    let kind = options.config.head.unwrap_or(options.config.usual_head());
    let head = HeadSpec::new(kind, options.config.labels.len());
    let mut model = models::from_config(&options.config, head)?;
    let info = model.info().clone();
    check(options, &info)?;
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let mut adapted = match options.load_in {
        LoadIn::Int8 => {
            let whole = options.operands == Operands::Int8;
            // What is there before the weights are.
            let keep_transposes = whole && {
                let needs = Needs::of(&*model, None, (compute, options.operands), true);
                needs.keeps_transposes(Placement::Int8, models::planned_memory()?)
            };
            // Tables and what is not in 8 bits are in bf16, whatever is computed in.
            models::initialise_int8(&mut *model, SEED, DType::Bf16)?;
            if whole {
                models::multiply_in_int8(&mut *model, compute, keep_transposes)?;
            }
            AdaptedModel::from_model(model, options.config.clone(), compute)
        }
        load_in => {
            // From a file, as training reads it: the pages of what is packed are given back.
            models::initialise(&mut *model, SEED, DType::F32)?;
            write_weights(&*model, folder.path())?;
            drop(model);
            memory::pool::trim();
            let (config, products) = (options.config.clone(), (Some(compute), options.operands));
            AdaptedModel::load_base(folder.path(), config, head, products, load_in, Use::Training)?
        }
    };
    let plan = adapter::attach(adapted.model_mut(), &info, &options.lora, ADAPTER, SEED)?;
    let count = ParameterCount::with_adapter(adapted.model(), &plan);

    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup_steps: 0,
        total_steps: WARM_UP_STEPS + options.steps,
        base_learning_rate: 1e-4,
    };
    let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), schedule, SEED)
        .with_gradient_checkpointing(options.gradient_checkpointing);
    let mut generator = Philox::new(SEED, 0);
    let mut lengths = options.lengths.iter().copied().cycle();
    let (mut times, mut tokens) = (Vec::with_capacity(options.steps), 0);
    for step in 0..WARM_UP_STEPS + options.steps {
        let lengths: Vec<usize> = lengths.by_ref().take(options.batch_size).collect();
        let batch = random_batch(&lengths, options.target, &info, options.config.regression, &mut generator)?;
        let taken = trainer.step(&mut adapted, Some(ADAPTER), &[batch])?;
        if step >= WARM_UP_STEPS {
            times.push(taken.time);
            tokens += taken.tokens;
        }
    }
    let seconds = times.iter().sum::<Duration>().as_secs_f64();
    Ok(BenchReport {
        step_seconds_median: median(&mut times),
        examples_per_second: (options.steps * options.batch_size) as f64 / seconds,
        tokens_per_second: tokens as f64 / seconds,
        peak_rss_bytes: memory::peak_rss_bytes(),
        trainable_parameters: count.trainable,
        all_parameters: count.all,
    })
}

fn check(options: &BenchOptions, info: &ModelInfo) -> Result<()> {
    for (key, value) in
        [("batch", options.batch_size), ("steps", options.steps), ("lengths", options.lengths.len())]
    {
        if value == 0 {
            return Err(Error::setting(key, "it is 0; it must be at least 1"));
        }
    }
    if info.image.is_some() {
        return Ok(());
    }
    match options.lengths.iter().find(|length| !(1..=info.max_length).contains(*length)) {
        None => Ok(()),
        Some(length) => {
            let reason =
                format!("{length} tokens are not from 1 to the model's {} positions", info.max_length);
            Err(Error::setting("lengths", reason))
        }
    }
}

pub(super) fn random_batch(
    lengths: &[usize],
    target: usize,
    info: &ModelInfo,
    regression: bool,
    generator: &mut Philox,
) -> Result<Batch> {
    let mut random_rows = |lengths: &mut dyn Iterator<Item = usize>| {
        let mut rows = TokenRows::default();
        for length in lengths {
            let ids: Vec<u32> =
                (0..length).map(|_| generator.below(info.vocab_size.max(1) as u64) as u32).collect();
            rows.push(&ids, &[]);
        }
        rows
    };
    let count = lengths.len();
    if let Some(image) = info.image {
        let values = (0..count * image.channels * image.size * image.size).map(|_| generator.normal_f32());
        let (channels, height, width) = (image.channels, image.size, image.size);
        let pixels = Pixels { values: values.collect(), channels, height, width };
        let classes = (0..count).map(|_| generator.below(info.num_labels as u64) as i64).collect();
        return Batch::of_images(pixels, count, Labels::Classes(classes), 0);
    }
    let rows = random_rows(&mut lengths.iter().copied());
    // The answers of an encoder-decoder; a decoder's are the text itself, shifted.
    let answers =
        (info.kind == Head::Seq2SeqLm).then(|| random_rows(&mut std::iter::repeat_n(target, count)));
    let classes = info.num_labels as u64;
    let labels = match info.kind {
        Head::Seq2SeqLm => {
            let tokens = answers.iter().flat_map(|answers| &answers.ids);
            Labels::Tokens(tokens.map(|_| generator.below(classes) as i64).collect())
        }
        Head::CausalLm => {
            let mut next: Vec<i64> =
                rows.ids.iter().skip(1).map(|id| i64::from(*id)).chain([IGNORED]).collect();
            rows.offsets.iter().skip(1).for_each(|end| next[end - 1] = IGNORED);
            Labels::Tokens(next)
        }
        Head::TokenClassification => {
            Labels::Tokens(rows.ids.iter().map(|_| generator.below(classes) as i64).collect())
        }
        Head::QuestionAnswering => Labels::Spans { starts: vec![0; count], ends: vec![0; count] },
        _ if regression || info.num_labels == 1 => {
            Labels::Scores(lengths.iter().map(|_| generator.uniform_f32()).collect())
        }
        _ => Labels::Classes(lengths.iter().map(|_| generator.below(classes) as i64).collect()),
    };
    let batch = Batch::of_tokens(rows, labels, 0)?;
    Ok(match answers {
        Some(answers) => batch.with_target(answers),
        None => batch,
    })
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let middle = times.len() / 2;
    let (low, high) = (times[(times.len() - 1) / 2], times[middle]);
    (low + high).as_secs_f64() / 2.0
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "step_seconds_median   {:.4}", self.step_seconds_median)?;
        writeln!(f, "examples_per_second   {:.1}", self.examples_per_second)?;
        writeln!(f, "tokens_per_second     {:.0}", self.tokens_per_second)?;
        writeln!(f, "peak_rss_bytes        {}", self.peak_rss_bytes)?;
        writeln!(f, "trainable_parameters  {}", self.trainable_parameters)?;
        write!(f, "all_parameters        {}", self.all_parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BenchOptions {
        let config = serde_json::json!({
            "model_type": "bert", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12,
        });
        BenchOptions {
            config: ModelConfig::from_json(&config).unwrap(),
            lora: LoraConfig { r: 2, ..LoraConfig::default() },
            batch_size: 3,
            lengths: vec![4, 7],
            target: 1,
            load_in: LoadIn::Auto,
            steps: 2,
            compute: Some(Compute::F32),
            operands: Operands::Rows,
            gradient_checkpointing: false,
        }
    }

    #[test]
    fn the_counts_are_those_of_the_model_and_time_passes() {
        let report = bench(&options()).unwrap();
        assert_eq!(report.trainable_parameters, 2 * 2 * (8 + 8) + 2 * 8 + 2);
        assert!(report.step_seconds_median > 0.0 && report.tokens_per_second > report.examples_per_second);
    }

    #[test]
    fn a_length_beyond_the_models_positions_is_refused() {
        let error = bench(&BenchOptions { lengths: vec![13], ..options() }).unwrap_err();
        assert_eq!(error.to_string(), "lengths: 13 tokens are not from 1 to the model's 12 positions");
    }
}
