//! The module tree as text, before an adapter and with it.

use std::fmt;

use super::attach::Plan;
use super::experts::Factor;
use super::layers::Adapted;
use crate::nn::{Embedding, Expert, LayerNorm, Linear, Module, RmsNorm, Role, Visitor};
use crate::tape::Parameter;
use crate::tensor::Shape;

/// A module tree with the shape of every tensor, and what becomes of it in training. Shapes are enough to make one.
///
/// Its text is indented as PyTorch prints a model; neighbours in a list that are alike are printed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Node,
}

/// What becomes of a tensor in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Frozen,
    Trained,
}

/// A module or layer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    name: String,
    kind: String,
    tensors: Vec<Tensor>,
    children: Vec<Node>,
    adapted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tensor {
    name: &'static str,
    shape: Shape,
    /// Absent before there is an adapter.
    mark: Option<Mark>,
}

impl Tree {
    /// The tree of a model as it is.
    pub fn of_base(model: &dyn Module) -> Self {
        Self::build(model, None)
    }

    /// The tree with the adapter that `plan` describes.
    pub fn with_adapter(model: &dyn Module, plan: &Plan) -> Self {
        Self::build(model, Some(plan))
    }

    fn build(model: &dyn Module, plan: Option<&Plan>) -> Self {
        let mut builder = Builder { plan, open: vec![Node::new("", "")] };
        model.visit("", &mut builder);
        // A model is one module, or a lone layer.
        let root = builder.open.pop().and_then(|mut top| top.children.pop());
        Self { root: root.unwrap_or_else(|| Node::new("", "")) }
    }
}

struct Builder<'p> {
    plan: Option<&'p Plan>,
    /// The modules that have begun, the innermost last; the first holds the root.
    open: Vec<Node>,
}

impl Builder<'_> {
    fn tensor(&self, path: &str, name: &'static str, shape: Shape) -> Tensor {
        let mark = self.plan.map(|plan| {
            let trained = plan.replaced.iter().any(|other| is_joined(other, path, name));
            if trained { Mark::Trained } else { Mark::Frozen }
        });
        Tensor { name, shape, mark }
    }

    fn layer(&mut self, path: &str, kind: &str, tensors: &[(&'static str, &Parameter)]) {
        let tensors = tensors.iter().map(|(name, tensor)| self.tensor(path, name, tensor.shape())).collect();
        self.push(Node { tensors, ..Node::new(last(path), kind) });
    }

    /// Of the layers of experts, the first stands for all, which are one parameter.
    fn expert(&mut self, path: &str, linear: &Linear, Expert { number, of }: Expert) {
        if number > 0 {
            return;
        }
        let (inputs, outputs) = (linear.inputs(), linear.outputs());
        let mut node = Node::new(path.rsplit('.').nth(1).unwrap_or(path), "Parameter");
        node.tensors.push(Tensor { name: "", ..self.tensor(path, "weight", [of, outputs, inputs].into()) });
        if let Some(Adapted { r, .. }) = self.plan.and_then(|plan| plan.linear(path)) {
            node.adapted = true;
            for (name, factor, own) in
                [("lora_A", Factor::A, [*r, inputs]), ("lora_B", Factor::B, [outputs, *r])]
            {
                let shape = factor.stacked_shape(own, of).into();
                let tensors = vec![Tensor { name: "weight", shape, mark: Some(Mark::Trained) }];
                node.children.push(Node { tensors, ..Node::new(name, "Linear") });
            }
        }
        self.push(node);
    }

    fn push(&mut self, node: Node) {
        if let Some(parent) = self.open.last_mut() {
            parent.children.push(node);
        }
    }
}

impl<'a> Visitor<'a> for Builder<'_> {
    fn enter(&mut self, path: &str, kind: &str) {
        self.open.push(Node::new(last(path), kind));
    }

    fn leave(&mut self) {
        if let Some(node) = self.open.pop() {
            self.push(node);
        }
    }

    fn linear(&mut self, path: &str, linear: &'a Linear) {
        if let Role::Expert(expert) = linear.role() {
            return self.expert(path, linear, expert);
        }
        let kind = match linear.weight.file_shape().rank() {
            4 => "Conv2d",
            3 => "Conv1d",
            _ => "Linear",
        };
        let in_file = linear.is_convolution().then(|| linear.weight.file_shape());
        let mut node = Node::new(last(path), kind);
        node.tensors.push(self.tensor(path, "weight", in_file.unwrap_or(linear.weight.shape())));
        if let Some(bias) = &linear.bias {
            node.tensors.push(self.tensor(path, "bias", bias.shape()));
        }
        if let Some(&Adapted { r, lora_bias, use_dora, .. }) = self.plan.and_then(|plan| plan.linear(path)) {
            node.adapted = true;
            let of_output = [linear.outputs(), r / linear.groups()];
            for (name, shape) in [("lora_A", [r, linear.inputs()]), ("lora_B", of_output)] {
                let trained = |name, shape| Tensor { name, shape, mark: Some(Mark::Trained) };
                let shape = linear.shape_in_file(&format!("{name}.weight"), shape.into());
                let mut tensors = vec![trained("weight", shape)];
                if lora_bias && name == "lora_B" {
                    tensors.push(trained("bias", [linear.outputs()].into()));
                }
                node.children.push(Node { tensors, ..Node::new(name, kind) });
            }
            let magnitude = || linear.shape_in_file("lora_magnitude_vector", [linear.outputs()].into());
            node.children.extend(use_dora.then(|| Node::magnitude(magnitude())));
        }
        self.push(node);
    }

    fn layer_norm(&mut self, path: &str, norm: &'a LayerNorm) {
        self.layer(path, "LayerNorm", &[("weight", &norm.weight), ("bias", &norm.bias)]);
    }

    fn rms_norm(&mut self, path: &str, norm: &'a RmsNorm) {
        self.layer(path, "RMSNorm", &[("weight", &norm.weight)]);
    }

    fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
        let mut node = Node::new(last(path), "Embedding");
        node.tensors.push(self.tensor(path, "weight", embedding.weight.shape()));
        if let Some(&Adapted { r, use_dora, .. }) = self.plan.and_then(|plan| plan.embedding(path)) {
            node.adapted = true;
            for (name, shape) in
                [("lora_embedding_A", [r, embedding.entries()]), ("lora_embedding_B", [embedding.width(), r])]
            {
                node.children.push(Node::trained_parameter(name, shape.into()));
            }
            node.children.extend(use_dora.then(|| Node::magnitude([embedding.width()].into())));
        }
        if let Some(tokens) = self.plan.and_then(|plan| plan.tokens(&crate::nn::join(path, "weight"))) {
            let shape = [tokens.indices.len(), tokens.width].into();
            node.adapted = true;
            node.children.push(Node::trained_parameter("token_adapter", shape));
        }
        self.push(node);
    }

    fn parameter(&mut self, path: &str, parameter: &'a Parameter) {
        let trained = self.plan.map(|plan| plan.replaced.iter().any(|other| other == path));
        let mark = trained.map(|trained| if trained { Mark::Trained } else { Mark::Frozen });
        let tensor = Tensor { name: "", shape: parameter.shape(), mark };
        self.push(Node { tensors: vec![tensor], ..Node::new(last(path), "Parameter") });
    }
}

