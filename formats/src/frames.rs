//! Videos that are folders of numbered pictures.
//!
//! Such a folder is read as a Motion-JPEG (or PNG) AVI in memory whose frames are the files' bytes:
//! one payload like any other video, which any player plays, the transcoder reads and a shard
//! stores. A line in its header says that it was made here; the decoder then takes the picture
//! decoders for its frames, so that pixels are those of the files, bit for bit, and not those of
//! FFmpeg's Motion-JPEG decoder and colour converter. The price is that all files of a folder are
//! read although a clip needs a few; converting the data set pays it once.

use std::ops::Range;
use std::path::{Path, PathBuf};

use tubelet_core::Size;

use crate::decode::picture_size;
use crate::error::{DecodeError, FormatError};

/// What the header's software line says.
const SOFTWARE: &[u8; 16] = b"tubelet frames\0\0";
/// Bytes before the first frame's chunk: three lists and their chunks, all of fixed size.
const HEADER: usize = 12 + 12 + 64 + 12 + 64 + 48 + 36 + 12;
/// Place of the software line in it.
const SOFTWARE_AT: usize = 12 + 12 + 64 + 12 + 64 + 48 + 20;
/// Largest payload: sizes are stored in 32 bits.
const MAX_BYTES: usize = u32::MAX as usize - (1 << 20);

/// Reads the frames of `folder` as one payload into `buf`; `count` is the number that annotations
/// tell.
///
/// # Errors
/// When there is no numbered picture, one is missing in the row, fewer than `count` are there, or
/// they are neither all JPEG nor all PNG.
pub(crate) fn pack(
    folder: &Path,
    count: Option<u32>,
    fps: u32,
    buf: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let mut files = numbered(folder)?;
    if let Some(count) = count.map(|c| c as usize).filter(|c| *c > 0) {
        if files.len() < count {
            let what = format!("{count} frames are listed, {} are there", files.len());
            return Err(FormatError::malformed(folder, what));
        }
        files.truncate(count);
    }
    buf.clear();
    buf.resize(HEADER, 0);
    let mut index = Vec::with_capacity(files.len() * 16);
    let mut first: Option<(Size, bool)> = None;
    for path in &files {
        let bytes = std::fs::read(path).map_err(|e| FormatError::new(path, e))?;
        let jpeg = bytes.starts_with(&[0xff, 0xd8]);
        let wrong = |what: &str| FormatError::malformed(path, what);
        if !jpeg && !bytes.starts_with(b"\x89PNG") {
            return Err(wrong("a frame must be a JPEG or PNG file"));
        }
        match first {
            None => {
                let size = picture_size(&bytes).map_err(|e| wrong(&e.to_string()))?;
                first = Some((size, jpeg));
            }
            Some((_, kind)) if kind != jpeg => {
                return Err(wrong("JPEG and PNG frames are mixed"));
            }
            Some(_) => {}
        }
        if buf.len() + bytes.len() + index.len() > MAX_BYTES {
            return Err(FormatError::malformed(folder, "more than 4 GiB of frames"));
        }
        let offset = (buf.len() - HEADER + 4) as u32;
        for part in [&b"00dc"[..], &0x10u32.to_le_bytes(), &offset.to_le_bytes()] {
            index.extend_from_slice(part);
        }
        index.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        chunk(buf, b"00dc", &bytes);
    }
    let Some((size, jpeg)) = first else {
        return Err(FormatError::malformed(folder, "no frame in it"));
    };
    let movie = (buf.len() - HEADER + 4) as u32;
    chunk(buf, b"idx1", &index);
    let header = header(size, jpeg, files.len() as u32, fps, buf.len() as u32 - 8, movie);
    buf[..HEADER].copy_from_slice(&header);
    Ok(())
}

/// Everything before the first frame.
fn header(size: Size, jpeg: bool, frames: u32, fps: u32, total: u32, movie: u32) -> Vec<u8> {
    let fourcc = if jpeg { b"MJPG" } else { b"MPNG" };
    let numbers = |out: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    };
    let fps = fps.max(1);
    let mut main = Vec::new();
    let has_index = 0x10;
    numbers(&mut main, &[1_000_000 / fps, 0, 0, has_index, frames, 0, 1, 0]);
    numbers(&mut main, &[size.width, size.height, 0, 0, 0, 0]);
    let mut stream = [&b"vids"[..], fourcc].concat();
    numbers(&mut stream, &[0, 0, 0, 1, fps, 0, frames, 0, u32::MAX, 0, 0, 0]);
    let mut format = Vec::new();
    numbers(&mut format, &[40, size.width, size.height, 1 | 24 << 16]);
    format.extend_from_slice(fourcc);
    numbers(&mut format, &[(size.area() * 3).min(u32::MAX as usize) as u32, 0, 0, 0, 0]);

    let mut streams = b"strl".to_vec();
    chunk(&mut streams, b"strh", &stream);
    chunk(&mut streams, b"strf", &format);
    let mut headers = b"hdrl".to_vec();
    chunk(&mut headers, b"avih", &main);
    chunk(&mut headers, b"LIST", &streams);
    let mut info = b"INFO".to_vec();
    chunk(&mut info, b"ISFT", SOFTWARE);
    let mut out = b"RIFF".to_vec();
    numbers(&mut out, &[total]);
    out.extend_from_slice(b"AVI ");
    chunk(&mut out, b"LIST", &headers);
    chunk(&mut out, b"LIST", &info);
    out.extend_from_slice(b"LIST");
    numbers(&mut out, &[movie]);
    out.extend_from_slice(b"movi");
    out
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], bytes: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
    if bytes.len() % 2 == 1 {
        out.push(0);
    }
}

