//! Samples that a layout lists: files of their own, byte ranges of archives, folders of frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use tubelet_core::{MediaInfo, SampleId};
use xxhash_rust::xxh3::xxh3_64;

use crate::compact::Facts;
use crate::dataset::{Entry, Listing, Source};
use crate::error::FormatError;
use crate::frames;
use crate::index::Index;
use crate::record::{Record, ShardReader, Span, bytes_of};
use crate::shard::packed::PackedArchive;
use crate::shard::unpack::packing;
use crate::store::Object;

/// A listing, with stored media facts where there are any. Local archives are mapped, and their
/// payloads are lent from the map.
pub struct ListedReader {
    listing: Listing,
    archives: Vec<Archive>,
    infos: Facts,
}

/// An archive that is open.
enum Archive {
    Map(PathBuf, Mmap),
    Packed(PackedArchive),
    Remote(Object),
}

impl ListedReader {
    /// Reads what `listing` names; facts of `index` are used for sources that have not changed
    /// since.
    ///
    /// # Errors
    /// When an archive cannot be mapped.
    pub fn new(listing: Listing, index: Option<&Index>) -> Result<Self, FormatError> {
        let archives = listing
            .archives
            .iter()
            .map(|path| match packing(path)? {
                Some(packing) => Ok(Archive::Packed(PackedArchive::new(path, packing))),
                None => Ok(Archive::Map(path.clone(), map(path)?)),
            })
            .collect::<Result<_, FormatError>>()?;
        Ok(Self::with_archives(listing, archives, index))
    }

    /// Reads what `listing` names from `objects`, which are its archives in order.
    pub(crate) fn of_objects(
        listing: Listing,
        objects: Vec<Object>,
        index: Option<&Index>,
    ) -> Self {
        let archives = objects.into_iter().map(Archive::Remote).collect();
        Self::with_archives(listing, archives, index)
    }

    fn with_archives(listing: Listing, archives: Vec<Archive>, index: Option<&Index>) -> Self {
        let find = |n: usize, entry: &Entry| match &entry.source {
            Source::Pixels { size, .. } => Some(Arc::new(MediaInfo::picture(*size, "bmp"))),
            _ => index?.find(&entry.name, &span(n, entry)),
        };
        let mut infos = Facts::default();
        for (n, entry) in listing.entries.iter().enumerate() {
            infos.push(find(n, &entry).as_deref());
        }
        infos.shrink();
        Self { listing, archives, infos }
    }

    /// Bytes of an archive, lent from the map or read into `buf`; those of a store must have the hash
    /// of sample `index`, where one is stored.
    fn bytes_of<'a>(
        &'a self,
        (shard, index): (u32, usize),
        (start, end): (u64, u64),
        name: &str,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        let (path, map) = match &self.archives[shard as usize] {
            Archive::Map(path, map) => (path, map),
            Archive::Packed(archive) => {
                archive.read(start, end, buf)?;
                return Ok(buf);
            }
            Archive::Remote(object) => {
                let stored = self.listing.hashes.get(&index).copied();
                let check = |bytes: &[u8]| has_hash(bytes, stored);
                return object.read(start..end, &check, buf).map_err(|e| e.sample(name));
            }
        };
        usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| map.get(start..end))
            .ok_or_else(|| {
                let what = format!("bytes {start}..{end} are wanted, the file has {}", map.len());
                FormatError::malformed(path, what).at(name)
            })
    }
}

impl ShardReader for ListedReader {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn record(&self, index: usize) -> Record {
        let entry = self.listing.entries.get(index);
        Record {
            id: SampleId(index as u64),
            label: entry.label,
            kind: entry.kind(),
            info: self.infos.get(index),
            span: span(index, &entry),
            name: entry.name,
        }
    }

    fn read<'a>(&'a self, record: &Record, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        let index = record.id.0 as usize;
        let entry = self.listing.entries.get(index);
        match &entry.source {
            Source::File(path) => {
                let error = |e: std::io::Error| FormatError::new(path, e);
                let mut file = std::fs::File::open(path).map_err(error)?;
                buf.clear();
                std::io::Read::read_to_end(&mut file, buf).map_err(error)?;
                Ok(buf)
            }
            Source::Frames { folder, count, fps } => {
                frames::pack(folder, *count, *fps, buf)?;
                Ok(buf)
            }
            Source::Range { shard, bytes } => {
                self.bytes_of((*shard, index), (bytes.start, bytes.end), &entry.name, buf)
            }
            Source::Pixels { shard, start, size } => {
                let end = start.saturating_add(size.area() as u64 * 3);
                let mut own = Vec::new();
                let place = (*start, end);
                let pixels = self.bytes_of((*shard, index), place, &entry.name, &mut own)?;
                frames::bitmap(pixels, *size, buf);
                Ok(buf)
            }
        }
    }

    fn in_order(&self) -> bool {
        self.archives.iter().any(|archive| matches!(archive, Archive::Packed(_)))
    }

    fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    fn missing(&self) -> &[String] {
        &self.listing.missing
    }

    fn notes(&self) -> &[String] {
        &self.listing.notes
    }

    fn stored_hash(&self, index: usize) -> Option<u64> {
        self.listing.hashes.get(&index).copied()
    }

    fn source_bytes(&self, record: &Record) -> u64 {
        // Pixels alone are cells.
        let Span::Cell { .. } = record.span else { return bytes_of(&record.span) };
        match self.listing.entries.get(record.id.0 as usize).source {
            Source::Pixels { size, .. } => size.area() as u64 * 3,
            _ => bytes_of(&record.span),
        }
    }
}

fn span(index: usize, entry: &Entry) -> Span {
    match &entry.source {
        Source::File(path) | Source::Frames { folder: path, .. } => Span::File(path.clone()),
        Source::Range { shard, bytes } => Span::Range { shard: *shard, bytes: bytes.clone() },
        Source::Pixels { shard, .. } => Span::Cell { shard: *shard, row: index as u64 },
    }
}

/// Refuses bytes that have not the hash that was stored with them.
pub(crate) fn has_hash(bytes: &[u8], stored: Option<u64>) -> Result<(), String> {
    let Some(stored) = stored else { return Ok(()) };
    match xxh3_64(bytes) {
        found if found == stored => Ok(()),
        found => Err(format!("the payload has hash {found:016x}, stored is {stored:016x}")),
    }
}

/// Maps a file for reading.
pub(crate) fn map(path: &Path) -> Result<Mmap, FormatError> {
    let io = |e: std::io::Error| FormatError::new(path, e);
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: the map is only read. An archive is a finished file that nobody writes to while it is
    // in use; who truncates it then breaks that contract.
    unsafe { Mmap::map(&file) }.map_err(io)
}
