//! Leaves of the tape: tensors that no operation made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lowrank_kernels::Compute;
use lowrank_kernels::gemm::{Int8Weight, Stored, Streamed, Weight};

use super::operand::{Operand, Queue};
use crate::tensor::{DType, Quantized, Shape, Tensor};

/// The identity of a leaf's storage; equal for tied parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafId(u64);

/// A tensor that no operation made: it is either frozen, or trained by the optimiser. Clones are the same leaf.
#[derive(Clone, Debug)]
pub struct Leaf {
    id: LeafId,
    shape: Shape,
    /// Of one that consists of parts, not there until somebody asks for it.
    value: OnceLock<Tensor>,
    /// The leaves whose rows it is, one below the other, if it is not one by itself.
    parts: Vec<Self>,
    trainable: bool,
    prepared: Arc<Mutex<Option<Prepared>>>,
    /// The scales and outliers of a value in 8 bits.
    quantized: Option<Arc<Quantized>>,
    /// What that was made of, as it stands in its file.
    unquantized: Option<Tensor>,
    /// Its place among the weights of which no packed form is kept.
    queue: Option<Queue>,
    /// Whether products are of whole numbers, with the value in 8 bits.
    in_int8: bool,
    /// Whether these keep the value's transpose, as in [`Int8Weight::keeping_transpose`].
    keeps_transpose: bool,
    version: Version,
}

/// What a leaf's value was when it was asked for: two are equal if nothing was written in between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version(Arc<()>);

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A packed form.
#[derive(Clone, Debug)]
enum Prepared {
    /// For rows of its type.
    Float(Arc<Weight>),
    /// For rows of any type, though made with one in mind.
    Int8(Arc<Int8Weight>),
}

impl Prepared {
    /// What was kept, if it is for rows of this type, or for whole numbers.
    fn of(kept: &Option<Self>, compute: Compute, in_int8: bool) -> Option<Self> {
        let fits = |kept: &&Self| match kept {
            Self::Float(weight) => !in_int8 && weight.compute() == compute,
            Self::Int8(_) => in_int8,
        };
        kept.as_ref().filter(fits).cloned()
    }
}