impl Node {
    fn new(name: &str, kind: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            tensors: Vec::new(),
            children: Vec::new(),
            adapted: false,
        }
    }

    fn trained_parameter(name: &str, shape: Shape) -> Self {
        let tensor = Tensor { name: "", shape, mark: Some(Mark::Trained) };
        Self { tensors: vec![tensor], ..Self::new(name, "Parameter") }
    }

    fn magnitude(shape: Shape) -> Self {
        Self::trained_parameter("lora_magnitude_vector", shape)
    }

    /// Whether the two are the same but for their names.
    fn is_like(&self, other: &Self) -> bool {
        (&self.kind, &self.tensors, &self.children) == (&other.kind, &other.tensors, &other.children)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize, label: &str) -> fmt::Result {
        write!(f, "{:indent$}{label}{}", "", self.kind)?;
        if !self.tensors.is_empty() {
            let shapes: Vec<String> = self.tensors.iter().map(Tensor::to_string).collect();
            write!(f, "({})", shapes.join(", "))?;
        }
        if let Some(marks) = self.marks() {
            write!(f, "  {marks}")?;
        }
        writeln!(f)?;
        for (first, count) in groups(&self.children) {
            let child = &self.children[first];
            let label = match count {
                1 => format!("({}): ", child.name),
                _ => format!("({}-{}): {count} x ", child.name, self.children[first + count - 1].name),
            };
            child.write(f, indent + 2, &label)?;
        }
        Ok(())
    }

    /// `adapted`, `trained` or `frozen`; where the tensors differ, those that are trained by name.
    fn marks(&self) -> Option<String> {
        let trained: Vec<&str> = self
            .tensors
            .iter()
            .filter(|tensor| tensor.mark == Some(Mark::Trained))
            .map(|tensor| tensor.name)
            .collect();
        self.tensors.first()?.mark?;
        let base = if self.adapted { "adapted" } else { "frozen" };
        Some(match trained.len() {
            0 => base.to_owned(),
            all if all == self.tensors.len() => "trained".to_owned(),
            _ => format!("{base}, {} trained", trained.join(" and ")),
        })
    }
}

