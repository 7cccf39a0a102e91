//! The ILSVRC2012 archives as downloaded, read without unpacking.
//!
//! `ILSVRC2012_img_train.tar` is a tar file of 1,000 tar files, one a class; archives of ImageNet-22k
//! are built alike, and a folder of such inner tar files is read too. `ILSVRC2012_img_val.tar` is
//! flat; its classes come from the devkit (see [`super::truth`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::truth::Truth;
use super::{Listing, kind_by_name, shards, sorted};
use crate::error::{FormatError, FormatErrorKind};
use crate::shard::OpenOptions;
use crate::shard::catalogue::{Item, catalogue};
use crate::shard::tar::{is_tar, members};

/// Whether `root` holds the archive of the split, or tar files of classes.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    !archives(root, split).is_empty()
}

/// Whether a tar file is one of these archives: by its name, or because tar files are in it.
pub(super) fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.starts_with("ILSVRC2012_img_") || is_class(path) || starts_with_tar(path)
}

/// Lists the pictures of the split's archives.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let files = if root.is_file() { vec![root.to_owned()] } else { archives(root, &options.split) };
    let base = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
    let mut found = Vec::new();
    for file in &files {
        found.push((file, catalogue(file, "ilsvrc", |bytes| pictures(file, bytes))?));
    }
    let numbered = |item: &&Item| truth_number(&item.name).is_some();
    if found.iter().flat_map(|(_, items)| items).any(|i| numbered(&i)) {
        return validation(base, options.annotations.as_deref(), &found);
    }
    let all = found.iter().flat_map(|(_, items)| items);
    let mut classes: BTreeSet<String> = all.filter_map(|i| i.class.clone()).collect();
    // Those that the devkit knows count too, so that the splits of a small set agree.
    if let (false, Ok(truth)) = (classes.is_empty(), Truth::find(base)) {
        classes.extend(truth.classes().iter().cloned());
    }
    let classes: Vec<String> = classes.into_iter().collect();
    let mut listing = Listing::default();
    for (file, items) in &found {
        let shard = listing.add_archive((*file).clone());
        for item in items {
            let label = item.class.as_ref().and_then(|c| classes.binary_search(c).ok());
            listing.add_item(base, file, shard, item, label.map(|l| l as u32));
        }
    }
    listing.classes = classes;
    Ok(listing)
}

/// Lists pictures whose classes the devkit tells by their number.
fn validation(
    base: &Path,
    annotations: Option<&Path>,
    found: &[(&PathBuf, Vec<Item>)],
) -> Result<Listing, FormatError> {
    let truth = match annotations {
        Some(file) => Truth::read(file)?,
        None => Truth::find(base)?,
    };
    let mut listing = Listing { classes: truth.classes().to_vec(), ..Listing::default() };
    let mut seen = vec![false; truth.len()];
    for (file, items) in found {
        let shard = listing.add_archive((*file).clone());
        for item in items {
            let label = truth.label(truth_number(&item.name)).ok_or_else(|| {
                let what = format!("no class is told for it by {}", truth.source().display());
                FormatError::malformed(file, what).at(format!("member {}", item.name))
            })?;
            if let Some(number) = truth_number(&item.name) {
                seen[number - 1] = true;
            }
            listing.add_item(base, file, shard, item, Some(label));
        }
    }
    let absent = seen.iter().enumerate().filter(|(_, seen)| !**seen);
    listing.missing = absent.map(|(n, _)| format!("ILSVRC2012_val_{:08}.JPEG", n + 1)).collect();
    Ok(listing)
}

/// 17 of `ILSVRC2012_val_00000017.JPEG`.
pub(super) fn truth_number(name: &str) -> Option<usize> {
    let stem = Path::new(name).file_stem()?.to_str()?;
    stem.strip_prefix("ILSVRC2012_val_")?.parse().ok().filter(|n| *n > 0)
}

/// The archives of a split in a folder.
fn archives(root: &Path, split: &str) -> Vec<PathBuf> {
    let short = if split == "validation" { "val" } else { split };
    let wanted = |p: &&PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rest = name.strip_prefix("ILSVRC2012_img_").and_then(|n| n.strip_prefix(short));
        // `_t3` is the archive of another task, dogs alone.
        rest.is_some_and(|r| r == ".tar" || r.starts_with("_v"))
    };
    let files: Vec<PathBuf> = shards::tars(root).iter().filter(wanted).cloned().collect();
    if !files.is_empty() {
        return files;
    }
    let classes = |folder: &Path| {
        let mut files = sorted(folder).unwrap_or_default();
        files.retain(|p| is_class(p) && p.is_file());
        files
    };
    let inside = classes(&root.join(split));
    if inside.is_empty() { classes(root) } else { inside }
}

/// Whether this is a class's tar file by its name.
fn is_class(path: &Path) -> bool {
    is_tar(path) && path.file_stem().is_some_and(|s| super::imagenet::is_wnid(&s.to_string_lossy()))
}

fn starts_with_tar(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    let mut archive = ::tar::Archive::new(file);
    let Ok(mut entries) = archive.entries() else { return false };
    entries.next().is_some_and(|e| e.is_ok_and(|e| e.path().is_ok_and(|p| is_tar(&p))))
}

/// The pictures of an archive; those of inner archives are of the class that these are named after.
fn pictures(path: &Path, bytes: &[u8]) -> Result<Vec<Item>, FormatError> {
    let own = is_class(path).then(|| stem(path));
    let mut items = Vec::new();
    for member in members(path, bytes, 0)? {
        let inner = Path::new(&member.name);
        if is_tar(inner) {
            let class = stem(inner);
            let range = member.bytes.start as usize..member.bytes.end as usize;
            let found = members(path, bytes.get(range).unwrap_or_default(), member.bytes.start)
                .map_err(|e| inside(e, &member.name))?;
            for picture in found.into_iter().filter(|m| kind_by_name(Path::new(&m.name)).is_some())
            {
                let item = shards::item(picture);
                let name = format!("{class}/{}", item.name);
                items.push(Item { name, class: Some(class.clone()), ..item });
            }
        } else if kind_by_name(inner).is_some() {
            let folder = inner.parent().and_then(Path::file_name).map(|f| f.to_string_lossy());
            let class = folder.filter(|f| super::imagenet::is_wnid(f)).map(|f| f.into_owned());
            let class = class.or_else(|| own.clone());
            items.push(Item { class, ..shards::item(member) });
        }
    }
    if items.is_empty() {
        let what = "no picture in it".to_owned();
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    Ok(items)
}

/// The error with the inner archive in its place.
fn inside(error: FormatError, archive: &str) -> FormatError {
    let place = error.place.clone().unwrap_or_default();
    error.at(format!("{archive}, {place}"))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
