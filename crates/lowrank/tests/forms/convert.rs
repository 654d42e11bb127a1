//! Adapters of other forms become PEFT's that add the same to the same weights.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lowrank::Error;
use lowrank::adapter::convert::{AdapterForm, ConvertOptions, ConvertReport, convert};
use lowrank::adapter::read_config;
use lowrank::hub::{Checkpoint, Tensors, to_tensor, write_tensors};
use lowrank::tensor::{Shape, Tensor};
use lowrank::train::AdaptedModel;
use lowrank_kernels::Compute;
use serde_json::Value;

use crate::common::{Case, difference, fixtures, read_tensors};
use crate::form;

const PREFIX: &str = "base_model.model.";

fn model(name: &str) -> String {
    fixtures().join("models").join(name).to_string_lossy().into_owned()
}

/// What to convert into `out`, without a model.
pub fn options<'a>(input: &'a Path, out: &'a Path) -> ConvertOptions<'a> {
    let input = input.to_str().unwrap();
    ConvertOptions { input, out, to: AdapterForm::Peft, model: None, lora_alpha: None, enable_lora: &[] }
}

/// The sentence of an error; nothing is written.
pub fn refused(options: &ConvertOptions<'_>) -> String {
    let error: Error = convert(options).unwrap_err();
    assert!(!options.out.join("adapter_model.safetensors").exists());
    assert!(!options.out.join("adapter_model.gguf").exists());
    error.to_string()
}

/// What an adapter folder adds to each layer's weight.
fn products(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let (file, config) = (Checkpoint::open_adapter(folder).unwrap(), read_config(folder).unwrap());
    let matrix = |key: &str| to_tensor(key, &file.get(key).unwrap()).unwrap();
    let mut products = BTreeMap::new();
    for key in file.names() {
        let Some(module) = key.strip_suffix(".lora_A.weight") else { continue };
        let name = module.strip_prefix(PREFIX).unwrap();
        let (a, b) = (matrix(key), matrix(&format!("{module}.lora_B.weight")));
        let ((r, inputs), outputs) = (a.rows_and_width(), b.rows_and_width().0);
        let layer = config.layer(name).unwrap();
        assert_eq!(layer.r, r);
        let (a, b) = (a.to_f32_vec(), b.to_f32_vec());
        let mut product = vec![0.0; outputs * inputs];
        for (at, value) in product.iter_mut().enumerate() {
            let (row, column) = (at / inputs, at % inputs);
            let terms = (0..r).map(|k| b[row * r + k] * a[k * inputs + column]);
            *value = layer.scaling * terms.sum::<f32>();
        }
        products.insert(name.to_owned(), product);
    }
    products
}

fn assert_products(folder: &Path, expected: &str) {
    let expected = read_tensors(&form(expected));
    let found = products(folder);
    assert_eq!(found.len(), expected.len());
    for (name, expected) in expected {
        let (off, magnitude) = difference(&found[&name], &expected);
        assert!(off < 1e-5 * magnitude && magnitude > 0.1, "{name}: {off} of {magnitude}");
    }
}

