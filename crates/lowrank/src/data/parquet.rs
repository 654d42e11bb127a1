//! Rows of Parquet files, as the Hub keeps data sets.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value, json};

use crate::{Error, Result, foreign};

/// What Hugging Face's `datasets` notes about the columns.
const HUGGING_FACE: &str = "huggingface";

/// A Parquet file whose rows can be read.
pub(crate) struct ParquetFile<'p> {
    path: &'p Path,
    reader: SerializedFileReader<File>,
}

impl<'p> ParquetFile<'p> {
    /// Opens a file and reads what it says of itself.
    ///
    /// # Errors
    /// It cannot be read, or it is no Parquet file.
    pub fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        Ok(Self { path, reader })
    }

    fn schema(&self) -> &Type {
        self.reader.metadata().file_metadata().schema()
    }

    /// The names of its columns.
    pub fn columns(&self) -> Vec<&str> {
        self.schema().get_fields().iter().map(|field| field.name()).collect()
    }

    /// The names of the classes of a column of class numbers or of lists of them, if the file tells them.
    pub fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        let note = notes.iter().find(|note| note.key == HUGGING_FACE)?.value.as_ref()?;
        let note: Value = serde_json::from_str(note).ok()?;
        let feature = note.get("info")?.get("features")?.get(column)?;
        // A list of classes has their names one deeper.
        let names = feature.get("names").or_else(|| feature.get("feature")?.get("names"))?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Hands each row's values of these columns, in the file's order of columns, to `visit`, with the row's number from
    /// 1; until it says false. A column that is not there is left out.
    ///
    /// # Errors
    /// The file is torn or is compressed in a way that is not read; whatever `visit` gives.
    pub fn rows(
        &self,
        columns: &[&str],
        visit: &mut dyn FnMut(usize, Vec<(String, Field)>) -> Result<bool>,
    ) -> Result<()> {
        let wanted = self.schema().get_fields().iter().filter(|field| columns.contains(&field.name()));
        let wanted: Vec<Arc<Type>> = wanted.cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let projection = Type::group_type_builder(self.schema().name()).with_fields(wanted).build();
        let projection = projection.map_err(|error| torn(self.path, &error))?;
        let mut rows = guarded(self.path, || self.reader.get_row_iter(Some(projection)))?;
        let mut count = 0;
        while let Some(row) = guarded(self.path, || rows.next().transpose())? {
            count += 1;
            if !visit(count, Row::into_columns(row))? {
                return Ok(());
            }
        }
        let promised = self.reader.metadata().file_metadata().num_rows();
        if i64::try_from(count) != Ok(promised) {
            return Err(Error::file(
                self.path,
                format!("it has {count} rows of the {promised} that it promises"),
            ));
        }
        Ok(())
    }
}

/// What the reader gives; where it panics over a torn file, an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match foreign::guarded(read) {
        Some(result) => result.map_err(|error| torn(path, &error)),
        None => Err(Error::file(path, "not a whole Parquet file: its pages contradict each other")),
    }
}

fn torn(path: &Path, error: &ParquetError) -> Error {
    Error::file(path, format!("not a Parquet file that can be read: {error}"))
}

/// A row as an object of JSON, which other formats have from the start.
pub(crate) fn object(columns: Vec<(String, Field)>) -> Map<String, Value> {
    columns.into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// Numbers, texts, bytes that are text, lists and structures as they are; what JSON does not have as the text that it
/// is printed as.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => shortest(value.to_f32()),
        Field::Float(value) => shortest(value),
        Field::Double(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Field::Str(text) => text.into(),
        // A column of bytes that nobody marked as text may be one all the same; of others only the length is of use.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => json!({ "bytes": bytes.len() }),
        },
        Field::Group(row) => Value::Object(object(row.into_columns())),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        other => other.to_string().into(),
    }
}

/// The number of f64 that is written as this one: 3.8, not 3.799999952316284.
fn shortest(value: f32) -> Value {
    value.to_string().parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}