/// A payload that [`pack`] made.
pub(crate) struct Packed<'a> {
    /// Frames per second.
    pub(crate) fps: u32,
    payload: &'a [u8],
    index: &'a [u8],
}

impl<'a> Packed<'a> {
    /// `None` where the payload was not made here.
    ///
    /// # Errors
    /// When it was, and is damaged.
    pub(crate) fn open(payload: &'a [u8]) -> Result<Option<Self>, DecodeError> {
        let line = payload.get(SOFTWARE_AT..SOFTWARE_AT + SOFTWARE.len());
        if !payload.starts_with(b"RIFF") || line != Some(SOFTWARE) {
            return Ok(None);
        }
        let damaged = || DecodeError::Damaged("an AVI of frames without its index".to_owned());
        let movie = number(payload, HEADER - 8).ok_or_else(damaged)? as usize;
        let at = (HEADER - 4).saturating_add(movie).next_multiple_of(2);
        let head = at.checked_add(8).and_then(|end| payload.get(at..end)).ok_or_else(damaged)?;
        let length = number(head, 4).unwrap_or(0) as usize;
        let index = (at + 8).checked_add(length).and_then(|end| payload.get(at + 8..end));
        let index = index.filter(|i| head.starts_with(b"idx1") && i.len() % 16 == 0);
        let rate = number(payload, 12 + 12 + 64 + 12 + 8 + 24).unwrap_or(0);
        Ok(Some(Self { fps: rate, payload, index: index.ok_or_else(damaged)? }))
    }

    /// Number of frames.
    pub(crate) fn len(&self) -> u32 {
        (self.index.len() / 16) as u32
    }

    /// The encoded picture of frame `n`.
    ///
    /// # Errors
    /// When there is no such frame, or its place is outside the payload.
    pub(crate) fn frame(&self, n: u32) -> Result<&'a [u8], DecodeError> {
        let place = n as usize * 16;
        let missing = || DecodeError::MissingFrame { wanted: n, have: self.len() };
        let entry = self.index.get(place..place + 16).ok_or_else(missing)?;
        let offset = number(entry, 8).unwrap_or(0) as usize;
        let length = number(entry, 12).unwrap_or(0) as usize;
        let start = HEADER - 4 + 8 + offset;
        let range: Range<usize> = start..start.saturating_add(length);
        self.payload
            .get(range)
            .ok_or_else(|| DecodeError::Damaged(format!("frame {n} lies outside the AVI")))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The frames of a folder in the order of their numbers: pictures called `<name><number>`, all of
/// one name (of several, such as optical flow beside pictures, the one that says `img`, `image` or
/// `frame`, or nothing).
///
/// # Errors
/// When there are none, or the numbers have a gap.
pub(crate) fn numbered(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let entries = std::fs::read_dir(folder).map_err(|e| FormatError::new(folder, e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| FormatError::new(folder, e))?.path();
        if let Some((name, number)) = frame_name(&path) {
            files.push((name, number, path));
        }
    }
    let rank = |name: &str| {
        let known = ["", "img", "image", "frame"];
        let plain = name.trim_end_matches(['_', '-', '.']);
        known.iter().position(|k| *k == plain).unwrap_or(known.len())
    };
    files.sort_by(|a, b| (rank(&a.0), &a.0, a.1).cmp(&(rank(&b.0), &b.0, b.1)));
    let name = files.first().map(|f| f.0.clone()).unwrap_or_default();
    files.retain(|f| f.0 == name);
    if let Some(gap) = files.windows(2).find(|w| w[1].1 != w[0].1 + 1) {
        let what = format!("frame {} is not there", gap[0].1 + 1);
        return Err(FormatError::malformed(folder, what));
    }
    if files.is_empty() {
        return Err(FormatError::malformed(folder, "no numbered picture in it"));
    }
    Ok(files.into_iter().map(|f| f.2).collect())
}

/// `img_` and 12 of `img_00012.jpg`; `None` for what is no numbered picture.
pub(crate) fn frame_name(path: &Path) -> Option<(String, u64)> {
    let extension = path.extension()?.to_str()?.to_lowercase();
    let stem = path.file_stem()?.to_str()?;
    let name = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let picture = matches!(extension.as_str(), "jpg" | "jpeg" | "png");
    picture.then_some(())?;
    Some((name.to_owned(), stem[name.len()..].parse().ok()?))
}

/// Packed RGB `pixels` of `size` as a BMP file: what stands for a picture that is stored decoded.
pub(crate) fn bitmap(pixels: &[u8], size: Size, buf: &mut Vec<u8>) {
    let row = size.width as usize * 3;
    let padding = row.next_multiple_of(4) - row;
    let total = 54 + (row + padding) * size.height as usize;
    let mut head = b"BM".to_vec();
    // A negative height says that rows go from the top.
    let numbers = [total as u32, 0, 54, 40, size.width, (size.height as i32).wrapping_neg() as u32];
    numbers.iter().for_each(|v| head.extend_from_slice(&v.to_le_bytes()));
    head.extend_from_slice(&[1, 0, 24, 0]);
    head.resize(54, 0);
    buf.clear();
    buf.reserve(total);
    buf.extend_from_slice(&head);
    for line in pixels.chunks_exact(row.max(1)) {
        buf.extend(line.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]));
        buf.resize(buf.len() + padding, 0);
    }
}