/// Whether the folder loads on a model, as a whole.
fn assert_loads(folder: &Path, model_name: &str) {
    let load = Case::named("bert_query_value").options(Compute::F32);
    let load = lowrank::train::LoadOptions { head: None, num_labels: None, ..load };
    AdaptedModel::load(&model(model_name), folder.to_str(), load).unwrap();
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn an_adapter_of_mlx_adds_what_it_added() {
    let (input, out) = (form("mlx"), tempfile::tempdir().unwrap());
    let report = convert(&options(&input, out.path())).unwrap();
    let of = |from, pairs| ConvertReport {
        from,
        to: AdapterForm::Peft,
        out: out.path().to_path_buf(),
        pairs,
        others: 0,
    };
    assert_eq!(report, of(AdapterForm::Mlx, 2));
    assert_products(out.path(), "mlx.safetensors");
    let config = config(out.path());
    assert_eq!(config["base_model_name_or_path"], "someone/base");
    assert_eq!((&config["lora_alpha"], &config["lora_dropout"]), (&10.into(), &0.1.into()));
    let written = fs::read(out.path().join("adapter_model.safetensors")).unwrap();
    let name = model("llama");
    for _ in 0..2 {
        let out = tempfile::tempdir().unwrap();
        convert(&ConvertOptions { model: Some(&name), ..options(&input, out.path()) }).unwrap();
        assert_eq!(
            fs::read(out.path().join("adapter_model.safetensors")).unwrap(),
            written,
            "the same bytes"
        );
        assert_loads(out.path(), "llama");
    }
}

#[test]
fn magnitudes_of_mlx_are_pefts() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = Checkpoint::open_file(form("mlx/adapters.safetensors")).unwrap();
    let read = |name: &str| to_tensor(name, &file.get(name).unwrap()).unwrap();
    let mut tensors: Tensors = file.names().map(|name| (name.to_owned(), read(name))).collect();
    let modules: Vec<String> =
        file.names().filter_map(|name| name.strip_suffix(".lora_b").map(str::to_owned)).collect();
    for (place, module) in modules.iter().enumerate() {
        let outputs = tensors[&format!("{module}.lora_b")].shape().width();
        let value = Tensor::from_slice([outputs], &vec![0.5 + place as f32; outputs]);
        tensors.insert(format!("{module}.m"), value);
    }
    write_tensors(&folder.path().join("adapters.safetensors"), &tensors).unwrap();
    let text = fs::read_to_string(form("mlx/adapter_config.json")).unwrap();
    let dora = text.replace("\"fine_tune_type\": \"lora\"", "\"fine_tune_type\": \"dora\"");
    assert_ne!(text, dora);
    fs::write(folder.path().join("adapter_config.json"), dora).unwrap();
    let name = model("llama");
    convert(&ConvertOptions { model: Some(&name), ..options(folder.path(), out.path()) }).unwrap();
    assert_products(out.path(), "mlx.safetensors");
    assert_eq!(config(out.path())["use_dora"], true);
    assert_loads(out.path(), "llama");
    let made = Checkpoint::open_adapter(out.path()).unwrap();
    let key = format!("base_model.model.{}.lora_magnitude_vector", modules[1]);
    assert_eq!(to_tensor(&key, &made.get(&key).unwrap()).unwrap().to_f32_vec()[0], 1.5);
}

