//! Files, names, and what is refused.

use std::path::Path;

use lowrank::Error;
use lowrank::analysis::{Matrix, MatrixFile, RankOptions, Side, Tolerance, rank, write_approximations};
use lowrank::hub::{
    Checkpoint, StoredDtype, TensorToWrite, Tensors, to_tensor, write_safetensors, write_tensors,
};
use lowrank::tensor::Tensor;
use lowrank::train::QuantizeOptions;

use crate::golden::{fixture, look_at, options};

fn refused(options: &RankOptions<'_>) -> Error {
    rank(options, &|_, _| ()).unwrap_err()
}

#[test]
fn one_file_a_folder_and_shards_are_read_alike() {
    let file = look_at(&options(&fixture("models/bert/model.safetensors")));
    let folder = look_at(&options(&fixture("models/bert")));
    let names = |report: &lowrank::analysis::RankReport| -> Vec<String> {
        report.tensors.iter().map(|tensor| tensor.name.clone()).collect()
    };
    assert_eq!(names(&file), names(&folder));
    assert!(file.tensors.len() > 10 && file.skipped.vectors > 10);
    let shards = fixture("models/bert-bare-bf16-sharded");
    let checkpoint = Checkpoint::open(&shards).unwrap();
    let matrices = checkpoint.names().filter(|name| checkpoint.get(name).unwrap().shape.len() > 1).count();
    assert_eq!(look_at(&options(&shards)).tensors.len(), matrices);
}

#[test]
fn named_tensors_alone_are_looked_at_and_all_are_told_of_as_done() {
    let file = fixture("rank/write_up.safetensors");
    let names = ["rank3".to_owned(), "rank1".to_owned(), "rank3".to_owned()];
    let told = std::sync::Mutex::new(Vec::new());
    let on_done = |done, all| told.lock().unwrap().push((done, all));
    let report = rank(&RankOptions { tensors: &names, ..options(&file) }, &on_done).unwrap();
    let ranks: Vec<_> = report.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.rank)).collect();
    assert_eq!(ranks, [("rank1", 1), ("rank3", 3)]);
    let mut told = told.into_inner().unwrap();
    told.sort_unstable();
    assert_eq!(told, [(1, 2), (2, 2)]);
}

#[test]
fn a_tolerance_decides_what_counts() {
    let file = fixture("rank/write_up.safetensors");
    let name = ["rank2".to_owned()];
    let under =
        |tolerance| look_at(&RankOptions { tensors: &name, tolerance, ..options(&file) }).tensors[0].rank;
    let ranks = [Tolerance::Absolute(2.0), Tolerance::Relative(0.05), Tolerance::Relative(0.1)].map(under);
    assert_eq!(ranks, [1, 2, 1]);
}

#[test]
fn what_cannot_be_looked_at_is_refused_by_name() {
    let matrices = fixture("rank/matrices.safetensors");
    for (name, reason) in [
        ("vector", "it is a vector of 9 elements; a matrix is needed"),
        ("whole_numbers", "its type is I64; F64, F32, F16 and BF16 can be analysed"),
        ("produkt", "unknown tensor \"produkt\"; did you mean product?"),
    ] {
        let names = [name.to_owned()];
        let error = refused(&RankOptions { tensors: &names, ..options(&matrices) }).to_string();
        assert!(error.ends_with(reason) && error.contains(name), "{error}");
    }
    let missing = refused(&options(Path::new("nowhere.safetensors"))).to_string();
    assert!(missing.contains("no such file or folder"), "{missing}");
    for energy in [-0.1, 1.1, f64::NAN] {
        assert!(refused(&RankOptions { energy, ..options(&matrices) }).is_usage());
    }
    let tolerance = Tolerance::Absolute(-1.0);
    assert!(refused(&RankOptions { tolerance, ..options(&matrices) }).is_usage());
    let no_adapter = refused(&RankOptions { with: Some(&matrices), ..options(&matrices) }).to_string();
    assert!(no_adapter.contains("it holds no pairs lora_A and lora_B"), "{no_adapter}");
}

#[test]
fn the_first_of_several_bad_tensors_is_named_whatever_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    let bad = Tensor::from_slice([2, 2], &[1.0, f32::NAN, 0.0, 0.0]);
    let names = (0..20).map(|number| (format!("w{number:02}"), bad.clone()));
    write_tensors(&path, &names.collect::<Tensors>()).unwrap();
    let error = refused(&options(&path)).to_string();
    assert!(error.contains("tensor w00: it holds NaN at [0, 1]"), "{error}");
}

