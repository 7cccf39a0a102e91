//! Which layout a data set has, found out where its shape is unmistakable.

use std::path::Path;

use super::{
    Layout, extension, folder, frames, hmdb51, ilsvrc, imagenet, kinetics, list, mds, shards, ssv2,
    ucf101,
};
use crate::error::{FormatError, FormatErrorKind};
use crate::shard::parquet::is_shard;
use crate::shard::unpack::is_packed_tar;

/// Finds out how the data set at `path` is laid out.
///
/// # Errors
/// When nothing fits; the error says how to name a layout.
pub fn detect(path: &Path, split: &str) -> Result<Layout, FormatError> {
    if path.is_dir() {
        return of_folder(path, split).ok_or_else(|| {
            let names = Layout::ALL.map(Layout::name).join(", ");
            let what = format!("no known layout; name one with --layout: {names}");
            FormatError::new(path, FormatErrorKind::Layout(what))
        });
    }
    if shards::braces(path).is_some() {
        return Ok(Layout::Webdataset);
    }
    if path.is_file() {
        return of_file(path);
    }
    Err(nothing_there(path))
}

/// Refuses a path that is nothing.
///
/// # Errors
/// When there is no such file or folder.
pub(crate) fn check_there(path: &Path) -> Result<(), FormatError> {
    let there = path.exists() || shards::braces(path).is_some();
    if there { Ok(()) } else { Err(nothing_there(path)) }
}

fn nothing_there(path: &Path) -> FormatError {
    FormatError::new(path, FormatErrorKind::Layout("there is no such file or folder".to_owned()))
}

fn of_file(path: &Path) -> Result<Layout, FormatError> {
    match extension(path).as_str() {
        "parquet" => Ok(Layout::Parquet),
        "csv" | "txt" | "list" | "tsv" => Ok(Layout::List),
        "tar" if ilsvrc::is_archive(path) => Ok(Layout::Imagenet),
        "tar" => Ok(Layout::Webdataset),
        "beton" => Ok(Layout::Beton),
        "json" if mds::is_index(path) => Ok(Layout::Mds),
        _ if is_packed_tar(path) => Ok(Layout::Webdataset),
        other => {
            let what = format!(
                "a file with extension `{other}` is no data set; give a folder, an archive (.tar, \
                 .parquet, .beton) or a list (.csv, .txt)"
            );
            Err(FormatError::new(path, FormatErrorKind::Layout(what)))
        }
    }
}

/// What is told by annotations comes first, then archives, then trees of files.
fn of_folder(path: &Path, split: &str) -> Option<Layout> {
    let found: [(Layout, &dyn Fn() -> bool); 11] = [
        (Layout::Parquet, &|| has_file(path, is_shard) || has_file(&path.join("data"), is_shard)),
        (Layout::Ssv2, &|| ssv2::looks_like(path)),
        (Layout::Kinetics, &|| kinetics::looks_like(path)),
        (Layout::Ucf101, &|| ucf101::looks_like(path)),
        (Layout::Hmdb51, &|| hmdb51::looks_like(path)),
        (Layout::Mds, &|| mds::looks_like(path, split)),
        (Layout::List, &|| list::looks_like(path, split)),
        (Layout::Imagenet, &|| {
            ilsvrc::looks_like(path, split) || imagenet::looks_like(path, split)
        }),
        (Layout::Webdataset, &|| shards::looks_like(path, split)),
        (Layout::Frames, &|| frames::looks_like(path, split)),
        (Layout::Folder, &|| folder::looks_like(path)),
    ];
    found.into_iter().find(|(_, fits)| fits()).map(|(layout, _)| layout)
}

fn has_file(folder: &Path, wanted: impl Fn(&Path) -> bool) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|e| e.path().is_file() && wanted(&e.path()))
    })
}
