//! Where encoded samples come from: files on disk, archives and Parquet shards.

pub(crate) mod catalogue;
mod listed;
pub(crate) mod packed;
pub mod parquet;
mod rows;
pub(crate) mod tar;
pub(crate) mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{self, Layout};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::Index;
use crate::record::ShardReader;

pub use listed::ListedReader;
pub(crate) use listed::map;
pub use parquet::ParquetReader;

/// Looks at every row of a stored file, for [`crate::fuzz`].
pub(crate) fn load_rows(path: &Path) -> usize {
    let Some(rows::Stored { rows, .. }) = rows::load(path) else { return 0 };
    for n in 0..rows.len() {
        let _ = (rows.names.get(n), rows.facts.get(n), rows.label(n), rows.hash(n));
        let _ = (rows.payload(n), rows.sides().iter().filter_map(|s| rows.level(*s, n)).count());
    }
    rows.len()
}

/// How to open a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Its layout; found out where absent.
    pub layout: Option<Layout>,
    /// Which part of it.
    pub split: String,
    /// The annotation file, where it is not at its usual place.
    pub annotations: Option<PathBuf>,
    /// What separates the fields of a list; found out line by line where absent.
    pub separator: Option<char>,
    /// Of a sample with several media, the one to take, by its field name; all where absent.
    pub field: Option<String>,
    /// Whether archives without random access may be decompressed once to files beside them.
    pub unpack: bool,
    /// Whether archives without random access may be read as they are. The samples then come in the
    /// order of the archives, and reading them in another is slow: see
    /// [`ShardReader::in_order`].
    pub stream: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            layout: None,
            split: "train".to_owned(),
            annotations: None,
            separator: None,
            field: None,
            unpack: false,
            stream: false,
        }
    }
}

/// Opens any data set: a folder, a list, an archive or a Parquet file. A stored index (see
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
    let listing = dataset::list(path, layout, options)?;
    let stored = Index::default_path(path, &options.split);
    let index = if stored.is_file() { Some(Index::read(&stored)?) } else { None };
    Ok(Arc::new(ListedReader::new(listing, index.as_ref())?))
}
