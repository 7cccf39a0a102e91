//! Which files and folders belong to a split, by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::sorted;
use crate::error::{FormatError, FormatErrorKind};

/// Names of the splits that data sets come with.
const KNOWN: [&str; 6] = ["train", "val", "validation", "valid", "validate", "test"];
/// Names of one and the same split.
const VALIDATION: [&str; 4] = ["val", "validation", "valid", "validate"];

/// Names that mean `split`, itself first.
pub(crate) fn names(split: &str) -> Vec<&str> {
    let others = VALIDATION.iter().copied().filter(|_| VALIDATION.contains(&split));
    std::iter::once(split).chain(others.filter(|name| *name != split)).collect()
}

/// The folder of `split` in `root`, under any of its names; `root` itself where it has no folders of
/// splits.
///
/// # Errors
/// When `root` has folders of other splits only; the error names them.
pub(super) fn folder(root: &Path, split: &str) -> Result<PathBuf, FormatError> {
    let inside = |name: &&str| root.join(name).is_dir();
    if let Some(name) = names(split).into_iter().find(|name| inside(name)) {
        return Ok(root.join(name));
    }
    let others: Vec<&str> = KNOWN.into_iter().filter(inside).collect();
    match others.is_empty() {
        true => Ok(root.to_owned()),
        false => Err(no_split(root, split, &others)),
    }
}

/// Names of the folders in the folders of other splits than that in `own`.
pub(super) fn folders_of_others(root: &Path, own: &Path) -> Result<Vec<String>, FormatError> {
    let mut found = Vec::new();
    for other in KNOWN.map(|name| root.join(name)).iter().filter(|f| f.is_dir() && *f != own) {
        for folder in sorted(other)?.into_iter().filter(|p| p.is_dir()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                found.push(name);
            }
        }
    }
    Ok(found)
}

fn no_split(root: &Path, split: &str, others: &[&str]) -> FormatError {
    let what = format!("no split `{split}`: there is {}", others.join(", "));
    FormatError::new(root, FormatErrorKind::Layout(what))
}

/// What is known of a file by its name: `train-00003-of-00009.parquet`.
struct Names<'a> {
    /// What is before the numbers.
    split: &'a str,
    /// Its number and that of all.
    part: (u32, u32),
    /// What is behind them.
    rest: &'a str,
}

impl<'a> Names<'a> {
    /// `None` where it is not numbered so.
    fn of(name: &'a str) -> Option<Self> {
        let (head, tail) = name.rsplit_once("-of-")?;
        let (split, number) = head.rsplit_once('-')?;
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (count, rest) = tail.split_at(end);
        Some(Self { split, part: (number.parse().ok()?, count.parse().ok()?), rest })
    }
}

/// Of shards, those whose name starts with the split's or, where none does, those that are not called
/// after another split; all where `split` is empty.
///
/// # Errors
/// When there are shards of other splits only; the error names them.
pub(crate) fn files_of_split(
    folder: &Path,
    files: Vec<PathBuf>,
    split: &str,
) -> Result<Vec<PathBuf>, FormatError> {
    if split.is_empty() {
        return Ok(files);
    }
    let starts = |p: &Path, word: &str| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(word).is_some_and(|rest| rest.starts_with(['-', '_', '.']))
    };
    for name in names(split) {
        let own: Vec<PathBuf> = files.iter().filter(|p| starts(p, name)).cloned().collect();
        if !own.is_empty() {
            return Ok(own);
        }
    }
    let other = |p: &PathBuf| KNOWN.into_iter().find(|word| starts(p, word));
    let others: BTreeSet<&str> = files.iter().filter_map(other).collect();
    let rest: Vec<PathBuf> = files.iter().filter(|p| other(p).is_none()).cloned().collect();
    match rest.is_empty() && !others.is_empty() {
        true => Err(no_split(folder, split, &others.into_iter().collect::<Vec<_>>())),
        false => Ok(rest),
    }
}

