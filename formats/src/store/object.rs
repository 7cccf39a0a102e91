//! One object of a store.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cache::{Cache, Id};
use super::folder::{Folder, Meta, Take, complete};
use super::retry::{Failure, FailureKind, GivenUp, retried};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::table_of_url;

/// Bytes asked for at once where an object is read through.
pub(crate) const PIECE: u64 = 8 << 20;

/// Says what is wrong with bytes that came.
pub(crate) type Check<'a> = &'a dyn Fn(&[u8]) -> Result<(), String>;

/// An object whose size is known. Every answer is compared with what was known when it was opened.
pub(crate) struct Object {
    folder: Folder,
    pub(crate) meta: Meta,
    id: Id,
}

impl Object {
    pub(super) fn new(folder: Folder, meta: Meta) -> Result<Self, FormatError> {
        let version = meta.tag.as_deref().unwrap_or(&meta.version);
        let id = Id::new(&format!("{}\n{}\n{version}", folder.url_of(&meta.name), meta.bytes));
        if let Some(cache) = &folder.cache {
            cache.keep(id)?;
        }
        Ok(Self { folder, meta, id })
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.folder.url_of(&self.meta.name)
    }

    /// Where what is found out about it is kept under `name`.
    pub(crate) fn table(&self, name: &str) -> PathBuf {
        table_of_url(&self.folder.tables, &self.url(), name)
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.meta.bytes
    }

    /// Tells this content from others that the URL had or will have.
    pub(crate) fn stamp(&self) -> String {
        let Meta { bytes, tag, version, .. } = &self.meta;
        format!("{bytes} {}", tag.as_deref().unwrap_or(version))
    }

    /// The bytes `range`, of which no copy is made unless the server sends whole objects only.
    ///
    /// # Errors
    /// When they cannot be had within the limits; the error names URL, range and last cause.
    pub(crate) fn fetch(&self, range: Range<u64>) -> Result<Bytes, FormatError> {
        let mut copy = Vec::new();
        let cache = self.folder.cache.as_deref();
        if cache.is_some_and(|cache| cache.find(self.id, &range, &mut copy)) {
            return Ok(copy.into());
        }
        match (self.fetched(&range, &|_| Ok(())), cache) {
            (Ok(bytes), _) => Ok(bytes),
            (Err(e), Some(cache)) if e.failure.kind == FailureKind::NoRanges => {
                self.of_whole(cache, &range, &|_| Ok(()))
            }
            (Err(e), _) => Err(self.error(e, &range)),
        }
    }

    /// The bytes `range`, of which `check` approves, from the cache or the store, in `buf`.
    ///
    /// # Errors
    /// As [`Self::fetch`]; also where `check` refuses what the store sends again and again.
    pub(crate) fn read<'a>(
        &self,
        range: Range<u64>,
        check: Check<'_>,
        buf: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormatError> {
        self.inside(&range)?;
        buf.clear();
        let Some(cache) = &self.folder.cache else {
            let bytes = self.fetched(&range, check).map_err(|e| self.error(e, &range))?;
            buf.extend_from_slice(&bytes);
            return Ok(buf);
        };
        if cache.find(self.id, &range, buf) && check(buf).is_ok() {
            return Ok(buf);
        }
        let fetched = cache.alone(self.id, &range, || {
            // Another reader may have brought it between the look above and now.
            buf.clear();
            if cache.find(self.id, &range, buf) && check(buf).is_ok() {
                return Ok(Bytes::copy_from_slice(buf));
            }
            self.fetch_and_keep(cache, &range, check)
        })?;
        buf.clear();
        buf.extend_from_slice(&fetched);
        Ok(buf)
    }

