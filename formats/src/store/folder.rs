//! A folder of an object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::cache::Cache;
use super::object::Object;
use super::retry::{Failure, FailureKind, retried};
use super::{Limits, StoreOptions};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::tables_of_user;

/// What a store tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Its name relative to the folder.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// What changes when its content does; compared with that of later answers.
    pub(crate) tag: Option<String>,
    /// What changes when its content does, where there is no tag: time or hash.
    pub(crate) version: String,
}

/// Takes a piece of an object and its place.
pub(crate) type Take<'a> = &'a mut (dyn FnMut(u64, &[u8]) -> Result<(), Failure> + 'a);

/// Where objects are: a client of a store, or a stand-in of a test. Names are relative to the
/// folder; one call is one attempt.
pub(crate) trait Backend: Send + Sync {
    /// Size and tag of an object.
    fn head(&self, name: &str) -> Result<Meta, Failure>;

    /// Bytes `start..end` of an object, exactly so many, and what the answer tells of the object.
    fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<(Bytes, Meta), Failure>;

    /// All of an object, piece by piece: `take` is given the place of each.
    fn get_whole(&self, name: &str, take: Take<'_>) -> Result<Meta, Failure>;

    /// Objects directly in the folder's own folder `name` (in the folder itself where empty).
    fn list(&self, name: &str) -> Result<Vec<Meta>, Failure>;

    /// Whether the store lists folders at all.
    fn lists(&self) -> bool;

    /// Stores an object, whole or not at all.
    fn put(&self, name: &str, bytes: Bytes) -> Result<(), Failure>;

    /// Stores a file as an object, whole or not at all.
    fn put_file(&self, name: &str, file: &Path) -> Result<(), Failure>;
}

/// A folder of a store.
#[derive(Clone)]
pub(crate) struct Folder {
    pub(crate) backend: Arc<dyn Backend>,
    /// Without a slash at its end.
    pub(crate) url: String,
    pub(crate) limits: Limits,
    pub(crate) cache: Option<Arc<Cache>>,
    /// Folder for what is found out about objects.
    pub(crate) tables: PathBuf,
}

impl Folder {
    /// The folder at `url`; nothing is asked of the store yet.
    ///
    /// # Errors
    /// When the client cannot be set up, the cache cannot be used, or this build has no client.
    pub(crate) fn open(url: &str, options: &StoreOptions) -> Result<Self, FormatError> {
        #[cfg(feature = "store")]
        let backend = super::client::connect(url, options)?;
        #[cfg(not(feature = "store"))]
        let backend = no_client(url)?;
        Self::with_backend(backend, url, options)
    }

    /// A folder that `backend` serves.
    pub(crate) fn with_backend(
        backend: Arc<dyn Backend>,
        url: &str,
        options: &StoreOptions,
    ) -> Result<Self, FormatError> {
        let cache = options.cache.as_ref().map(|c| Cache::open(&c.folder, c.bytes)).transpose()?;
        let tables = options.tables.clone().unwrap_or_else(tables_of_user);
        Ok(Self { backend, url: url.to_owned(), limits: options.limits.clone(), cache, tables })
    }

    /// URL of `name` in it.
    pub(crate) fn url_of(&self, name: &str) -> String {
        if name.is_empty() { self.url.clone() } else { format!("{}/{name}", self.url) }
    }

    /// What the store tells of `name`; `None` where there is no such object.
    pub(crate) fn head(&self, name: &str) -> Result<Option<Meta>, FormatError> {
        match retried(&self.limits, || self.backend.head(name)) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.failure.kind == FailureKind::Absent => Ok(None),
            Err(error) => Err(error.error(&self.url_of(name), "")),
        }
    }

    /// The object `name`.
    ///
    /// # Errors
    /// When there is no such object, or it cannot be asked for.
    pub(crate) fn object(&self, name: &str) -> Result<Object, FormatError> {
        let absent = || FormatError::new(self.url_of(name), not_found());
        let meta = self.head(name)?.ok_or_else(absent)?;
        self.known(meta)
    }

    /// An object that is known from a listing or a manifest.
    pub(crate) fn known(&self, meta: Meta) -> Result<Object, FormatError> {
        Object::new(self.clone(), meta)
    }

    /// A small object, whole; `None` where there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FormatError> {
        let mut bytes = Vec::new();
        let whole = retried(&self.limits, || {
            bytes.clear();
            let meta = self.backend.get_whole(name, &mut |_, part| {
                bytes.extend_from_slice(part);
                Ok(())
            })?;
            complete(bytes.len() as u64, meta.bytes)
        });
        match whole {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.failure.kind == FailureKind::Absent => Ok(None),
            Err(error) => Err(error.error(&self.url_of(name), "")),
        }
    }

    /// Objects directly in the folder `name` below this one, sorted by name.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<Meta>, FormatError> {
        let listed = retried(&self.limits, || self.backend.list(name));
        let mut found = listed.map_err(|e| e.error(&self.url_of(name), "listing"))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Stores `bytes` as `name`, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let bytes = Bytes::copy_from_slice(bytes);
        let put = || self.backend.put(name, bytes.clone());
        retried(&self.limits, put).map_err(|e| e.error(&self.url_of(name), "writing"))
    }

    /// Stores the file `path` as `name`, whole or not at all, and looks at its size there.
    pub(crate) fn write_file(&self, name: &str, path: &Path) -> Result<(), FormatError> {
        let bytes = std::fs::metadata(path).map_err(|e| FormatError::new(path, e))?.len();
        let put = || {
            self.backend.put_file(name, path)?;
            complete(self.backend.head(name)?.bytes, bytes)
        };
        retried(&self.limits, put).map_err(|e| e.error(&self.url_of(name), "writing"))
    }
}

/// Refuses a size that is not the one promised.
pub(crate) fn complete(have: u64, promised: u64) -> Result<(), Failure> {
    if have == promised {
        return Ok(());
    }
    Err(Failure::again(format!("{have} bytes of {promised} came")))
}

fn not_found() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

/// Folder and name of an object's URL.
///
/// # Errors
/// When the URL is a bucket or host alone.
pub(crate) fn split(url: &str) -> Result<(&str, &str), FormatError> {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].rfind('/').map(|at| (&url[..start + at], &url[start + at + 1..])).ok_or_else(
        || FormatError::new(url, FormatErrorKind::Layout("no object is named in it".to_owned())),
    )
}

#[cfg(not(feature = "store"))]
fn no_client(url: &str) -> Result<Arc<dyn Backend>, FormatError> {
    let what = "this build reads local paths only (it lacks the feature `store`)".to_owned();
    Err(FormatError::new(url, FormatErrorKind::Layout(what)))
}