/// An adapter's file of which one thing is as `change` makes it.
fn adapter(change: impl FnOnce(&mut Tensors, &mut String)) -> tempfile::TempDir {
    let source = fixture("cases/bert_query_value/adapter");
    let checkpoint = Checkpoint::open_adapter(&source).unwrap();
    let read = |name: &str| (name.to_owned(), to_tensor(name, &checkpoint.get(name).unwrap()).unwrap());
    let mut tensors: Tensors = checkpoint.names().map(read).collect();
    let mut config = std::fs::read_to_string(source.join("adapter_config.json")).unwrap();
    change(&mut tensors, &mut config);
    let folder = tempfile::tempdir().unwrap();
    write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors).unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    folder
}

const QUERY: &str = "base_model.model.bert.encoder.layer.0.attention.self.query";

#[test]
fn an_adapters_file_alone_is_scaled_as_its_folder_is_and_without_a_configuration_by_one() {
    let folder = adapter(|_, _| ());
    let of_folder = look_at(&options(folder.path()));
    let file = folder.path().join("adapter_model.safetensors");
    let of_file = look_at(&options(&file));
    let norms = |report: &lowrank::analysis::RankReport| -> Vec<f64> {
        report.tensors.iter().map(|tensor| tensor.spectral_norm).collect()
    };
    assert_eq!(norms(&of_folder), norms(&of_file));
    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    let pairs = |report: lowrank::analysis::RankReport| {
        report.tensors.into_iter().filter(|tensor| tensor.r.is_some()).map(|tensor| tensor.spectral_norm)
    };
    for (twice, once) in pairs(of_folder).zip(pairs(look_at(&options(&file)))) {
        assert!((twice - 2.0 * once).abs() < 1e-12 * twice, "{twice} and {once}: alpha is 16 and r is 8");
    }
}

#[test]
fn half_a_pair_and_a_pair_that_does_not_fit_are_refused() {
    let halved = adapter(|tensors, _| drop(tensors.remove(&format!("{QUERY}.lora_B.weight"))));
    let error = refused(&options(halved.path())).to_string();
    assert!(error.contains("lora_A.weight") && error.contains("lora_B.weight is missing"), "{error}");

    let narrow = adapter(|tensors, _| {
        tensors.insert(format!("{QUERY}.lora_B.weight"), Tensor::from_slice([36, 3], &[1.0_f32; 108]));
    });
    let error = refused(&options(narrow.path())).to_string();
    assert!(error.contains("it has 3 columns where"), "{error}");

    let other_rank = adapter(|_, config| *config = config.replace("\"r\": 8", "\"r\": 4"));
    let error = refused(&options(other_rank.path())).to_string();
    assert!(error.contains("it has 8 rows where adapter_config.json says that r is 4"), "{error}");
}

#[test]
fn adapters_of_other_layers_or_another_model_are_not_compared() {
    let one = fixture("cases/bert_query_value/adapter");
    let other = fixture("cases/bert_switch_b/adapter");
    let error = refused(&RankOptions { with: Some(&other), ..options(&one) }).to_string();
    assert!(error.contains("attention.self.query"), "{error}");
    let base = fixture("models/gpt2");
    let base = base.to_string_lossy();
    let error = refused(&RankOptions { base: Some(&base), ..options(&one) }).to_string();
    assert!(error.contains("the base model does not hold it"), "{error}");
    let base = fixture("models/bert-mlm");
    assert!(base.is_dir());
    let name = ["base_model.model.classifier.weight".to_owned()];
    let options = RankOptions { tensors: &name, with: Some(&one), side: Side::Left, ..options(&one) };
    let error = refused(&options).to_string();
    assert!(error.contains("it is no pair of an adapter"), "{error}");
}

#[test]
fn the_adapter_that_lacks_a_layer_is_named() {
    let whole = adapter(|_, _| ());
    let fewer = adapter(|tensors, _| tensors.retain(|name, _| !name.starts_with(QUERY)));
    let error = refused(&RankOptions { with: Some(fewer.path()), ..options(whole.path()) });
    assert!(error.is_usage());
    let error = error.to_string();
    let layer = QUERY.trim_start_matches("base_model.model.");
    let begins =
        format!("{}/adapter_model.safetensors: tensor {layer}: it has no pair", fewer.path().display());
    assert!(error.starts_with(&begins) && error.contains(&*whole.path().to_string_lossy()), "{error}");
    // What the other one has beyond this one's layers is not asked for.
    let report = look_at(&RankOptions { with: Some(whole.path()), ..options(fewer.path()) });
    assert!(report.tensors.iter().all(|tensor| tensor.overlap.is_some()));
}

