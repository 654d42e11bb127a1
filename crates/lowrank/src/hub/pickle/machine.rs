//! A machine for pickles that knows what a dictionary of tensors needs, and nothing else.
//!
//! Python's own machine imports and calls what a pickle names. This one has a list of names, each of which stands for
//! something that is done here; any other is an error. Values refer to each other by number: nothing is copied when it is
//! named again and nothing is walked through recursively, so that memory and time follow the pickle's length.

use std::collections::HashMap;

use super::value::{Global, Object, PickledTensor, Storage, Value};

/// PyTorch allows no more dimensions.
const MOST_DIMENSIONS: usize = 64;
/// The newest protocol that `torch.save` writes.
const PROTOCOL: u8 = 2;

/// Runs a pickle; gives the value that it leaves, and the objects that values refer to.
pub(super) fn run(pickle: &[u8]) -> Result<(Value<'_>, Vec<Object<'_>>), String> {
    let mut machine = Machine {
        rest: pickle,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
    };
    loop {
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let value = machine.pop()?;
            return Ok((value, machine.objects));
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// The heights of the stack at marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => match self.byte()? {
                version if version <= PROTOCOL => {}
                version => return Err(format!("it is of protocol {version}; torch.save writes {PROTOCOL}")),
            },
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'K' => {
                let number = self.byte()?;
                self.stack.push(Value::Int(i64::from(number)));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.chunk()?);
                self.stack.push(Value::Int(i64::from(number)));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.chunk()?);
                self.stack.push(Value::Int(i64::from(number)));
            }
            0x8a => self.long()?,
            b'G' => {
                self.chunk::<8>()?;
                self.stack.push(Value::Float);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.chunk()?) as usize;
                let text =
                    std::str::from_utf8(self.take(length)?).map_err(|_| "a text in it is not UTF-8")?;
                self.stack.push(Value::Text(text));
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let height = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                let items = self.above(height.ok_or_else(damaged)?)?;
                self.push(Object::Tuple(items));
            }
            b't' => {
                let items = self.above_mark()?;
                self.push(Object::Tuple(items));
            }
            b']' => self.push(Object::List(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let number = self.byte()?;
                self.remember(u32::from(number))?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.chunk()?);
                self.remember(number)?;
            }
            b'h' => {
                let number = self.byte()?;
                self.recall(u32::from(number))?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.chunk()?);
                self.recall(number)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "it holds the instruction {other:#04x}, which no dictionary of tensors needs"
                ));
            }
        }
        Ok(())
    }

    /// A whole number of any length; those that count something fit into 64 bits.
    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.byte()?);
        let digits = self.take(length)?;
        let mut bytes = [if digits.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 }; 8];
        let low = bytes.get_mut(..length).ok_or("a number in it has more than 64 bits")?;
        low.copy_from_slice(digits);
        self.stack.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn append(&mut self, more: Vec<Value<'a>>) -> Result<(), String> {
        match self.top_object()? {
            Object::List(items) => items.extend(more),
            _ => return Err("it appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set_items(&mut self, flat: &[Value<'a>]) -> Result<(), String> {
        let (pairs, rest) = flat.as_chunks::<2>();
        match self.top_object()? {
            Object::Dict(items) if rest.is_empty() => items.extend(pairs),
            _ => return Err("it sets items of what is no dictionary".to_owned()),
        }
        Ok(())
    }

    /// What `torch.save` writes in the place of a tensor's elements: `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id)? {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Text(_),
                count,
            ] => Storage { dtype: *dtype, key, elements: count.as_size()? },
            _ => return Err("it refers to something else than a tensor's storage".to_owned()),
        };
        self.push(Object::Storage(storage));
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push(Object::Dict(Vec::new())),
            (Value::Global(Global::RebuildTensor), [storage, offset, shape, strides, ..]) => {
                let Some(Object::Storage(storage)) = self.object(*storage) else {
                    return Err("it makes a tensor of something else than a storage".to_owned());
                };
                let tensor = PickledTensor {
                    storage: *storage,
                    offset: offset.as_size()?,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err("a tensor in it has another number of strides than of dimensions".to_owned());
                }
                self.push(Object::Tensor(tensor));
            }
            (Value::Global(Global::RebuildParameter), [tensor, ..]) => {
                let tensor = *tensor;
                if !matches!(self.object(tensor), Some(Object::Tensor(_))) {
                    return Err("it makes a parameter of something else than a tensor".to_owned());
                }
                self.stack.push(tensor);
            }
            _ => {
                return Err(
                    "it calls what is no function, or one with other arguments than PyTorch".to_owned()
                );
            }
        }
        Ok(())
    }

    /// Sets attributes. Those of a dictionary are versions of modules, which nothing here needs.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top_object()? {
            Object::Dict(_) => Ok(()),
            _ => Err("it sets attributes of what is no dictionary".to_owned()),
        }
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>, String> {
        let sizes = self.tuple(value)?;
        if sizes.len() > MOST_DIMENSIONS {
            return Err(format!("a tensor in it has {} dimensions", sizes.len()));
        }
        sizes.iter().map(|size| size.as_size()).collect()
    }

    fn tuple(&self, value: Value<'a>) -> Result<&[Value<'a>], String> {
        match self.object(value) {
            Some(Object::Tuple(items)) => Ok(items),
            _ => Err(damaged()),
        }
    }

    fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        value.number().and_then(|number| self.objects.get(number))
    }

    fn top_object(&mut self) -> Result<&mut Object<'a>, String> {
        let number = self.stack.last().and_then(|top| top.number());
        number.and_then(|number| self.objects.get_mut(number)).ok_or_else(damaged)
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let mark = self.marks.last().copied().unwrap_or(0);
        self.stack.pop().filter(|_| self.stack.len() >= mark).ok_or_else(damaged)
    }

    fn above(&mut self, height: usize) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.last().copied().unwrap_or(0);
        if height < mark || height > self.stack.len() {
            return Err(damaged());
        }
        Ok(self.stack.split_off(height))
    }

    fn above_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or_else(damaged)?;
        self.above(mark)
    }

    fn remember(&mut self, number: u32) -> Result<(), String> {
        let top = *self.stack.last().ok_or_else(damaged)?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), String> {
        let value = *self.memo.get(&number).ok_or_else(damaged)?;
        self.stack.push(value);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.chunk().map(|[byte]| byte)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or_else(damaged)?;
        self.rest = rest;
        Ok(*chunk)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.rest.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
        let line = self.take(length)?;
        self.byte()?;
        std::str::from_utf8(line).map_err(|_| damaged())
    }
}

fn damaged() -> String {
    "its pickle is damaged or incomplete".to_owned()
}
