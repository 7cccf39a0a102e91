//! Any tree of media. Where media lie in sub-folders, the first level is the class. Classes are
//! numbered as `classes.txt` says, where `convert` or somebody else wrote one that names them all;
//! else in sorted order.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Listing, is_output, kind_by_name, lines, media_below, read_text, sorted, splits};
use crate::convert::{CLASSES, UNLABELLED, full_names};
use crate::error::FormatError;

/// Whether there is a medium directly in `root` or in one of its folders.
pub(super) fn looks_like(root: &Path) -> bool {
    media_below(root).is_ok_and(|(media, _)| !media.is_empty())
}

/// Lists all media below the split's folder in `root`, or below `root` where it has none of splits, named
/// relative to `root`. Beside the folder of a split the class folders of the other splits count too,
/// so that all number them alike.
pub(super) fn list(root: &Path, split: &str) -> Result<Listing, FormatError> {
    let base = &splits::folder(root, split)?;
    let loose = sorted(base)?.iter().any(|p| p.is_file() && kind_by_name(p).is_some());
    let (media, outputs) = media_below(base)?;
    let class_of = |path: &Path| -> Option<String> {
        let relative = path.strip_prefix(base).ok()?;
        let first = relative.components().next()?;
        (!loose).then(|| first.as_os_str().to_string_lossy().into_owned())
    };
    let mut found: BTreeSet<String> = media.iter().filter_map(|p| class_of(p)).collect();
    if base != root && !found.is_empty() {
        found.extend(splits::folders_of_others(root, base)?);
    }
    let mut listing = Listing::default();
    for output in outputs {
        let what = format!("{} holds a conversion and was left out", output.display());
        listing.notes.push(what);
    }
    // The conversion that wrote it.
    let output = [Some(root), base.parent()].into_iter().flatten().find(|folder| is_output(folder));
    let classes = match numbered(root, output, &found, &mut listing.notes)? {
        Some(classes) => classes,
        None => found.into_iter().filter(|c| output.is_none() || c != UNLABELLED).collect(),
    };
    let numbers = super::numbers(&classes);
    for path in media {
        let label = class_of(&path).and_then(|class| numbers.get(class.as_str()).copied());
        listing.add_found(root, path, label);
    }
    listing.classes = match output {
        Some(output) => full_names(output, classes),
        None => classes,
    };
    Ok(listing)
}

/// The class folders in label order as `classes.txt` in `root` or the conversion's `output` names them;
/// `None` where there is none, or one that is about something else.
fn numbered(
    root: &Path,
    output: Option<&Path>,
    found: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<String>>, FormatError> {
    let folders = std::iter::once(root).chain(output);
    let Some(file) = folders.map(|f| f.join(CLASSES)).find(|f| f.is_file()) else {
        return Ok(None);
    };
    let ours = output.is_some() && file.parent() == output;
    let names: Vec<String> = lines(&read_text(&file)?).map(|(_, line)| line.to_owned()).collect();
    let known: BTreeSet<&String> = names.iter().collect();
    match found.iter().find(|class| !known.contains(class) && *class != UNLABELLED) {
        None if known.len() == names.len() => Ok(Some(names)),
        None => Err(FormatError::malformed(&file, "a class is named twice")),
        Some(class) if ours => {
            let what = format!("the folder `{class}` is no class of it");
            Err(FormatError::malformed(&file, what))
        }
        Some(class) => {
            let what = format!("{} does not name the folder `{class}`", file.display());
            notes.push(format!("{what}: it is not used, classes are sorted"));
            Ok(None)
        }
    }
}