    /// Copies it to a file.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), FormatError> {
        let io = |e: std::io::Error| FormatError::new(path, e);
        let mut file = std::fs::File::create(path).map_err(io)?;
        for start in (0..self.len()).step_by(PIECE as usize) {
            let range = start..(start + PIECE).min(self.len());
            match self.fetched(&range, &|_| Ok(())) {
                Ok(bytes) => file.write_all(&bytes).map_err(io)?,
                Err(e) if start == 0 && e.failure.kind == FailureKind::NoRanges => {
                    drop(file);
                    return self.copy_whole(path);
                }
                Err(e) => return Err(self.error(e, &range)),
            }
        }
        Ok(())
    }

    fn copy_whole(&self, path: &Path) -> Result<(), FormatError> {
        let io = |e: std::io::Error| Failure::new(FailureKind::Final, e.to_string());
        let mut file = None;
        self.whole(&mut |start, bytes| {
            if start == 0 {
                file = Some(std::fs::File::create(path).map_err(io)?);
            }
            match &mut file {
                Some(file) => file.write_all(bytes).map_err(io),
                None => Err(Failure::again("it does not begin at its beginning")),
            }
        })
        .map_err(|e| e.error(&self.url(), ""))
    }

    /// All of it, from its beginning again after a failure.
    fn whole(&self, take: Take<'_>) -> Result<(), GivenUp> {
        retried(&self.folder.limits, || {
            let mut have = 0;
            let meta = self.folder.backend.get_whole(&self.meta.name, &mut |start, bytes| {
                have += bytes.len() as u64;
                take(start, bytes)
            })?;
            complete(have, self.len())?;
            self.unchanged(&meta)
        })
    }

    /// Fetches `range` and keeps a copy; of a server without ranges, all of it.
    fn fetch_and_keep(
        &self,
        cache: &Cache,
        range: &Range<u64>,
        check: Check<'_>,
    ) -> Result<Bytes, FormatError> {
        match self.fetched(range, check) {
            Ok(bytes) => {
                cache.store(self.id, range.start, &bytes);
                Ok(bytes)
            }
            Err(e) if e.failure.kind == FailureKind::NoRanges => self.of_whole(cache, range, check),
            Err(e) => Err(self.error(e, range)),
        }
    }

    /// The bytes `range` of the whole object, which is copied first.
    fn of_whole(
        &self,
        cache: &Cache,
        range: &Range<u64>,
        check: Check<'_>,
    ) -> Result<Bytes, FormatError> {
        self.whole_into_cache(cache)?;
        let mut buf = Vec::new();
        let found = cache.find(self.id, range, &mut buf);
        let checked = if found { check(&buf) } else { Err(too_small(cache, self.len())) };
        checked.map_err(|what| FormatError::new(self.url(), FormatErrorKind::Store(what)))?;
        Ok(buf.into())
    }

    fn whole_into_cache(&self, cache: &Cache) -> Result<(), FormatError> {
        let everything = 0..self.len();
        cache
            .alone(self.id, &everything, || {
                if cache.covers(self.id, &everything) {
                    return Ok(Bytes::new());
                }
                let mut pieces = super::cache::Pieces::new(cache, self.id);
                self.whole(&mut |start, bytes| pieces.take(start, bytes))
                    .map_err(|e| e.error(&self.url(), "fetched whole"))?;
                pieces.finish();
                Ok(Bytes::new())
            })
            .map(|_| ())
    }

    /// One range from the store, tried again where it may help.
    fn fetched(&self, range: &Range<u64>, check: Check<'_>) -> Result<Bytes, GivenUp> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        retried(&self.folder.limits, || {
            let (bytes, meta) = self.folder.backend.get(&self.meta.name, range.clone())?;
            complete(bytes.len() as u64, range.end - range.start)?;
            self.unchanged(&meta)?;
            check(&bytes).map_err(Failure::again)?;
            Ok(bytes)
        })
    }

    /// Refuses an answer about another content.
    fn unchanged(&self, now: &Meta) -> Result<(), Failure> {
        let changed = |what: &str, before: &str, now: &str| {
            Failure::again(format!(
                "it has changed since it was opened: {what} {before}, now {now}"
            ))
        };
        if now.bytes != self.meta.bytes {
            let (before, now) = (self.meta.bytes.to_string(), now.bytes.to_string());
            return Err(changed("size", &before, &now));
        }
        match (&self.meta.tag, &now.tag) {
            (Some(before), Some(now)) if before != now => Err(changed("tag", before, now)),
            _ => Ok(()),
        }
    }

    fn inside(&self, range: &Range<u64>) -> Result<(), FormatError> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(());
        }
        let what = format!(
            "bytes {}..{} are wanted, the object has {}",
            range.start,
            range.end,
            self.len()
        );
        Err(FormatError::malformed(self.url(), what))
    }

    fn error(&self, given_up: GivenUp, range: &Range<u64>) -> FormatError {
        let place = format!("bytes {}..{}", range.start, range.end);
        if given_up.failure.kind == FailureKind::NoRanges {
            let what = format!(
                "the server sends whole files only ({}): use one that serves ranges, or add --cache \
                 DIR to fetch every shard once, whole",
                given_up.failure.text
            );
            return FormatError::new(self.url(), FormatErrorKind::Store(what)).at(place);
        }
        given_up.error(&self.url(), &place)
    }
}

fn too_small(cache: &Cache, bytes: u64) -> String {
    format!(
        "the server sends whole files only, and a cache of {} bytes has no room for this one of \
         {bytes}: raise --cache-size",
        cache.limit()
    )
}
