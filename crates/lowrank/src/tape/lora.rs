//! The low-rank pair of a layer.

use std::sync::{Arc, Mutex, PoisonError};

use lowrank_kernels::magnitude::{self, Product};

use super::layout::AdapterId;
use super::leaf::{Leaf, Version};

/// The low-rank pair that an adapter adds to a linear layer, or to an embedding, whose inputs are its entries.
///
/// # Source
/// Hu et al., LoRA (arXiv 2106.09685), section 4.1; names and shapes as in PEFT.
#[derive(Clone, Debug)]
pub struct Lora {
    /// The adapter that it belongs to.
    pub adapter: AdapterId,
    /// `A`: `[r, inputs]`.
    pub a: Leaf,
    /// `B`: `[outputs, r]`; `[outputs, r/groups]` where the layer is in groups. Of a linear layer, it is zero before
    /// training; of an embedding, `A` is.
    pub b: Leaf,
    /// What is added to `B·A·x` before the scaling, `[outputs]`: PEFT's `lora_bias`. Embeddings have none.
    pub bias: Option<Leaf>,
    /// The lengths of the rows of `W + s·B·A`, which it then has instead of its own: DoRA.
    pub magnitude: Option<Magnitude>,
    /// What the pair began as, if it took a part of the weight: that counts without it.
    pub initial: Option<Initial>,
    /// What multiplies `B·A·x`: `alpha/r`, or `alpha/√r`.
    pub scaling: f32,
    /// The probability with which an element of this branch's input is dropped in training; an embedding's ids are not.
    pub dropout: f32,
}

impl Lora {
    /// A plain pair, without dropout.
    ///
    /// # Shapes
    /// `a`: `[r, inputs]`; `b`: `[outputs, r]`.
    pub fn new(adapter: AdapterId, a: Leaf, b: Leaf, scaling: f32) -> Self {
        Self { adapter, a, b, bias: None, magnitude: None, initial: None, scaling, dropout: 0.0 }
    }

    /// The rank `r`.
    pub fn rank(&self) -> usize {
        self.a.value().shape().rows()
    }

    /// How many groups the outputs are in, each of which reads its own part of the rank.
    pub fn groups(&self) -> usize {
        self.rank() / self.b.value().shape().width().max(1)
    }

    /// What is taken off a weight of which the pair began as a part: a frozen pair of the negative scaling. The weight
    /// itself stays what it is, for the base model and for other adapters.
    pub fn taken_off(&self) -> Option<Self> {
        let Initial { a, b } = self.initial.clone()?;
        Some(Self::new(self.adapter, a, b, -self.scaling))
    }

    /// The tensors beside `A` and `B`, by their names below the layer.
    fn further(&self) -> impl Iterator<Item = (&'static str, &Leaf)> {
        let bias = self.bias.iter().map(|bias| ("lora_B.bias", bias));
        bias.chain(self.magnitude.iter().map(|magnitude| ("lora_magnitude_vector", &magnitude.vector)))
    }

    /// The tensors of a linear layer's pair, by their names below the layer.
    pub fn leaves(&self) -> impl Iterator<Item = (&'static str, &Leaf)> {
        [("lora_A.weight", &self.a), ("lora_B.weight", &self.b)].into_iter().chain(self.further())
    }

    /// The tensors of an embedding's pair, by their names below the embedding.
    pub fn embedding_leaves(&self) -> impl Iterator<Item = (&'static str, &Leaf)> {
        [("lora_embedding_A", &self.a), ("lora_embedding_B", &self.b)].into_iter().chain(self.further())
    }

    /// As [`Lora::leaves`] or [`Lora::embedding_leaves`], for changes.
    pub fn leaves_mut(&mut self, of_embedding: bool) -> impl Iterator<Item = (&'static str, &mut Leaf)> {
        let [a, b] = if of_embedding {
            ["lora_embedding_A", "lora_embedding_B"]
        } else {
            ["lora_A.weight", "lora_B.weight"]
        };
        let bias = self.bias.iter_mut().map(|bias| ("lora_B.bias", bias));
        let magnitude = self.magnitude.iter_mut();
        let magnitude = magnitude.map(|magnitude| ("lora_magnitude_vector", &mut magnitude.vector));
        [(a, &mut self.a), (b, &mut self.b)].into_iter().chain(bias).chain(magnitude)
    }

