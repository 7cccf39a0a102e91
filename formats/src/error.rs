//! What can go wrong with files: a place plus a kind.

use std::path::{Path, PathBuf};

/// A file, shard or annotation could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {kind}", path.display(), .place.as_ref().map(|p| format!(", {p}")).unwrap_or_default())]
pub struct FormatError {
    /// The file or folder.
    pub path: PathBuf,
    /// Where inside it: a line, a row, a column.
    pub place: Option<String>,
    /// What broke.
    #[source]
    pub kind: FormatErrorKind,
}

/// What broke.
#[derive(Debug, thiserror::Error)]
pub enum FormatErrorKind {
    /// The operating system said no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not what the format asks for.
    #[error("{0}")]
    Malformed(String),
    /// No known layout, or several.
    #[error("{0}")]
    Layout(String),
    /// The Parquet library said no.
    #[error("Parquet: {0}")]
    Parquet(String),
}

impl FormatError {
    /// An error about the whole of `path`.
    pub fn new(path: impl AsRef<Path>, kind: impl Into<FormatErrorKind>) -> Self {
        Self { path: path.as_ref().to_owned(), place: None, kind: kind.into() }
    }

    /// A [`FormatErrorKind::Malformed`] error.
    pub fn malformed(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::new(path, FormatErrorKind::Malformed(what.into()))
    }

    /// The same error, at `place` inside the file.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

/// Encoded bytes could not be turned into the wanted frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// Not a medium this build can read.
    #[error("not a picture or video that can be read: {0}")]
    Unknown(String),
    /// A container without a video stream, or with no frame in it.
    #[error("no video frame in it: {0}")]
    NoFrames(String),
    /// The bytes are damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The hardware decoder does not do this: the processor may.
    #[error("the hardware decoder: {0}")]
    Hardware(String),
    /// Fewer frames could be decoded than were promised.
    #[error("frame {wanted} is wanted, only {have} frames can be decoded")]
    MissingFrame {
        /// First wanted frame that is not there.
        wanted: u32,
        /// Frames there are.
        have: u32,
    },
}
