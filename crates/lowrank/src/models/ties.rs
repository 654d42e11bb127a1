//! Parameters that are another one's second name, as a checkpoint has them.

use std::collections::BTreeMap;

use super::Model;
use super::keys::Keys;
use crate::Result;
use crate::hub::{TensorView, to_tensor};
use crate::nn::{for_each_parameter, for_each_parameter_mut};

/// What a checkpoint makes of them.
#[derive(Debug, Default)]
pub(super) struct Ties {
    /// Those that have a value of their own, as the checkpoint's is another than that of their first name.
    pub untied: Vec<String>,
    /// For each first name that the checkpoint lacks a second one that it has.
    stand_ins: BTreeMap<&'static str, String>,
}

impl Ties {
    /// Compares what the checkpoint has under the names of one value, and gives each other value a parameter of its own.
    /// An output layer that may share a table does so where the checkpoint has no value for it.
    ///
    /// # Errors
    /// If one is of a type that is no weight.
    ///
    /// # Source
    /// Transformers' `tie_weights`, as `from_pretrained` calls it.
    pub fn settle(model: &mut dyn Model, keys: &Keys<'_>) -> Result<Self> {
        let shared = model.info().output.zip(model.info().output_may_share);
        let shared = shared.map(|(module, table)| (format!("{module}.weight"), table));
        for_each_parameter_mut(model, |path, parameter| {
            if let Some((_, table)) = shared.as_ref().filter(|(output, _)| output == path)
                && keys.find(path).is_none()
            {
                parameter.tie_to(table);
            }
        });
        let mut ties = Self::default();
        let mut result = Ok(());
        for_each_parameter(&*model, |path, parameter| {
            if let Some(first) = parameter.tie()
                && let Some((key, own)) = keys.find(path)
                && result.is_ok()
            {
                match ties.find(first, keys) {
                    None => drop(ties.stand_ins.insert(first, path.to_owned())),
                    Some((_, shared)) => {
                        let equal = are_equal(&shared, (&key, &own));
                        result = equal.map(|equal| ties.untied.extend((!equal).then(|| path.to_owned())));
                    }
                }
            }
        });
        result?;
        for_each_parameter_mut(model, |path, parameter| {
            if ties.untied.iter().any(|name| name == path) {
                parameter.untie();
            }
        });
        Ok(ties)
    }

    /// The parameter's key and tensor, which may be under a second name of it.
    pub fn find<'a>(&self, path: &str, keys: &Keys<'a>) -> Option<(String, TensorView<'a>)> {
        keys.find(path).or_else(|| keys.find(self.stand_ins.get(path)?))
    }
}

