//! What a person should know of a listing: samples that are listed twice, files that look like
//! annotations and were not read.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{Layout, Listing, extension, sorted, split_names};
use crate::shard::OpenOptions;

/// Adds notes about what was listed.
pub(super) fn look_at(listing: &mut Listing, root: &Path, layout: Layout, options: &OpenOptions) {
    // Paths of a tree are different; to compare a million of them takes a while.
    let is_tree =
        matches!(layout, Layout::Folder | Layout::Imagenet) && listing.archives.is_empty();
    if !is_tree {
        listing.notes.extend(repeated(listing));
    }
    if options.layout.is_none() && matches!(layout, Layout::Folder | Layout::Frames) {
        listing.notes.extend(unread(root, &options.split));
    }
}

/// Tells of samples that are listed more than once.
fn repeated(listing: &Listing) -> Option<String> {
    let name = |n: usize| listing.entries.get(n).name;
    let mut hashes: Vec<(u64, u32)> =
        (0..listing.entries.len()).map(|n| (xxh3_64(name(n).as_bytes()), n as u32)).collect();
    hashes.sort_unstable();
    let twice: Vec<u32> =
        hashes.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).collect();
    let first = twice.iter().min()?;
    Some(format!("{} samples are listed again, such as {}", twice.len(), name(*first as usize)))
}

/// Names files of annotations that a tree of media was listed without.
fn unread(root: &Path, split: &str) -> Vec<String> {
    let words = split_names(split);
    let annotates = |path: &Path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let mut parts = stem.split(|c: char| !c.is_alphanumeric());
        parts.any(|p| words.contains(&p) || ["label", "labels", "annotations"].contains(&p))
    };
    let folders = [root.to_owned(), root.join("annotations"), root.join("labels")];
    let files = folders.iter().filter(|f| f.is_dir()).flat_map(|f| sorted(f).unwrap_or_default());
    let text = |p: &Path| ["csv", "json", "txt", "tsv", "list"].contains(&extension(p).as_str());
    files
        .filter(|path| path.is_file() && text(path) && annotates(path))
        .map(|path| {
            format!(
                "{} was not read: it has the form of no known layout, so classes are folders; \
                 --layout says what it is",
                path.display()
            )
        })
        .collect()
}