#[test]
fn what_mlx_cannot_hand_over_is_refused_by_name() {
    let (name, out) = (model("llama"), tempfile::tempdir().unwrap());
    let change = |file: &str, change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["adapters.safetensors", "adapter_config.json"] {
            fs::copy(form("mlx").join(name), folder.path().join(name)).unwrap();
        }
        change(&folder.path().join(file));
        refused(&ConvertOptions { model: Some(&name), ..options(folder.path(), out.path()) })
    };
    let tensors = |edit: &dyn Fn(&mut Tensors)| {
        change("adapters.safetensors", &|path| {
            let mut tensors: Tensors = Checkpoint::open_file(form("mlx/adapters.safetensors"))
                .map(|file| {
                    let read = |name: &str| to_tensor(name, &file.get(name).unwrap()).unwrap();
                    file.names().map(|name| (name.to_owned(), read(name))).collect()
                })
                .unwrap();
            edit(&mut tensors);
            write_tensors(path, &tensors).unwrap();
        })
    };
    let key = "model.layers.1.self_attn.q_proj.lora_a";
    let text = tensors(&|tensors| drop(tensors.remove(key)));
    assert!(text.contains("q_proj.lora_b") && text.contains("other factor"), "{text}");
    let text = tensors(&|tensors| {
        let value = tensors.remove("model.layers.1.self_attn.q_proj.lora_b").unwrap();
        tensors.insert("model.layers.1.self_attn.q_proj.m".into(), value);
    });
    assert!(text.contains("q_proj.m") && text.contains("neither"), "{text}");
    let text = tensors(&|tensors| {
        for side in ["lora_a", "lora_b"] {
            let value = tensors.remove(&format!("model.layers.1.self_attn.q_proj.{side}")).unwrap();
            tensors.insert(format!("model.layers.9.self_attn.q_proj.{side}"), value);
        }
    });
    assert!(text.contains("layers.9") && text.contains("has no layer"), "{text}");
    let text = tensors(&|tensors| {
        let value = tensors[key].transposed();
        tensors.insert(key.into(), value);
    });
    assert!(text.contains(key) && text.contains("rank"), "{text}");
    let text = change("adapter_config.json", &|path| {
        fs::write(path, r#"{"fine_tune_type": "full", "lora_parameters": {"scale": 1}}"#).unwrap();
    });
    assert!(text.contains("full"), "{text}");
    let text = change("adapter_config.json", &|path| {
        fs::write(path, r#"{"fine_tune_type": "dora", "lora_parameters": {"scale": 1}}"#).unwrap();
    });
    assert!(text.contains("has no magnitude m"), "{text}");
    let text = change("adapter_config.json", &|path| fs::write(path, "{}").unwrap());
    assert!(text.contains("adapter_config.json") && text.contains("lora_parameters"), "{text}");
}

#[test]
fn a_file_of_kohyas_scripts_adds_what_it_added() {
    let (input, out, name) = (form("kohya_t5.safetensors"), tempfile::tempdir().unwrap(), model("t5"));
    let text = refused(&options(&input, out.path()));
    assert!(text.contains("model") && text.contains("--model"), "{text}");
    convert(&ConvertOptions { model: Some(&name), ..options(&input, out.path()) }).unwrap();
    assert_products(out.path(), "kohya.safetensors");
    assert_loads(out.path(), "t5");
    // k has another rank, and no alpha of its own.
    let config = config(out.path());
    let of_k = "encoder.block.0.layer.0.SelfAttention.k";
    assert_eq!((&config["r"], &config["lora_alpha"]), (&3.into(), &3.into()));
    assert!(config["rank_pattern"].get(of_k).is_none(), "the first decides, others are named: {config}");
    let other = tempfile::tempdir().unwrap();
    let name = model("llama");
    let text = refused(&ConvertOptions { model: Some(&name), ..options(&input, other.path()) });
    assert!(text.contains("lora_te3_encoder_block_0") && text.contains("has no layer"), "{text}");
}

#[test]
fn a_file_of_loralib_adds_what_it_added() {
    let (input, out, name) = (form("loralib.bin"), tempfile::tempdir().unwrap(), model("gpt2"));
    let plain = ConvertOptions { model: Some(&name), ..options(&input, out.path()) };
    let text = refused(&plain);
    assert!(text.contains("lora_alpha") && text.contains("--lora-alpha"), "{text}");
    let alpha = ConvertOptions { lora_alpha: Some(6.0), ..plain };
    let text = refused(&alpha);
    assert!(text.contains("c_attn.lora_A") && text.contains("--enable-lora"), "{text}");
    let text = refused(&ConvertOptions { enable_lora: &[true, false, false], ..alpha });
    assert!(text.contains("enables 1"), "{text}");
    let text = refused(&ConvertOptions { enable_lora: &[true, true], ..alpha });
    assert!(text.contains("c_attn"), "two parts do not make the layer: {text}");
    let merged = ConvertOptions { enable_lora: &[true, false, true], ..alpha };
    convert(&merged).unwrap();
    assert_products(out.path(), "loralib.safetensors");
    assert_loads(out.path(), "gpt2");
    let config = config(out.path());
    assert_eq!(config["fan_in_fan_out"], true);
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 3, "c_attn and c_fc mean more");
}

