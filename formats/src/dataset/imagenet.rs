//! ImageNet's folder layout: `{train,val}/<wnid>/*.JPEG`, class index = sorted wnid order, as
//! torchvision's `ImageFolder` has it.

use std::path::Path;

use super::{Listing, folder, ilsvrc, sorted, splits};
use crate::error::FormatError;
use crate::shard::OpenOptions;

/// Whether there is a split folder with wnid folders in it.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    splits::folder(root, split).is_ok_and(|folder| {
        sorted(&folder).is_ok_and(|entries| {
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

/// Lists the split's folder in `root`, or `root` itself where it has none of splits. Classes are the folders of
/// all splits together, so that they agree. Archives are listed where the split's are there.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let split = options.split.as_str();
    if root.is_file() || ilsvrc::looks_like(root, split) {
        return ilsvrc::list(root, options);
    }
    folder::list(root, split)
}
