//! What is in an archive, found once and stored beside it as a small Parquet table.
//!
//! A table holds for an archive whose size and time are unchanged; else it is made again. One that
//! cannot be written is made again each time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tubelet_core::Size;

use super::listed::map;
use crate::error::FormatError;
use crate::facts::{guarded, parquet_error};
use crate::index::{side_path, stamp};
use crate::temporary::Working;

/// One thing in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    /// Its name in the archive.
    pub(crate) name: String,
    /// First byte of its payload.
    pub(crate) start: u64,
    /// Bytes of its payload.
    pub(crate) bytes: u64,
    /// Class index, where the archive says one.
    pub(crate) label: Option<u32>,
    /// Class name, where the archive says one.
    pub(crate) class: Option<String>,
    /// Size of the picture, where its payload is decoded pixels.
    pub(crate) size: Option<Size>,
    /// Hash of its payload (XXH3, 64 bits), where the archive stores it.
    pub(crate) hash: Option<u64>,
}

/// Size that stands for the part of an archive that is lost; the name of the item then tells what is.
const LOST: u64 = u64::MAX - 1;

impl Item {
    /// Stands for what `damage` took.
    pub(crate) fn lost(damage: &FormatError) -> Self {
        let place = damage.place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default();
        Self { name: format!("{place}{}", damage.kind), bytes: LOST, ..Self::default() }
    }

    /// Whether it stands for what is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.bytes == LOST
    }
}

/// The kind of a catalogue of what is left of damaged archives, where that is asked for.
pub(crate) fn kind_of(kind: &str, salvage: bool) -> String {
    if salvage { format!("{kind}-left") } else { kind.to_owned() }
}

/// Version of the tables: raised when what is found changes.
const VERSION: &str = "2";

/// What `find` finds in the archive at `path`, stored under `kind`.
///
/// # Errors
/// When the archive cannot be mapped, or `find` fails.
pub(crate) fn catalogue(
    path: &Path,
    kind: &str,
    find: impl FnOnce(&[u8]) -> Result<Vec<Item>, FormatError>,
) -> Result<Vec<Item>, FormatError> {
    stored_or(path, kind, || find(&map(path)?))
}

/// What `find` finds in the archive at `path`, however it reads it, stored under `kind`.
///
/// # Errors
/// When `find` fails.
pub(crate) fn stored_or(
    path: &Path,
    kind: &str,
    find: impl FnOnce() -> Result<Vec<Item>, FormatError>,
) -> Result<Vec<Item>, FormatError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stored = side_path(path, &format!("{name}.{kind}.parquet"));
    let (bytes, time) = stamp(path);
    stored_items(&stored, &format!("{bytes} {time}"), find)
}

/// The items stored in the table `stored` for an archive that `stamp` tells from others; else what
/// `find` finds, which is stored there.
///
/// # Errors
/// When `find` fails.
pub(crate) fn stored_items(
    stored: &Path,
    stamp: &str,
    find: impl FnOnce() -> Result<Vec<Item>, FormatError>,
) -> Result<Vec<Item>, FormatError> {
    let valid = format!("{VERSION} {stamp}");
    // A damaged table is made again, whatever is wrong with it.
    if let Ok(Some(items)) = guarded(stored, || Ok(read(stored, &valid))) {
        return Ok(items);
    }
    let items = find()?;
    if let Err(error) = write(stored, &valid, &items) {
        tracing::debug!("not stored: {error}");
    }
    Ok(items)
}

/// The stored items, if they are those of the archive as it is now.
fn read(stored: &Path, valid: &str) -> Option<Vec<Item>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(stored).ok()?).ok()?;
    if reader.schema().metadata().get("archive").map(String::as_str) != Some(valid) {
        return None;
    }
    let mut items = Vec::new();
    for batch in reader.build().ok()? {
        items.extend(items_of(&batch.ok()?)?);
    }
    Some(items)
}