/// The checkpoints of the original write-up: pairs beside biases and a head, under the bare model's names or not.
#[test]
fn biases_and_the_head_of_a_loralib_file_are_saved_with_its_pairs() {
    let (folder, name) = (tempfile::tempdir().unwrap(), model("bert"));
    let input = folder.path().join("lora.safetensors");
    let with = |more: &[(&str, &[usize])]| {
        let mut tensors = Tensors::new();
        let query = "encoder.layer.1.attention.self.query";
        let (a, b) = (format!("{query}.lora_A"), format!("{query}.lora_B"));
        let shapes: [(&str, &[usize]); 4] =
            [(&a, &[2, 36]), (&b, &[36, 2]), ("classifier.weight", &[3, 36]), ("classifier.bias", &[3])];
        for (number, (key, shape)) in shapes.iter().chain(more).enumerate() {
            let elements: usize = shape.iter().product();
            let values: Vec<f32> = (0..elements).map(|at| (at + number) as f32).collect();
            let tensor = Tensor::from_slice([elements], &values);
            tensors.insert((*key).to_owned(), tensor.reshape(Shape::from_slice(shape).unwrap()));
        }
        write_tensors(&input, &tensors).unwrap();
        let out = tempfile::tempdir().unwrap();
        let loralib =
            ConvertOptions { model: Some(&name), lora_alpha: Some(4.0), ..options(&input, out.path()) };
        (convert(&loralib), out)
    };
    let bias = "bert.encoder.layer.1.attention.self.query.bias";
    let (report, out) = with(&[(bias, &[36])]);
    assert_eq!((report.as_ref().unwrap().pairs, report.unwrap().others), (1, 3));
    let config = config(out.path());
    assert_eq!((&config["bias"], &config["modules_to_save"][0]), (&"lora_only".into(), &"classifier".into()));
    assert_eq!(config["task_type"], "SEQ_CLS");
    let file = Checkpoint::open_adapter(out.path()).unwrap();
    assert!(file.get(&format!("{PREFIX}{}", bias.replace(".bias", ".base_layer.bias"))).is_some());
    assert_eq!(file.get(&format!("{PREFIX}classifier.weight")).unwrap().shape, [3, 36]);
    for (more, part) in [
        (("bert.nothing.bias", &[36][..]), "bert.nothing.bias"),
        (("bert.encoder.layer.0.output.dense.weight", &[36, 46]), "output.dense.weight"),
        ((bias, &[35]), "query.base_layer.bias"),
        (("bert.encoder.layer.1.attention.self.query.lora_A", &[2, 36]), "query.lora_A"),
    ] {
        let (result, out) = with(&[more]);
        let text = result.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
        assert!(!out.path().join("adapter_config.json").exists());
    }
}

#[test]
fn a_peft_adapter_becomes_the_same_in_safetensors() {
    let case = Case::named("bert_query_value");
    let (input, out, name) = (form("peft"), tempfile::tempdir().unwrap(), case.model());
    let report = convert(&ConvertOptions { model: Some(&name), ..options(&input, out.path()) }).unwrap();
    assert_eq!((report.from, report.pairs), (AdapterForm::Peft, 4));
    assert!(report.others > 0);
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    let adapter = case.adapter().unwrap();
    assert_eq!(read(out.path(), "adapter_config.json"), read(&input, "adapter_config.json"));
    assert_eq!(
        read(out.path(), "adapter_model.safetensors"),
        read(Path::new(&adapter), "adapter_model.safetensors")
    );
    let (name, out) = (model("llama"), tempfile::tempdir().unwrap());
    assert!(!refused(&ConvertOptions { model: Some(&name), ..options(&input, out.path()) }).is_empty());
}

/// Every case of PEFT's, with everything that it writes beside pairs.
#[test]
fn no_tensor_of_a_peft_adapter_is_lost() {
    for case in Case::all() {
        let Some(adapter) = case.adapter() else { continue };
        let (input, out) = (Path::new(&adapter), tempfile::tempdir().unwrap());
        let report = convert(&options(input, out.path())).unwrap();
        let tensors = Checkpoint::open_adapter(out.path()).unwrap().names().len();
        assert_eq!(2 * report.pairs + report.others, tensors, "{}", case.name);
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            let [one, other] = [input, out.path()].map(|folder| fs::read(folder.join(name)).unwrap());
            assert!(one == other, "{}: {name}", case.name);
        }
    }
}

#[test]
fn what_is_no_adapter_says_what_is() {
    let out = tempfile::tempdir().unwrap();
    let text = refused(&options(&fixtures().join("models/bert"), out.path()));
    assert!(text.contains("no adapter in this folder") && text.contains("adapters.safetensors"), "{text}");
    let text = refused(&options(&form("types.bin"), out.path()));
    assert!(text.contains("not an adapter") && text.contains(".lora_down.weight"), "{text}");
    let text = refused(&options(&form("mlx/adapters.safetensors"), out.path()));
    assert!(text.contains("name the folder"), "{text}");
    fs::write(out.path().join("something"), "").unwrap();
    assert!(refused(&options(&form("mlx"), out.path())).contains("not empty"));
}
