//! The tree of layers, declared once for each type of layer.

use super::{Embedding, LayerNorm, Linear};
use crate::tape::{Leaf, Parameter};

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
    fn enter(&mut self, path: &str, kind: &'static str) {
        let _ = (path, kind);
    }

    /// The module that began last ends.
    fn leave(&mut self) {}

    /// A linear layer.
    fn linear(&mut self, path: &str, linear: &'a Linear) {
        self.parameter(&join(path, "weight"), &linear.weight);
        if let Some(bias) = &linear.bias {
            self.parameter(&join(path, "bias"), bias);
        }
    }

    /// A layer norm.
    fn layer_norm(&mut self, path: &str, norm: &'a LayerNorm) {
        self.parameter(&join(path, "weight"), &norm.weight);
        self.parameter(&join(path, "bias"), &norm.bias);
    }

    /// An embedding.
    fn embedding(&mut self, path: &str, embedding: &'a Embedding) {
        self.parameter(&join(path, "weight"), &embedding.weight);
    }

    /// A parameter, of one of the layers above or of a module's own.
    fn parameter(&mut self, path: &str, parameter: &'a Parameter) {
        let _ = (path, parameter);
    }
}

/// As [`Visitor`], for changes.
pub trait VisitorMut {
    /// A linear layer.
    fn linear(&mut self, path: &str, linear: &mut Linear) {
        self.parameter(&join(path, "weight"), &mut linear.weight);
        if let Some(bias) = &mut linear.bias {
            self.parameter(&join(path, "bias"), bias);
        }
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

/// Calls `f` with the path of every linear layer and the layer.
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

/// Calls `f` with the name and the tensor of everything that is trained: low-rank pairs, values that an adapter
/// brought along, and the base model's own in full training.
pub fn for_each_trained_mut(module: &mut dyn Module, f: impl FnMut(&str, &mut Leaf)) {
    struct Trained<F>(F);
    impl<F: FnMut(&str, &mut Leaf)> VisitorMut for Trained<F> {
        fn linear(&mut self, path: &str, linear: &mut Linear) {
            for lora in &mut linear.lora {
                for (name, leaf) in [("lora_A.weight", &mut lora.a), ("lora_B.weight", &mut lora.b)] {
                    if leaf.is_trainable() {
                        (self.0)(&join(path, name), leaf);
                    }
                }
            }
            self.parameter(&join(path, "weight"), &mut linear.weight);
            if let Some(bias) = &mut linear.bias {
                self.parameter(&join(path, "bias"), bias);
            }
        }

        fn parameter(&mut self, path: &str, parameter: &mut Parameter) {
            parameter.leaves_mut().filter(|leaf| leaf.is_trainable()).for_each(|leaf| (self.0)(path, leaf));
        }
    }
    module.visit_mut("", &mut Trained(f));
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
#[macro_export]
macro_rules! module {
    ($type:ident { $($name:literal => $field:ident),* $(,)? }) => {
        impl $crate::nn::Module for $type {
            fn visit<'a>(&'a self, path: &str, visitor: &mut dyn $crate::nn::Visitor<'a>) {
                visitor.enter(path, stringify!($type));
                $($crate::nn::Module::visit(&self.$field, &$crate::nn::join(path, $name), visitor);)*
                visitor.leave();
            }

            fn visit_mut(&mut self, path: &str, visitor: &mut dyn $crate::nn::VisitorMut) {
                $($crate::nn::Module::visit_mut(&mut self.$field, &$crate::nn::join(path, $name), visitor);)*
            }
        }
    };
}