    /// The lengths of the rows of `W + s·B·A`.
    ///
    /// # Shapes
    /// `weight`: `[outputs, inputs]`. The result: `[outputs]`.
    pub fn norms(&self, weight: &Leaf) -> Vec<f32> {
        let mut norms = vec![0.0; weight.value().shape().rows()];
        let (a, b) = (self.a.value().as_slice::<f32>(), self.b.value().as_slice::<f32>());
        let product = Product { left: b, transposed: false, right: a, scale: self.scaling };
        magnitude::row_norms(weight.stored(), weight.value().shape().width(), product, &mut norms);
        norms
    }

    /// The lengths of the columns of `W + s·Aᵀ·Bᵀ`, a table.
    ///
    /// # Shapes
    /// `table`: `[entries, width]`. The result: `[width]`.
    pub fn table_norms(&self, table: &Leaf) -> Vec<f32> {
        let mut norms = vec![0.0; table.value().shape().width()];
        let right = self.b.value().transposed();
        let (left, right) = (self.a.value().as_slice::<f32>(), right.as_slice::<f32>());
        let product = Product { left, transposed: true, right, scale: self.scaling };
        magnitude::column_norms(table.stored(), table.value().shape().rows(), product, &mut norms);
        norms
    }

    /// The magnitude, and what [`Lora::norms`] or [`Lora::table_norms`] gives, worked out once for the same values.
    pub(crate) fn magnitude_and_norms(
        &self,
        weight: &Leaf,
        norms: impl FnOnce(&Self, &Leaf) -> Vec<f32>,
    ) -> Option<(&Magnitude, Arc<[f32]>)> {
        let magnitude = self.magnitude.as_ref()?;
        let of = [weight, &self.a, &self.b].map(Leaf::version);
        let known = |kept: &Option<Norms>| {
            let kept = kept.as_ref().filter(|kept| (&kept.of, kept.scaling) == (&of, self.scaling))?;
            Some(Arc::clone(&kept.values))
        };
        let kept = known(&magnitude.norms.lock().unwrap_or_else(PoisonError::into_inner));
        // Without the lock, as the kernels may have this thread do another task meanwhile.
        let values = kept.unwrap_or_else(|| {
            let values: Arc<[f32]> = norms(self, weight).into();
            let norms = Norms { of, scaling: self.scaling, values: Arc::clone(&values) };
            *magnitude.norms.lock().unwrap_or_else(PoisonError::into_inner) = Some(norms);
            values
        });
        Some((magnitude, values))
    }
}

/// A pair as it began.
#[derive(Clone, Debug)]
pub struct Initial {
    /// `A`: `[r, inputs]`.
    pub a: Leaf,
    /// `B`: `[outputs, r]`.
    pub b: Leaf,
}

/// The magnitude of the weight `m∘(W + s·B·A)/‖W + s·B·A‖`: a length for each output.
///
/// # Source
/// Liu et al., DoRA (arXiv 2402.09353), equation 5; as section 4.3 proposes, and PEFT does, the lengths that it is divided
/// by count as constants in the backward pass.
#[derive(Clone, Debug)]
pub struct Magnitude {
    /// `m`: `[outputs]`, or `[width]` of an embedding.
    pub vector: Leaf,
    norms: Arc<Mutex<Option<Norms>>>,
}

/// Lengths, and what they are those of.
#[derive(Debug)]
struct Norms {
    of: [Version; 3],
    scaling: f32,
    values: Arc<[f32]>,
}

impl Magnitude {
    /// A magnitude of this value.
    pub fn new(vector: Leaf) -> Self {
        Self { vector, norms: Arc::default() }
    }

    /// `m/‖W + s·B·A‖`. Where there is no length, as of an output that nothing reads, it is 0, not the quotient of nothing
    /// and nothing.
    pub(crate) fn factors(&self, norms: &[f32]) -> Vec<f32> {
        let vector = self.vector.value().as_slice::<f32>();
        vector.iter().zip(norms).map(|(m, norm)| if *norm > 0.0 { m / norm } else { 0.0 }).collect()
    }
}