/// The first index and the length of each run of children that are alike and numbered.
fn groups(children: &[Node]) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for (index, child) in children.iter().enumerate() {
        let numbered = child.name.bytes().all(|byte| byte.is_ascii_digit());
        match groups.last_mut() {
            Some((first, count)) if numbered && children[*first].is_like(child) => *count += 1,
            _ => groups.push((index, 1)),
        }
    }
    groups
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether `full` is `path.name`.
fn is_joined(full: &str, path: &str, name: &str) -> bool {
    full.strip_suffix(name).is_some_and(|rest| rest.strip_suffix('.').unwrap_or(rest) == path)
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{} ", self.name)?;
        }
        write!(f, "{}", self.shape)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.write(f, 0, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{LoraConfig, Targets, plan};
    use crate::models::{HeadSpec, ModelConfig, from_config};

    fn model() -> Box<dyn crate::models::Model> {
        let config = serde_json::json!({
            "model_type": "bert", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 3,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12,
        });
        from_config(&ModelConfig::from_json(&config).unwrap(), HeadSpec::classes(2)).unwrap()
    }

    const BEFORE: &str = "\
BertForSequenceClassification
  (bert): BertModel
    (embeddings): BertEmbeddings
      (word_embeddings): Embedding(weight [30, 8])
      (position_embeddings): Embedding(weight [12, 8])
      (token_type_embeddings): Embedding(weight [2, 8])
      (LayerNorm): LayerNorm(weight [8], bias [8])
    (encoder): BertEncoder
      (layer): ModuleList
        (0-2): 3 x BertLayer
          (attention): BertAttention
            (self): BertSelfAttention
              (query): Linear(weight [8, 8], bias [8])
              (key): Linear(weight [8, 8], bias [8])
              (value): Linear(weight [8, 8], bias [8])
            (output): BertOutput
              (dense): Linear(weight [8, 8], bias [8])
              (LayerNorm): LayerNorm(weight [8], bias [8])
          (intermediate): BertIntermediate
            (dense): Linear(weight [16, 8], bias [16])
          (output): BertOutput
            (dense): Linear(weight [8, 16], bias [8])
            (LayerNorm): LayerNorm(weight [8], bias [8])
    (pooler): BertPooler
      (dense): Linear(weight [8, 8], bias [8])
  (classifier): Linear(weight [2, 8], bias [2])
";

    #[test]
    fn layers_that_are_alike_are_printed_once() {
        assert_eq!(Tree::of_base(&*model()).to_string(), BEFORE);
    }

    #[test]
    fn an_adapted_embedding_shows_its_pair() {
        let model = model();
        let target_modules = Some(Targets::Names(vec!["word_embeddings".into(), "query".into()]));
        let config = LoraConfig { r: 4, target_modules, ..LoraConfig::default() };
        let plan = plan(&*model, model.info(), &config).unwrap();
        let text = Tree::with_adapter(&*model, &plan).to_string();
        let shown = "\
      (word_embeddings): Embedding(weight [30, 8])  adapted
        (lora_embedding_A): Parameter([4, 30])  trained
        (lora_embedding_B): Parameter([8, 4])  trained
      (position_embeddings): Embedding(weight [12, 8])  frozen
";
        assert!(text.contains(shown), "{shown} in\n{text}");
    }

    #[test]
    fn experts_are_one_parameter_with_one_pair() {
        let config = serde_json::json!({
            "model_type": "mixtral", "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6,
            "num_local_experts": 3, "num_experts_per_tok": 2,
        });
        let config = ModelConfig::from_json(&config).unwrap();
        let model = from_config(&config, HeadSpec::new(crate::models::Head::CausalLm, 0)).unwrap();
        let target_parameters = vec!["experts.gate_up_proj".into()];
        let config = LoraConfig { r: 2, target_parameters, ..LoraConfig::default() };
        let text = Tree::with_adapter(&*model, &plan(&*model, model.info(), &config).unwrap()).to_string();
        let shown = "\
        (mlp): SparseMoe
          (gate): Linear(weight [3, 8])  frozen
          (experts): Experts
            (gate_up_proj): Parameter([3, 12, 8])  adapted
              (lora_A): Linear(weight [6, 8])  trained
              (lora_B): Linear(weight [12, 6])  trained
            (down_proj): Parameter([3, 8, 6])  frozen
";
        assert!(text.contains(shown), "{shown} in\n{text}");
    }

    #[test]
    fn an_adapter_marks_what_is_adapted_trained_and_frozen() {
        let model = model();
        let config = LoraConfig {
            r: 4,
            target_modules: Some(Targets::Pattern(r".*layer\.[01]\..*query".into())),
            bias: crate::adapter::Bias::LoraOnly,
            ..LoraConfig::default()
        };
        let plan = plan(&*model, model.info(), &config).unwrap();
        let text = Tree::with_adapter(&*model, &plan).to_string();
        for line in [
            "        (0-1): 2 x BertLayer\n",
            "        (2): BertLayer\n",
            "              (query): Linear(weight [8, 8], bias [8])  adapted, bias trained\n",
            "                (lora_A): Linear(weight [4, 8])  trained\n",
            "                (lora_B): Linear(weight [8, 4])  trained\n",
            "              (key): Linear(weight [8, 8], bias [8])  frozen\n",
            "  (classifier): Linear(weight [2, 8], bias [2])  trained\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert_eq!(text.matches("lora_A").count(), 1, "both adapted layers are one line");
    }
}
