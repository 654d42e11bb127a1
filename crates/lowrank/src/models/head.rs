//! What a model's outputs are for.

/// What a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// A class or a number for each sequence.
    SequenceClassification,
    /// A class for each token.
    TokenClassification,
    /// Where an answer begins and ends.
    QuestionAnswering,
    /// A class for each image.
    ImageClassification,
    /// The next token.
    CausalLm,
    /// The next token of an answer to another text.
    Seq2SeqLm,
}

impl Head {
    const ALL: [Self; 6] = [
        Self::SequenceClassification,
        Self::TokenClassification,
        Self::QuestionAnswering,
        Self::ImageClassification,
        Self::CausalLm,
        Self::Seq2SeqLm,
    ];

    /// Its name in an error.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SequenceClassification => "sequence classification",
            Self::TokenClassification => "token classification",
            Self::QuestionAnswering => "question answering",
            Self::ImageClassification => "image classification",
            Self::CausalLm => "causal language modelling",
            Self::Seq2SeqLm => "sequence-to-sequence language modelling",
        }
    }

    /// PEFT's `task_type`; images have none there.
    pub fn peft_task_type(self) -> Option<&'static str> {
        match self {
            Self::SequenceClassification => Some("SEQ_CLS"),
            Self::TokenClassification => Some("TOKEN_CLS"),
            Self::QuestionAnswering => Some("QUESTION_ANS"),
            Self::ImageClassification => None,
            Self::CausalLm => Some("CAUSAL_LM"),
            Self::Seq2SeqLm => Some("SEQ_2_SEQ_LM"),
        }
    }

    /// The head that PEFT's `task_type` names.
    pub fn from_peft_task_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|head| head.peft_task_type() == Some(name))
    }

    /// The head of a class of Transformers.
    pub fn from_class(name: &str) -> Option<Self> {
        let endings = [
            ("ForSequenceClassification", Self::SequenceClassification),
            ("ForTokenClassification", Self::TokenClassification),
            ("ForQuestionAnswering", Self::QuestionAnswering),
            ("ForImageClassification", Self::ImageClassification),
            ("ForConditionalGeneration", Self::Seq2SeqLm),
            ("ForCausalLM", Self::CausalLm),
            ("GPT2LMHeadModel", Self::CausalLm),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, head)| head)
    }

    /// Whether there are outputs for each token, not for each sequence.
    pub fn is_on_tokens(self) -> bool {
        !matches!(self, Self::SequenceClassification | Self::ImageClassification)
    }

    /// Whether the outputs are the vocabulary's.
    pub fn is_language_model(self) -> bool {
        matches!(self, Self::CausalLm | Self::Seq2SeqLm)
    }

    /// Whether it is new for each task, and saved with an adapter.
    pub fn is_new(self) -> bool {
        !self.is_language_model()
    }
}

/// A head to be built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// What it predicts.
    pub kind: Head,
    /// The number of its outputs; language models have their vocabulary's.
    pub num_labels: usize,
    /// Of what layers.
    pub style: HeadStyle,
}

impl HeadSpec {
    /// Transformers' own head.
    pub fn new(kind: Head, num_labels: usize) -> Self {
        let num_labels = if kind == Head::QuestionAnswering { 2 } else { num_labels };
        Self { kind, num_labels, style: HeadStyle::Default }
    }

    /// The class in Transformers that has this head, of the family whose classes begin with `family`.
    pub(super) fn class(&self, family: &str) -> String {
        let ending = match self.kind {
            Head::SequenceClassification => "ForSequenceClassification",
            Head::TokenClassification => "ForTokenClassification",
            Head::QuestionAnswering => "ForQuestionAnswering",
            Head::ImageClassification => "ForImageClassification",
            Head::CausalLm if family == "GPT2" => "LMHeadModel",
            Head::CausalLm => "ForCausalLM",
            Head::Seq2SeqLm => "ForConditionalGeneration",
        };
        format!("{family}{ending}")
    }

    /// Transformers' own head for `num_labels` classes of sequences (1: a number).
    pub fn classes(num_labels: usize) -> Self {
        Self::new(Head::SequenceClassification, num_labels)
    }
}

/// The layers of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum HeadStyle {
    /// As Transformers has them for the architecture.
    #[default]
    Default,
    /// Layer norm, dropout and a linear layer on the first token.
    NormDropoutLinear {
        /// The dropout's probability.
        dropout: f32,
    },
}

impl HeadStyle {
    /// The style that weights of these names are of, where they tell; dropout leaves none.
    pub fn of_tensors(has: impl Fn(&str) -> bool) -> Option<Self> {
        let both = ["classifier.norm.weight", "classifier.linear.weight"].into_iter().all(has);
        both.then_some(Self::NormDropoutLinear { dropout: 0.0 })
    }
}
