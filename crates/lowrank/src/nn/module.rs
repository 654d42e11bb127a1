//! The tree of layers, declared once for each type of layer.

use super::linear::Role;
use super::{Embedding, LayerNorm, Linear, RmsNorm};
use crate::tape::{AdapterId, Leaf, Parameter};

/// A layer, or a whole model: a tree of named children with parameters at its leaves.
///
/// [`module!`](crate::module) writes the implementation from a list of names and fields. Loading, saving, counting,
/// freezing and finding targets for adapters all walk this tree, so a model of one's own needs nothing else to get
/// LoRA.
pub trait Module {
    /// Shows every child to `visitor`. `path` is this module's name in the model, empty for the model itself.
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>);

    /// As [`Module::visit`], for changes.
    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut);
}

/// What is done at each place of a tree. The defaults go on to what lies below, and do nothing with it.
pub trait Visitor<'a> {
    /// A module that has children begins; `kind` is the name of its type.
    fn enter(&mut self, path: &str, kind: &str) {
        let _ = (path, kind);
    }

    /// The module that began last ends.
    fn leave(&mut self) {}

    /// A linear layer, or the product of a convolution with its windows.
    fn linear(&mut self, path: &str, linear: &'a Linear) {
        for (name, parameter) in linear.parameters() {
            self.parameter(&join(path, name), parameter);
        }
    }

    /// A layer norm.
    fn layer_norm(&mut self, path: &str, norm: &'a LayerNorm) {
        self.parameter(&join(path, "weight"), &norm.weight);
        self.parameter(&join(path, "bias"), &norm.bias);
    }

    /// An RMS norm.
    fn rms_norm(&mut self, path: &str, norm: &'a RmsNorm) {
        self.parameter(&join(path, "weight"), &norm.weight);
    }

    /// An embedding.
    fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
        self.parameter(&join(path, "weight"), &embedding.weight);
    }

    /// A module without parameters that the reference has as an object and this program as a step of its parent's
    /// forward pass: dropout, an activation.
    fn step(&mut self, path: &str) {
        let _ = path;
    }

    /// A parameter, of one of the layers above or of a module's own.
    fn parameter(&mut self, path: &str, parameter: &'a Parameter) {
        let _ = (path, parameter);
    }
}

/// As [`Visitor`], for changes.
pub trait VisitorMut {
    /// A linear layer, or the product of a convolution with its windows.
    fn linear(&mut self, path: &str, linear: &mut Linear) {
        for (name, parameter) in linear.parameters_mut() {
            self.parameter(&join(path, name), parameter);
        }
    }

    /// An embedding.
    fn embedding(&mut self, path: &str, embedding: &mut Embedding) {
        self.parameter(&join(path, "weight"), &mut embedding.weight);
    }

    /// A parameter.
    fn parameter(&mut self, path: &str, parameter: &mut Parameter) {
        let _ = (path, parameter);
    }
}

/// `path.name`, or `name` at the root.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Calls `f` with the path of every parameter and the parameter.
pub fn for_each_parameter<'a>(module: &'a dyn Module, f: impl FnMut(&str, &'a Parameter)) {
    struct Each<F>(F);
    impl<'a, F: FnMut(&str, &'a Parameter)> Visitor<'a> for Each<F> {
        fn parameter(&mut self, path: &str, parameter: &'a Parameter) {
            (self.0)(path, parameter);
        }
    }
    module.visit("", &mut Each(f));
}

/// As [`for_each_parameter`], for changes.
pub fn for_each_parameter_mut(module: &mut dyn Module, f: impl FnMut(&str, &mut Parameter)) {
    struct Each<F>(F);
    impl<F: FnMut(&str, &mut Parameter)> VisitorMut for Each<F> {
        fn parameter(&mut self, path: &str, parameter: &mut Parameter) {
            (self.0)(path, parameter);
        }
    }
    module.visit_mut("", &mut Each(f));
}

/// Calls `f` with the path of every linear layer and the layer; of a convolution, with its product.
pub fn for_each_linear<'a>(module: &'a dyn Module, f: impl FnMut(&str, &'a Linear)) {
    struct Each<F>(F);
    impl<'a, F: FnMut(&str, &'a Linear)> Visitor<'a> for Each<F> {
        fn linear(&mut self, path: &str, linear: &'a Linear) {
            (self.0)(path, linear);
        }
    }
    module.visit("", &mut Each(f));
}

/// As [`for_each_linear`], for changes.
pub fn for_each_linear_mut(module: &mut dyn Module, f: impl FnMut(&str, &mut Linear)) {
    struct Each<F>(F);
    impl<F: FnMut(&str, &mut Linear)> VisitorMut for Each<F> {
        fn linear(&mut self, path: &str, linear: &mut Linear) {
            (self.0)(path, linear);
        }
    }
    module.visit_mut("", &mut Each(f));
}

