//! Parquet shards of an object store: what is fetched to open one, and what is stored of it.
//!
//! Opening fetches the footer with its page index, and of the columns all but the payloads, in a few
//! ranges. For shards whose footer tells the place of every payload the rows are then stored in the
//! user's cache folder, so that the next run opens them without a request.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

use super::parquet::{Row, Stored};
use crate::error::FormatError;
use crate::facts::{guarded, parquet_error};
use crate::index::part_path;
use crate::record::MediaKind;
use crate::store::Object;

/// Bytes fetched from the end of a shard, where its footer is.
const TAIL: u64 = 512 << 10;
/// Ranges this near are fetched as one.
const GAP: u64 = 64 << 10;
/// Bytes fetched at once where a column is read through.
const STEP: u64 = 1 << 20;
/// Version of the stored tables: raised when what is stored changes.
const VERSION: &str = "1";

/// Where a Parquet file's bytes are.
#[derive(Clone)]
pub(super) enum Data {
    /// In a memory map.
    Map(Bytes),
    /// In a store, and what was fetched of it already.
    Remote(Arc<Object>, Arc<Vec<(u64, Bytes)>>),
}

impl Data {
    /// A shard of a store of which the end is fetched.
    pub(super) fn with_tail(object: &Arc<Object>) -> Result<Self, FormatError> {
        let start = object.len().saturating_sub(TAIL);
        let tail = object.fetch(start..object.len())?;
        Ok(Self::Remote(Arc::clone(object), Arc::new(vec![(start, tail)])))
    }

    /// The same with all columns but `payload` fetched; a map stays as it is.
    pub(super) fn with_facts(
        &self,
        metadata: &ParquetMetaData,
        payload: usize,
    ) -> Result<Self, FormatError> {
        let Self::Remote(object, windows) = self else { return Ok(self.clone()) };
        let mut wanted = Vec::new();
        for group in metadata.row_groups() {
            for (leaf, column) in group.columns().iter().enumerate() {
                if leaf != payload {
                    let (start, bytes) = column.byte_range();
                    wanted.push(start..start.saturating_add(bytes).min(object.len()));
                }
            }
        }
        let mut windows = windows.as_ref().clone();
        for range in joined(wanted) {
            if range.start < range.end {
                windows.push((range.start, object.fetch(range)?));
            }
        }
        Ok(Self::Remote(Arc::clone(object), Arc::new(windows)))
    }

    /// The same without what was fetched.
    pub(super) fn bare(self) -> Self {
        match self {
            Self::Map(map) => Self::Map(map),
            Self::Remote(object, _) => Self::Remote(object, Arc::default()),
        }
    }
}

/// Ranges in order, those that are near each other as one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|r| r.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

impl Length for Data {
    fn len(&self) -> u64 {
        match self {
            Self::Map(map) => map.len() as u64,
            Self::Remote(object, _) => object.len(),
        }
    }
}

impl ChunkReader for Data {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match self {
            Self::Map(map) => Ok(Box::new(map.get_read(start)?)),
            Self::Remote(..) => Ok(Box::new(Through {
                data: self.clone(),
                at: start,
                piece: Cursor::new(Bytes::new()),
            })),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let (object, windows) = match self {
            Self::Map(map) => return map.get_bytes(start, length),
            Self::Remote(object, windows) => (object, windows),
        };
        let end = start
            .checked_add(length as u64)
            .filter(|end| *end <= object.len())
            .ok_or_else(|| ParquetError::EOF(format!("bytes from {start} on: {length}")))?;
        for (first, bytes) in windows.iter() {
            if *first <= start && end <= first + bytes.len() as u64 {
                let inside = (start - first) as usize;
                return Ok(bytes.slice(inside..inside + length));
            }
        }
        let mut buf = Vec::new();
        let read = object.read(start..end, &|_| Ok(()), &mut buf);
        read.map_err(|e| ParquetError::External(Box::new(e)))?;
        Ok(buf.into())
    }
}

/// A remote file read from some place on.
struct Through {
    data: Data,
    at: u64,
    piece: Cursor<Bytes>,
}

impl Read for Through {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = self.data.len().saturating_sub(self.at).min(STEP) as usize;
        if self.piece.position() >= self.piece.get_ref().len() as u64 && rest > 0 {
            let piece = self.data.get_bytes(self.at, rest).map_err(std::io::Error::other)?;
            self.at += rest as u64;
            self.piece = Cursor::new(piece);
        }
        self.piece.read(buf)
    }
}

