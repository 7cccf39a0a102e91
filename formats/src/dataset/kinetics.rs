//! Kinetics 400/600/700: official CSV files and clip files.
//!
//! `label,youtube_id,time_start,time_end,split[,is_cc]`; clips are
//! `<split>/[<class>/]<youtube_id>[_<start>_<end>].<ext>` with the times plain or padded to six
//! digits and spaces of the class kept or replaced by `_`. Class ids are the sorted names over all
//! annotation files of the data set, so that its splits agree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Listing, extension, sorted};
use crate::error::{FormatError, FormatErrorKind};

const EXTENSIONS: [&str; 4] = ["mp4", "mkv", "webm", "avi"];

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    label: String,
    youtube_id: String,
    #[serde(default)]
    time_start: Option<f64>,
    #[serde(default)]
    time_end: Option<f64>,
}

/// Whether there is an annotation file with Kinetics' header.
pub(super) fn looks_like(root: &Path) -> bool {
    annotation_files(root).is_ok_and(|files| !files.is_empty())
}

/// Lists the clips of `split`.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    let mut files = annotation_files(root)?;
    let wanted = match annotations {
        Some(path) => path.to_owned(),
        None => split_file(root, split, &files)?,
    };
    if !files.contains(&wanted) {
        files.push(wanted.clone());
    }
    let mut names = BTreeSet::new();
    for file in &files {
        names.extend(read(file)?.into_iter().map(|r| r.label).filter(|l| !l.is_empty()));
    }
    let classes: Vec<String> = names.into_iter().collect();
    let mut listing = Listing::default();
    for row in read(&wanted)? {
        let label = classes.binary_search(&row.label).ok().map(|l| l as u32);
        listing.add(root, locate(root, split, &row), label);
    }
    listing.classes = classes;
    Ok(listing)
}

/// CSV files with Kinetics' header in `root` and `root/annotations`, sorted.
fn annotation_files(root: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let mut files = Vec::new();
    for folder in [root.to_owned(), root.join("annotations")] {
        if folder.is_dir() {
            files.extend(sorted(&folder)?.into_iter().filter(|p| has_header(p)));
        }
    }
    Ok(files)
}

fn has_header(path: &Path) -> bool {
    if extension(path) != "csv" {
        return false;
    }
    let mut line = String::new();
    std::fs::File::open(path).is_ok_and(|file| {
        std::io::BufRead::read_line(&mut std::io::BufReader::new(file), &mut line).is_ok()
            && line.split(',').any(|column| column.trim().trim_matches('"') == "youtube_id")
    })
}

/// The annotation file whose name has `split` in it.
fn split_file(root: &Path, split: &str, files: &[PathBuf]) -> Result<PathBuf, FormatError> {
    let short = if split == "validation" { "val" } else { split };
    let named = |p: &&PathBuf| {
        p.file_stem().is_some_and(|s| {
            s.to_string_lossy().split(|c: char| !c.is_alphanumeric()).any(|w| w.starts_with(short))
        })
    };
    files.iter().find(named).cloned().ok_or_else(|| {
        let names: Vec<String> = files.iter().map(|p| p.display().to_string()).collect();
        let what = format!(
            "no annotation file for split `{split}` among [{}]; name one with --annotations",
            names.join(", ")
        );
        FormatError::new(root, FormatErrorKind::Layout(what))
    })
}

fn read(path: &Path) -> Result<Vec<Row>, FormatError> {
    let at = |e: csv::Error| {
        let line = e.position().map_or(0, csv::Position::line);
        FormatError::malformed(path, e.to_string()).at(format!("line {line}"))
    };
    csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(at)?
        .deserialize()
        .map(|row| row.map_err(at))
        .collect()
}

/// The clip's file: the first name that exists, else the usual one.
fn locate(root: &Path, split: &str, row: &Row) -> PathBuf {
    let mut stems = Vec::new();
    if let (Some(start), Some(end)) = (row.time_start, row.time_end) {
        stems.push(format!("{}_{:06}_{:06}", row.youtube_id, start as i64, end as i64));
        stems.push(format!("{}_{}_{}", row.youtube_id, start as i64, end as i64));
    }
    stems.push(row.youtube_id.clone());
    let mut bases = Vec::new();
    let short = if split == "validation" { "val" } else { split };
    for base in [root.join(split), root.join(short), root.to_owned()] {
        bases.push(base.clone());
        if !row.label.is_empty() {
            bases.push(base.join(&row.label));
            bases.push(base.join(row.label.replace(' ', "_")));
        }
    }
    for base in bases.iter().filter(|b| b.is_dir()) {
        for stem in &stems {
            for extension in EXTENSIONS {
                let path = base.join(format!("{stem}.{extension}"));
                if path.is_file() {
                    return path;
                }
            }
        }
    }
    root.join(split).join(format!("{}.mp4", stems[0]))
}