/// Calls `f` with the path of every embedding and the embedding.
pub fn for_each_embedding<'a>(module: &'a dyn Module, f: impl FnMut(&str, &'a Embedding)) {
    struct Each<F>(F);
    impl<'a, F: FnMut(&str, &'a Embedding)> Visitor<'a> for Each<F> {
        fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
            (self.0)(path, embedding);
        }
    }
    module.visit("", &mut Each(f));
}

/// As [`for_each_embedding`], for changes.
pub fn for_each_embedding_mut(module: &mut dyn Module, f: impl FnMut(&str, &mut Embedding)) {
    struct Each<F>(F);
    impl<F: FnMut(&str, &mut Embedding)> VisitorMut for Each<F> {
        fn embedding(&mut self, path: &str, embedding: &mut Embedding) {
            (self.0)(path, embedding);
        }
    }
    module.visit_mut("", &mut Each(f));
}

/// What a module is to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear layer.
    Linear,
    /// A convolution, or a layer that is computed as a linear one over patches and is one to PEFT.
    Convolution,
    /// An embedding.
    Embedding,
    /// An embedding whose rows something else than a lookup reads, so that it cannot be adapted.
    Table,
    /// A container, a norm, or a step without parameters.
    Other,
}

/// Calls `f` with the path and the kind of every module, the root first with an empty path. Experts are parameters there.
///
/// # Source
/// PyTorch's `named_modules` on the same model of Transformers.
pub fn for_each_module(module: &dyn Module, f: impl FnMut(&str, ModuleKind)) {
    struct Each<F>(F);
    impl<'a, F: FnMut(&str, ModuleKind)> Visitor<'a> for Each<F> {
        fn enter(&mut self, path: &str, _: &str) {
            (self.0)(path, ModuleKind::Other);
        }

        fn linear(&mut self, path: &str, linear: &'a Linear) {
            let kind = match linear.role() {
                Role::Expert(_) => return,
                Role::Matrix => ModuleKind::Other,
                Role::Layer if linear.is_convolution() => ModuleKind::Convolution,
                Role::Layer => ModuleKind::Linear,
            };
            (self.0)(path, kind);
        }

        fn layer_norm(&mut self, path: &str, _: &'a LayerNorm) {
            (self.0)(path, ModuleKind::Other);
        }

        fn rms_norm(&mut self, path: &str, _: &'a RmsNorm) {
            (self.0)(path, ModuleKind::Other);
        }

        fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
            let kind = if embedding.is_adaptable() { ModuleKind::Embedding } else { ModuleKind::Table };
            (self.0)(path, kind);
        }

        fn step(&mut self, path: &str) {
            (self.0)(path, ModuleKind::Other);
        }
    }
    module.visit("", &mut Each(f));
}

/// Calls `f` with every tensor: its path, the adapter that brought it along (none: it is the base model's), and
/// itself. Low-rank pairs are `lora_A.weight` and `lora_B.weight` (and `lora_B.bias`) below their layer,
/// `lora_embedding_A` and `lora_embedding_B` below an embedding, and `lora_magnitude_vector` below either; single rows are
/// `token_adapter.trainable_tokens_delta` below their table; what replaces a value of the base model has the path of that.
pub fn for_each_leaf_mut(module: &mut dyn Module, f: impl FnMut(&str, Option<AdapterId>, &mut Leaf)) {
    struct Leaves<F>(F);
    impl<F: FnMut(&str, Option<AdapterId>, &mut Leaf)> VisitorMut for Leaves<F> {
        fn linear(&mut self, path: &str, linear: &mut Linear) {
            for lora in &mut linear.lora {
                let adapter = lora.adapter;
                lora.leaves_mut(false)
                    .for_each(|(name, leaf)| (self.0)(&join(path, name), Some(adapter), leaf));
            }
            for (name, parameter) in linear.parameters_mut() {
                self.parameter(&join(path, name), parameter);
            }
        }

        fn embedding(&mut self, path: &str, embedding: &mut Embedding) {
            for lora in &mut embedding.lora {
                let adapter = lora.adapter;
                lora.leaves_mut(true)
                    .for_each(|(name, leaf)| (self.0)(&join(path, name), Some(adapter), leaf));
            }
            self.parameter(&join(path, "weight"), &mut embedding.weight);
        }

        fn parameter(&mut self, path: &str, parameter: &mut Parameter) {
            parameter.owned_leaves_mut().for_each(|(adapter, leaf)| (self.0)(path, adapter, leaf));
            for (adapter, rows) in parameter.rows_mut() {
                (self.0)(&rows_name(path), Some(adapter), &mut rows.values);
            }
        }
    }
    module.visit_mut("", &mut Leaves(f));
}

/// The name of the rows that an adapter has for the table at `path`.
pub(crate) fn rows_name(path: &str) -> String {
    join(path.strip_suffix(".weight").unwrap_or(path), "token_adapter.trainable_tokens_delta")
}

