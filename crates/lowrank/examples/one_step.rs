//! Loads a model folder, puts a LoRA adapter on it, takes one training step and saves the adapter:
//!
//!     cargo run --release -p lowrank --example one_step -- MODEL_FOLDER ADAPTER_FOLDER

use std::path::Path;

use lowrank::adapter::{self, LoraConfig, ParameterCount, Targets};
use lowrank::data::{BatchPlan, Batches, Example, Examples, Label, Position, TokenizedDataset};
use lowrank::models;
use lowrank::tape::AdapterId;
use lowrank::train::{AdamW, AdamWConfig, AdaptedModel, LoadOptions, Schedule, ScheduleKind, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: one_step MODEL_FOLDER ADAPTER_FOLDER")?;
    let output = arguments.next().ok_or("usage: one_step MODEL_FOLDER ADAPTER_FOLDER")?;

    // The base model, with a new head for two classes.
    let mut adapted =
        AdaptedModel::load(&model, None, LoadOptions { num_labels: Some(2), ..LoadOptions::default() })?;
    models::initialise_head(adapted.model_mut(), 42)?;

    // An adapter on query and value; everything else is frozen.
    let config = LoraConfig {
        r: 8,
        lora_alpha: Some(16.0),
        target_modules: Some(Targets::Names(vec!["query".into(), "value".into()])),
        ..LoraConfig::default()
    };
    let adapter = AdapterId(0);
    let info = adapted.model().info().clone();
    let plan = adapter::attach(adapted.model_mut(), &info, &config, adapter, 42)?;
    println!("{}", ParameterCount::with_adapter(adapted.model(), &plan));

    // Two sentences as one ragged batch.
    let rows = [("a warm and funny film", 1), ("two hours of nothing at all", 0)]
        .map(|(text, class)| Example {
            text: text.to_owned(),
            text_pair: None,
            label: Some(Label::Class(class)),
            line: 1,
        })
        .to_vec();
    let dataset =
        TokenizedDataset::new(&adapted.tokenizer()?, &Examples { rows, ..Examples::default() }, 128)?;
    let batch = Batches::new(&dataset, BatchPlan::in_order(2), Position::default())?.next_step()?;

    // One step of AdamW.
    let schedule =
        Schedule { kind: ScheduleKind::Constant, warmup_steps: 0, total_steps: 1, base_learning_rate: 1e-3 };
    let mut trainer = Trainer::new(AdamW::new(AdamWConfig::default()), schedule, 42);
    let step = trainer.step(&mut adapted, Some(adapter), &batch)?;
    println!("loss {:.4}, gradient norm {:.4}", step.loss, step.grad_norm);

    // A folder that PEFT loads.
    adapter::save(adapted.model_mut(), &info, adapter, &plan, &config, &model, Path::new(&output))?;
    println!("saved to {output}");
    Ok(())
}
