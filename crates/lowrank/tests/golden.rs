//! Logits, losses and gradients of PyTorch + PEFT, on this process's CPU tier.

mod common;

use common::{Case, difference};
use lowrank::adapter::AdapterFile;
use lowrank::hub::Tensors;
use lowrank::train::{Classifier, LoadOptions, forward};
use lowrank_kernels::{Compute, Tier};

fn run(case: &Case, compute: Compute) -> Tensors {
    let adapter = case.adapter();
    let options = LoadOptions { compute: Some(compute), num_labels: Some(case.num_labels()) };
    let mut classifier = Classifier::load(&case.model(), adapter.as_deref(), options).unwrap();
    let file = adapter.map(|folder| AdapterFile::open(folder.as_ref()).unwrap());
    let id = classifier.first_adapter();
    forward(&mut classifier, &case.inputs(), id, file.as_ref()).unwrap()
}

#[test]
fn logits_losses_and_gradients_are_those_of_pytorch_in_f32() {
    for case in Case::all() {
        let outputs = run(&case, Compute::F32);
        for (name, expected) in case.expected() {
            let actual = outputs.get(&name).unwrap_or_else(|| panic!("{}: no {name}", case.name));
            let (off, scale) = difference(&actual.to_f32_vec(), &expected);
            let tolerance = 2e-5 * scale.max(1.0);
            assert!(off <= tolerance, "{} on {}: {name} is off by {off:e}", case.name, Tier::active());
        }
    }
}

#[test]
fn logits_losses_and_gradients_are_near_those_of_pytorch_in_bf16() {
    for case in Case::all() {
        let outputs = run(&case, Compute::Bf16);
        let largest_gradient = case
            .expected()
            .iter()
            .filter(|(name, _)| name.starts_with("grad."))
            .flat_map(|(_, values)| values.iter().map(|x| x.abs()))
            .fold(0.0, f32::max);
        for (name, expected) in case.expected() {
            let (off, scale) = difference(&outputs[&name].to_f32_vec(), &expected);
            let scale = if name.starts_with("grad.") { largest_gradient } else { scale.max(1.0) };
            assert!(
                off <= 2e-2 * scale,
                "{} on {}: {name} is off by {off:e} of {scale:e}",
                case.name,
                Tier::active()
            );
        }
    }
}

#[test]
fn every_tensor_of_an_adapter_file_gets_a_gradient_under_its_own_key() {
    for case in Case::all() {
        let Some(folder) = case.adapter() else { continue };
        let outputs = run(&case, Compute::F32);
        let file = lowrank::hub::Checkpoint::open_adapter(folder).unwrap();
        for key in file.names().filter(|key| !key.contains(".original_module.")) {
            assert!(outputs.contains_key(&format!("grad.{key}")), "{}: {key}", case.name);
        }
    }
}

#[test]
fn the_count_of_parameters_is_pefts_line_digit_for_digit() {
    use lowrank::adapter::{ParameterCount, plan};
    for case in Case::all() {
        let (Some(folder), Some(line)) = (case.adapter(), case.facts["peft_trainable_line"].as_str()) else {
            continue;
        };
        let config = lowrank::models::read_config(case.model().as_ref()).unwrap();
        let model = lowrank::models::from_config(&config, case.num_labels());
        let file = AdapterFile::open(folder.as_ref()).unwrap();
        let config = file.config_for(&*model);
        let plan = plan(&*model, model.info(), &config).unwrap();
        let count = ParameterCount::with_adapter(&*model, &config, &plan);
        assert_eq!(count.to_string(), line, "{}", case.name);
    }
}

#[test]
fn zz_stats() {
    for case in Case::all() {
        if case.name == "bert_left_padding" { continue }
        let outputs = run(&case, Compute::Bf16);
        let (mut worst_max, mut worst_l2, mut all_d, mut all_e) = ((0.0f32, String::new()), (0.0f32, String::new()), 0.0f64, 0.0f64);
        for (name, expected) in case.expected() {
            let a = outputs[&name].to_f32_vec();
            let (off, scale) = difference(&a, &expected);
            let d: f64 = a.iter().zip(&expected).map(|(x, y)| ((x - y) as f64).powi(2)).sum();
            let e: f64 = expected.iter().map(|y| (*y as f64).powi(2)).sum();
            if name.starts_with("grad") { all_d += d; all_e += e; }
            let l2 = (d / e).sqrt() as f32;
            if name.contains("key.bias") { continue }
            if off / scale > worst_max.0 { worst_max = (off / scale, name.clone()) }
            if l2 > worst_l2.0 { worst_l2 = (l2, name.clone()) }
        }
        println!("{} max/max {:.4} {} | l2 {:.4} {} | all l2 {:.4}", case.name, worst_max.0, worst_max.1, worst_l2.0, worst_l2.1, (all_d/all_e).sqrt());
    }
}