#[test]
fn what_belongs_to_weights_in_8_bits_is_counted_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("models/bert"), folder.path().join("eight"));
    let quantize = QuantizeOptions { model: &model.to_string_lossy(), out: &out, check: false };
    let quantized = lowrank::train::quantize(&quantize).unwrap().weights;
    let report = look_at(&options(&out));
    let is_matrix = |name: &str| quantized.iter().all(|weight| !name.starts_with(&weight.name));
    assert!(!report.tensors.is_empty() && report.tensors.iter().all(|tensor| is_matrix(&tensor.name)));
    assert_eq!(report.skipped.not_floating, quantized.len());
    let with_outliers = quantized.iter().filter(|weight| weight.outlier_columns > 0).count();
    assert_eq!(report.skipped.companions, quantized.len() + 2 * with_outliers);
    assert!(report.to_string().contains("tensors beside weights in 8 bits"), "{report}");
}

#[test]
fn the_table_of_a_model_fits_a_line_and_tells_all_names_apart() {
    let report = look_at(&options(&fixture("models/bert-mlm")));
    let text = report.to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let table = text.lines().take(report.tensors.len() + 1);
    let names: std::collections::BTreeSet<&str> =
        table.map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(names.len(), report.tensors.len() + 1, "{text}");
}

#[test]
fn tables_have_a_line_for_each_matrix_and_each_value() {
    let folder = tempfile::tempdir().unwrap();
    let (table, values) = (folder.path().join("t.csv"), folder.path().join("v.csv"));
    let report = look_at(&options(&fixture("rank/write_up.safetensors")));
    report.write_csv(&table).unwrap();
    report.write_values(&values).unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let lines = read(&table);
    let lines: Vec<&str> = lines.lines().collect();
    let header =
        "name,rows,columns,rank,stable_rank,effective_rank,rank_for_energy,spectral_norm,frobenius_norm";
    assert_eq!(lines[0], header);
    assert_eq!(lines[1], "rank0,3,3,0,0,0,0,0,0");
    assert!(lines.len() == 5 && lines[3].starts_with("rank2,3,3,2,1.00"), "{lines:?}");
    let values = read(&values);
    assert_eq!(values.lines().next(), Some("name,k,singular_value,energy"));
    assert_eq!(values.lines().count(), 1 + 4 * 3);
    assert!(values.contains("rank0,1,0,1\n"), "{values}");
}

#[test]
fn written_approximations_are_the_factors_of_what_they_approximate() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("factors.safetensors");
    let source = fixture("rank/write_up.safetensors");
    assert_eq!(write_approximations(&source, &[], 2, &out).unwrap(), 8);
    let (before, after) = (Checkpoint::open_file(&source).unwrap(), Checkpoint::open_file(&out).unwrap());
    let read =
        |file: &Checkpoint, name: &str| to_tensor(name, &file.get(name).unwrap()).unwrap().to_f32_vec();
    // Rank 2 is enough for these three.
    for name in ["rank2", "rank1", "rank0"] {
        let wanted = read(&before, name);
        let (left, right) = (read(&after, &format!("{name}.left")), read(&after, &format!("{name}.right")));
        for (index, wanted) in wanted.iter().enumerate() {
            let (row, column) = (index / 3, index % 3);
            let made: f32 = (0..2).map(|k| left[row * 2 + k] * right[k * 3 + column]).sum();
            assert!((made - wanted).abs() < 1e-5, "{made} for {wanted} in {name}");
        }
    }
}

