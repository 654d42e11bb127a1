//! LoRA on a language model of ten colours: an embedding of 10 by 1024, a linear layer of 1024 by 1024 and a head of 10.
//!
//!     cargo run --release -p lowrank --example toy_language_model
//!
//! The base model learns to recite the colours. Two adapters of rank 2 teach it something else: one on the linear layer
//! to recite them backwards, one on the embedding to leave out every second. Both are saved, loaded from their files,
//! switched between the tokens of one text, used side by side in one batch, and one of them is merged.

use std::path::Path;

use lowrank::adapter::{self, AdapterFile, LoraConfig, ParameterCount, Targets};
use lowrank::models::ModelInfo;
use lowrank::nn::{Embedding, Linear, assign_names, for_each_parameter_mut};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var, ops};
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{AdamW, AdamWConfig};
use lowrank::{Error, Result, module};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

const COLOURS: [&str; 10] =
    ["black", "brown", "red", "orange", "yellow", "green", "blue", "violet", "grey", "white"];
const WIDTH: usize = 1024;

const BACKWARDS: AdapterId = AdapterId(0);
const EVERY_SECOND: AdapterId = AdapterId(1);

/// Embedding, linear layer, head; the names on the left are those in an adapter's file.
struct ColourModel {
    embedding: Embedding,
    linear: Linear,
    head: Linear,
}

module!(ColourModel { "embedding" => embedding, "linear" => linear, "head" => head });

impl ColourModel {
    fn new(seed: u64) -> Result<Self> {
        let mut model = Self {
            embedding: Embedding::new(COLOURS.len(), WIDTH),
            linear: Linear::new(WIDTH, WIDTH, false),
            head: Linear::new(WIDTH, COLOURS.len(), false),
        };
        assign_names(&mut model);
        let mut generator = Philox::new(seed, 0);
        let mut result = Ok(());
        for_each_parameter_mut(&mut model, |path, parameter| {
            // Rows of ones in the mean, and layers that keep that.
            let deviation = if path.starts_with("embedding") { 1.0 } else { 1.0 / (WIDTH as f32).sqrt() };
            let mut value = Tensor::zeros(parameter.shape(), DType::F32);
            value.make_mut::<f32>().fill_with(|| deviation * generator.normal_f32());
            if let Err(error) = parameter.set_base(Leaf::trained(value)) {
                result = Err(error);
            }
        });
        result.map(|()| model)
    }

    /// The logits of the colour after each one, each under its own adapter.
    fn forward(&self, tape: &mut Tape, ids: &[u32], adapters: &[Option<AdapterId>]) -> Result<Var> {
        let offsets = (0..=ids.len()).collect();
        let layout = Layout::new(offsets, (0..ids.len() as u32).collect(), adapters.to_vec())?;
        let x = ops::embedding(tape, &[self.embedding.lookup(ids)], &layout)?;
        let hidden = self.linear.forward(tape, &x)?;
        let hidden = ops::activation(tape, &hidden, ops::Activation::Gelu)?;
        self.head.forward(tape, &hidden)
    }

    /// The most likely colour after each one.
    fn next(&self, ids: &[u32], adapters: &[Option<AdapterId>]) -> Result<Vec<u32>> {
        let logits = self.forward(&mut Tape::inference(Compute::F32), ids, adapters)?;
        let best = |row: &[f32]| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(id, _)| id as u32)
        };
        Ok(logits.value().as_slice::<f32>().chunks(COLOURS.len()).map(best).collect())
    }

    /// A text that starts with a colour; each further one is written under the next adapter of the list.
    fn write(&self, start: u32, adapters: &[Option<AdapterId>]) -> Result<String> {
        let (mut id, mut text) = (start, name(start).to_owned());
        for adapter in adapters {
            id = self.next(&[id], &[*adapter])?.first().copied().unwrap_or_default();
            text = format!("{text} {}", name(id));
        }
        Ok(text)
    }

    /// Teaches what is trainable that `step` colours further comes next. What it then still gets wrong is an error.
    fn learn(&mut self, step: u32, adapter: Option<AdapterId>, steps: u64, learning_rate: f64) -> Result<()> {
        let count = COLOURS.len() as u32;
        let ids: Vec<u32> = (0..count).collect();
        let targets: Vec<i64> = ids.iter().map(|id| i64::from((id + step) % count)).collect();
        let adapters = vec![adapter; ids.len()];
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let (mut gradients, mut first, mut last) = (Gradients::new(), None, 0.0);
        for step in 0..steps {
            gradients.clear();
            let mut tape = Tape::training(Compute::F32, 0, step);
            let logits = self.forward(&mut tape, &ids, &adapters)?;
            let loss = ops::cross_entropy(&mut tape, &logits, &targets, count as f32)?;
            last = loss.value().as_slice::<f32>()[0];
            first.get_or_insert(last);
            tape.backward(&loss, &mut gradients)?;
            optimizer.step(self, &gradients, learning_rate);
        }
        let learnt = self.next(&ids, &adapters)?;
        let right = learnt.iter().zip(&targets).filter(|(id, target)| i64::from(**id) == **target).count();
        println!(
            "  loss {:.3} -> {last:.3} in {steps} steps, {right} of {count} right",
            first.unwrap_or_default()
        );
        if right == ids.len() { Ok(()) } else { Err(Error::Usage("the model has not learnt it".into())) }
    }
}

