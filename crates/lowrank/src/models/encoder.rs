//! Encoders with a head on the first token, on each token, or on spans.

use super::bert::BertModel;
use super::config::ModelConfig;
use super::distilbert::DistilBertModel;
use super::roberta::table_positions;
use super::{Architecture, Head, HeadSpec, HeadStyle, Inputs, Model, ModelInfo};
use crate::Result;
use crate::module;
use crate::nn::{LayerNorm, Linear, Module, Visitor, VisitorMut, assign_names, join};
use crate::tape::{Tape, Var, ops};

/// An encoder and its head.
#[derive(Debug)]
pub struct Encoder {
    body: Body,
    head: EncoderHead,
    info: ModelInfo,
}

/// The part that all tasks share.
#[derive(Debug)]
pub(super) enum Body {
    Bert(BertModel),
    /// The same with other positions, of which the padding token has the first.
    Roberta(BertModel, u32),
    DistilBert(DistilBertModel),
}

/// The part that is new for each task.
#[derive(Debug)]
pub(super) enum EncoderHead {
    /// BERT's on the pooled first token, and that of tokens and spans of every encoder: dropout and one layer.
    Linear { name: &'static str, linear: Linear, dropout: f32, dropout_is_module: bool },
    /// RoBERTa's and the write-up's, which are modules of their own.
    Classifier(Classifier),
    /// DistilBERT's.
    TwoLayers { pre_classifier: Linear, classifier: Linear, dropout: f32 },
}

/// A head that is a module.
#[derive(Debug)]
pub(super) enum Classifier {
    Roberta(RobertaClassificationHead),
    Norm(NormDropoutLinear),
}

impl Encoder {
    pub(super) fn new(body: Body, head: EncoderHead, info: ModelInfo) -> Self {
        let mut model = Self { body, head, info };
        assign_names(&mut model);
        model
    }
}

/// Whether an architecture has the write-up's head for a task.
pub(super) fn has_style(config: &ModelConfig, head: Head) -> bool {
    let encoder = matches!(config.architecture, Architecture::Encoder(_) | Architecture::DistilBert(_));
    encoder && head == Head::SequenceClassification
}

impl Model for Encoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn info_mut(&mut self) -> &mut ModelInfo {
        &mut self.info
    }

    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let hidden = if self.info.kind.is_on_tokens() {
            let hidden = self.body.forward(tape, inputs)?;
            wanted_rows(tape, &hidden, inputs.rows)?
        } else {
            self.body.forward_first(tape, inputs)?
        };
        self.head.forward(tape, &hidden)
    }
}

/// The rows that a head on tokens computes, as f32.
pub(super) fn wanted_rows(tape: &mut Tape, hidden: &Var, rows: Option<&[usize]>) -> Result<Var> {
    let all: Vec<usize>;
    let rows = match rows {
        Some(rows) => rows,
        None => {
            all = (0..hidden.value().shape().rows()).collect();
            &all
        }
    };
    let layout = hidden.layout().with_rows(rows)?;
    ops::select_rows(tape, hidden, rows, &layout, true)
}

impl Body {
    fn forward<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        match self {
            Self::Bert(model) => model.forward(tape, text, text.positions),
            Self::Roberta(model, pad) => model.forward(tape, text, &table_positions(text, *pad)?),
            Self::DistilBert(model) => model.forward(tape, text),
        }
    }

    /// The last hidden row of each first token, pooled where the model has a pooler, f32.
    fn forward_first<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs<'_>) -> Result<Var> {
        let text = inputs.text()?;
        match self {
            Self::Bert(model) => {
                let first = model.forward_first(tape, text, text.positions)?;
                model.pool(tape, &first)
            }
            Self::Roberta(model, pad) => model.forward_first(tape, text, &table_positions(text, *pad)?),
            Self::DistilBert(model) => model.forward_first(tape, text),
        }
    }

    fn module(&self) -> &dyn Module {
        match self {
            Self::Bert(model) | Self::Roberta(model, _) => model,
            Self::DistilBert(model) => model,
        }
    }

    fn module_mut(&mut self) -> &mut dyn Module {
        match self {
            Self::Bert(model) | Self::Roberta(model, _) => model,
            Self::DistilBert(model) => model,
        }
    }
}

