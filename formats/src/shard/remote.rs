//! Parquet shards of an object store: what is fetched to open one, and what is stored of it.
//!
//! Opening fetches the footer with its page index, and of the columns all but the payloads, in a few
//! ranges. The rows are then stored in the user's cache folder, so that the next run opens the shard
//! without a request.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

use super::rows::{self, Rows, ShardFacts, Stored};
use crate::error::FormatError;
use crate::record::MediaKind;
use crate::store::Object;

/// Bytes fetched from the end of a shard, where its footer is.
const TAIL: u64 = 512 << 10;
/// Ranges this near are fetched as one.
const GAP: u64 = 64 << 10;
/// Bytes fetched at once where a column is read through.
const STEP: u64 = 1 << 20;

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

    /// The same with the columns that are `wanted` fetched; a map stays as it is.
    pub(super) fn with_columns(
        &self,
        metadata: &ParquetMetaData,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Self, FormatError> {
        let Self::Remote(object, windows) = self else { return Ok(self.clone()) };
        let mut ranges = Vec::new();
        for group in metadata.row_groups() {
            for (leaf, column) in group.columns().iter().enumerate() {
                if wanted(leaf) {
                    let (start, bytes) = column.byte_range();
                    ranges.push(start..start.saturating_add(bytes).min(object.len()));
                }
            }
        }
        let mut windows = windows.as_ref().clone();
        for range in joined(ranges) {
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

/// What was stored of the content that `object` has now; else what `find` finds in its bytes, of which
/// the end is fetched, and which is then stored. What cannot be stored is found again each time.
///
/// # Errors
/// When the store cannot be read, or `find` fails.
pub(super) fn stored_or(
    object: &Arc<Object>,
    find: impl FnOnce(Data) -> Result<(Rows, MediaKind, Vec<String>), FormatError>,
) -> Result<Stored, FormatError> {
    let path = object.table("rows.bin");
    let (file, bytes) = (object.stamp(), object.len());
    let same = |known: &Stored| match &known.shards[..] {
        [shard] => (&shard.file, shard.bytes) == (&file, bytes),
        _ => false,
    };
    if let Some(known) = rows::load(&path).filter(same) {
        return Ok(known);
    }
    let (rows, kind, classes) = find(Data::with_tail(object)?)?;
    let shards = vec![ShardFacts { file, bytes, time: 0, rows: rows.len(), kind }];
    if let Err(error) = rows::store(&path, &shards, &classes, &rows) {
        tracing::debug!("not stored: {error}");
    }
    Ok(Stored { shards, classes, rows })
}