/// Calls `f` with the name and the tensor of everything that is trained: low-rank pairs, values that an adapter
/// brought along, and the base model's own in full training.
///
/// No two have the same name: a path is the name for the base model and for the adapter 0, and what another adapter
/// brought along has its number before the last part, as `query.lora_A.1.weight`.
pub fn for_each_trained_mut(module: &mut dyn Module, mut f: impl FnMut(&str, &mut Leaf)) {
    let mut base = String::new();
    for_each_leaf_mut(module, |path, adapter, leaf| match adapter {
        _ if !leaf.is_trainable() => {}
        None => {
            base.replace_range(.., path);
            f(path, leaf);
        }
        // Unless the base model's value is trained beside the one in its place.
        Some(AdapterId(0)) if base != path => f(path, leaf),
        Some(AdapterId(number)) => {
            let (module, own) = path.rsplit_once('.').unwrap_or(("", path));
            f(&join(&join(module, &number.to_string()), own), leaf);
        }
    });
}

/// Calls `f` with the path and the tensor of everything that a batch under `adapter` reads.
pub fn for_each_active<'a>(
    module: &'a dyn Module,
    adapter: Option<AdapterId>,
    f: impl FnMut(&str, &'a Leaf),
) {
    struct Active<F>(Option<AdapterId>, F);
    impl<'a, F: FnMut(&str, &'a Leaf)> Visitor<'a> for Active<F> {
        fn linear(&mut self, path: &str, linear: &'a Linear) {
            for lora in linear.lora.iter().filter(|lora| Some(lora.adapter) == self.0) {
                lora.leaves().for_each(|(name, leaf)| (self.1)(&join(path, name), leaf));
            }
            for (name, parameter) in linear.parameters() {
                self.parameter(&join(path, name), parameter);
            }
        }

        fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
            for lora in embedding.lora.iter().filter(|lora| Some(lora.adapter) == self.0) {
                lora.embedding_leaves().for_each(|(name, leaf)| (self.1)(&join(path, name), leaf));
            }
            self.parameter(&join(path, "weight"), &embedding.weight);
        }

        fn parameter(&mut self, path: &str, parameter: &'a Parameter) {
            if let Ok(leaf) = parameter.active(self.0) {
                (self.1)(path, leaf);
            }
            if let Some(rows) = self.0.and_then(|adapter| parameter.rows(adapter)) {
                (self.1)(&rows_name(path), &rows.values);
            }
        }
    }
    module.visit("", &mut Active(adapter, f));
}

/// Gives every parameter the name that its place in the model has. A model's constructor ends with this.
pub fn assign_names(module: &mut dyn Module) {
    for_each_parameter_mut(module, |path, parameter| parameter.set_name(path));
}

impl Module for Parameter {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.parameter(path, self);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        visitor.parameter(path, self);
    }
}

impl<M: Module> Module for Option<M> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        self.iter().for_each(|module| module.visit(path, visitor));
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        self.iter_mut().for_each(|module| module.visit_mut(path, visitor));
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut dyn Visitor<'a>) {
        visitor.enter(path, "ModuleList");
        for (index, module) in self.iter().enumerate() {
            module.visit(&join(path, &index.to_string()), visitor);
        }
        visitor.leave();
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn VisitorMut) {
        for (index, module) in self.iter_mut().enumerate() {
            module.visit_mut(&join(path, &index.to_string()), visitor);
        }
    }
}

/// Implements [`Module`](crate::nn::Module) for a struct: the checkpoint's name of each child, and its field.
///
/// ```
/// use lowrank::nn::Linear;
///
/// struct Mlp {
///     up: Linear,
///     down: Linear,
/// }
///
/// lowrank::module!(Mlp { "up" => up, "down" => down });
/// ```
///
/// Modules of the reference that have no parameters and are no fields here are named at the end, so that a pattern
/// over names means the same in both: `module!(Mlp { "up" => up, "down" => down; "dropout" })`.
#[macro_export]
macro_rules! module {
    ($type:ident { $($name:literal => $field:ident),* $(,)? $(; $($step:literal),+)? }) => {
        impl $crate::nn::Module for $type {
            fn visit<'a>(&'a self, path: &str, visitor: &mut dyn $crate::nn::Visitor<'a>) {
                visitor.enter(path, stringify!($type));
                $($crate::nn::Module::visit(&self.$field, &$crate::nn::join(path, $name), visitor);)*
                $($(visitor.step(&$crate::nn::join(path, $step));)+)?
                visitor.leave();
            }

            fn visit_mut(&mut self, path: &str, visitor: &mut dyn $crate::nn::VisitorMut) {
                $($crate::nn::Module::visit_mut(&mut self.$field, &$crate::nn::join(path, $name), visitor);)*
            }
        }
    };
}
