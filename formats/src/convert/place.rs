//! Where a conversion's files are: a local folder, or a folder of an object store.
//!
//! Locally a file is written under a temporary name and renamed. For a store it is written to a
//! temporary local folder and put there as one object once it is whole. Either way nobody sees half
//! of one.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Format;
use super::records::FOLDER;
use crate::error::{FormatError, FormatErrorKind};
use crate::store::{AT_ONCE, Folder, Location, StoreOptions, locate};
use crate::temporary::{Working, write_atomically};

/// A folder that takes files under names with `/` between their parts.
pub(crate) enum Place {
    /// On a local disk.
    Local(PathBuf),
    /// In an object store, with a local folder for what is not whole yet.
    Remote(Box<Folder>, TempDir),
}

impl Place {
    /// The place at `path`; nothing is made or asked for yet.
    ///
    /// # Errors
    /// When it is the URL of no place for files.
    pub(crate) fn open(path: &Path, store: &StoreOptions) -> Result<Self, FormatError> {
        match locate(path)? {
            Location::Local(folder) => Ok(Self::Local(folder)),
            Location::Remote(url) => {
                let staging = tempfile::Builder::new().prefix("tubelet-").tempdir();
                let staging = staging.map_err(|e| FormatError::new(std::env::temp_dir(), e))?;
                // What is written is not read again: no copies.
                let store = StoreOptions { cache: None, ..store.clone() };
                Ok(Self::Remote(Box::new(Folder::open(&url, &store)?), staging))
            }
        }
    }

    /// Makes it where it is local.
    pub(crate) fn prepare(&self) -> Result<(), FormatError> {
        let Self::Local(folder) = self else { return Ok(()) };
        let own = folder.join(FOLDER);
        std::fs::create_dir_all(&own).map_err(|e| FormatError::new(&own, e))
    }

    /// Path or URL of `name`; of the place itself where it is empty.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Local(folder) if name.is_empty() => folder.clone(),
            Self::Local(folder) => folder.join(name),
            Self::Remote(folder, _) => PathBuf::from(folder.url_of(name)),
        }
    }

    /// Refuses a format that this place is not for.
    pub(crate) fn takes(&self, format: Format) -> Result<(), FormatError> {
        if matches!(self, Self::Remote(..)) && format == Format::Folder {
            let what = "a file a sample is written to local disks only: use Parquet or tar shards";
            return Err(FormatError::new(self.path(""), FormatErrorKind::Layout(what.to_owned())));
        }
        Ok(())
    }

    /// Requests at once that are worth it.
    pub(crate) fn requests(&self) -> usize {
        if matches!(self, Self::Local(_)) { 1 } else { AT_ONCE }
    }

    /// The bytes of `name`; `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FormatError> {
        match self {
            Self::Remote(folder, _) => folder.read(name),
            Self::Local(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(FormatError::new(folder.join(name), e)),
            },
        }
    }

    /// Whether there is a file `name` of `bytes` bytes.
    pub(crate) fn has(&self, name: &str, bytes: u64) -> Result<bool, FormatError> {
        match self {
            Self::Remote(folder, _) => Ok(folder.head(name)?.is_some_and(|m| m.bytes == bytes)),
            Self::Local(folder) => {
                let meta = std::fs::metadata(folder.join(name));
                Ok(meta.is_ok_and(|m| m.is_file() && m.len() == bytes))
            }
        }
    }

    /// Writes a small file, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        match self {
            Self::Local(folder) => write_atomically(&folder.join(name), bytes),
            Self::Remote(folder, _) => folder.write(name, bytes),
        }
    }

    /// The local file in which `name` is made.
    pub(crate) fn working(&self, name: &str) -> Result<Working, FormatError> {
        let path = match self {
            Self::Local(folder) => folder.join(name),
            Self::Remote(_, staging) => staging.path().join(name),
        };
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
        Working::beside(&path)
    }

    /// Makes the whole file at [`Self::working`] the one called `name`.
    pub(crate) fn publish(&self, name: &str, working: Working) -> Result<(), FormatError> {
        match self {
            Self::Local(folder) => working.publish(&folder.join(name)),
            Self::Remote(folder, _) => folder.write_file(name, working.path()),
        }
    }

    /// A local file of what `name` holds: itself or, of a store, a copy called by its last part.
    pub(crate) fn here(&self, name: &str) -> Result<PathBuf, FormatError> {
        let to = match self {
            Self::Local(folder) => return Ok(folder.join(name)),
            Self::Remote(_, staging) => {
                staging.path().join(Path::new(name).file_name().unwrap_or_default())
            }
        };
        self.fetch(name, &to)?;
        Ok(to)
    }

    /// Copies `name` to a local file; one that is there is replaced.
    pub(crate) fn fetch(&self, name: &str, to: &Path) -> Result<(), FormatError> {
        let from = match self {
            Self::Remote(folder, _) => return folder.object(name)?.copy_to(to),
            Self::Local(folder) => folder.join(name),
        };
        // A link cannot replace a file.
        let _ = std::fs::remove_file(to);
        if std::fs::hard_link(&from, to).is_ok() {
            return Ok(());
        }
        std::fs::copy(&from, to).map(|_| ()).map_err(|e| FormatError::new(from, e))
    }
}
