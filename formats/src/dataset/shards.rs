//! Tar files of a data set: which ones there are, and their members as entries.

use std::path::{Path, PathBuf};

use super::{
    Entry, Listing, Source, check_whole, files_of_split, relative_name, sorted, split_names,
};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::in_parallel;
use crate::shard::catalogue::{Item, catalogue, kind_of, stored_or};
use crate::shard::packed::stream;
use crate::shard::unpack::{TarSource, is_packed_tar, tar_source};
use crate::shard::{OpenOptions, tar};

/// Whether tar files lie in `root`, or in its folder for the split, and no folders beside them: a
/// tree of media that was packed too is a tree.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    let flat = |folder: &Path| {
        let entries = sorted(folder).unwrap_or_default();
        !tars(folder).is_empty() && !entries.iter().any(|p| p.is_dir() && !hidden(p))
    };
    flat(root) || split_names(split).into_iter().any(|name| flat(&root.join(name)))
}

/// Tar files in a folder, compressed ones too, sorted.
pub(super) fn tars(folder: &Path) -> Vec<PathBuf> {
    let mut files = sorted(folder).unwrap_or_default();
    files.retain(|p| p.is_file() && (tar::is_tar(p) || is_packed_tar(p)));
    files
}

/// The tar files that `path` means for `split`: the file itself, those that its braces count
/// (`train-{000000..001199}.tar`), those of its folder for the split, or those in it whose name
/// starts with the split's or, where none does, those that are not called after another split.
///
/// # Errors
/// When there is none, or one that braces, the names of others or a manifest count is not there.
pub(super) fn of_split(path: &Path, split: &str) -> Result<Vec<PathBuf>, FormatError> {
    if let Some(files) = braces(path) {
        if let Some(absent) = files.iter().find(|f| !f.is_file()) {
            return Err(FormatError::new(
                absent,
                std::io::Error::from(std::io::ErrorKind::NotFound),
            ));
        }
        return Ok(files);
    }
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let inside = split_names(split).into_iter().map(|name| tars(&path.join(name)));
    let files = inside.into_iter().find(|files| !files.is_empty()).unwrap_or_else(|| tars(path));
    let files = files_of_split(path, files, split)?;
    if files.is_empty() {
        let what = format!("no .tar file for split `{split}` in it");
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    check_whole(path, &files)?;
    Ok(files)
}

/// The files that `name-{000..012}.tar` counts; `None` where there are no such braces.
pub(crate) fn braces(path: &Path) -> Option<Vec<PathBuf>> {
    let text = path.to_str()?;
    let (head, rest) = text.split_once('{')?;
    let (range, tail) = rest.split_once('}')?;
    let (first, last) = range.split_once("..")?;
    let (from, to): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    let width = first.len();
    let limit = 1 << 20;
    (from <= to && to - from < limit).then_some(())?;
    Some((from..=to).map(|n| PathBuf::from(format!("{head}{n:0width$}{tail}"))).collect())
}

/// Regular files of tar archives, found once and stored; compressed ones are decompressed first or
/// read through, as `options` allow. Several at a time.
///
/// # Errors
/// When an archive is damaged.
pub(super) fn members_of(
    paths: &[PathBuf],
    options: &OpenOptions,
) -> Result<Vec<(PathBuf, Vec<Item>)>, FormatError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = in_parallel(paths.len(), threads, &|_, _| {}, || |n| members(&paths[n], options));
    found.into_iter().collect()
}

fn members(path: &Path, options: &OpenOptions) -> Result<(PathBuf, Vec<Item>), FormatError> {
    let kind = kind_of("members", options.salvage);
    let items = |members: Vec<tar::Member>, damage: Option<FormatError>| match damage {
        Some(damage) if !options.salvage => Err(damage),
        damage => {
            let lost = damage.as_ref().map(Item::lost);
            Ok(members.into_iter().map(item).chain(lost).collect())
        }
    };
    let file = match tar_source(path, options)? {
        TarSource::Plain(file) => file,
        TarSource::Packed(packing) => {
            let found = stored_or(path, &kind, || {
                let (members, damage) =
                    tar::stream_members(path, stream(path, packing)?, &|_, _| false);
                items(members.into_iter().map(|(member, _)| member).collect(), damage)
            })?;
            return Ok((path.to_owned(), found));
        }
    };
    let found = catalogue(&file, &kind, |bytes| {
        let (members, damage) = tar::members_until(path, bytes, 0);
        items(members, damage)
    })?;
    Ok((file, found))
}

/// A member without a class.
pub(super) fn item(member: tar::Member) -> Item {
    let (start, bytes) = (member.bytes.start, member.bytes.end - member.bytes.start);
    Item { name: member.name, start, bytes, ..Item::default() }
}

impl Listing {
    /// Names what is lost of an archive among what is missing.
    pub(super) fn add_lost(&mut self, root: &Path, archive: &Path, lost: &Item) {
        self.missing.push(format!("{}, {}", relative_name(root, archive), lost.name));
    }

    /// Adds an archive; returns its number.
    pub(super) fn add_archive(&mut self, path: PathBuf) -> u32 {
        self.archives.push(path);
        (self.archives.len() - 1) as u32
    }

    /// Adds `item` of archive `shard` as a sample called `<archive>/<item>`.
    pub(super) fn add_item(
        &mut self,
        root: &Path,
        archive: &Path,
        shard: u32,
        item: &Item,
        label: Option<u32>,
    ) {
        let name = format!("{}/{}", relative_name(root, archive), item.name);
        let bytes = item.start..item.start.saturating_add(item.bytes);
        if let Some(hash) = item.hash {
            self.hashes.insert(self.entries.len(), hash);
        }
        self.entries.push(Entry { source: Source::Range { shard, bytes }, name, label });
    }
}