/// As tables, values, approximations and `--tensor` have them: one for each, in the order of the numbers.
#[test]
fn each_expert_of_a_stack_is_a_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stack.safetensors");
    // Expert `e` of twelve has `e % 3` rows that are not zero, each along another column.
    let at = |e: usize, i: usize, j: usize| if i == j && i < e % 3 { e as f32 } else { 0.0 };
    let values: Vec<f32> =
        (0..12).flat_map(|e| (0..4).flat_map(move |i| (0..3).map(move |j| at(e, i, j)))).collect();
    let (stack, other) = ("layers.0.mlp.experts.up", "layers.0.conv.weight");
    let tensors = [(stack, [12, 4, 3]), (other, [12, 4, 3]), ("layers.0.mlp.experts.up.q", [1, 4, 36])];
    let tensors = tensors.map(|(name, shape)| (name.to_owned(), Tensor::from_slice(shape, &values)));
    write_tensors(&path, &tensors.into_iter().collect()).unwrap();
    let report = look_at(&options(&path));
    let of_stack = |number: usize| format!("{stack}[{number}]");
    let names: Vec<&str> = report.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let wanted: Vec<String> = [other.to_owned()]
        .into_iter()
        .chain((0..12).map(of_stack))
        .chain(["layers.0.mlp.experts.up.q".to_owned()])
        .collect();
    assert_eq!(names, wanted);
    assert_eq!(report.tensors[0].shape, [12, 12], "a convolution is one matrix");
    for (number, tensor) in report.tensors[1..13].iter().enumerate() {
        assert_eq!((tensor.shape, tensor.rank), ([4, 3], number % 3), "{}", tensor.name);
        assert_eq!(tensor.spectral_norm, if number % 3 == 0 { 0.0 } else { number as f64 });
    }

    let chosen = |names: &[&str]| -> lowrank::Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let report = rank(&RankOptions { tensors: &names, ..options(&path) }, &|_, _| ())?;
        Ok(report.tensors.into_iter().map(|tensor| tensor.name).collect())
    };
    assert_eq!(chosen(&[stack]).unwrap(), wanted[1..13]);
    assert_eq!(chosen(&[&of_stack(10)]).unwrap(), [of_stack(10)]);
    assert_eq!(chosen(&[&of_stack(4), stack, other]).unwrap(), wanted[..13]);
    for unknown in [of_stack(12), of_stack(1).replace('1', "01")] {
        let error = chosen(&[&unknown]).unwrap_err().to_string();
        assert!(error.contains("unknown tensor") && error.contains(&of_stack(1)), "{error}");
    }
    let file = MatrixFile::open(&path).unwrap();
    let error = file.get(stack).unwrap_err().to_string();
    assert!(error.contains("12 experts") && error.contains(&of_stack(0)), "{error}");

    let table = folder.path().join("t.csv");
    report.write_csv(&table).unwrap();
    let table = std::fs::read_to_string(table).unwrap();
    assert!(table.contains("\nlayers.0.mlp.experts.up[11],4,3,2,"), "{table}");
    let out = folder.path().join("factors.safetensors");
    assert_eq!(write_approximations(&path, &[stack.to_owned()], 1, &out).unwrap(), 2 * 12);
    assert!(Checkpoint::open_file(&out).unwrap().get(&format!("{stack}[11].left")).is_some());
}

#[test]
fn an_empty_matrix_has_rank_zero_whatever_its_other_side_claims_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.safetensors");
    let huge = 1 << 60;
    let write = |tensors: &[(&str, &[usize])]| {
        let tensor = |&(name, shape)| TensorToWrite { name, dtype: StoredDtype::F32, shape, bytes: &[] };
        write_safetensors(&path, &tensors.iter().map(tensor).collect::<Vec<_>>(), &[]).unwrap();
    };
    write(&[("a", &[0, 4]), ("b", &[huge, 0]), ("c", &[0, huge])]);
    let report = look_at(&RankOptions { approximate: Some(2), ..options(&path) });
    assert_eq!(report.tensors.iter().map(|tensor| tensor.rank).collect::<Vec<_>>(), [0; 3]);
    assert_eq!(MatrixFile::open(&path).unwrap().names().collect::<Vec<_>>(), ["a", "b", "c"]);
    write(&[("mlp.experts.up", &[huge, 0, 0])]);
    assert_eq!(look_at(&options(&path)).tensors.len(), 1, "not as many as the header claims");
    let made = Matrix::from_f32("nothing", &[], huge, 0).unwrap().low_rank_approximation(3).unwrap();
    assert_eq!((made.k, made.left.len()), (0, 0));

    write(&[("a", &[0, huge, huge])]);
    assert!(refused(&options(&path)).to_string().contains("is out of range"));

    write(&[("m.lora_A.weight", &[0, huge]), ("m.lora_B.weight", &[huge, 0])]);
    let error = refused(&options(&path)).to_string();
    assert!(error.contains("m.lora_A.weight: it has no rows"), "{error}");
}
