//! A short tape of coarse operations.
//!
//! A model's forward pass calls the functions of [`ops`] with a [`Tape`]; each records what its backward needs, but
//! only if something that it read is trained. Gradients of parameters accumulate (over micro-batches, too);
//! gradients of activations are assigned at their first use and added to after it.

mod checkpoint;
mod gradients;
mod key_values;
mod layout;
mod leaf;
mod lora;
mod operand;
pub mod ops;
mod parameter;
mod token_rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lowrank_kernels::attention::AttentionDropout;
use lowrank_kernels::dropout::{Dropout, DropoutKey};
use lowrank_kernels::{Compute, elementwise};

use checkpoint::Checkpoint;
use gradients::Activations;
pub use gradients::Gradients;
pub use key_values::KeyValues;
pub(crate) use layout::offsets_of;
pub use layout::{AdapterId, Layout};
pub use leaf::{Leaf, LeafId};
pub use lora::{Initial, Lora, Magnitude};
pub(crate) use operand::{Operand, Queue};
pub use parameter::{Form, Parameter};
pub use token_rows::TokenRows;

use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The place of a recorded value on its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VarId {
    tape: u64,
    place: usize,
}

/// A value of the forward pass: rows, and which sequences they belong to.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    layout: Arc<Layout>,
    id: Option<VarId>,
}

impl Var {
    /// A value that needs no gradient.
    pub fn constant(value: Tensor, layout: Arc<Layout>) -> Self {
        Self { value, layout, id: None }
    }

    /// The rows.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The type of the rows and of the operands of what reads them.
    pub fn compute(&self) -> Compute {
        self.value.dtype().into()
    }

    /// Which sequence each row belongs to.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether something below this value is trained.
    pub fn needs_gradient(&self) -> bool {
        self.id.is_some()
    }
}

/// What an operation leaves behind for its backward pass.
pub(crate) trait Backward: Send {
    /// Turns the gradient of the operation's output into those of its inputs and parameters.
    fn backward(self: Box<Self>, output: Tensor, activations: &mut Activations, gradients: &mut Gradients);
}

struct Node<'m> {
    output: VarId,
    operation: Operation<'m>,
}

/// How backward goes past a node.
enum Operation<'m> {
    /// From what the forward pass left.
    Recorded(Box<dyn Backward>),
    /// By running a part of the model again.
    Again(Checkpoint<'m>),
}

/// What the output of an operation is called in an error.
pub(crate) enum Named {
    /// That of a module, which is named.
    Module(String),
    /// That of an operation without parameters: it is placed by the module before it.
    After(String),
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing is recorded.
    Inference,
    /// Recorded, without dropout.
    Evaluation,
    /// Recorded, with dropout keyed by these numbers.
    Training { seed: u64, step: u64 },
}

/// The record of one forward pass, of a model that lives for `'m`.
pub struct Tape<'m> {
    compute: Compute,
    mode: Mode,
    /// Which tape it is.
    number: u64,
    nodes: Vec<Node<'m>>,
    variables: usize,
    sites: u32,
    checked: bool,
    checkpointing: bool,
    /// On a checked tape, the module that was computed last.
    module: String,
    /// What is shown the inputs of linear layers.
    watcher: Option<Watcher>,
    choices: Choices,
}

/// The experts that rows go to.
enum Choices {
    /// Those of the largest logits.
    Free,
    /// The same, and they are noted.
    Noted(Vec<Arc<[usize]>>),
    /// Those of another pass, the next one's last.
    Repeated(Vec<Arc<[usize]>>),
}

/// Is given the name of a weight and the rows that it multiplies.
type Watcher = Box<dyn FnMut(&str, &Tensor) + Send>;

