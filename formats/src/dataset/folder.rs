//! Any tree of media. Where media lie in sub-folders, the first level is the class.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Listing, kind_by_name, media_below, sorted};
use crate::error::FormatError;

/// Whether there is a medium directly in `root` or in one of its folders.
pub(super) fn looks_like(root: &Path) -> bool {
    media_below(root).is_ok_and(|media| !media.is_empty())
}

/// Lists all media below `root/split`, or below `root` where there is no such folder.
pub(super) fn list(root: &Path, split: &str) -> Result<Listing, FormatError> {
    let inside = root.join(split);
    list_classes(root, if inside.is_dir() { &inside } else { root })
}

/// Lists the media below `base`, named relative to `root`.
pub(super) fn list_classes(root: &Path, base: &Path) -> Result<Listing, FormatError> {
    let loose = sorted(base)?.iter().any(|p| p.is_file() && kind_by_name(p).is_some());
    let media = media_below(base)?;
    let class_of = |path: &Path| -> Option<String> {
        let relative = path.strip_prefix(base).ok()?;
        let first = relative.components().next()?;
        (!loose).then(|| first.as_os_str().to_string_lossy().into_owned())
    };
    let classes: Vec<String> =
        media.iter().filter_map(|p| class_of(p)).collect::<BTreeSet<_>>().into_iter().collect();
    let mut listing = Listing::default();
    for path in media {
        let label = class_of(&path).and_then(|c| classes.binary_search(&c).ok());
        listing.add_found(root, path, label.map(|l| l as u32));
    }
    listing.classes = classes;
    Ok(listing)
}
