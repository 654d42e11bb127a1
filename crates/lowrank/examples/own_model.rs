//! LoRA on a model of one's own: a two-layer network that is no transformer.
//!
//!     cargo run --release -p lowrank --example own_model

use std::sync::Arc;

use lowrank::adapter::{self, Init, LoraConfig, Targets};
use lowrank::models::ModelInfo;
use lowrank::module;
use lowrank::nn::{Linear, assign_names, for_each_parameter_mut, for_each_trained_mut};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var, ops};
use lowrank::tensor::{DType, Tensor};
use lowrank::train::{AdamW, AdamWConfig};
use lowrank_kernels::Compute;
use lowrank_kernels::random::Philox;

/// The names on the left are the checkpoint's; this line is all that loading, counting and adapters need.
struct Mlp {
    up: Linear,
    down: Linear,
}

module!(Mlp { "up" => up, "down" => down });

impl Mlp {
    fn new(seed: u64) -> lowrank::Result<Self> {
        let mut model = Self { up: Linear::new(16, 64, true), down: Linear::new(64, 1, true) };
        assign_names(&mut model);
        let mut generator = Philox::new(seed, 0);
        let mut result = Ok(());
        for_each_parameter_mut(&mut model, |_, parameter| {
            let mut value = Tensor::zeros(parameter.shape(), DType::F32);
            value.make_mut::<f32>().fill_with(|| 0.3 * generator.normal_f32());
            if let Err(error) = parameter.set_base(Leaf::frozen(value)) {
                result = Err(error);
            }
        });
        result.map(|()| model)
    }

    fn forward(&self, tape: &mut Tape, x: &Var) -> lowrank::Result<Var> {
        let hidden = self.up.forward(tape, x)?;
        let hidden = ops::activation(tape, &hidden, ops::Activation::Gelu)?;
        self.down.forward(tape, &hidden)
    }
}

fn main() -> lowrank::Result<()> {
    let mut model = Mlp::new(1)?;
    let config = LoraConfig {
        r: 4,
        target_modules: Some(Targets::Names(vec!["up".into()])),
        init_lora_weights: Init::Gaussian,
        ..LoraConfig::default()
    };
    let adapter = AdapterId(0);
    adapter::attach(&mut model, &ModelInfo::without_head(), &config, adapter, 7)?;

    // 32 rows, each a "sequence" of one, and what another network makes of them.
    let mut generator = Philox::new(3, 0);
    let values: Vec<f32> = (0..32 * 16).map(|_| generator.normal_f32()).collect();
    let layout = Layout::from_lengths(&[1; 32], Some(adapter));
    let x = Var::constant(Tensor::from_slice([32, 16], &values), Arc::clone(&layout));
    let targets = Mlp::new(2)?.forward(&mut Tape::inference(Compute::F32), &x)?.value().to_f32_vec();

    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut gradients = Gradients::new();
    for step in 0..200 {
        gradients.clear();
        let mut tape = Tape::training(Compute::F32, 0, step);
        let y = model.forward(&mut tape, &x)?;
        let loss = ops::squared_error(&mut tape, &y, &targets, 32.0)?;
        tape.backward(&loss, &mut gradients)?;
        optimizer.step(&mut model, &gradients, 1e-2);
        if step % 50 == 0 || step == 199 {
            println!("step {step}: loss {:.4}", loss.value().as_slice::<f32>()[0]);
        }
    }
    for_each_trained_mut(&mut model, |name, leaf| println!("{name}: {}", leaf.value().shape()));
    Ok(())
}
