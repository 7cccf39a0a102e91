//! Data-set layouts: annotation files and folders to a list of samples.
//!
//! A layout only lists; it opens no medium. Files that annotations name but the disk lacks are
//! collected in [`Listing::missing`]; what else a person should know in [`Listing::notes`].

mod beton;
mod detect;
mod folder;
mod frames;
mod hmdb51;
mod ilsvrc;
mod imagenet;
mod kinetics;
mod labels;
mod list;
mod mat5;
mod mds;
mod notes;
mod shards;
mod splits;
mod ssv2;
#[cfg(all(test, feature = "video"))]
mod tests;
mod truth;
mod ucf101;
mod webdataset;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tubelet_core::Size;

use crate::convert::JOB;
use crate::error::{FormatError, FormatErrorKind};
use crate::record::MediaKind;
use crate::shard::OpenOptions;
use crate::shard::unpack::packing;

pub use crate::compact::Entries;
pub(crate) use detect::check_there;
pub use detect::detect;
pub(crate) use shards::braces;
pub(crate) use splits::{check_complete, check_whole, files_of_split, names as split_names};
pub(crate) use webdataset::list_objects;

/// A known way to lay a data set out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `{train,val}/<wnid>/*.JPEG`, or the ILSVRC2012 archives as downloaded; classes are the sorted
    /// wnids.
    Imagenet,
    /// Kinetics' CSV or JSON files and `<id>_<start>_<end>.mp4`, in folders or archives.
    Kinetics,
    /// Something-Something's JSON (v2) or CSV (v1) files and `<id>.webm`, or a folder of frames each.
    Ssv2,
    /// UCF101's split files and `<Class>/v_<Class>_g01_c01.avi`.
    Ucf101,
    /// HMDB51's split files and `<class>/<name>.avi`.
    Hmdb51,
    /// Text lines `path label`, as VideoMAE, SlowFast and mmaction2 read them.
    List,
    /// WebDataset's tar files: members of one key are one sample.
    Webdataset,
    /// Any tree of folders of numbered pictures; each is a video.
    Frames,
    /// Any tree of media; the first folder level is the class.
    Folder,
    /// MosaicML's MDS: `index.json` and its shards.
    Mds,
    /// FFCV's `.beton` file.
    Beton,
    /// Parquet shards with an `image` or `video` column.
    Parquet,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 12] = [
        Self::Imagenet,
        Self::Kinetics,
        Self::Ssv2,
        Self::Ucf101,
        Self::Hmdb51,
        Self::List,
        Self::Webdataset,
        Self::Frames,
        Self::Folder,
        Self::Mds,
        Self::Beton,
        Self::Parquet,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imagenet => "imagenet",
            Self::Kinetics => "kinetics",
            Self::Ssv2 => "ssv2",
            Self::Ucf101 => "ucf101",
            Self::Hmdb51 => "hmdb51",
            Self::List => "list",
            Self::Webdataset => "webdataset",
            Self::Frames => "frames",
            Self::Folder => "folder",
            Self::Mds => "mds",
            Self::Beton => "beton",
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
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|l| l.name() == text);
        found.ok_or_else(|| format!("unknown layout `{text}`; known: {known}"))
    }
}

/// Where a sample's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of its own.
    File(PathBuf),
    /// A folder of numbered pictures, a frame each.
    Frames {
        /// The folder.
        folder: PathBuf,
        /// Number of frames that annotations tell; all that are there where absent.
        count: Option<u32>,
        /// Frames per second.
        fps: u32,
    },
    /// Bytes of an archive.
    Range {
        /// Number of the archive.
        shard: u32,
        /// Bytes within it.
        bytes: Range<u64>,
    },
    /// Decoded pixels in an archive: packed RGB, rows from the top without padding.
    Pixels {
        /// Number of the archive.
        shard: u32,
        /// First byte within it.
        start: u64,
        /// Size of the picture.
        size: Size,
    },
}

/// One sample of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its bytes come from.
    pub source: Source,
    /// Its name for people: the path relative to the data set, inside archives too.
    pub name: String,
    /// Class index.
    pub label: Option<u32>,
}

impl Entry {
    /// What its name promises it to be.
    pub fn kind(&self) -> MediaKind {
        match &self.source {
            Source::Frames { .. } => MediaKind::Video,
            Source::Pixels { .. } => MediaKind::Image,
            Source::File(_) | Source::Range { .. } => {
                kind_by_name(Path::new(&self.name)).unwrap_or(MediaKind::Video)
            }
        }
    }
}

/// What a layout lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Samples that are on disk, in a fixed order.
    pub entries: Entries,
    /// Archives that entries point into.
    pub archives: Vec<PathBuf>,
    /// Class names in label order; empty where there are none.
    pub classes: Vec<String>,
    /// Names that annotations list but the disk lacks.
    pub missing: Vec<String>,
    /// Hashes of payloads by entry, where an archive stores them.
    pub hashes: HashMap<usize, u64>,
    /// What a person should know of how it was listed.
    pub notes: Vec<String>,
}

