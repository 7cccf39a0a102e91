//! ImageNet's folder layout: `{train,val}/<wnid>/*.JPEG`, class index = sorted wnid order, as
//! torchvision's `ImageFolder` has it.

use std::collections::BTreeSet;
use std::path::Path;

use super::folder::list_classes;
use super::{Listing, ilsvrc, sorted};
use crate::error::FormatError;
use crate::shard::OpenOptions;

/// Whether there is a split folder with wnid folders in it.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    [root.join(split), root.to_owned()].iter().any(|folder| {
        sorted(folder).is_ok_and(|entries| {
            entries
                .iter()
                .any(|p| p.is_dir() && p.file_name().is_some_and(|n| is_wnid(&n.to_string_lossy())))
        })
    })
}

/// Whether this is a WordNet number: `n` and eight digits.
pub(super) fn is_wnid(name: &str) -> bool {
    name.len() == 9 && name.starts_with('n') && name[1..].bytes().all(|b| b.is_ascii_digit())
}

/// Lists `root/split`, or `root` itself where that is the split's folder. Classes are the folders of
/// all splits together, so that they agree. Archives are listed where the split's are there.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let split = options.split.as_str();
    if root.is_file() || ilsvrc::looks_like(root, split) {
        return ilsvrc::list(root, options);
    }
    let inside = root.join(split);
    let base = if inside.is_dir() { inside } else { root.to_owned() };
    let mut listing = list_classes(root, &base)?;
    let mut all: BTreeSet<String> = listing.classes.iter().cloned().collect();
    for other in SPLITS.map(|name| root.join(name)).iter().filter(|f| f.is_dir() && **f != base) {
        for folder in sorted(other)?.into_iter().filter(|p| p.is_dir()) {
            all.extend(folder.file_name().map(|n| n.to_string_lossy().into_owned()));
        }
    }
    let all: Vec<String> = all.into_iter().collect();
    for n in 0..listing.entries.len() {
        let label = listing.entries.label(n);
        let name = label.and_then(|l| listing.classes.get(l as usize));
        let label = name.and_then(|n| all.binary_search(n).ok()).map(|l| l as u32);
        listing.entries.set_label(n, label);
    }
    listing.classes = all;
    Ok(listing)
}

/// Folders that hold splits of one data set.
const SPLITS: [&str; 3] = ["train", "val", "test"];
