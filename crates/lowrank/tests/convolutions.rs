//! Convolutions under adapters, against PyTorch and PEFT.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{difference, fixtures};
use lowrank::adapter::{self, AdapterFile, Init, LoraConfig, ParameterCount, Plan, Targets, Tree};
use lowrank::hub::{Checkpoint, to_tensor};
use lowrank::models::ModelInfo;
use lowrank::module;
use lowrank::nn::{Conv1d, Conv2d, Embedding, assign_names};
use lowrank::tape::ops::{self, Window};
use lowrank::tape::{AdapterId, Gradients, Layout, Leaf, Tape, Var};
use lowrank::tensor::{DType, Tensor};
use lowrank_kernels::random::Philox;
use lowrank_kernels::{Compute, Tier};
use serde_json::Value;

const A: AdapterId = AdapterId(0);
const B: AdapterId = AdapterId(1);

/// One of the two, so that a case may be of either.
struct Net {
    x: Embedding,
    one: Option<Conv1d>,
    two: Option<Conv2d>,
}

module!(Net { "x" => x, "conv" => one, "conv" => two });

impl Net {
    fn forward(
        &self,
        tape: &mut Tape,
        layout: &std::sync::Arc<Layout>,
        size: &[usize],
    ) -> lowrank::Result<Var> {
        let ids: Vec<u32> = (0..layout.rows() as u32).collect();
        let x = ops::embedding(tape, &[self.x.lookup(&ids)], layout)?;
        match (&self.one, &self.two) {
            (Some(one), _) => one.forward(tape, &x),
            (_, Some(two)) => two.forward(tape, &x, &vec![[size[0], size[1]]; layout.sequences()]),
            _ => unreachable!("a case has a layer"),
        }
    }

    fn linear(&mut self) -> &mut lowrank::nn::Linear {
        match (&mut self.one, &mut self.two) {
            (Some(one), _) => &mut one.linear,
            (_, Some(two)) => &mut two.linear,
            _ => unreachable!("a case has a layer"),
        }
    }
}

/// A case of `tests/golden/convolutions.py`.
struct Case {
    name: String,
    folder: PathBuf,
    facts: Value,
    tensors: Checkpoint,
}

impl Case {
    fn all() -> Vec<Self> {
        let folders = std::fs::read_dir(fixtures().join("convolutions")).unwrap();
        let cases: Vec<Self> = folders.map(|entry| Self::open(&entry.unwrap().path())).collect();
        assert!(cases.len() >= 10, "the golden cases are there");
        cases
    }

    fn named(name: &str) -> Self {
        Self::open(&fixtures().join("convolutions").join(name))
    }

    fn open(folder: &Path) -> Self {
        let facts = std::fs::read_to_string(folder.join("case.json")).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            folder: folder.to_path_buf(),
            facts: serde_json::from_str(&facts).unwrap(),
            tensors: Checkpoint::open_file(folder.join("tensors.safetensors")).unwrap(),
        }
    }

    fn tensor(&self, name: &str) -> Tensor {
        to_tensor(name, &self.tensors.get(name).unwrap()).unwrap()
    }

    fn numbers(&self, fact: &str) -> Vec<usize> {
        self.facts[fact].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
    }

    fn number(&self, fact: &str) -> usize {
        self.facts[fact].as_u64().unwrap() as usize
    }

    fn is_dora(&self) -> bool {
        self.name.contains("dora")
    }

    /// The layer with its values, frozen, over a trained table of the inputs.
    fn net(&self) -> Net {
        let windows: Vec<Window> = (0..self.numbers("size").len())
            .map(|axis| {
                let at = |fact| self.numbers(fact)[axis];
                let window = Window::new(at("kernel_size")).with_stride(at("stride"));
                window.with_padding(at("padding")).with_dilation(at("dilation"))
            })
            .collect();
        let (channels, outputs) = (self.number("channels"), self.number("outputs"));
        let (groups, bias) = (self.number("groups"), self.facts["bias"].as_bool().unwrap());
        let x = self.tensor("x");
        let mut net = Net { x: Embedding::new(x.shape().rows(), channels), one: None, two: None };
        match windows[..] {
            [window] => net.one = Some(Conv1d::new(channels, outputs, window, groups, bias).unwrap()),
            [height, width] => {
                net.two = Some(Conv2d::new(channels, outputs, [height, width], groups, bias).unwrap());
            }
            _ => unreachable!("one or two axes"),
        }
        assign_names(&mut net);
        net.x.weight.set_base(Leaf::trained(x)).unwrap();
        let linear = net.linear();
        let weight = self.tensor("weight");
        assert_eq!(weight.shape(), linear.weight.file_shape(), "{}", self.name);
        let weight = linear.weight.from_file(weight);
        linear.weight.set_base(Leaf::frozen(weight)).unwrap();
        if let Some(bias) = &mut linear.bias {
            bias.set_base(Leaf::frozen(self.tensor("bias"))).unwrap();
        }
        net
    }

    fn adapter(&self) -> AdapterFile {
        AdapterFile::open(&self.folder.join("adapter")).unwrap()
    }

    fn attach(&self, net: &mut Net) -> Plan {
        self.adapter().attach(net, &ModelInfo::without_head(), A).unwrap()
    }

    fn layout(&self, adapters: [Option<AdapterId>; 2]) -> std::sync::Arc<Layout> {
        let rows: usize = self.numbers("size").iter().product();
        Layout::new(vec![0, rows, 2 * rows], vec![0, 1], adapters.to_vec()).unwrap()
    }

    fn answers(&self, net: &Net, adapters: [Option<AdapterId>; 2]) -> Vec<f32> {
        let mut tape = Tape::inference(Compute::F32);
        let y = net.forward(&mut tape, &self.layout(adapters), &self.numbers("size"));
        y.unwrap().value().to_f32_vec()
    }
}