impl EncoderHead {
    /// The head of an architecture whose own head for sequences is `usual`.
    pub(super) fn of(
        head: HeadSpec,
        width: usize,
        norm_eps: f32,
        dropouts: [f32; 2],
        usual: impl FnOnce(usize) -> Self,
    ) -> Self {
        let linear = |name, dropout, dropout_is_module| Self::Linear {
            name,
            linear: Linear::new(width, head.num_labels, true),
            dropout,
            dropout_is_module,
        };
        match (head.kind, head.style) {
            (Head::QuestionAnswering, _) => linear("qa_outputs", dropouts[1], dropouts[1] > 0.0),
            (Head::TokenClassification, _) => linear("classifier", dropouts[0], true),
            (_, HeadStyle::NormDropoutLinear { dropout }) => {
                Self::Classifier(Classifier::Norm(NormDropoutLinear {
                    norm: LayerNorm::new(width, norm_eps),
                    linear: Linear::new(width, head.num_labels, true),
                    dropout,
                }))
            }
            _ => usual(head.num_labels),
        }
    }

    /// The modules that are new for each task.
    pub(super) fn modules(&self) -> Vec<&'static str> {
        match self {
            Self::Linear { name, .. } => vec![name],
            Self::Classifier(_) => vec!["classifier"],
            Self::TwoLayers { .. } => vec!["pre_classifier", "classifier"],
        }
    }

    fn forward(&self, tape: &mut Tape, hidden: &Var) -> Result<Var> {
        match self {
            Self::Linear { linear, dropout, .. } => {
                let hidden = ops::dropout(tape, hidden, *dropout)?;
                linear.forward(tape, &hidden)
            }
            Self::Classifier(Classifier::Roberta(head)) => head.forward(tape, hidden),
            Self::Classifier(Classifier::Norm(head)) => head.forward(tape, hidden),
            Self::TwoLayers { pre_classifier, classifier, dropout } => {
                let inner = pre_classifier.forward(tape, hidden)?;
                let inner = ops::activation(tape, &inner, ops::Activation::Relu)?;
                let inner = ops::dropout(tape, &inner, *dropout)?;
                classifier.forward(tape, &inner)
            }
        }
    }
}

impl Module for Encoder {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.enter(path, &self.info.architecture);
        self.body.module().visit(&join(path, self.info.base_prefix), visitor);
        match &self.head {
            EncoderHead::Linear { name, linear, dropout_is_module, .. } => {
                linear.visit(&join(path, name), visitor);
                if *dropout_is_module {
                    visitor.step(&join(path, "dropout"));
                }
            }
            EncoderHead::Classifier(Classifier::Roberta(head)) => {
                head.visit(&join(path, "classifier"), visitor);
            }
            EncoderHead::Classifier(Classifier::Norm(head)) => head.visit(&join(path, "classifier"), visitor),
            EncoderHead::TwoLayers { pre_classifier, classifier, .. } => {
                pre_classifier.visit(&join(path, "pre_classifier"), visitor);
                classifier.visit(&join(path, "classifier"), visitor);
                visitor.step(&join(path, "dropout"));
            }
        }
        visitor.leave();
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        self.body.module_mut().visit_mut(&join(path, self.info.base_prefix), visitor);
        match &mut self.head {
            EncoderHead::Linear { name, linear, .. } => linear.visit_mut(&join(path, name), visitor),
            EncoderHead::Classifier(Classifier::Roberta(head)) => {
                head.visit_mut(&join(path, "classifier"), visitor);
            }
            EncoderHead::Classifier(Classifier::Norm(head)) => {
                head.visit_mut(&join(path, "classifier"), visitor);
            }
            EncoderHead::TwoLayers { pre_classifier, classifier, .. } => {
                pre_classifier.visit_mut(&join(path, "pre_classifier"), visitor);
                classifier.visit_mut(&join(path, "classifier"), visitor);
            }
        }
    }
}

/// A dense layer with tanh, then the projection to the labels.
#[derive(Debug)]
pub struct RobertaClassificationHead {
    pub(super) dense: Linear,
    pub(super) out_proj: Linear,
    pub(super) dropout: f32,
}

module!(RobertaClassificationHead { "dense" => dense, "out_proj" => out_proj; "dropout" });

impl RobertaClassificationHead {
    fn forward(&self, tape: &mut Tape, first: &Var) -> Result<Var> {
        let first = ops::dropout(tape, first, self.dropout)?;
        let inner = self.dense.forward(tape, &first)?;
        let inner = ops::activation(tape, &inner, ops::Activation::Tanh)?;
        let inner = ops::dropout(tape, &inner, self.dropout)?;
        self.out_proj.forward(tape, &inner)
    }
}

/// Layer norm, dropout and one layer.
#[derive(Debug)]
pub struct NormDropoutLinear {
    norm: LayerNorm,
    linear: Linear,
    dropout: f32,
}

module!(NormDropoutLinear { "norm" => norm, "linear" => linear; "dropout" });

impl NormDropoutLinear {
    fn forward(&self, tape: &mut Tape, first: &Var) -> Result<Var> {
        let normed = self.norm.forward(tape, first)?;
        let normed = ops::dropout(tape, &normed, self.dropout)?;
        self.linear.forward(tape, &normed)
    }
}
