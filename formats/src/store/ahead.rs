//! An object read through, of which large parts are skipped.

use std::io::{Error, Read, Result, Seek, SeekFrom};

use bytes::Bytes;

use super::object::{Object, PIECE};

/// Bytes asked for after a jump.
const FIRST: u64 = 64 << 10;

/// Reads an object: little after each jump, more and more while nothing is skipped.
pub(crate) struct ReadAhead<'a> {
    object: &'a Object,
    at: u64,
    /// What was fetched last, and where it begins.
    window: (u64, Bytes),
    next: u64,
}

impl<'a> ReadAhead<'a> {
    pub(crate) fn new(object: &'a Object) -> Self {
        Self { object, at: 0, window: (0, Bytes::new()), next: FIRST }
    }

    /// Fetches what follows.
    fn fill(&mut self) -> Result<()> {
        let follows = self.at == self.window.0 + self.window.1.len() as u64;
        self.next = if follows { (self.next * 2).min(PIECE) } else { FIRST };
        let end = (self.at + self.next).min(self.object.len());
        let bytes = self.object.fetch(self.at..end).map_err(|e| Error::other(e.to_string()))?;
        self.window = (self.at, bytes);
        Ok(())
    }
}

impl Read for ReadAhead<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.at >= self.object.len() || buf.is_empty() {
            return Ok(0);
        }
        let inside = |window: &(u64, Bytes), at: u64| {
            at.checked_sub(window.0).filter(|skip| *skip < window.1.len() as u64)
        };
        if inside(&self.window, self.at).is_none() {
            self.fill()?;
        }
        let skip = inside(&self.window, self.at).unwrap_or(0) as usize;
        let rest = &self.window.1[skip..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ReadAhead<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.object.len().checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::other("a seek before the start"))?;
        Ok(self.at)
    }
}