impl<'m> Tape<'m> {
    fn new(compute: Compute, mode: Mode) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            compute,
            mode,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            nodes: Vec::new(),
            variables: 0,
            sites: 0,
            checked: false,
            checkpointing: false,
            module: String::new(),
            watcher: None,
            choices: Choices::Free,
        }
    }

    /// A tape that records nothing: for prediction.
    pub fn inference(compute: Compute) -> Self {
        Self::new(compute, Mode::Inference)
    }

    /// A tape that records, with dropout off: for gradients of the model as it is evaluated.
    pub fn evaluation(compute: Compute) -> Self {
        Self::new(compute, Mode::Evaluation)
    }

    /// A tape that records, with dropout masks that are a function of `seed`, `step` and the example.
    pub fn training(compute: Compute, seed: u64, step: u64) -> Self {
        Self::new(compute, Mode::Training { seed, step })
    }

    /// Makes every operation look at its output and fail at the first that is not finite.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checked = true;
        self
    }

    /// Shows `watcher` the name of each linear layer's weight, and the rows that it multiplies: `[tokens, inputs]`. Experts,
    /// which read rows of their own, are not shown.
    #[must_use]
    pub fn watched(mut self, watcher: impl FnMut(&str, &Tensor) + Send + 'static) -> Self {
        self.watcher = Some(Box::new(watcher));
        self
    }

    /// Notes which experts rows go to.
    #[must_use]
    pub fn noting_choices(mut self) -> Self {
        self.choices = Choices::Noted(Vec::new());
        self
    }

    /// The experts that rows went to, one list for each mixture, if they are noted.
    pub fn into_choices(self) -> Vec<Arc<[usize]>> {
        if let Choices::Noted(choices) = self.choices { choices } else { Vec::new() }
    }

    /// Sends rows to the experts of another pass over the same rows, whatever their logits: two models of which one is
    /// rounded can be compared, where a row whose experts are nearly equal would go to others.
    #[must_use]
    pub fn repeating_choices(mut self, choices: &[Arc<[usize]>]) -> Self {
        self.choices = Choices::Repeated(choices.iter().rev().cloned().collect());
        self
    }

    /// So many experts, none beyond `experts`: what `choose` gives, or those of another pass.
    pub(crate) fn chosen(
        &mut self,
        count: usize,
        experts: usize,
        choose: impl FnOnce() -> Arc<[usize]>,
    ) -> Result<Arc<[usize]>> {
        match &mut self.choices {
            Choices::Free => Ok(choose()),
            Choices::Noted(noted) => {
                noted.push(choose());
                Ok(Arc::clone(&noted[noted.len() - 1]))
            }
            Choices::Repeated(rest) => rest
                .pop()
                .filter(|chosen| chosen.len() == count && chosen.iter().all(|expert| *expert < experts))
                .ok_or_else(|| {
                    Error::Usage("the choices of experts are those of another batch or model".into())
                }),
        }
    }

    /// Shows the rows that a weight multiplies, if somebody watches.
    pub(crate) fn show(&mut self, weight: &str, rows: &Tensor) {
        if let Some(watcher) = &mut self.watcher {
            watcher(weight, rows);
        }
    }

    /// The type of the rows that embeddings make; other operations keep the type of their input.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// How many operations are recorded.
    pub fn recorded(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.mode != Mode::Inference
    }

    /// The next dropout site of this forward pass. Sites are numbered whether they drop or not.
    pub(crate) fn dropout_site(&mut self, probability: f32) -> Option<DropoutSite> {
        let site = self.sites;
        self.sites += 1;
        match self.mode {
            Mode::Training { seed, step } if probability > 0.0 => {
                Some(DropoutSite { probability, key: DropoutKey { seed, step, site } })
            }
            _ => None,
        }
    }

    /// Ends an operation: names its output for error messages, and records its backward where there is one.
    pub(crate) fn finish(
        &mut self,
        name: impl FnOnce() -> Named,
        value: Tensor,
        layout: &Arc<Layout>,
        backward: Option<Box<dyn Backward>>,
    ) -> Result<Var> {
        if self.checked {
            let tensor = match name() {
                Named::Module(module) => {
                    self.module = module;
                    format!("the output of {}", self.module)
                }
                Named::After(what) if self.module.is_empty() => what,
                Named::After(what) => format!("{what} (after {})", self.module),
            };
            if !is_finite(&value) {
                return Err(Error::NotFinite { step: 0, tensor, advice: String::new() });
            }
        }
        let id = backward.map(|operation| {
            let output = self.variable();
            self.nodes.push(Node { output, operation: Operation::Recorded(operation) });
            output
        });
        Ok(Var { value, layout: Arc::clone(layout), id })
    }

    /// The place of the next value that has a gradient.
    fn variable(&mut self) -> VarId {
        let id = VarId { tape: self.number, place: self.variables };
        self.variables += 1;
        id
    }

    /// Runs the tape backward from a scalar loss and adds the gradients of all trained leaves to `gradients`.
    ///
    /// # Errors
    /// If `loss` depends on nothing that is trained; those of a part of the model that is run again.
    pub fn backward(self, loss: &Var, gradients: &mut Gradients) -> Result<()> {
        let Some(id) = loss.id else {
            return Err(Error::Usage("the loss depends on nothing that is trained".into()));
        };
        self.run_backward(id, Tensor::from_slice(loss.value.shape(), &[1.0f32]), gradients)?;
        Ok(())
    }

    /// Runs the tape backward from the gradient of a value; what is left are the gradients of values that no operation of
    /// this tape made.
    fn run_backward(self, from: VarId, gradient: Tensor, gradients: &mut Gradients) -> Result<Activations> {
        let mut activations = Activations::new(self.number, self.variables);
        activations.add(from, gradient);
        for node in self.nodes.into_iter().rev() {
            let Some(gradient) = activations.take(node.output) else { continue };
            match node.operation {
                Operation::Recorded(operation) => operation.backward(gradient, &mut activations, gradients),
                Operation::Again(part) => {
                    part.backward(gradient, &mut activations, gradients, (self.compute, self.mode))?;
                }
            }
        }
        Ok(activations)
    }
}

/// A place in the forward pass that drops elements in this pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutSite {
    probability: f32,
    key: DropoutKey,
}

impl DropoutSite {
    /// The kernel's view for the rows of `layout` from `start` to `end`.
    pub(crate) fn on<'a>(&self, layout: &'a Layout, rows: std::ops::Range<usize>) -> Dropout<'a> {
        Dropout { probability: self.probability, key: self.key, rows: &layout.row_ids()[rows] }
    }

    /// The kernel's view for the attention within the sequences of `layout`.
    pub(crate) fn attention<'a>(&self, layout: &'a Layout) -> AttentionDropout<'a> {
        AttentionDropout { probability: self.probability, key: self.key, examples: layout.examples() }
    }

    /// The kernel's view for all rows of `layout`.
    pub(crate) fn all<'a>(&self, layout: &'a Layout) -> Dropout<'a> {
        self.on(layout, 0..layout.rows())
    }
}

/// Whether every element is finite, as all whole numbers are.
pub fn is_finite(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F32 => elementwise::is_finite(tensor.as_slice::<f32>()),
        DType::Bf16 => elementwise::is_finite(tensor.as_slice::<half::bf16>()),
        DType::F16 => tensor.as_slice::<half::f16>().iter().all(|x| x.is_finite()),
        DType::I8 | DType::U8 | DType::I64 => true,
    }
}
