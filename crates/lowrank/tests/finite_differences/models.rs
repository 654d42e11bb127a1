//! Whole models in training mode, their own dropouts on.

use lowrank::Result;
use lowrank::adapter;
use lowrank::data::Batch;
use lowrank::models::Architecture;
use lowrank::nn::{Module, for_each_parameter_mut};
use lowrank::tape::{AdapterId, Tape, Var};
use lowrank::train::{AdaptedModel, read_batch};
use lowrank_kernels::Compute;

use crate::check::{Subject, check};
use crate::common::Case;

struct Whole {
    adapted: AdaptedModel,
    batch: Batch,
    adapter: Option<AdapterId>,
}

impl Whole {
    fn new(case: &str, adapter: bool) -> Self {
        let case = Case::named(case);
        let folder = case.adapter().filter(|_| adapter);
        let options = case.options(Compute::F32);
        let adapted = AdaptedModel::load(&case.model(), folder.as_deref(), options).unwrap();
        let Architecture::Encoder(sizes) = &adapted.config().architecture else { panic!("an encoder") };
        assert!(sizes.hidden_dropout_prob > 0.0, "the model drops");
        let batch = read_batch(&case.inputs(), adapted.model().info()).unwrap();
        Self { adapter: adapted.first_adapter(), adapted, batch }
    }
}

impl Subject for Whole {
    fn module(&mut self) -> &mut dyn Module {
        self.adapted.model_mut()
    }

    fn output<'m>(&'m self, tape: &mut Tape<'m>) -> Result<Var> {
        self.adapted.forward(tape, &self.batch, self.adapter)
    }
}

#[test]
fn every_tensor_of_an_adapter_of_bert_and_roberta() {
    for case in ["bert_query_value", "bert_target_list", "bert_save_everything", "roberta_bias_all"] {
        let mut whole = Whole::new(case, true);
        adapter::set_trainable(whole.adapted.model_mut(), AdapterId(0), true);
        check(case, whole);
    }
}

#[test]
fn every_parameter_of_bert_and_roberta_in_full_training() {
    for case in ["bert_pair", "roberta_regression"] {
        let mut whole = Whole::new(case, false);
        for_each_parameter_mut(whole.adapted.model_mut(), |_, parameter| {
            parameter.leaves_mut().for_each(|leaf| leaf.set_trainable(true));
        });
        check(case, whole);
    }
}
