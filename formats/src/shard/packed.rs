//! Archives compressed as a whole, read in order without being unpacked.
//!
//! A reader position is a decompressor that has come so far. Whoever reads in ascending order goes on
//! with the one that is nearest before the wanted bytes; who goes back begins at the start of the
//! archive again. So a conversion that several threads share decompresses an archive once for each of
//! them, and one that is resumed once more up to where it goes on; nothing is kept on disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;

use crate::error::FormatError;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstandard,
    Bzip2,
    Brotli,
    Snappy,
}

/// Decompressors that are kept; a read that finds none before its bytes replaces the oldest.
const POSITIONS: usize = 64;

/// The decompressed bytes of `path`.
pub(crate) fn stream(path: &Path, packing: Packing) -> Result<Box<dyn Read + Send>, FormatError> {
    let io = |e: std::io::Error| FormatError::new(path, e);
    let source = BufReader::with_capacity(1 << 18, File::open(path).map_err(io)?);
    unpacked(source, packing).map_err(io)
}

/// The decompressed bytes of `source`.
pub(crate) fn unpacked(
    source: impl BufRead + Send + 'static,
    packing: Packing,
) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(source)),
        Packing::Zstandard => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Packing::Brotli => Box::new(brotli_decompressor::Decompressor::new(source, 1 << 16)),
        Packing::Snappy => Box::new(whole_snappy(source)?),
    })
}

/// Snappy's block format has no frames: a file of it is one block, whose size it tells first.
fn whole_snappy(mut source: impl Read) -> std::io::Result<std::io::Cursor<Vec<u8>>> {
    let mut packed = Vec::new();
    source.read_to_end(&mut packed)?;
    // Three bytes stand for 64 at most, so a size beyond that is a lie.
    let size = snap::raw::decompress_len(&packed).map_err(std::io::Error::other)?;
    if size > packed.len().saturating_mul(22) {
        let what = format!("{} bytes of Snappy cannot be {size}", packed.len());
        return Err(std::io::Error::other(what));
    }
    let bytes = snap::raw::Decoder::new().decompress_vec(&packed).map_err(std::io::Error::other)?;
    Ok(std::io::Cursor::new(bytes))
}

/// What reading further says when it cannot.
pub(crate) fn broken(path: &Path, at: u64, error: &dyn std::fmt::Display) -> FormatError {
    let what = format!("cannot be decompressed further: {error}");
    FormatError::malformed(path, what).at(format!("byte {at} decompressed"))
}

/// An archive with the places where reading has stopped.
pub(crate) struct PackedArchive {
    path: PathBuf,
    packing: Packing,
    positions: Mutex<Vec<Position>>,
}

struct Position {
    at: u64,
    source: Box<dyn Read + Send>,
}

impl PackedArchive {
    pub(crate) fn new(path: &Path, packing: Packing) -> Self {
        Self { path: path.to_owned(), packing, positions: Mutex::new(Vec::new()) }
    }

    /// The decompressed bytes `start..end`, into `buf`.
    pub(crate) fn read(&self, start: u64, end: u64, buf: &mut Vec<u8>) -> Result<(), FormatError> {
        let mut position = self.nearest(start)?;
        buf.clear();
        let ahead = start - position.at;
        let skipped = copy(&mut position, ahead, &mut std::io::sink());
        skipped.map_err(|(at, e)| broken(&self.path, at, &e))?;
        copy(&mut position, end.saturating_sub(start), buf)
            .map_err(|(at, e)| broken(&self.path, at, &e))?;
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if positions.len() >= POSITIONS {
            positions.remove(0);
        }
        positions.push(position);
        Ok(())
    }

    /// The position nearest before `start`, taken out of the list; a new one where there is none.
    fn nearest(&self, start: u64) -> Result<Position, FormatError> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = positions.iter().enumerate().filter(|(_, p)| p.at <= start);
        match before.max_by_key(|(_, p)| p.at).map(|(n, _)| n) {
            Some(n) => Ok(positions.remove(n)),
            None => Ok(Position { at: 0, source: stream(&self.path, self.packing)? }),
        }
    }
}

/// Copies `count` bytes; an error tells how far it came.
fn copy(
    position: &mut Position,
    count: u64,
    to: &mut dyn std::io::Write,
) -> Result<(), (u64, std::io::Error)> {
    let done = std::io::copy(&mut position.source.by_ref().take(count), to);
    match done {
        Ok(done) if done == count => {
            position.at += count;
            Ok(())
        }
        Ok(done) => Err((position.at + done, std::io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err((position.at, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_gives_the_same_bytes() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("a.gz");
        let bytes: Vec<u8> = (0..60_000u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut writer, &bytes).expect("written");
        let packed = writer.finish().expect("written");
        std::fs::write(&path, &packed).expect("written");
        let archive = PackedArchive::new(&path, Packing::Gzip);
        let mut buf = Vec::new();
        let places = [(0, 100), (5000, 90_000), (40, 41), (200_000, 240_000), (90_000, 90_000)];
        for (start, end) in places {
            archive.read(start as u64, end as u64, &mut buf).expect("read");
            assert_eq!(buf, bytes[start..end]);
        }
        let positions = archive.positions.lock().expect("not poisoned").len();
        assert_eq!(positions, 2, "one went on from 100 to the end, one began again");
        let beyond = archive.read(230_000, 240_001, &mut buf).expect_err("too far").to_string();
        assert!(beyond.contains("a.gz, byte 240000 decompressed"), "{beyond}");
        std::fs::write(&path, &packed[..packed.len() / 2]).expect("written");
        let cut = PackedArchive::new(&path, Packing::Gzip);
        assert!(cut.read(0, 240_000, &mut buf).is_err());
    }
}
