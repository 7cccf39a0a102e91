//! Trees of folders of numbered pictures, each of which is a video; the first folder level is the
//! class where videos lie below it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{FRAME_RATE, Listing, is_output, sorted, splits};
use crate::error::FormatError;
use crate::frames::{frame_name, numbered};

/// Fewest pictures that are taken for a video without being told.
const FEWEST: usize = 8;

/// Whether the first videos below `root/split`, or `root`, are at least two levels down and hold a
/// row of numbered pictures from 0 or 1.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    let Ok(base) = splits::folder(root, split) else { return false };
    let Some(first) = first_leaf(&base) else { return false };
    let deep = first.strip_prefix(&base).is_ok_and(|p| p.components().count() >= 2);
    let starts = |files: &[PathBuf]| {
        files.len() >= FEWEST && files.first().and_then(|f| frame_name(f)).is_some_and(|f| f.1 <= 1)
    };
    deep && numbered(&first).is_ok_and(|files| starts(&files))
}

/// Lists the folders below the split's folder in `root`, or below `root` where it has none of splits.
/// The class folders of the other splits count too, so that all number them alike.
pub(super) fn list(root: &Path, split: &str) -> Result<Listing, FormatError> {
    let base = splits::folder(root, split)?;
    let mut folders = Vec::new();
    leaves(&base, &mut folders)?;
    let class_of = |path: &Path| -> Option<String> {
        let relative = path.strip_prefix(&base).ok()?;
        let first = relative.components().next()?.as_os_str().to_string_lossy().into_owned();
        (relative.components().count() > 1).then_some(first)
    };
    let mut found: BTreeSet<String> = folders.iter().filter_map(|f| class_of(f)).collect();
    if base != root && !found.is_empty() {
        found.extend(splits::folders_of_others(root, &base)?);
    }
    let classes: Vec<String> = found.into_iter().collect();
    let mut listing = Listing::default();
    for folder in folders {
        let label = class_of(&folder).and_then(|c| classes.binary_search(&c).ok());
        listing.add_frames(root, folder, (None, FRAME_RATE), label.map(|l| l as u32));
    }
    listing.classes = classes;
    Ok(listing)
}

/// Whether a folder of frames is at `path`.
pub(super) fn is_video(path: &Path) -> bool {
    path.is_dir()
        && std::fs::read_dir(path).is_ok_and(|entries| {
            entries.filter_map(Result::ok).any(|e| frame_name(&e.path()).is_some())
        })
}

/// All folders below `folder` that hold numbered pictures, in order.
fn leaves(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), FormatError> {
    let entries = sorted(folder)?;
    if entries.iter().any(|p| frame_name(p).is_some()) {
        found.push(folder.to_owned());
        return Ok(());
    }
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    let wanted = |p: &&PathBuf| !hidden(p) && p.is_dir() && !is_output(p);
    entries.iter().filter(wanted).try_for_each(|p| leaves(p, found))
}

/// The first folder without folders, going into the first one of each.
fn first_leaf(folder: &Path) -> Option<PathBuf> {
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    let mut at = folder.to_owned();
    for _ in 0..8 {
        match sorted(&at).ok()?.into_iter().find(|p| p.is_dir() && !hidden(p) && !is_output(p)) {
            Some(inner) => at = inner,
            None => return Some(at),
        }
    }
    None
}