impl Listing {
    /// Adds `path` as a sample, or to the missing ones where it does not exist.
    fn add(&mut self, root: &Path, path: PathBuf, label: Option<u32>) {
        if path.is_file() {
            self.add_found(root, path, label);
        } else {
            self.missing.push(relative_name(root, &path));
        }
    }

    /// Adds `path`, which exists, as a sample.
    fn add_found(&mut self, root: &Path, path: PathBuf, label: Option<u32>) {
        let name = relative_name(root, &path);
        self.entries.push(Entry { source: Source::File(path), name, label });
    }

    /// Adds a folder of frames as a sample.
    fn add_frames(
        &mut self,
        root: &Path,
        folder: PathBuf,
        (count, fps): (Option<u32>, u32),
        label: Option<u32>,
    ) {
        let name = relative_name(root, &folder);
        self.entries.push(Entry { source: Source::Frames { folder, count, fps }, name, label });
    }
}

/// Frames per second of folders of frames that do not say it: what the usual tools extract.
const FRAME_RATE: u32 = 30;

/// Lists the split of the data set at `root`.
///
/// # Errors
/// When folders, archives or annotations are missing or malformed; the error names the file and the
/// line or member.
pub fn list(root: &Path, layout: Layout, options: &OpenOptions) -> Result<Listing, FormatError> {
    let (split, annotations) = (options.split.as_str(), options.annotations.as_deref());
    let mut listing = match layout {
        Layout::Imagenet => imagenet::list(root, options),
        Layout::Kinetics => kinetics::list(root, options),
        Layout::Ssv2 => ssv2::list(root, split, annotations),
        Layout::Ucf101 => ucf101::list(root, split, annotations),
        Layout::Hmdb51 => hmdb51::list(root, split, annotations),
        Layout::List => list::list(root, options),
        Layout::Webdataset => webdataset::list(root, options),
        Layout::Frames => frames::list(root, split),
        Layout::Folder => folder::list(root, split),
        Layout::Mds => mds::list(root, options),
        Layout::Beton => beton::list(root, options),
        Layout::Parquet => {
            let what = "Parquet shards are opened, not listed".to_owned();
            Err(FormatError::new(root, FormatErrorKind::Layout(what)))
        }
    }?;
    if listing.archives.iter().any(|path| packing(path).is_ok_and(|p| p.is_some())) {
        // In the order in which they can be read.
        listing.entries.sort_by_key(|entry| match &entry.source {
            Source::Range { shard, bytes } => (*shard, bytes.start),
            Source::Pixels { shard, start, .. } => (*shard, *start),
            Source::File(_) | Source::Frames { .. } => (u32::MAX, 0),
        });
    }
    if listing.entries.is_empty() {
        let what = match listing.missing.len() {
            0 => format!("no picture or video in split `{split}` of layout {layout}"),
            n => format!(
                "all {n} files that split `{split}` of layout {layout} lists are missing: {}",
                some_of(&listing.missing)
            ),
        };
        let what = [what].into_iter().chain(listing.notes).collect::<Vec<_>>().join("; ");
        return Err(FormatError::new(root, FormatErrorKind::Layout(what)));
    }
    notes::look_at(&mut listing, root, layout, options);
    listing.entries.shrink();
    Ok(listing)
}

/// The first three of `names`.
fn some_of(names: &[String]) -> String {
    let some = names[..names.len().min(3)].join(", ");
    if names.len() > 3 { format!("{some}, …") } else { some }
}

/// Reads a MAT-file, for [`crate::fuzz`].
pub(crate) fn read_mat5(bytes: &[u8]) -> usize {
    mat5::read(bytes).map_or(0, |variables| variables.len())
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

/// All media below `folder`, sorted by path, and the folders inside it that hold a conversion's
/// output, which are no part of the data set. Hidden files and folders are left out too.
pub(crate) fn media_below(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), FormatError> {
    let walk = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name();
    let (mut paths, mut outputs) = (Vec::new(), Vec::new());
    let mut wanted = |e: &walkdir::DirEntry| {
        if e.depth() == 0 {
            return true;
        }
        let output = e.file_type().is_dir() && is_output(e.path());
        if output {
            outputs.push(e.path().to_owned());
        }
        !output && !e.file_name().to_string_lossy().starts_with('.')
    };
    for entry in walk.into_iter().filter_entry(&mut wanted) {
        let entry = entry.map_err(|e| {
            let place = e.path().unwrap_or(folder).to_owned();
            FormatError::new(place, std::io::Error::other(e.to_string()))
        })?;
        if entry.file_type().is_file() && kind_by_name(entry.path()).is_some() {
            paths.push(entry.into_path());
        }
    }
    Ok((paths, outputs))
}

/// Whether a conversion writes or wrote to this folder.
fn is_output(folder: &Path) -> bool {
    folder.join(JOB).is_file()
}

/// Numbers of class names.
fn numbers(classes: &[String]) -> HashMap<&str, u32> {
    classes.iter().enumerate().map(|(n, name)| (name.as_str(), n as u32)).collect()
}

/// Lines of a text file that are not blank, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty())
}

/// Reads a text file.
fn read_text(path: &Path) -> Result<String, FormatError> {
    let bytes = std::fs::read(path).map_err(|e| FormatError::new(path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| FormatError::malformed(path, format!("not UTF-8: {e}")))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