fn assert_near(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let (off, scale) = difference(actual, expected);
    assert!(off <= tolerance * scale.max(1.0), "{what} on {}: off by {off:e} of {scale}", Tier::active());
}

fn config(r: usize) -> LoraConfig {
    LoraConfig { r, target_modules: Some(Targets::Names(vec!["conv".into()])), ..LoraConfig::default() }
}

/// Dilated layers among them: PEFT's `A` would ignore the dilation, and is given it in the fixtures.
#[test]
fn outputs_and_gradients_are_those_of_pytorch() {
    for case in Case::all() {
        let mut net = case.net();
        case.attach(&mut net);
        adapter::set_trainable(&mut net, A, true);
        let mut tape = Tape::evaluation(Compute::F32);
        let y = net.forward(&mut tape, &case.layout([Some(A); 2]), &case.numbers("size")).unwrap();
        let name = &case.name;
        assert_near(&y.value().to_f32_vec(), &case.tensor("y").to_f32_vec(), 2e-5, name);
        let targets = case.tensor("targets").to_f32_vec();
        let loss = ops::squared_error(&mut tape, &y, &targets, 1.0).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&loss, &mut gradients).unwrap();
        let of_x = gradients.get(net.x.weight.base().unwrap()).unwrap();
        assert_near(of_x, &case.tensor("grad.x").to_f32_vec(), 2e-5, name);
        let mut parts = 0;
        adapter::for_each_leaf_mut(&mut net, A, |path, leaf| {
            let expected = case.tensor(&format!("grad.base_model.model.{path}")).to_f32_vec();
            assert_near(gradients.get(leaf).unwrap(), &expected, 2e-5, &format!("{name}: {path}"));
            parts += 1;
        });
        assert!(parts >= 2 + usize::from(case.is_dora()), "{name}");
    }
}

#[test]
fn rows_in_bf16_give_nearly_the_same() {
    for case in Case::all() {
        let mut net = case.net();
        case.attach(&mut net);
        let mut tape = Tape::inference(Compute::Bf16);
        let y = net.forward(&mut tape, &case.layout([Some(A); 2]), &case.numbers("size")).unwrap();
        assert_eq!(y.value().dtype(), DType::Bf16);
        assert_near(&y.value().to_f32_vec(), &case.tensor("y").to_f32_vec(), 2e-2, &case.name);
    }
}

#[test]
fn an_adapter_of_pefts_is_saved_with_the_same_bytes() {
    for case in Case::all() {
        let mut net = case.net();
        let plan = case.attach(&mut net);
        let (folder, info) = (tempfile::tempdir().unwrap(), ModelInfo::without_head());
        let config = case.adapter().config_for(&net, &info).unwrap();
        adapter::save(&mut net, &info, A, &plan, &config, "someone/base", folder.path()).unwrap();
        let read = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        assert!(read(folder.path()) == read(&case.folder.join("adapter")), "{}", case.name);
        let elements: usize = adapter::tensors(&mut net, A, &plan).values().map(Tensor::elements).sum();
        assert_eq!(ParameterCount::with_adapter(&net, &plan).trainable, elements as u64, "{}", case.name);
    }
}

