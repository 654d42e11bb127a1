//! Checkpoints: what is stored is what is read, and files that lie are refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use lowrank::Error;
use lowrank::hub::{Checkpoint, StoredDtype, TensorToWrite, write_safetensors};

fn tensor<'a>(name: &'a str, shape: &'a [usize], bytes: &'a [u8]) -> TensorToWrite<'a> {
    TensorToWrite { name, dtype: StoredDtype::F32, shape, bytes }
}

/// A safetensors file with this header and these many bytes of tensors.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(folder.path()).map_err(|error| {
        let text = error.to_string();
        assert!(text.contains("model.safetensors"), "names the file: {text}");
        assert!(!text.contains('\n'), "one sentence: {text}");
        text
    })
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights: Vec<u8> = (0..24).collect();
    let ids: Vec<u8> = (0..16).collect();
    write_safetensors(
        &path,
        &[
            tensor("b.weight", &[2, 3], &weights),
            TensorToWrite { name: "a.ids", dtype: StoredDtype::I64, shape: &[2], bytes: &ids },
            tensor("a.scalar", &[], &weights[..4]),
            tensor("empty", &[0, 5], &[]),
        ],
        &[("format", "pt")],
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a.ids", "a.scalar", "b.weight", "empty"]);
    let view = checkpoint.get("b.weight").unwrap();
    assert_eq!((view.dtype, view.shape, view.bytes), (StoredDtype::F32, &[2, 3][..], &weights[..]));
    assert_eq!(view.mapping[view.range.clone()], weights[..]);
    assert_eq!(checkpoint.get("a.scalar").unwrap().shape, [0usize; 0]);
    assert!(checkpoint.get("empty").unwrap().bytes.is_empty());
    assert!(checkpoint.get("b").is_none());
    assert_eq!(checkpoint.metadata().unwrap()["format"], "pt");
}

#[test]
fn the_same_tensors_give_the_bytes_of_the_safetensors_crate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let bytes: Vec<u8> = (0..24).collect();
    let mut tensors = vec![
        TensorToWrite { name: "z \"quoted\" é", dtype: StoredDtype::F32, shape: &[3], bytes: &bytes[..12] },
        TensorToWrite { name: "a", dtype: StoredDtype::BF16, shape: &[2, 2], bytes: &bytes[..8] },
        TensorToWrite { name: "b", dtype: StoredDtype::F32, shape: &[1, 2], bytes: &bytes[..8] },
        TensorToWrite { name: "m", dtype: StoredDtype::I64, shape: &[3], bytes: &bytes },
        TensorToWrite { name: "n", dtype: StoredDtype::Bool, shape: &[3], bytes: &bytes[..3] },
    ];
    write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
    let written = fs::read(&path).unwrap();
    tensors.reverse();
    write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), written, "whatever their order");

    use safetensors::tensor::{Dtype, TensorView};
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let reference = safetensors::serialize(
        [
            ("a", view(Dtype::BF16, &[2, 2], &bytes[..8])),
            ("b", view(Dtype::F32, &[1, 2], &bytes[..8])),
            ("m", view(Dtype::I64, &[3], &bytes)),
            ("n", view(Dtype::BOOL, &[3], &bytes[..3])),
            ("z \"quoted\" é", view(Dtype::F32, &[3], &bytes[..12])),
        ],
        Some([("format".to_owned(), "pt".to_owned())].into()),
    )
    .unwrap();
    assert_eq!(written, reference);
}

#[test]
fn tensors_that_do_not_fit_their_bytes_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let long = write_safetensors(&path, &[tensor("w", &[2], &[0; 12])], &[]).unwrap_err();
    assert!(matches!(long, Error::Usage(ref text) if text.contains("tensor w")), "{long}");
    let twice = write_safetensors(&path, &[tensor("w", &[1], &[0; 4]), tensor("w", &[1], &[0; 4])], &[]);
    assert!(twice.unwrap_err().to_string().contains("twice"));
    let overflow = write_safetensors(&path, &[tensor("w", &[usize::MAX, 8], &[0; 4])], &[]);
    assert!(overflow.is_err());
    assert!(!path.exists());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write_safetensors(&path, &[tensor("w", &[2, 2], &[1; 16]), tensor("v", &[1], &[2; 4])], &[]).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        open(&whole[..length]).unwrap_err();
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(open(&longer).unwrap_err().contains("damaged or incomplete"));
    open(&whole).unwrap();
}