fn items_of(batch: &RecordBatch) -> Option<Vec<Item>> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
    let long = |name| batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>();
    let (names, classes) = (text("name")?, text("class")?);
    let (starts, bytes) = (long("start")?, long("bytes")?);
    let int = |name| batch.column_by_name(name)?.as_primitive_opt::<UInt32Type>();
    let (labels, widths, heights) = (int("label")?, int("width")?, int("height")?);
    let hashes = long("xxh3")?;
    let item = |n: usize| Item {
        name: names.value(n).to_owned(),
        start: starts.value(n),
        bytes: bytes.value(n),
        label: labels.is_valid(n).then(|| labels.value(n)),
        class: classes.is_valid(n).then(|| classes.value(n).to_owned()),
        size: widths.is_valid(n).then(|| Size::new(widths.value(n), heights.value(n))),
        hash: hashes.is_valid(n).then(|| hashes.value(n)),
    };
    Some((0..batch.num_rows()).map(item).collect())
}

/// Writes a table, whole or not at all.
fn write(stored: &Path, valid: &str, items: &[Item]) -> Result<(), FormatError> {
    let io = |e: std::io::Error| FormatError::new(stored, e);
    if let Some(folder) = stored.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let fields = vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt64, false),
        Field::new("label", DataType::UInt32, true),
        Field::new("class", DataType::Utf8, true),
        Field::new("width", DataType::UInt32, true),
        Field::new("height", DataType::UInt32, true),
        Field::new("xxh3", DataType::UInt64, true),
    ];
    let metadata = std::collections::HashMap::from([("archive".to_owned(), valid.to_owned())]);
    let schema = Arc::new(Schema::new(fields).with_metadata(metadata));
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(StringArray::from_iter_values(items.iter().map(|i| &i.name))),
        Arc::new(UInt64Array::from_iter_values(items.iter().map(|i| i.start))),
        Arc::new(UInt64Array::from_iter_values(items.iter().map(|i| i.bytes))),
        Arc::new(items.iter().map(|i| i.label).collect::<UInt32Array>()),
        Arc::new(items.iter().map(|i| i.class.as_deref()).collect::<StringArray>()),
        Arc::new(items.iter().map(|i| i.size.map(|s| s.width)).collect::<UInt32Array>()),
        Arc::new(items.iter().map(|i| i.size.map(|s| s.height)).collect::<UInt32Array>()),
        Arc::new(items.iter().map(|i| i.hash).collect::<UInt64Array>()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
        .map_err(|e| parquet_error(stored, &e))?;
    let mut working = Working::beside(stored)?;
    ArrowWriter::try_new(working.file(), schema, None)
        .and_then(|mut writer| {
            writer.write(&batch)?;
            writer.close()
        })
        .map_err(|e| parquet_error(stored, &e))?;
    working.publish(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_looked_into_once_until_it_changes() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("a.bin");
        std::fs::write(&path, b"one").expect("written");
        let item = |name: &str, label, class: Option<&str>| Item {
            name: name.to_owned(),
            start: 1,
            bytes: u64::MAX,
            label,
            class: class.map(str::to_owned),
            size: label.map(|l| Size::new(l, 2)),
            hash: label.map(|l| u64::MAX - u64::from(l)),
        };
        let items = vec![item("ä/b", Some(3), None), item("", None, Some("x"))];
        let first = catalogue(&path, "test", |bytes| {
            assert_eq!(bytes, b"one");
            Ok(items.clone())
        });
        assert_eq!(first.expect("found"), items);
        let fail = |_: &[u8]| Err(FormatError::malformed("a.bin", "looked into again"));
        assert_eq!(catalogue(&path, "test", fail).expect("stored"), items);
        assert!(catalogue(&path, "other", fail).is_err());
        let stored = root.path().join(".tubelet/a.bin.test.parquet");
        let whole = std::fs::read(&stored).expect("stored");
        for place in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x81;
            std::fs::write(&stored, &damaged).expect("written");
            let _ = catalogue(&path, "test", fail);
        }
        std::fs::write(&path, b"four").expect("written");
        assert!(catalogue(&path, "test", fail).is_err());
    }
}
