//! What a pickle of tensors is made of.

use super::super::dtype::StoredDtype;

/// A value on the machine's stack: a number, a text of the pickle, or the number of an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Float,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Object(usize),
}

impl Value<'_> {
    /// The number of an object.
    pub fn number(self) -> Option<usize> {
        if let Self::Object(number) = self { Some(number) } else { None }
    }

    /// A size, an offset or a stride.
    pub fn as_size(self) -> Result<usize, String> {
        match self {
            Self::Int(number) => usize::try_from(number).map_err(|_| format!("a size in it is {number}")),
            _ => Err("a size in it is no whole number".to_owned()),
        }
    }
}

/// What values are made of others, or are changed after they were named.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<[Value<'a>; 2]>),
    Storage(Storage<'a>),
    Tensor(PickledTensor<'a>),
}

/// The elements of tensors: an entry of the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub dtype: StoredDtype,
    /// The entry's name below `data/`.
    pub key: &'a str,
    pub elements: usize,
}

/// A view of a storage, as far as the pickle says; nothing of it is checked.
#[derive(Clone, Debug)]
pub(super) struct PickledTensor<'a> {
    pub storage: Storage<'a>,
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements, as many as there are dimensions.
    pub strides: Vec<usize>,
}

/// The names that a pickle may import, each of which means something that is done here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StoredDtype),
}

impl Global {
    pub fn find(module: &str, name: &str) -> Result<Self, String> {
        let storage = |dtype| Ok(Self::Storage(dtype));
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("torch", "DoubleStorage") => storage(StoredDtype::F64),
            ("torch", "FloatStorage") => storage(StoredDtype::F32),
            ("torch", "HalfStorage") => storage(StoredDtype::F16),
            ("torch", "BFloat16Storage") => storage(StoredDtype::BF16),
            ("torch", "LongStorage") => storage(StoredDtype::I64),
            ("torch", "IntStorage") => storage(StoredDtype::I32),
            ("torch", "ShortStorage") => storage(StoredDtype::I16),
            ("torch", "CharStorage") => storage(StoredDtype::I8),
            ("torch", "ByteStorage") => storage(StoredDtype::U8),
            ("torch", "BoolStorage") => storage(StoredDtype::Bool),
            _ => Err(format!(
                "it asks for {module}.{name}, which is none of the things that a dictionary of tensors is made of; \
                 nothing of it was run"
            )),
        }
    }
}