#[test]
fn a_fresh_adapter_answers_as_the_base_and_has_the_shapes_of_pefts() {
    for case in Case::all() {
        let mut net = case.net();
        let base = case.answers(&net, [None; 2]);
        let r = 2 * case.number("groups");
        let config = LoraConfig { use_dora: case.is_dora(), ..config(r) };
        let plan = adapter::attach(&mut net, &ModelInfo::without_head(), &config, A, 3).unwrap();
        assert_near(&case.answers(&net, [Some(A); 2]), &base, 2e-6, &case.name);
        let theirs = Checkpoint::open_adapter(case.folder.join("adapter")).unwrap();
        for (key, ours) in adapter::tensors(&mut net, A, &plan) {
            let (mut shape, theirs) = (theirs.get(&key).unwrap().shape.to_vec(), theirs.get(&key).unwrap());
            if key.ends_with("lora_A.weight") {
                shape[0] = r;
                assert!(ours.to_f32_vec().iter().all(|value| *value != 0.0), "{}: {key}", case.name);
            } else if key.ends_with("lora_B.weight") {
                shape[1] = r / case.number("groups");
            }
            assert_eq!(ours.shape().dims(), shape, "{}: {key}, {:?} in PEFT", case.name, theirs.shape);
        }
    }
}

#[test]
fn sequences_of_other_adapters_and_none_answer_as_alone() {
    for case in Case::all() {
        let mut net = case.net();
        let base = case.answers(&net, [None; 2]);
        case.attach(&mut net);
        let of_a = case.answers(&net, [Some(A); 2]);
        adapter::attach(&mut net, &ModelInfo::without_head(), &config(case.number("groups")), B, 5).unwrap();
        let random = &mut Philox::new(8, 0);
        adapter::for_each_leaf_mut(&mut net, B, |_, leaf| {
            leaf.value_mut().iter_mut().for_each(|value| *value += 0.3 * random.normal_f32());
        });
        let of_b = case.answers(&net, [Some(B); 2]);
        assert!(difference(&of_a, &base).0 > 1e-2 && difference(&of_a, &of_b).0 > 1e-2, "{}", case.name);
        let half = base.len() / 2;
        for (first, second, adapters) in [
            (&of_a, &of_b, [Some(A), Some(B)]),
            (&base, &of_a, [None, Some(A)]),
            (&of_b, &base, [Some(B), None]),
        ] {
            let expected = [&first[..half], &second[half..]].concat();
            assert_near(&case.answers(&net, adapters), &expected, 2e-6, &case.name);
        }
    }
}

#[test]
fn a_merged_convolution_answers_as_with_its_adapter() {
    for case in Case::all() {
        let mut net = case.net();
        case.attach(&mut net);
        let (base, before) = (case.answers(&net, [None; 2]), case.answers(&net, [Some(A); 2]));
        let merged = adapter::merge(&mut net, A);
        if case.number("groups") > 1 {
            let error = merged.unwrap_err().to_string();
            assert!(error.contains("conv is a convolution in groups"), "{error}");
            assert_eq!(case.answers(&net, [Some(A); 2]), before, "{}", case.name);
            continue;
        }
        let merged = merged.unwrap();
        assert_near(&case.answers(&net, [None; 2]), &before, 2e-5, &case.name);
        merged.unmerge(&mut net).unwrap();
        assert_eq!(case.answers(&net, [None; 2]), base, "{}", case.name);
        assert_eq!(case.answers(&net, [Some(A); 2]), before, "{}", case.name);
    }
}

/// `A` of ones reads the element before, and itself: one mask for all windows explains the outputs.
#[test]
fn dropout_is_on_elements_of_the_input_and_not_of_each_window() {
    let window = Window::new(2).with_padding(1);
    let mut conv = Conv1d::new(1, 1, window, 1, false).unwrap();
    assign_names(&mut conv);
    let of = |shape: [usize; 2], value: f32| {
        Leaf::frozen(Tensor::from_slice(shape, &vec![value; shape[0] * shape[1]]))
    };
    conv.linear.weight.set_base(of([1, 2], 0.0)).unwrap();
    conv.linear.lora.push(lowrank::tape::Lora {
        dropout: 0.5,
        ..lowrank::tape::Lora::new(A, of([1, 2], 1.0), of([1, 1], 1.0), 1.0)
    });
    let layout = Layout::from_lengths(&[40], Some(A));
    let x: Vec<f32> = (1..=40).map(|value| value as f32).collect();
    let x = Var::constant(Tensor::from_slice([40, 1], &x), layout);
    let y = conv.forward(&mut Tape::training(Compute::F32, 7, 1), &x).unwrap().value().to_f32_vec();
    let (mut before, mut kept) = (0.0, 0);
    for (place, y) in y.iter().take(40).enumerate() {
        let here = y - before;
        let doubled = 2.0 * (place + 1) as f32;
        assert!(here == 0.0 || here == doubled, "{here} at {place}");
        kept += usize::from(here != 0.0);
        before = here;
    }
    assert!((10..30).contains(&kept), "{kept} of 40");
}

