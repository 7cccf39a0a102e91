//! Plain lists: `path label` lines as VideoMAE and SlowFast read them.
//!
//! Fields are separated by a tab, a comma or one space, tried in that order; a path with spaces is
//! quoted or tab separated. One to three fields: `path`, `path label`, `path frames label`. Paths are
//! relative to the list's folder (or the folder given); one without an extension gets `.mp4`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Listing, kind_by_name, read_text};
use crate::error::{FormatError, FormatErrorKind};

/// Whether the folder has a list for `split` whose first line names a medium.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    split_file(root, split).is_some_and(|path| {
        read_text(&path).is_ok_and(|text| {
            text.lines().next().is_some_and(|line| {
                fields(line)
                    .is_ok_and(|f| f.first().is_some_and(|p| kind_by_name(Path::new(p)).is_some()))
            })
        })
    })
}

/// Lists the media of a list file, or of the list for `split` in a folder.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    let file = match annotations {
        Some(path) => path.to_owned(),
        None if root.is_file() => root.to_owned(),
        None => split_file(root, split).ok_or_else(|| {
            let what = format!("no list {split}.csv, {split}.txt or {split}.tsv in it");
            FormatError::new(root, FormatErrorKind::Layout(what))
        })?,
    };
    let base = if root.is_dir() { root } else { file.parent().unwrap_or(Path::new("")) };
    let mut rows = Vec::new();
    for (n, line) in read_text(&file)?.lines().enumerate() {
        if !line.trim().is_empty() {
            let place = |e: FormatError| e.at(format!("line {}", n + 1));
            rows.push(row(&file, line).map_err(place)?);
        }
    }
    let labels: BTreeSet<&str> = rows.iter().filter_map(|(_, l)| l.as_deref()).collect();
    let numbers = labels.iter().all(|l| l.parse::<u32>().is_ok());
    let names: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
    let mut listing = Listing::default();
    for (path, label) in &rows {
        let id = label.as_ref().and_then(|label| match numbers {
            true => label.parse().ok(),
            false => names.binary_search(label).ok().map(|l| l as u32),
        });
        listing.add(base, base.join(path), id);
    }
    listing.classes = match numbers {
        true => {
            let most = listing.entries.iter().filter_map(|e| e.label).max();
            (0..most.map_or(0, |m| m + 1)).map(|l| l.to_string()).collect()
        }
        false => names,
    };
    Ok(listing)
}

fn split_file(root: &Path, split: &str) -> Option<PathBuf> {
    ["csv", "txt", "tsv"].iter().map(|e| root.join(format!("{split}.{e}"))).find(|p| p.is_file())
}

/// Path and label of one line.
fn row(file: &Path, line: &str) -> Result<(PathBuf, Option<String>), FormatError> {
    let fields = fields(line).map_err(|what| FormatError::malformed(file, what))?;
    let (path, label) = match fields.as_slice() {
        [path] => (path, None),
        [path, label] | [path, _, label] => (path, Some(label.clone())),
        _ => {
            let what = format!(
                "{} fields instead of `path label`; quote a path with spaces or separate by tabs",
                fields.len()
            );
            return Err(FormatError::malformed(file, what));
        }
    };
    if path.is_empty() {
        return Err(FormatError::malformed(file, "the path is empty"));
    }
    let mut path = PathBuf::from(path);
    if path.extension().is_none() {
        path.set_extension("mp4");
    }
    Ok((path, label))
}

/// The fields of one line.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let line = line.trim();
    let separator = if line.contains('\t') {
        '\t'
    } else if !line.starts_with('"') && line.contains(',') || line.contains("\",") {
        ','
    } else {
        ' '
    };
    let mut rest = line;
    let mut fields = Vec::new();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').ok_or("a quote is not closed")?;
            fields.push(quoted[..end].to_owned());
            match quoted[end + 1..].strip_prefix(separator) {
                Some(next) => rest = next,
                None if quoted[end + 1..].is_empty() => return Ok(fields),
                None => return Err("text follows a closing quote".to_owned()),
            }
        } else {
            match rest.split_once(separator) {
                Some((field, next)) => {
                    fields.push(field.trim().to_owned());
                    rest = next;
                }
                None => {
                    fields.push(rest.trim().to_owned());
                    return Ok(fields);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_separator_and_quotes_are_read() {
        for line in ["a b.mp4\t3", "\"a b.mp4\" 3", "\"a b.mp4\",3", "a b.mp4,3"] {
            assert_eq!(fields(line).expect("reads"), ["a b.mp4", "3"], "{line}");
        }
        assert_eq!(fields("x.mp4 120 7").expect("reads"), ["x.mp4", "120", "7"]);
        assert!(fields("\"open 3").is_err());
    }

    #[test]
    fn too_many_fields_are_an_error_with_a_hint() {
        let error = row(Path::new("l.csv"), "a b c.mp4 3").expect_err("four fields").to_string();
        assert!(error.contains("quote a path"), "{error}");
    }
}