/// Whether two tensors have the same values; the pages of the other are given back.
fn are_equal(one: &TensorView<'_>, (key, other): (&str, &TensorView<'_>)) -> Result<bool> {
    if one.shape != other.shape {
        return Ok(false);
    }
    if one.dtype == other.dtype {
        let equal = one.bytes == other.bytes;
        other.mapping.release(other.range.clone());
        return Ok(equal);
    }
    Ok(to_tensor(key, one)?.to_f32_vec() == to_tensor(key, other)?.to_f32_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::hub::{Checkpoint, Tensors, write_tensors};
    use crate::models::{self, Head, HeadSpec, LoadReport, ModelConfig};
    use crate::tensor::{DType, Tensor};

    const TABLE: &str = "transformer.wte.weight";
    const HEAD: &str = "lm_head.weight";

    fn model(config: &Value, head: Head) -> Box<dyn Model> {
        models::from_config(&ModelConfig::from_json(config).unwrap(), HeadSpec::new(head, 2)).unwrap()
    }

    /// The model as it is loaded from a checkpoint of random values that was changed.
    fn loaded(config: &Value, head: Head, change: impl Fn(&mut Tensors)) -> (Box<dyn Model>, LoadReport) {
        let (mut random, mut tensors) = (model(config, head), Tensors::new());
        models::initialise(&mut *random, 3, DType::F32).unwrap();
        for_each_parameter(&*random, |path, parameter| {
            tensors.extend(parameter.base().map(|leaf| (path.to_owned(), parameter.to_file(leaf.value()))));
        });
        change(&mut tensors);
        let folder = tempfile::tempdir().unwrap();
        write_tensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
        let mut model = model(config, head);
        let report = models::load(&mut *model, &Checkpoint::open(folder.path()).unwrap()).unwrap();
        (model, report)
    }

    fn gpt2(change: impl Fn(&mut Tensors)) -> (Box<dyn Model>, LoadReport) {
        let config = json!({"model_type": "gpt2", "vocab_size": 9, "n_positions": 8, "n_embd": 4, "n_layer": 1,
                            "n_head": 2});
        loaded(&config, Head::CausalLm, change)
    }

    /// The first number of a parameter's own value, and what it is another name of.
    fn of(model: &dyn Model, name: &str) -> (Option<f32>, Option<&'static str>) {
        let mut found = (None, None);
        for_each_parameter(model, |path, parameter| {
            if path == name {
                let first = |tensor: &Tensor| tensor.to_f32_vec()[0];
                found = (parameter.base().map(|leaf| first(leaf.value())), parameter.tie());
            }
        });
        found
    }

    fn filled(rows: usize, width: usize, value: f32, dtype: DType) -> Tensor {
        Tensor::from_slice([rows, width], &vec![value; rows * width]).to_dtype(dtype)
    }

    #[test]
    fn another_value_under_a_tied_name_is_that_names_own_and_is_reported() {
        let (model, report) =
            gpt2(|tensors| drop(tensors.insert(HEAD.into(), filled(9, 4, 5.0, DType::F32))));
        assert_eq!(of(&*model, HEAD), (Some(5.0), None));
        assert_eq!(report.untied, [HEAD]);
        assert!(report.untied_note().unwrap().ends_with(HEAD));
    }

    #[test]
    fn an_equal_value_under_a_tied_name_stays_tied_in_any_type() {
        for dtype in [DType::F32, DType::Bf16] {
            let (model, report) = gpt2(|tensors| {
                tensors.insert(TABLE.into(), filled(9, 4, 0.5, DType::F32));
                tensors.insert(HEAD.into(), filled(9, 4, 0.5, dtype));
            });
            assert_eq!(of(&*model, HEAD), (None, Some(TABLE)), "{dtype}");
            assert_eq!(report, LoadReport::default(), "{dtype}");
        }
    }

    #[test]
    fn a_value_under_the_tied_name_alone_is_the_shared_one() {
        let (model, report) = gpt2(|tensors| {
            tensors.remove(TABLE).unwrap();
            tensors.insert(HEAD.into(), filled(9, 4, 5.0, DType::F32));
        });
        assert_eq!(of(&*model, TABLE), (Some(5.0), None));
        assert_eq!(of(&*model, HEAD), (None, Some(TABLE)));
        assert_eq!(report, LoadReport::default());
    }

    #[test]
    fn a_t5_that_is_not_tied_shares_its_table_where_it_has_no_head() {
        let config = json!({"model_type": "t5", "vocab_size": 9, "d_model": 4, "d_kv": 2, "d_ff": 6, "num_layers": 1,
                            "num_heads": 2, "tie_word_embeddings": false});
        let (model, _) = loaded(&config, Head::Seq2SeqLm, |tensors| drop(tensors.remove(HEAD).unwrap()));
        assert_eq!(of(&*model, HEAD), (None, Some("shared.weight")));
        let (model, report) = loaded(&config, Head::Seq2SeqLm, |tensors| {
            tensors.insert("encoder.embed_tokens.weight".into(), filled(9, 4, 5.0, DType::F32));
        });
        assert!(of(&*model, HEAD).0.is_some(), "a head of its own");
        assert_eq!(of(&*model, "encoder.embed_tokens.weight"), (Some(5.0), None));
        assert_eq!(of(&*model, "decoder.embed_tokens.weight"), (None, Some("shared.weight")));
        assert_eq!(report.untied, ["encoder.embed_tokens.weight"]);
    }
}
