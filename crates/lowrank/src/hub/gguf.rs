//! Writing GGUF, the files of llama.cpp; the same bytes for the same tensors.
//!
//! # Source
//! GGUF version 3, as the Python package `gguf` writes it.

use std::io::{self, Write};
use std::path::Path;

use super::atomic::write_atomically;
use crate::Result;
use crate::tensor::{DType, Tensor};

const VERSION: u32 = 3;
/// What the places of tensors are multiples of.
const ALIGNMENT: usize = 32;
/// The number of the type f32 among those of tensors.
const TENSOR_F32: u32 = 0;

/// A value of a file's notes.
#[derive(Clone, Debug)]
pub enum GgufValue {
    /// A number.
    F32(f32),
    /// A text.
    Text(String),
}

/// Writes notes and tensors in the order that they are given in, the tensors as f32.
///
/// # Errors
/// If the file cannot be written.
pub fn write_gguf(path: &Path, notes: &[(&str, GgufValue)], tensors: &[(String, Tensor)]) -> Result<()> {
    let wide: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, tensor)| (&**name, tensor.to_dtype(DType::F32))).collect();
    let header = header(notes, &wide);
    write_atomically(path, |file| {
        file.write_all(&header)?;
        pad(file, header.len())?;
        for (_, tensor) in &wide {
            file.write_all(tensor.bytes())?;
            pad(file, tensor.bytes().len())?;
        }
        Ok(())
    })
}

fn header(notes: &[(&str, GgufValue)], tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((notes.len() as u64).to_le_bytes());
    for (key, value) in notes {
        text(&mut bytes, key);
        match value {
            GgufValue::F32(number) => {
                bytes.extend(6u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            GgufValue::Text(value) => {
                bytes.extend(8u32.to_le_bytes());
                text(&mut bytes, value);
            }
        }
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        text(&mut bytes, name);
        let shape = tensor.shape();
        bytes.extend((shape.rank() as u32).to_le_bytes());
        // The innermost is first there.
        for size in shape.dims().iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        bytes.extend(TENSOR_F32.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().len().next_multiple_of(ALIGNMENT);
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn pad(file: &mut dyn Write, written: usize) -> io::Result<()> {
    file.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])
}
