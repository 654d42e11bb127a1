//! Tensors: contiguous, row-major, cheap to clone.

mod dtype;
mod quantized;
mod shape;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use lowrank_kernels::elementwise::convert;
use lowrank_kernels::memory::{Buffer, MappedFile};
use lowrank_kernels::{Compute, Source};

pub use dtype::{DType, Stored};
pub use quantized::Quantized;
pub use shape::Shape;

/// A contiguous row-major array. Clones share their storage.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    dtype: DType,
    storage: Arc<Storage>,
}

enum Storage {
    /// A buffer of the pool, to which it returns with the last clone.
    Pooled(Buffer),
    /// A part of a weight file.
    Mapped { file: Arc<MappedFile>, bytes: Range<usize> },
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer.as_slice::<u8>(),
            Self::Mapped { file, bytes } => &file[bytes.clone()],
        }
    }
}

impl Tensor {
    /// A tensor whose contents are arbitrary until they are written.
    pub fn uninit(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let buffer = Buffer::uninit(shape.elements() * dtype.bytes());
        Self { shape, dtype, storage: Arc::new(Storage::Pooled(buffer)) }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let buffer = Buffer::zeroed(shape.elements() * dtype.bytes());
        Self { shape, dtype, storage: Arc::new(Storage::Pooled(buffer)) }
    }

    /// A tensor holding a copy of `values`.
    ///
    /// # Panics
    /// If there are more or fewer values than the shape has elements.
    pub fn from_slice<T: Stored>(shape: impl Into<Shape>, values: &[T]) -> Self {
        let mut tensor = Self::uninit(shape, T::DTYPE);
        assert_eq!(tensor.elements(), values.len(), "values for the shape {}", tensor.shape);
        tensor.make_mut::<T>().copy_from_slice(values);
        tensor
    }

    /// A tensor that reads a part of a mapped file in place, or a copy of it where the part is not aligned.
    ///
    /// # Panics
    /// If the part lies outside the file or does not have the shape's size.
    pub fn from_mapped(shape: Shape, dtype: DType, file: &Arc<MappedFile>, bytes: Range<usize>) -> Self {
        assert_eq!(shape.elements() * dtype.bytes(), bytes.len(), "bytes for the shape {shape}");
        let part = &file[bytes.clone()];
        if part.as_ptr().align_offset(dtype.bytes()) == 0 {
            let storage = Storage::Mapped { file: Arc::clone(file), bytes };
            return Self { shape, dtype, storage: Arc::new(storage) };
        }
        let mut buffer = Buffer::uninit(part.len());
        buffer.as_mut_slice::<u8>().copy_from_slice(part);
        Self { shape, dtype, storage: Arc::new(Storage::Pooled(buffer)) }
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The number of rows, and elements in each.
    pub fn rows_and_width(&self) -> (usize, usize) {
        (self.shape.rows(), self.shape.width())
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "reshape of {} to {shape}", self.shape);
        Self { shape, ..self.clone() }
    }

