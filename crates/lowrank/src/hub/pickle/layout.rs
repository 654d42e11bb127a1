//! Views of storages as ranges of the file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::super::weight_file::Entry;
use super::value::PickledTensor;
use lowrank_kernels::memory::MappedFile;

/// What gathered tensors may take together, in lengths of the file: each of them has its elements in the file once, and
/// tied ones share them.
const MOST_GATHERED: usize = 2;
/// Where a gathered tensor may begin, so that its elements can be read in place.
const ALIGNMENT: usize = 64;

/// The tensors of an archive, one after the other.
pub(super) struct Layout<'a> {
    mapping: &'a Arc<MappedFile>,
    places: &'a BTreeMap<&'a str, Range<usize>>,
    folder: &'a str,
    entries: BTreeMap<String, Entry>,
    /// Those that are not in row-major order, in it.
    gathered: Vec<u8>,
    /// The keys of those, with their places.
    moved: BTreeMap<String, Range<usize>>,
}

impl<'a> Layout<'a> {
    pub fn new(
        mapping: &'a Arc<MappedFile>,
        places: &'a BTreeMap<&'a str, Range<usize>>,
        folder: &'a str,
    ) -> Self {
        let (entries, gathered, moved) = Default::default();
        Self { mapping, places, folder, entries, gathered, moved }
    }

    /// Checks a tensor against its storage and finds its bytes.
    pub fn add(&mut self, key: &str, tensor: &PickledTensor<'_>) -> Result<(), String> {
        let PickledTensor { storage, offset, shape, strides } = tensor;
        let name = format!("{}data/{}", self.folder, storage.key);
        let place =
            self.places.get(&*name).ok_or_else(|| format!("its storage {name:?} is not in the file"))?;
        let size = storage.dtype.bytes().unwrap_or(1);
        if storage.elements.checked_mul(size) != Some(place.len()) {
            let (elements, bytes) = (storage.elements, place.len());
            return Err(format!("its storage is said to hold {elements} elements, but has {bytes} bytes"));
        }
        let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let elements = elements.filter(|elements| *elements <= storage.elements);
        let elements = elements.ok_or_else(|| {
            format!(
                "its shape {shape:?} has more elements than its storage, which holds {}",
                storage.elements
            )
        })?;
        let range = if elements == 0 {
            place.start..place.start
        } else {
            let last = shape
                .iter()
                .zip(strides)
                .try_fold(*offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
            if last.is_none_or(|last| last >= storage.elements) {
                return Err(format!("its shape {shape:?} with strides {strides:?} leaves its storage"));
            }
            let start = place.start + offset * size;
            if is_row_major(shape, strides) {
                start..start + elements * size
            } else {
                let from = self.gather(start, size, elements, tensor)?;
                self.moved.insert(key.to_owned(), from);
                place.start..place.start
            }
        };
        let entry =
            Entry { dtype: storage.dtype, shape: shape.clone(), mapping: Arc::clone(self.mapping), range };
        self.entries.insert(key.to_owned(), entry);
        Ok(())
    }

    /// Copies elements into row-major order.
    fn gather(
        &mut self,
        start: usize,
        size: usize,
        elements: usize,
        PickledTensor { shape, strides, .. }: &PickledTensor<'_>,
    ) -> Result<Range<usize>, String> {
        let begin = self.gathered.len().next_multiple_of(ALIGNMENT);
        let end = begin + elements * size;
        if end > self.mapping.len().saturating_mul(MOST_GATHERED) {
            return Err("it and others show the same elements again and again".to_owned());
        }
        self.gathered.resize(begin, 0);
        let mut index = vec![0; shape.len()];
        for _ in 0..elements {
            let offset: usize = index.iter().zip(strides).map(|(at, stride)| at * stride).sum();
            let from = start + offset * size;
            self.gathered.extend_from_slice(&self.mapping[from..from + size]);
            for (at, size) in index.iter_mut().zip(shape).rev() {
                *at += 1;
                if *at < *size {
                    break;
                }
                *at = 0;
            }
        }
        Ok(begin..end)
    }

    /// All of them.
    pub fn finish(mut self) -> io::Result<BTreeMap<String, Entry>> {
        if !self.moved.is_empty() {
            let mapping = Arc::new(MappedFile::copy_of(&self.gathered)?);
            for (key, range) in self.moved {
                if let Some(entry) = self.entries.get_mut(&key) {
                    (entry.mapping, entry.range) = (Arc::clone(&mapping), range);
                }
            }
        }
        Ok(self.entries)
    }
}

/// Whether elements lie one after the other; where there is one only, its stride means nothing.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(size, stride)| {
        let fits = *size == 1 || *stride == expected;
        expected *= size;
        fits
    })
}