#[test]
fn a_header_that_lies_is_refused() {
    let one = |entry: &str| format!(r#"{{"w":{entry}}}"#);
    let cases = [
        ("header longer than the file", {
            let mut bytes = raw("{}", 0);
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            bytes
        }),
        ("header of 99 MB in a file of 10 bytes", {
            let mut bytes = 99_000_000u64.to_le_bytes().to_vec();
            bytes.extend_from_slice(b"{}");
            bytes
        }),
        ("not JSON", raw("hello, this is not JSON", 8)),
        ("not UTF-8", {
            let mut bytes = raw("{\"??\":1}", 0);
            bytes[10] = 0xff;
            bytes
        }),
        ("an array", raw("[1, 2]", 0)),
        ("a number for a tensor", raw(&one("3"), 0)),
        ("unknown dtype", raw(&one(r#"{"dtype":"F31","shape":[1],"data_offsets":[0,4]}"#), 4)),
        ("negative dimension", raw(&one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#), 4)),
        ("fractional dimension", raw(&one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#), 4)),
        ("no shape", raw(&one(r#"{"dtype":"F32","data_offsets":[0,4]}"#), 4)),
        ("offsets beyond the file", raw(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#), 4)),
        ("offsets backwards", raw(&one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#), 4)),
        ("shape larger than the bytes", raw(&one(r#"{"dtype":"F32","shape":[9],"data_offsets":[0,4]}"#), 4)),
        (
            "shape whose product overflows",
            raw(
                &one(r#"{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}"#),
                4,
            ),
        ),
        (
            "tensors that overlap",
            raw(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        (
            "tensors with a gap",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
                12,
            ),
        ),
        ("nested without end", raw(&"[".repeat(100_000), 0)),
    ];
    for (name, bytes) in cases {
        let Err(text) = open(&bytes) else { panic!("{name} was believed") };
        eprintln!("{name}: {text}");
    }
}

#[test]
fn tensors_of_eight_exabytes_each_are_refused() {
    // Each of them is possible by itself; their ends come near 2^64, where adding the header's length wraps round.
    let size = (1u64 << 61) - 8;
    let mut header = String::from("{");
    for number in 0..8u64 {
        let (start, end) = (number * size, (number + 1) * size);
        header +=
            &format!(r#""t{number}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}},"#);
    }
    let (start, end) = (8 * size, u64::MAX);
    let rest = end - start;
    header += &format!(r#""t8":{{"dtype":"U8","shape":[{rest}],"data_offsets":[{start},{end}]}}}}"#);
    open(&raw(&header, 16)).unwrap_err();
}

#[test]
fn an_empty_folder_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("no model.safetensors"), "{text}");
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    fs::write(folder.path().join("pytorch_model.bin"), b"x").unwrap();
    let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("only pytorch_model.bin"), "{text}");
    let text = Checkpoint::open_adapter(folder.path()).unwrap_err().to_string();
    assert!(text.contains("no adapter_model.safetensors"), "{text}");
    let text = Checkpoint::open(folder.path().join("nowhere")).unwrap_err().to_string();
    assert!(text.contains("no such folder"), "{text}");
}

/// A folder of two shards with this weight map.
fn shards(weight_map: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_safetensors(path("one.safetensors"), &[tensor("a", &[1], &[1; 4])], &[]).unwrap();
    write_safetensors(path("two.safetensors"), &[tensor("b", &[2], &[2; 8])], &[]).unwrap();
    fs::write(
        path("model.safetensors.index.json"),
        format!(r#"{{"metadata":{{}},"weight_map":{weight_map}}}"#),
    )
    .unwrap();
    let path = folder.path().to_path_buf();
    (folder, path)
}

#[test]
fn shards_are_one_checkpoint() {
    let (_folder, path) = shards(r#"{"a":"one.safetensors","b":"two.safetensors"}"#);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.get("b").unwrap().bytes, [2; 8]);
    assert!(checkpoint.get("b").unwrap().file.ends_with("two.safetensors"));
}

#[test]
fn an_index_that_lies_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("one.safetensors");
    write_safetensors(&secret, &[tensor("a", &[1], &[1; 4])], &[]).unwrap();
    let absolute = format!(r#"{{"a":{:?}}}"#, secret.display().to_string());
    let cases = [
        (r#"{"a":"three.safetensors"}"#, "which is missing"),
        (r#"{"a":"../one.safetensors"}"#, "not in its folder"),
        (&absolute, "not in its folder"),
        (r#"{"a":""}"#, "not in its folder"),
        (r#"{"a":"one.safetensors","c":"two.safetensors"}"#, "does not hold it"),
        (r#"{"a":"two.safetensors","b":"one.safetensors"}"#, "holds it"),
        ("{}", "weight_map is empty"),
        ("[]", "not an index"),
        (r#"{"a":1}"#, "not an index"),
    ];
    for (weight_map, expected) in cases {
        let (_folder, path) = shards(weight_map);
        let text = Checkpoint::open(path).unwrap_err().to_string();
        assert!(text.contains(expected), "{weight_map}: {text}");
        assert!(text.contains("model.safetensors.index.json"), "{text}");
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let (_folder, path) = shards(r#"{"a":"one.safetensors","b":"two.safetensors"}"#);
    let both = [tensor("a", &[1], &[1; 4]), tensor("b", &[2], &[2; 8])];
    write_safetensors(path.join("two.safetensors"), &both, &[]).unwrap();
    let text = Checkpoint::open(path).unwrap_err().to_string();
    assert!(text.contains("tensor a") && text.contains("one.safetensors"), "{text}");
}

#[test]
fn the_golden_models_open() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures/models");
    let Ok(folders) = fs::read_dir(&models) else {
        eprintln!("skipped: no {}", models.display());
        return;
    };
    for folder in folders {
        let folder = folder.unwrap().path();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert!(checkpoint.names().len() > 10, "{}", folder.display());
        for name in checkpoint.names() {
            let view = checkpoint.get(name).unwrap();
            let elements: usize = view.shape.iter().product();
            assert_eq!(Some(view.bytes.len()), view.dtype.bytes().map(|size| size * elements), "{name}");
        }
    }
}