    /// A copy of some of its rows.
    ///
    /// # Panics
    /// If it has not so many.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        fn copy<T: Stored>(from: &Tensor, rows: Range<usize>) -> Tensor {
            let width = from.shape.width();
            Tensor::from_slice(
                [rows.len(), width],
                &from.as_slice::<T>()[rows.start * width..rows.end * width],
            )
        }
        match self.dtype {
            DType::F32 => copy::<f32>(self, rows),
            DType::Bf16 => copy::<bf16>(self, rows),
            DType::F16 => copy::<f16>(self, rows),
            DType::I8 => copy::<i8>(self, rows),
            DType::U8 => copy::<u8>(self, rows),
            DType::I64 => copy::<i64>(self, rows),
        }
    }

    /// Matrices of one width and type, one below the other.
    ///
    /// # Panics
    /// If their types differ.
    pub fn join_rows(parts: &[Self]) -> Self {
        fn copy<T: Stored>(parts: &[Tensor], joined: &mut Tensor) {
            let mut rest = joined.make_mut::<T>();
            for part in parts {
                let (own, after) = rest.split_at_mut(part.elements());
                own.copy_from_slice(part.as_slice::<T>());
                rest = after;
            }
        }
        let rows: usize = parts.iter().map(|part| part.shape.rows()).sum();
        let (width, dtype) = parts.first().map_or((0, DType::F32), |part| (part.shape.width(), part.dtype));
        let mut joined = Self::uninit([rows, width], dtype);
        match dtype {
            DType::F32 => copy::<f32>(parts, &mut joined),
            DType::Bf16 => copy::<bf16>(parts, &mut joined),
            DType::F16 => copy::<f16>(parts, &mut joined),
            DType::I8 => copy::<i8>(parts, &mut joined),
            DType::U8 => copy::<u8>(parts, &mut joined),
            DType::I64 => copy::<i64>(parts, &mut joined),
        }
        joined
    }

    /// The matrix with its rows and columns exchanged.
    pub fn transposed(&self) -> Self {
        fn exchange<T: Copy>(from: &[T], to: &mut [T], rows: usize, width: usize) {
            // Blocks that stay in the nearest cache, in both directions.
            const SIDE: usize = 32;
            for top in (0..rows).step_by(SIDE) {
                for left in (0..width).step_by(SIDE) {
                    for row in top..rows.min(top + SIDE) {
                        for column in left..width.min(left + SIDE) {
                            to[column * rows + row] = from[row * width + column];
                        }
                    }
                }
            }
        }
        let (rows, width) = self.rows_and_width();
        let mut out = Self::uninit([width, rows], self.dtype);
        match self.dtype {
            DType::F32 => exchange(self.as_slice::<f32>(), out.make_mut::<f32>(), rows, width),
            DType::Bf16 => exchange(self.as_slice::<bf16>(), out.make_mut::<bf16>(), rows, width),
            DType::F16 => exchange(self.as_slice::<f16>(), out.make_mut::<f16>(), rows, width),
            DType::I8 => exchange(self.as_slice::<i8>(), out.make_mut::<i8>(), rows, width),
            DType::U8 => exchange(self.as_slice::<u8>(), out.make_mut::<u8>(), rows, width),
            DType::I64 => exchange(self.as_slice::<i64>(), out.make_mut::<i64>(), rows, width),
        }
        out
    }

    /// The elements.
    ///
    /// # Panics
    /// If `T` is not the type that the tensor holds.
    pub fn as_slice<T: Stored>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor read as another type");
        match self.storage.bytes() {
            // What is empty may lie anywhere.
            [] => &[],
            bytes => bytemuck::cast_slice(bytes),
        }
    }

    /// The elements, for writing. A storage that other clones share, or that is a file's, is copied first.
    ///
    /// # Panics
    /// If `T` is not the type that the tensor holds.
    pub fn make_mut<T: Stored>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "a tensor written as another type");
        let owned = matches!(Arc::get_mut(&mut self.storage), Some(Storage::Pooled(_)));
        if !owned {
            let bytes = self.storage.bytes();
            let mut buffer = Buffer::uninit(bytes.len());
            buffer.as_mut_slice::<u8>().copy_from_slice(bytes);
            self.storage = Arc::new(Storage::Pooled(buffer));
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Pooled(buffer)) => buffer.as_mut_slice::<T>(),
            _ => unreachable!("the storage was made unique above"),
        }
    }

    /// The bytes as they are stored.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The same values in another floating type; shares the storage where the type is the same.
    ///
    /// # Panics
    /// If either type is not a floating one.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let mut out = Self::uninit(self.shape, dtype);
        match (self.dtype, dtype) {
            (DType::Bf16, DType::F32) => convert(self.as_slice::<bf16>(), out.make_mut::<f32>()),
            (DType::F32, DType::Bf16) => convert(self.as_slice::<f32>(), out.make_mut::<bf16>()),
            (DType::F16, DType::F32) => {
                let pairs = out.make_mut::<f32>().iter_mut().zip(self.as_slice::<f16>());
                pairs.for_each(|(wide, half)| *wide = half.to_f32());
            }
            (DType::F32, DType::F16) => {
                let pairs = out.make_mut::<f16>().iter_mut().zip(self.as_slice::<f32>());
                pairs.for_each(|(half, wide)| *half = f16::from_f32(*wide));
            }
            (DType::F16, DType::Bf16) | (DType::Bf16, DType::F16) => {
                return self.to_dtype(DType::F32).to_dtype(dtype);
            }
            (from, to) => panic!("no conversion of {from} to {to}"),
        }
        out
    }

    /// The values of a weight or a table, for the kernels that read any floating type.
    ///
    /// # Panics
    /// If the type is not a floating one.
    pub fn source(&self) -> Source<'_> {
        match self.dtype {
            DType::F32 => Source::F32(self.as_slice::<f32>()),
            DType::Bf16 => Source::Bf16(self.as_slice::<bf16>()),
            DType::F16 => Source::F16(self.as_slice::<f16>()),
            other => panic!("a weight cannot be {other}"),
        }
    }

    /// The values as f32, copied.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        self.to_dtype(DType::F32).as_slice::<f32>().to_vec()
    }

    /// Tells the system that the pages of a mapped tensor are not needed for now; they are read again on use.
    pub fn release_pages(&self) {
        if let Storage::Mapped { file, bytes } = &*self.storage {
            file.release(bytes.clone());
        }
    }

    /// Asks the system to read the pages of a mapped tensor ahead.
    pub fn will_need(&self) {
        if let Storage::Mapped { file, bytes } = &*self.storage {
            file.will_need(bytes.clone());
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {})", self.dtype, self.shape)
    }
}

/// The compute type of rows of a type: f32 but for bf16.
impl From<DType> for Compute {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16,
            _ => Self::F32,
        }
    }
}

/// The type of rows under a compute type.
impl From<Compute> for DType {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_floating_type_becomes_every_other() {
        let floats = [DType::F32, DType::Bf16, DType::F16];
        let values = [0.0, -1.5, 0.25, 384.0];
        for (from, to) in floats.into_iter().flat_map(|from| floats.map(|to| (from, to))) {
            let tensor = Tensor::from_slice([2, 2], &values).to_dtype(from).to_dtype(to);
            assert_eq!((tensor.dtype(), tensor.to_f32_vec()), (to, values.to_vec()), "{from} to {to}");
        }
    }
}
