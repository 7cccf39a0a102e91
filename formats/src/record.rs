//! One sample's entry in a data set, and the seam through which its bytes are read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use tubelet_core::{Clip, MediaInfo, Rect, SampleId};

use crate::error::{DecodeError, FormatError};

/// What kind of bytes a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// A JPEG file.
    Jpeg,
    /// Any other still picture (PNG, WebP, BMP, GIF's first frame).
    Image,
    /// A video container.
    Video,
}

/// Where a sample's encoded bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// A file of its own.
    File(PathBuf),
    /// A byte range of a shard.
    Range {
        /// Number of the shard.
        shard: u32,
        /// Bytes within it.
        bytes: Range<u64>,
    },
    /// A row of a shard whose bytes are not stored in one piece as they are.
    Cell {
        /// Number of the shard.
        shard: u32,
        /// Row within it.
        row: u64,
    },
}

/// One sample's entry.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number: its position in the reader, 0..len.
    pub id: SampleId,
    /// Class index, where the data set says one.
    pub label: Option<u32>,
    /// What its bytes are.
    pub kind: MediaKind,
    /// Media facts, where an index or a shard stored them; without, the decoder probes.
    pub info: Option<Arc<MediaInfo>>,
    /// Name for people: the path relative to the data set, as in errors and reports.
    pub name: String,
    /// Where the bytes are.
    pub span: Span,
}

/// Where encoded samples come from. Called by many workers at once, once a sample; the worker
/// drives, nothing is prefetched here.
pub trait ShardReader: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of sample `index`, which must be below [`Self::len`].
    fn record(&self, index: usize) -> Record;

    /// The encoded bytes of `record`: lent from a memory map where there is one, else read into
    /// `buf`.
    ///
    /// # Errors
    /// When the file is missing, shorter than recorded, or cannot be read.
    fn read<'a>(&'a self, record: &Record, buf: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError>;

    /// Class names in label order; empty where the data set has none.
    fn classes(&self) -> &[String];

    /// Whether samples are cheap to read only in ascending order, as those of archives are that were
    /// compressed as a whole.
    fn in_order(&self) -> bool {
        false
    }

    /// Shorter sides in pixels of the further, smaller encodings that pictures have here, ascending;
    /// empty where there are none.
    fn level_sides(&self) -> &[u32] {
        &[]
    }

    /// The encoded bytes of the smaller encoding of `record` whose shorter side is `side`, as
    /// [`Self::read`] gives them; its size is [`crate::transcode::level_size`]. `None` where the
    /// picture has no such encoding, being no larger itself.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_level<'a>(
        &'a self,
        record: &Record,
        side: u32,
        buf: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, FormatError> {
        let _ = (record, side, buf);
        Ok(None)
    }

    /// What the annotations list but the disk lacks, by name.
    fn missing(&self) -> &[String] {
        &[]
    }

    /// What a person should know of how the samples were listed; a line each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// The xxh3 hash that the bytes of sample `index` were stored with, where they were. Reading from
    /// a local disk does not compare it.
    fn stored_hash(&self, index: usize) -> Option<u64> {
        let _ = index;
        None
    }

    /// The hash of the smaller encoding of sample `index` whose shorter side is `side`, alike.
    fn stored_level_hash(&self, index: usize, side: u32) -> Option<u64> {
        let _ = (index, side);
        None
    }

    /// Bytes that [`Self::read`] gives for `record`, about, without reading them.
    fn source_bytes(&self, record: &Record) -> u64 {
        bytes_of(&record.span)
    }
}

/// Bytes of a file, a folder of frames or a range; those of a usual picture for a row, of which only
/// its shard can tell more.
pub(crate) fn bytes_of(span: &Span) -> u64 {
    match span {
        Span::File(path) if path.is_dir() => {
            let files = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
            files.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
        }
        Span::File(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
        Span::Range { bytes, .. } => bytes.end - bytes.start,
        Span::Cell { .. } => 1 << 17,
    }
}

/// What a decoder is asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrameRequest {
    /// Presentation indices, ascending, no repeats; `[0]` for a picture.
    pub frames: Vec<u32>,
    /// The region that will be looked at, in pixels of the shown frame; a decoder delivers at least
    /// this much of it, with the pixels a whole decode has there. All of it where absent.
    pub region: Option<Rect>,
    /// Whether the codec's planes are as welcome as RGB; a decoder that has none delivers RGB.
    #[serde(default)]
    pub planes: bool,
}

/// Encoded bytes to frames. One a worker; keeps its codec contexts and buffers between calls.
pub trait Decoder: Send {
    /// Media facts without decoding pixels (a packet scan for videos, the header for pictures).
    ///
    /// # Errors
    /// When the bytes are not a medium this decoder knows, or hold no frame.
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError>;

    /// Decodes exactly the frames of `want` into `clip`, whose frames are then `want.frames` in
    /// order, RGB (or planes, where they are welcome), rotated as the container asks.
    ///
    /// # Errors
    /// When the bytes are broken, or a wanted frame does not exist or cannot be decoded.
    fn decode(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        want: &FrameRequest,
        clip: &mut Clip,
    ) -> Result<(), DecodeError>;

    /// Pictures decoded so far for wanted frames, those included that others are made from.
    fn frames_decoded(&self) -> u64;
}