#[test]
fn what_a_convolution_cannot_have_is_refused_with_its_name() {
    let mut net = Case::named("conv1d_every_setting").net();
    let info = ModelInfo::without_head();
    let refused = |net: &mut Net, config: LoraConfig| {
        adapter::attach(net, &info, &config, A, 1).unwrap_err().to_string()
    };
    let error = refused(&mut net, config(3));
    assert!(error.contains("3 cannot be cut into the 2 groups of conv"), "{error}");
    let error = refused(&mut net, LoraConfig { use_dora: true, ..config(2) });
    assert!(error.contains("use_dora") && error.contains("conv is a convolution in 2 groups"), "{error}");
    for init_lora_weights in [Init::Pissa { iterations: None }, Init::Olora, Init::Orthogonal] {
        let error = refused(&mut net, LoraConfig { init_lora_weights, ..config(2) });
        assert!(error.contains("init_lora_weights") && error.contains("conv is a convolution"), "{error}");
    }
    let all_linear = LoraConfig { target_modules: Some(Targets::AllLinear), ..config(2) };
    assert!(
        refused(&mut net, all_linear).contains("target_modules"),
        "PEFT's all-linear means no convolution"
    );
    assert!(!adapter::is_attached(&net, A));

    for (channels, outputs, window, groups) in [
        (4, 4, Window::new(0), 1),
        (4, 4, Window::new(2).with_stride(0), 1),
        (4, 4, Window::new(2).with_dilation(0), 1),
        (4, 4, Window::new(2), 0),
        (4, 6, Window::new(2), 4),
        (6, 4, Window::new(2), 4),
    ] {
        assert!(Conv1d::new(channels, outputs, window, groups, true).is_err(), "{window:?}, {groups}");
    }
    let case = Case::named("conv2d_single");
    let net = case.net();
    let mut tape = Tape::inference(Compute::F32);
    let error = net.forward(&mut tape, &case.layout([None; 2]), &[4, 4]).unwrap_err().to_string();
    assert!(error.contains("not as long as images"), "{error}");
    let case = Case::named("conv1d_plain");
    let layout = Layout::from_lengths(&[16, 2], None);
    let error = case.net().forward(&mut tape, &layout, &[]).unwrap_err().to_string();
    assert!(error.contains("room for a window"), "{error}");
}

/// A part of the weight is a pair, as with a linear layer; the file is a plain adapter of twice the rank.
#[test]
fn a_convolution_can_begin_as_a_part_of_its_weight() {
    let case = Case::named("conv2d_rectangle");
    let (mut net, info) = (case.net(), ModelInfo::without_head());
    let base = case.answers(&net, [None; 2]);
    let config = LoraConfig { init_lora_weights: Init::Pissa { iterations: None }, ..config(2) };
    let plan = adapter::attach(&mut net, &info, &config, A, 1).unwrap();
    assert_near(&case.answers(&net, [Some(A); 2]), &base, 2e-5, "the start");
    adapter::for_each_leaf_mut(&mut net, A, |_, leaf| {
        leaf.value_mut().iter_mut().for_each(|value| *value *= 1.3)
    });
    let before = case.answers(&net, [Some(A); 2]);
    let folder = tempfile::tempdir().unwrap();
    adapter::save(&mut net, &info, A, &plan, &config, "someone/base", folder.path()).unwrap();
    let file = Checkpoint::open_adapter(folder.path()).unwrap();
    let shape =
        |part: &str| file.get(&format!("base_model.model.conv.{part}.weight")).unwrap().shape.to_vec();
    assert_eq!((shape("lora_A"), shape("lora_B")), (vec![4, 3, 3, 2], vec![4, 4, 1, 1]));
    AdapterFile::open(folder.path()).unwrap().attach(&mut net, &info, A).unwrap();
    assert_near(&case.answers(&net, [Some(A); 2]), &before, 2e-5, "what was saved");
}

#[test]
fn the_tree_shows_convolutions_as_pytorch_has_them() {
    let case = Case::named("conv2d_every_setting");
    let mut net = case.net();
    let plan = case.attach(&mut net);
    let tree = Tree::with_adapter(&net, &plan).to_string();
    for line in [
        "(conv): Conv2d(weight [6, 2, 2, 3], bias [6])  adapted",
        "(lora_A): Conv2d(weight [4, 4, 2, 3])  trained",
        "(lora_B): Conv2d(weight [6, 2, 1, 1])  trained",
    ] {
        assert!(tree.contains(line), "{line:?} in\n{tree}");
    }
}
