//! Data-set layouts: annotation files and folders to a list of samples.
//!
//! A layout only lists; it opens no medium. Files that annotations name but the disk lacks are
//! collected in [`Listing::missing`].

mod folder;
mod imagenet;
mod kinetics;
mod list;
mod ssv2;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{FormatError, FormatErrorKind};
use crate::record::MediaKind;
use crate::shard::parquet::is_shard;

/// A known way to lay a data set out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `{train,val}/<wnid>/*.JPEG`; classes are the sorted folder names.
    Imagenet,
    /// Kinetics' CSV files and `<split>/<id>_<start>_<end>.mp4`.
    Kinetics,
    /// Something-Something v2's JSON files and `<id>.webm`.
    Ssv2,
    /// Text lines `path label`, as VideoMAE and SlowFast read them.
    List,
    /// Any tree of media; the first folder level is the class.
    Folder,
    /// Parquet shards with an `image` or `video` column.
    Parquet,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 6] =
        [Self::Imagenet, Self::Kinetics, Self::Ssv2, Self::List, Self::Folder, Self::Parquet];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imagenet => "imagenet",
            Self::Kinetics => "kinetics",
            Self::Ssv2 => "ssv2",
            Self::List => "list",
            Self::Folder => "folder",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(layout) = Self::ALL.into_iter().find(|l| l.name() == text) {
            return Ok(layout);
        }
        let known = Self::ALL.map(Self::name).join(", ");
        match text {
            "ucf101" | "hmdb51" | "webdataset" => {
                Err(format!("layout `{text}` is not supported yet; supported: {known}"))
            }
            _ => Err(format!("unknown layout `{text}`; known: {known}")),
        }
    }
}

/// One sample of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// Its name for people: the path relative to the data set.
    pub name: String,
    /// Class index.
    pub label: Option<u32>,
}

/// What a layout lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Samples that are on disk, in a fixed order.
    pub entries: Vec<Entry>,
    /// Class names in label order; empty where there are none.
    pub classes: Vec<String>,
    /// Names that annotations list but the disk lacks.
    pub missing: Vec<String>,
}

impl Listing {
    /// Adds `path` as a sample, or to the missing ones where it does not exist.
    fn add(&mut self, root: &Path, path: PathBuf, label: Option<u32>) {
        let name = relative_name(root, &path);
        if path.is_file() {
            self.entries.push(Entry { path, name, label });
        } else {
            self.missing.push(name);
        }
    }
}

/// Lists `split` of the data set at `root`.
///
/// # Errors
/// When folders or annotations are missing or malformed; the error names the file and the line.
pub fn list(
    root: &Path,
    layout: Layout,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    let listing = match layout {
        Layout::Imagenet => imagenet::list(root, split),
        Layout::Kinetics => kinetics::list(root, split, annotations),
        Layout::Ssv2 => ssv2::list(root, split, annotations),
        Layout::List => list::list(root, split, annotations),
        Layout::Folder => folder::list(root, split),
        Layout::Parquet => {
            let what = "Parquet shards are opened, not listed".to_owned();
            Err(FormatError::new(root, FormatErrorKind::Layout(what)))
        }
    }?;
    if listing.entries.is_empty() {
        let what = match listing.missing.len() {
            0 => format!("no picture or video in split `{split}` of layout {layout}"),
            n => format!("all {n} files that split `{split}` of layout {layout} lists are missing"),
        };
        return Err(FormatError::new(root, FormatErrorKind::Layout(what)));
    }
    Ok(listing)
}

/// Finds out how the data set at `path` is laid out.
///
/// # Errors
/// When nothing fits; the error says how to name a layout.
pub fn detect(path: &Path, split: &str) -> Result<Layout, FormatError> {
    let refuse = |what: String| Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    if path.is_file() {
        return match extension(path).as_str() {
            "parquet" => Ok(Layout::Parquet),
            "csv" | "txt" | "list" | "tsv" => Ok(Layout::List),
            other => refuse(format!(
                "a file with extension `{other}` is no data set; give a folder, a .parquet file or a list (.csv, .txt)"
            )),
        };
    }
    if !path.is_dir() {
        return Err(FormatError::new(path, std::io::Error::from(std::io::ErrorKind::NotFound)));
    }
    if has_file(path, is_shard) || has_file(&path.join("data"), is_shard) {
        return Ok(Layout::Parquet);
    }
    if ssv2::looks_like(path) {
        return Ok(Layout::Ssv2);
    }
    if kinetics::looks_like(path) {
        return Ok(Layout::Kinetics);
    }
    if list::looks_like(path, split) {
        return Ok(Layout::List);
    }
    if imagenet::looks_like(path, split) {
        return Ok(Layout::Imagenet);
    }
    if folder::looks_like(path) {
        return Ok(Layout::Folder);
    }
    refuse(format!(
        "no known layout; name one with --layout: {}",
        Layout::ALL.map(Layout::name).join(", ")
    ))
}

/// The kind of medium a file name promises.
pub fn kind_by_name(path: &Path) -> Option<MediaKind> {
    match extension(path).as_str() {
        "jpg" | "jpeg" | "jpe" => Some(MediaKind::Jpeg),
        "png" | "webp" | "bmp" | "gif" => Some(MediaKind::Image),
        "mp4" | "mkv" | "webm" | "avi" | "mov" | "m4v" | "mpg" | "mpeg" | "flv" | "ts" | "3gp" => {
            Some(MediaKind::Video)
        }
        _ => None,
    }
}

/// The extension in lower case; empty where there is none.
fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn has_file(folder: &Path, wanted: impl Fn(&Path) -> bool) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|e| e.path().is_file() && wanted(&e.path()))
    })
}

/// `path` relative to `root`, with forward slashes.
fn relative_name(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Entries of a folder, sorted by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let entries = std::fs::read_dir(folder).map_err(|e| FormatError::new(folder, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| FormatError::new(folder, e))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// All media below `folder`, sorted by path; hidden files and folders are left out.
fn media_below(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let walk = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name();
    let visible =
        |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    let mut paths = Vec::new();
    for entry in walk.into_iter().filter_entry(visible) {
        let entry = entry.map_err(|e| {
            let place = e.path().unwrap_or(folder).to_owned();
            FormatError::new(place, std::io::Error::other(e.to_string()))
        })?;
        if entry.file_type().is_file() && kind_by_name(entry.path()).is_some() {
            paths.push(entry.into_path());
        }
    }
    Ok(paths)
}

/// Reads a text file.
fn read_text(path: &Path) -> Result<String, FormatError> {
    let bytes = std::fs::read(path).map_err(|e| FormatError::new(path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| FormatError::malformed(path, format!("not UTF-8: {e}")))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
