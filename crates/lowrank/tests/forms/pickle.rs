//! What `torch.save` writes is read as PyTorch reads it.

use std::fs;

use lowrank::adapter::AdapterFile;
use lowrank::analysis::MatrixFile;
use lowrank::hub::{Checkpoint, StoredDtype, to_tensor};
use lowrank::train::AdaptedModel;
use lowrank_kernels::Compute;

use crate::common::Case;
use crate::form;

/// Types, shapes and bytes of all tensors.
fn contents(file: &Checkpoint) -> Vec<(String, StoredDtype, Vec<usize>, Vec<u8>)> {
    file.names()
        .map(|name| {
            let view = file.get(name).unwrap();
            (name.to_owned(), view.dtype, view.shape.to_vec(), view.bytes.to_vec())
        })
        .collect()
}

#[test]
fn every_type_and_every_view_is_what_safetensors_has() {
    let expected = contents(&Checkpoint::open_file(form("types.safetensors")).unwrap());
    assert_eq!(expected.len(), 19);
    for name in ["types.bin", "nested.bin"] {
        let file = Checkpoint::open_file(form(name)).unwrap();
        assert_eq!(contents(&file), expected, "{name}");
        for key in ["f32", "turned", "columns", "bf16"] {
            let view = file.get(key).unwrap();
            assert_eq!(view.mapping[view.range.clone()], *view.bytes);
            // What is gathered, too, can be given back without being lost.
            let tensor = to_tensor(key, &view).unwrap();
            view.mapping.release(view.range.clone());
            assert_eq!(tensor.bytes(), &expected.iter().find(|known| known.0 == key).unwrap().3[..]);
        }
    }
}

#[test]
fn a_state_dictionary_with_its_metadata_is_read() {
    let file = Checkpoint::open_file(form("module.bin")).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(file.get("weight").unwrap().shape, [3, 2]);
}

#[test]
fn an_adapter_that_peft_pickled_is_the_one_that_it_wrote_as_safetensors() {
    let case = Case::named("bert_query_value");
    let files = [case.adapter().unwrap(), form("peft").to_string_lossy().into_owned()];
    let [expected, read] = files.each_ref().map(|folder| {
        let adapted = AdaptedModel::load(&case.model(), Some(folder), case.options(Compute::F32)).unwrap();
        let batch = crate::common::random_batch(&[4, 9], 61, 2);
        adapted.logits(&batch, adapted.first_adapter()).unwrap()
    });
    assert_eq!(read, expected);
    let [expected, read] = files.map(|folder| contents(&Checkpoint::open_adapter(folder).unwrap()));
    assert_eq!(read, expected);
    assert!(MatrixFile::open(&form("peft")).unwrap().config().is_some(), "rank takes it for an adapter");
}

#[test]
fn safetensors_go_before_the_pickle_and_errors_name_the_file_that_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.bin"] {
        fs::copy(form("peft").join(name), folder.path().join(name)).unwrap();
    }
    let read = || Checkpoint::open_adapter(folder.path()).unwrap().path().to_path_buf();
    assert!(read().ends_with("adapter_model.bin"));
    let path = folder.path().join("adapter_config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"r\": 8", "\"r\": 7")).unwrap();
    let case = Case::named("bert_query_value");
    let options = case.options(Compute::F32);
    let Err(error) = AdaptedModel::load(&case.model(), folder.path().to_str(), options) else {
        panic!("a rank of 7 is accepted")
    };
    assert!(error.to_string().contains("adapter_model.bin: tensor"), "{error}");
    fs::copy(
        case.adapter().unwrap() + "/adapter_model.safetensors",
        folder.path().join("adapter_model.safetensors"),
    )
    .unwrap();
    assert!(read().ends_with("adapter_model.safetensors"));
    AdapterFile::open(folder.path()).unwrap();
}