impl Leaf {
    /// A frozen leaf.
    pub fn frozen(value: Tensor) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = LeafId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (prepared, version) = Default::default();
        Self {
            id,
            shape: value.shape(),
            value: value.into(),
            parts: Vec::new(),
            trainable: false,
            prepared,
            quantized: None,
            unquantized: None,
            queue: None,
            in_int8: false,
            keeps_transpose: false,
            version,
        }
    }

    /// A frozen leaf whose rows are those of matrices of one width and type, one below the other. They stay where they are:
    /// products go by the parts.
    pub(crate) fn joined(parts: Vec<Tensor>) -> Self {
        let rows: usize = parts.iter().map(|part| part.shape().rows()).sum();
        let width = parts.first().map_or(0, |part| part.shape().width());
        let parts: Vec<Self> = parts.into_iter().map(Self::frozen).collect();
        let empty = Self::frozen(Tensor::zeros([0, width], DType::F32));
        Self { shape: [rows, width].into(), value: OnceLock::new(), parts, ..empty }
    }

    /// A frozen leaf in 8 bits. Products decode it as they go; it is never packed.
    pub fn quantized(value: Quantized) -> Self {
        Self { quantized: Some(Arc::new(value.clone())), ..Self::frozen(value.values().clone()) }
    }

    /// As [`Leaf::quantized`], of a value that is `stored` in a file in another type.
    pub(crate) fn quantized_from(value: Quantized, stored: Tensor) -> Self {
        Self { unquantized: Some(stored), ..Self::quantized(value) }
    }

    /// What a value in 8 bits was made of, if that is known, as it stands in its file.
    pub(crate) fn unquantized(&self) -> Option<&Tensor> {
        self.unquantized.as_ref()
    }

    /// A leaf that is trained; its value is kept as f32.
    pub fn trained(value: Tensor) -> Self {
        Self { trainable: true, ..Self::frozen(value.to_dtype(DType::F32)) }
    }

    /// Which leaf this is.
    pub fn id(&self) -> LeafId {
        self.id
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The value. That of a leaf in parts is made at the first call, and kept; [`Leaf::float`] makes one that is not.
    pub fn value(&self) -> &Tensor {
        self.value.get_or_init(|| Tensor::join_rows(&self.tensors().cloned().collect::<Vec<_>>()))
    }

    /// The value, or those of the parts that it consists of.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let whole = self.parts.is_empty().then(|| self.value());
        whole.into_iter().chain(self.parts.iter().map(Self::value))
    }

    /// The parts of a value in 8 bits.
    pub fn as_quantized(&self) -> Option<&Quantized> {
        self.quantized.as_deref()
    }

    /// The value in a floating type: decoded where it is in 8 bits.
    pub fn float(&self) -> Tensor {
        match (&self.quantized, self.value.get()) {
            (Some(quantized), _) => quantized.to_f32(),
            (None, Some(value)) => value.clone(),
            (None, None) => Tensor::join_rows(&self.tensors().cloned().collect::<Vec<_>>()),
        }
    }

    /// A frozen leaf of another value, of which no packed form is kept if none is of this one. Products are of its own type:
    /// 8 bits of a weight with an adapter merged into it would round the adapter away.
    pub(crate) fn with_value(&self, value: Tensor) -> Self {
        Self { queue: self.queue().cloned(), ..Self::frozen(value) }
    }

    /// Keeps no packed form of a frozen value: products read it where it is, and have the next weights of the queue
    /// read ahead from their file. There is a place for each of [`Leaf::tensors`].
    pub(crate) fn stream(&mut self, places: &mut impl Iterator<Item = Queue>) {
        if !self.parts.is_empty() {
            self.parts.iter_mut().for_each(|part| part.stream(places));
        } else if let Some(place) = places.next().filter(|_| !self.trainable) {
            self.prepared = Arc::default();
            self.queue = Some(place);
        }
    }

    /// Has a frozen value multiplied in whole numbers, in 8 bits, and packs it for that and rows of `compute`; a floating one
    /// that is streamed stays so. Gives the number of weights that are, or none if one of them holds a value that is not finite.
    /// `keep_transpose` as in [`Int8Weight::keeping_transpose`].
    pub(crate) fn multiply_in_int8(&mut self, compute: Compute, keep_transpose: bool) -> Option<usize> {
        if !self.parts.is_empty() {
            return self.parts.iter_mut().map(|part| part.multiply_in_int8(compute, keep_transpose)).sum();
        }
        let is_held = self.queue.is_none() || self.quantized.is_some();
        if self.trainable || !is_held {
            return Some(0);
        }
        self.keeps_transpose = keep_transpose;
        let weight = self.int8_weight(compute)?;
        self.value().release_pages();
        self.prepared = Arc::new(Mutex::new(Some(Prepared::Int8(Arc::new(weight)))));
        self.in_int8 = true;
        Some(1)
    }

    /// The value packed for whole numbers; none if it is not finite.
    fn int8_weight(&self, compute: Compute) -> Option<Int8Weight> {
        let (outputs, inputs) = self.value().rows_and_width();
        let weight = match self.stored() {
            Stored::Int8(int8) => Int8Weight::new(compute, int8, outputs, inputs),
            Stored::Float(source) => Int8Weight::quantize(compute, source, outputs, inputs)?,
        };
        Some(weight.keeping_transpose(self.keeps_transpose))
    }

    /// The value of a leaf that is or was trained, for writing. Anything prepared from the old value is dropped.
    ///
    /// # Panics
    /// If the value is not f32.
    pub fn value_mut(&mut self) -> &mut [f32] {
        (self.prepared, self.version) = Default::default();
        let mut value = self.value.take().unwrap_or_else(|| self.float());
        // No other holds it: nothing is copied.
        value.make_mut::<f32>();
        self.parts.clear();
        self.value = value.into();
        self.value.get_mut().map_or(&mut [], Tensor::make_mut::<f32>)
    }

    /// Whether the tape computes this leaf's gradient.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Freezes the leaf, or trains it; a trained value is f32. The numbers stay the same, and with them what was
    /// prepared from them.
    pub fn set_trainable(&mut self, trainable: bool) {
        if trainable {
            self.value = self.float().to_dtype(DType::F32).into();
            self.parts.clear();
            (self.quantized, self.unquantized, self.queue, self.in_int8) = (None, None, None, false);
        }
        self.trainable = trainable;
    }

    /// The value `[outputs, inputs]` as the operand of a matrix product, prepared once and kept until the value is
    /// written. Threads that meet here first may each prepare it; one of the results is kept.
    fn packed(&self, compute: Compute) -> Prepared {
        if let Some(weight) = Prepared::of(&self.prepared(), compute, self.in_int8) {
            return weight;
        }
        // Without the lock: preparing waits for other threads, and rayon may run another user of this leaf meanwhile
        // on this one, which would wait for itself.
        let weight = self.prepare(compute);
        self.value().release_pages();
        let mut kept = self.prepared();
        if let Some(other) = Prepared::of(&kept, compute, self.in_int8) {
            return other;
        }
        *kept = Some(weight.clone());
        weight
    }

    /// The value as the operand of matrix products.
    pub(crate) fn operand(&self, compute: Compute) -> Operand {
        if !self.parts.is_empty() {
            Operand::Below(self.parts.iter().map(|part| (part.shape.rows(), part.operand(compute))).collect())
        } else if !self.in_int8 && (self.quantized.is_some() || self.queue.is_some()) {
            Operand::Streamed(self.clone(), compute)
        } else {
            match self.packed(compute) {
                Prepared::Float(weight) => Operand::Prepared(weight),
                Prepared::Int8(weight) => Operand::Int8(weight),
            }
        }
    }

    /// The operands of a value in blocks of rows, each of which reads its own part of the inputs.
    pub(crate) fn operands(&self, groups: usize, compute: Compute) -> Vec<Operand> {
        if groups == 1 {
            return vec![self.operand(compute)];
        }
        // Blocks are small, and many: none is packed.
        let value = self.float();
        let rows = value.shape().rows() / groups;
        let part =
            |group| Operand::Part { value: value.clone(), rows: group * rows..(group + 1) * rows, compute };
        (0..groups).map(part).collect()
    }

    /// The value as it is stored.
    pub(super) fn stored(&self) -> Stored<'_> {
        match &self.quantized {
            Some(quantized) => Stored::Int8(quantized.view()),
            None => Stored::Float(self.value().source()),
        }
    }

    /// The value as it is stored, for products that decode it.
    pub(super) fn streamed(&self, compute: Compute) -> Streamed<'_> {
        let (outputs, inputs) = self.value().rows_and_width();
        Streamed::new(compute, self.stored(), outputs, inputs)
    }

    /// Which value it is.
    pub(crate) fn version(&self) -> Version {
        self.version.clone()
    }

    /// Where it stands among the streamed weights.
    pub(crate) fn queue(&self) -> Option<&Queue> {
        self.parts.first().map_or(self.queue.as_ref(), Self::queue)
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, compute: Compute) -> Prepared {
        let (outputs, inputs) = self.value().rows_and_width();
        if let Some(weight) = self.in_int8.then(|| self.int8_weight(compute)).flatten() {
            return Prepared::Int8(Arc::new(weight));
        }
        Prepared::Float(Arc::new(Weight::new(compute, self.value().source(), outputs, inputs)))
    }

    /// The value of a vector (a bias, a norm's weight) as f32.
    pub(crate) fn vector(&self) -> Tensor {
        self.value().to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests;