/// Refuses a local folder whose shards `files` are not all that their names or its manifest tell.
///
/// # Errors
/// When one is not there; the error names it.
pub(crate) fn check_whole(folder: &Path, files: &[PathBuf]) -> Result<(), FormatError> {
    check_complete(folder, files)?;
    check_manifest(folder, files)
}

/// Refuses a folder that lacks a shard which its manifest lists; `files` are there.
fn check_manifest(folder: &Path, files: &[PathBuf]) -> Result<(), FormatError> {
    #[derive(serde::Deserialize)]
    struct Manifest {
        shards: Vec<Shard>,
    }
    #[derive(serde::Deserialize)]
    struct Shard {
        file: String,
    }
    let path = folder.join(crate::convert::MANIFEST);
    let Ok(text) = std::fs::read(&path) else { return Ok(()) };
    // Whether it is whole is `verify`'s business.
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(()) };
    let found: BTreeSet<&Path> = files.iter().map(PathBuf::as_path).collect();
    let absent = |shard: &&Shard| {
        let path = folder.join(&shard.file);
        !found.contains(path.as_path()) && !path.exists()
    };
    match manifest.shards.iter().find(absent) {
        None => Ok(()),
        Some(shard) => {
            let what = format!("it lists the shard {}, which is not there", shard.file);
            Err(FormatError::malformed(&path, what))
        }
    }
}

/// Refuses shards whose names count more of them than there are.
///
/// # Errors
/// When some are not there; the error names the first.
pub(crate) fn check_complete(folder: &Path, files: &[PathBuf]) -> Result<(), FormatError> {
    let mut sets: BTreeMap<(String, u32), BTreeSet<u32>> = BTreeMap::new();
    let mut example = None;
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(Names { split, part: (number, count), rest }) = Names::of(&name) {
            sets.entry((split.to_owned(), count)).or_default().insert(number);
            example.get_or_insert_with(|| rest.to_owned());
        }
    }
    for ((split, count), have) in sets {
        let absent = (0..count).find(|number| !have.contains(number));
        // Some count from 1.
        let from_one = have.contains(&count) && !have.contains(&0);
        let Some(absent) = absent.filter(|_| !(from_one && have.len() == count as usize)) else {
            continue;
        };
        let end = example.as_deref().unwrap_or_default();
        let end = end.rfind('.').map_or(end, |dot| &end[dot..]);
        let what = format!(
            "{} of the {count} shards of `{split}` are not there, the first {split}-{absent:05}-of-\
             {count:05}{end}: complete them, or open shards one by one",
            (count as usize).saturating_sub(have.len())
        );
        return Err(FormatError::new(folder, FormatErrorKind::Malformed(what)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_gap_among_counted_shards_is_an_error() {
        let check = |names: &[&str]| check_complete(Path::new("x"), &paths(names));
        let whole = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "b.parquet"];
        assert!(check(&whole).is_ok() && check(&[]).is_ok());
        assert!(check(&["a-1-of-2-12ab.parquet", "a-2-of-2-34cd.parquet"]).is_ok());
        let gap = check(&whole[1..]).expect_err("a gap").to_string();
        assert!(
            gap.contains("1 of the 2") && gap.contains("train-00000-of-00002.parquet"),
            "{gap}"
        );
    }

    #[test]
    fn another_split_is_never_taken_for_the_wanted_one() {
        let of = |names: &[&str], split| {
            let found = files_of_split(Path::new("x"), paths(names), split);
            found.map(|f| f.len()).map_err(|e| e.to_string())
        };
        let both = ["train-0.tar", "validation-0.tar", "validation-1.tar"];
        assert_eq!(of(&both, "val"), Ok(2));
        assert_eq!(of(&both[..1], "test"), Err("x: no split `test`: there is train".to_owned()));
        assert_eq!(of(&["a.tar", "b.tar", "test-0.tar"], "train"), Ok(2));
        assert_eq!(of(&both, ""), Ok(3));
    }
}
