//! Where encoded samples come from: files on disk and Parquet shards.

mod files;
pub mod parquet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{self, Layout};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::Index;
use crate::record::ShardReader;

pub use files::FilesReader;
pub use parquet::ParquetReader;

/// How to open a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Its layout; found out where absent.
    pub layout: Option<Layout>,
    /// Which part of it.
    pub split: String,
    /// The annotation file, where it is not at its usual place.
    pub annotations: Option<PathBuf>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { layout: None, split: "train".to_owned(), annotations: None }
    }
}

/// Opens any data set: a folder, a list file or a Parquet file. A stored index (see
/// [`Index::default_path`]) is attached where there is one.
///
/// # Errors
/// When the path, its layout or its annotations cannot be used.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn ShardReader>, FormatError> {
    if let Some((scheme, _)) = path.to_string_lossy().split_once("://") {
        let what = format!("`{scheme}://` is not supported yet: give a local path");
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    let layout = match options.layout {
        Some(layout) => layout,
        None => dataset::detect(path, &options.split)?,
    };
    if layout == Layout::Parquet {
        return Ok(Arc::new(ParquetReader::open(path, &options.split)?));
    }
    let annotations = options.annotations.as_deref();
    let listing = dataset::list(path, layout, &options.split, annotations)?;
    let stored = Index::default_path(path, &options.split);
    let index = if stored.is_file() { Some(Index::read(&stored)?) } else { None };
    Ok(Arc::new(FilesReader::new(listing, index.as_ref())))
}
