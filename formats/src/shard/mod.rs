//! Where encoded samples come from: files on disk, archives and Parquet shards.

pub(crate) mod catalogue;
mod listed;
pub(crate) mod packed;
pub mod parquet;
mod remote;
mod rows;
pub(crate) mod tar;
pub(crate) mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{self, Layout};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::Index;
use crate::record::ShardReader;
use crate::store::{self, Found, Location, StoreOptions};

pub use listed::ListedReader;
pub(crate) use listed::{has_hash, map};
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
    /// How object stores are reached.
    pub store: StoreOptions,
    /// Whether archives without random access may be read as they are. The samples then come in the
    /// order of the archives, and reading them in another is slow: see
    /// [`ShardReader::in_order`].
    pub stream: bool,
    /// Whether of a local tar archive that is damaged the members before the damage are taken; the rest
    /// is then named among what is missing.
    pub salvage: bool,
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
            store: StoreOptions::default(),
            stream: false,
            salvage: false,
        }
    }
}

/// Opens any data set: a folder, a list, an archive or a Parquet file, or the URL of one or more
/// Parquet or tar shards. A stored index (see [`Index::default_path`]) is attached where there is one.
///
/// # Errors
/// When the path, its layout or its annotations cannot be used.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn ShardReader>, FormatError> {
    open_as(path, options).map(|(_, reader)| reader)
}

/// The same, with the layout that was given or found out.
///
/// # Errors
/// As [`open`].
pub fn open_as(
    path: &Path,
    options: &OpenOptions,
) -> Result<(Layout, Arc<dyn ShardReader>), FormatError> {
    let path = &match store::locate(path)? {
        Location::Local(path) => path,
        Location::Remote(url) => return open_remote(&url, options),
    };
    dataset::check_there(path)?;
    let layout = match options.layout {
        Some(layout) => layout,
        None => dataset::detect(path, &options.split)?,
    };
    if layout == Layout::Parquet {
        return Ok((layout, Arc::new(ParquetReader::open(path, &options.split)?)));
    }
    let listing = dataset::list(path, layout, options)?;
    let index = stored_index(path, &options.split)?;
    Ok((layout, Arc::new(ListedReader::new(listing, index.as_ref())?)))
}

/// The layout of what [`open`] opens with the same arguments.
///
/// # Errors
/// When the path or its layout cannot be used.
pub fn layout(path: &Path, options: &OpenOptions) -> Result<Layout, FormatError> {
    match (options.layout, store::locate(path)?) {
        (Some(layout), _) => Ok(layout),
        (None, Location::Local(path)) => dataset::detect(&path, &options.split),
        (None, Location::Remote(url)) => Ok(store::find(&url, options)?.layout),
    }
}

/// Opens shards of an object store.
fn open_remote(
    url: &str,
    options: &OpenOptions,
) -> Result<(Layout, Arc<dyn ShardReader>), FormatError> {
    let Found { layout, objects } = store::find(url, options)?;
    if layout == Layout::Parquet {
        return Ok((layout, Arc::new(ParquetReader::of_objects(objects)?)));
    }
    let path = Path::new(url);
    let listing = dataset::list_objects(path, &objects, options)?;
    if listing.entries.is_empty() {
        let what = format!("no picture or video in split `{}` of layout {layout}", options.split);
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    let index = stored_index(path, &options.split)?;
    Ok((layout, Arc::new(ListedReader::of_objects(listing, objects, index.as_ref()))))
}

fn stored_index(path: &Path, split: &str) -> Result<Option<Index>, FormatError> {
    let stored = Index::default_path(path, split);
    if stored.is_file() { Index::read(&stored).map(Some) } else { Ok(None) }
}
