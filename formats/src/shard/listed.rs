//! Samples that a layout lists: files of their own, byte ranges of archives, folders of frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use tubelet_core::{MediaInfo, SampleId};

use crate::compact::Facts;
use crate::dataset::{Entry, Listing, Source};
use crate::error::FormatError;
use crate::frames;
use crate::index::Index;
use crate::record::{Record, ShardReader, Span};
use crate::shard::packed::PackedArchive;
use crate::shard::unpack::packing;

/// A listing, with stored media facts where there are any. Archives are mapped, and their payloads
/// are lent from the map.
pub struct ListedReader {
    listing: Listing,
    archives: Vec<(PathBuf, Archive)>,
    infos: Facts,
}

/// An archive that is open.
enum Archive {
    Plain(Mmap),
    Packed(PackedArchive),
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
            .map(|path| {
                let archive = match packing(path)? {
                    Some(packing) => Archive::Packed(PackedArchive::new(path, packing)),
                    None => Archive::Plain(map(path)?),
                };
                Ok((path.clone(), archive))
            })
            .collect::<Result<_, FormatError>>()?;
        let find = |n: usize, entry: &Entry| match &entry.source {
            Source::Pixels { size, .. } => Some(Arc::new(MediaInfo::picture(*size, "bmp"))),
            _ => index?.find(&entry.name, &span(n, entry)),
        };
        let mut infos = Facts::default();
        for (n, entry) in listing.entries.iter().enumerate() {
            infos.push(find(n, &entry).as_deref());
        }
        infos.shrink();
        Ok(Self { listing, archives, infos })
    }

    /// Bytes of an archive, lent or in `buf`.
    fn bytes_of<'a>(
        &'a self,
        shard: u32,
        (start, end): (u64, u64),
        name: &str,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        let (path, map) = match &self.archives[shard as usize] {
            (path, Archive::Plain(map)) => (path, map),
            (_, Archive::Packed(archive)) => {
                archive.read(start, end, buf)?;
                return Ok(buf);
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
        let entry = self.listing.entries.get(record.id.0 as usize);
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
                self.bytes_of(*shard, (bytes.start, bytes.end), &entry.name, buf)
            }
            Source::Pixels { shard, start, size } => {
                let end = start.saturating_add(size.area() as u64 * 3);
                let mut own = Vec::new();
                let pixels = self.bytes_of(*shard, (*start, end), &entry.name, &mut own)?;
                frames::bitmap(pixels, *size, buf);
                Ok(buf)
            }
        }
    }

    fn in_order(&self) -> bool {
        self.archives.iter().any(|(_, archive)| matches!(archive, Archive::Packed(_)))
    }

    fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    fn missing(&self) -> &[String] {
        &self.listing.missing
    }
}

fn span(index: usize, entry: &Entry) -> Span {
    match &entry.source {
        Source::File(path) | Source::Frames { folder: path, .. } => Span::File(path.clone()),
        Source::Range { shard, bytes } => Span::Range { shard: *shard, bytes: bytes.clone() },
        Source::Pixels { shard, .. } => Span::Cell { shard: *shard, row: index as u64 },
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