/// Rows that were stored of the content that `object` has now.
pub(super) fn stored(object: &Object) -> Option<Stored> {
    let path = object.table("shard.parquet");
    guarded(&path, || Ok(read(&path, &valid(object)))).ok().flatten()
}

/// Stores the rows of `object`; a table that cannot be written is made again each time.
pub(super) fn store(object: &Object, shard: &Stored) {
    let path = object.table("shard.parquet");
    if let Err(error) = write(&path, &valid(object), shard) {
        tracing::debug!("not stored: {error}");
    }
}

fn valid(object: &Object) -> String {
    format!("{VERSION} {}", object.stamp())
}

fn read(path: &Path, valid: &str) -> Option<Stored> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).ok()?).ok()?;
    let facts = reader.schema().metadata().clone();
    if facts.get("shard").map(String::as_str) != Some(valid) {
        return None;
    }
    let kind: MediaKind = serde_json::from_str(facts.get("kind")?).ok()?;
    let classes = serde_json::from_str(facts.get("classes")?).ok()?;
    let mut rows = Vec::new();
    for batch in reader.build().ok()? {
        rows.extend(rows_of(&batch.ok()?)?);
    }
    Some(Stored { kind, classes, rows })
}

fn rows_of(batch: &RecordBatch) -> Option<Vec<Row>> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
    let long = |name| batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>();
    let labels = batch.column_by_name("label")?.as_primitive_opt::<UInt32Type>()?;
    let (starts, ends) = (long("start")?, long("end")?);
    let (names, infos, hashes) = (text("name")?, text("info")?, text("xxh3")?);
    let row = |n: usize| {
        let info = infos.is_valid(n).then(|| serde_json::from_str(infos.value(n)));
        Some(Row {
            payload: Some(starts.value(n)..ends.value(n)),
            label: labels.is_valid(n).then(|| labels.value(n)),
            name: names.value(n).to_owned(),
            info: info.transpose().ok()?.map(Arc::new),
            checksum: hashes.is_valid(n).then(|| hashes.value(n).to_owned()),
        })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Writes a table, whole or not at all.
fn write(path: &Path, valid: &str, shard: &Stored) -> Result<(), FormatError> {
    let io = |e: std::io::Error| FormatError::new(path, e);
    let wrong = |e: &dyn std::fmt::Display| parquet_error(path, e);
    std::fs::create_dir_all(path.parent().unwrap_or(path)).map_err(io)?;
    let field = |name: &str, kind, null| Field::new(name, kind, null);
    let fields = vec![
        field("start", DataType::UInt64, false),
        field("end", DataType::UInt64, false),
        field("label", DataType::UInt32, true),
        field("name", DataType::Utf8, false),
        field("info", DataType::Utf8, true),
        field("xxh3", DataType::Utf8, true),
    ];
    let json = |value: Result<String, serde_json::Error>| value.map_err(|e| wrong(&e));
    let facts = [
        ("shard", valid.to_owned()),
        ("kind", json(serde_json::to_string(&shard.kind))?),
        ("classes", json(serde_json::to_string(&shard.classes))?),
    ];
    let facts = facts.map(|(key, value)| (key.to_owned(), value));
    let schema = Arc::new(Schema::new(fields).with_metadata(HashMap::from(facts)));
    let payload = |r: &Row| r.payload.clone().unwrap_or(0..0);
    let info = |r: &Row| serde_json::to_string(r.info.as_ref()?.as_ref()).ok();
    let rows = shard.rows.iter();
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.clone().map(|r| payload(r).start))),
        Arc::new(UInt64Array::from_iter_values(rows.clone().map(|r| payload(r).end))),
        Arc::new(rows.clone().map(|r| r.label).collect::<UInt32Array>()),
        Arc::new(StringArray::from_iter_values(rows.clone().map(|r| &r.name))),
        Arc::new(rows.clone().map(info).collect::<StringArray>()),
        Arc::new(rows.map(|r| r.checksum.as_deref()).collect::<StringArray>()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|e| wrong(&e))?;
    let part = part_path(path);
    let file = File::create(&part).map_err(io)?;
    ArrowWriter::try_new(file, schema, None)
        .and_then(|mut writer| {
            writer.write(&batch)?;
            writer.close()
        })
        .map_err(|e| wrong(&e))?;
    std::fs::rename(&part, path).map_err(io)
}