fn name(id: u32) -> &'static str {
    COLOURS.get(id as usize).copied().unwrap_or("?")
}

/// Trains an adapter of rank 2 on one module of the model and saves it.
fn train_adapter(model: &mut ColourModel, module: &str, step: u32, folder: &Path) -> Result<()> {
    let config = LoraConfig {
        r: 2,
        lora_alpha: Some(4.0),
        target_modules: Some(Targets::Names(vec![module.to_owned()])),
        ..LoraConfig::default()
    };
    let (adapter, info) = (AdapterId(0), ModelInfo::without_head());
    let plan = adapter::attach(model, &info, &config, adapter, 7)?;
    let count = ParameterCount::with_adapter(model, &plan);
    let weight =
        if module == "linear" { model.linear.weight.shape() } else { model.embedding.weight.shape() };
    let ratio = count.trainable as f64 / weight.elements() as f64;
    println!("  |A+B| / |W| = {ratio}  ({} of {})", count.trainable, weight.elements());
    model.learn(step, Some(adapter), 150, 1e-2)?;
    adapter::save(model, &info, adapter, &plan, &config, "colours", folder)?;
    adapter::detach(model, adapter);
    Ok(())
}

fn main() -> Result<()> {
    println!("The base model recites the colours:");
    let mut model = ColourModel::new(1)?;
    model.learn(1, None, 30, 1e-3)?;
    println!("  {}\n", model.write(0, &[None; 9])?);

    let folder = std::env::temp_dir().join(format!("lowrank-colours-{}", std::process::id()));
    let folders = ["backwards", "every-second"].map(|name| folder.join(name));
    println!("LoRA of rank 2 on the linear layer, to recite them backwards:");
    train_adapter(&mut model, "linear", 9, &folders[0])?;
    println!("LoRA of rank 2 on the embedding, to leave out every second:");
    train_adapter(&mut model, "embedding", 2, &folders[1])?;

    println!("\nBoth loaded from their files:");
    for (folder, adapter) in folders.iter().zip([BACKWARDS, EVERY_SECOND]) {
        AdapterFile::open(folder)?.attach(&mut model, &ModelInfo::without_head(), adapter)?;
    }
    std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    let (backwards, second) = (Some(BACKWARDS), Some(EVERY_SECOND));
    println!("  backwards:    {}", model.write(9, &[backwards; 9])?);
    println!("  every second: {}", model.write(0, &[second; 4])?);
    println!("  the base:     {}", model.write(0, &[None; 9])?);

    println!("\nSwitched between tokens (two steps of two, one back, one on, one back):");
    println!("  {}", model.write(2, &[second, second, backwards, None, backwards])?);
    println!("One batch, after green, each row under another adapter:");
    let next = model.next(&[5; 3], &[None, backwards, second])?;
    for (what, id) in ["base", "backwards", "every second"].into_iter().zip(next) {
        println!("  {what}: {}", name(id));
    }

    println!("\nMerged, the weights themselves recite backwards, without an adapter:");
    let merged = adapter::merge(&mut model, BACKWARDS)?;
    println!("  {}", model.write(9, &[None; 9])?);
    merged.unmerge(&mut model)?;
    println!("and after unmerging the base is what it was:");
    println!("  {}", model.write(0, &[None; 9])?);
    Ok(())
}
