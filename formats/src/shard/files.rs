//! Samples that are files of their own.

use std::path::PathBuf;
use std::sync::Arc;

use tubelet_core::{MediaInfo, SampleId};

use crate::dataset::{Listing, kind_by_name};
use crate::error::FormatError;
use crate::index::Index;
use crate::record::{MediaKind, Record, ShardReader, Span};

/// A listing on disk, with stored media facts where there are any.
pub struct FilesReader {
    listing: Listing,
    infos: Vec<Option<Arc<MediaInfo>>>,
}

impl FilesReader {
    /// Reads the files of `listing`; facts of `index` are used for files that have not changed
    /// since.
    pub fn new(listing: Listing, index: Option<&Index>) -> Self {
        let infos = listing
            .entries
            .iter()
            .map(|entry| index.and_then(|index| index.find(&entry.name, &entry.path)))
            .collect();
        Self { listing, infos }
    }

    fn path(&self, record: &Record) -> PathBuf {
        match &record.span {
            Span::File(path) => path.clone(),
            Span::Range { .. } | Span::Cell { .. } => {
                self.listing.entries[record.id.0 as usize].path.clone()
            }
        }
    }
}

impl ShardReader for FilesReader {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn record(&self, index: usize) -> Record {
        let entry = &self.listing.entries[index];
        Record {
            id: SampleId(index as u64),
            label: entry.label,
            kind: kind_by_name(&entry.path).unwrap_or(MediaKind::Video),
            info: self.infos[index].clone(),
            name: entry.name.clone(),
            span: Span::File(entry.path.clone()),
        }
    }

    fn read<'a>(&'a self, record: &Record, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        let path = self.path(record);
        let error = |e: std::io::Error| FormatError::new(&path, e);
        let mut file = std::fs::File::open(&path).map_err(error)?;
        buf.clear();
        std::io::Read::read_to_end(&mut file, buf).map_err(error)?;
        Ok(buf)
    }

    fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    fn missing(&self) -> &[String] {
        &self.listing.missing
    }
}
