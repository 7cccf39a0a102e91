//! Plain lists: `path label` lines as VideoMAE, SlowFast and mmaction2 read them.
//!
//! Fields are separated as asked for, else by a tab, a comma or one space, tried in that order; a
//! path with spaces is quoted or tab separated. One to three fields: `path`, `path label`, `path
//! frames label`. Paths are relative to the list's folder (or the folder given). A path that is a
//! folder is a video of numbered pictures; one without an extension that is none gets `.mp4`.
//! SlowFast's lists of frames (`original_vido_id video_id frame_id path labels`) are read too: the
//! folder of a video's frames is the video.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{FRAME_RATE, Listing, kind_by_name, lines, read_text};
use crate::error::{FormatError, FormatErrorKind};
use crate::shard::OpenOptions;

/// First word of SlowFast's lists of frames, spelled as they spell it.
const FRAME_LIST: &str = "original_vido_id";
/// Most classes that numbers may count.
const MAX_CLASSES: u32 = 1 << 20;

/// One line.
struct Row {
    path: PathBuf,
    frames: Option<u32>,
    label: Option<String>,
}

/// Whether the folder has a list for `split` whose first line names a medium, a folder of frames, or
/// the columns of a list of frames.
pub(super) fn looks_like(root: &Path, split: &str) -> bool {
    let names_medium = |line: &str| {
        line.starts_with(FRAME_LIST)
            || fields(line, None).is_ok_and(|f| {
                f.first().is_some_and(|p| {
                    kind_by_name(Path::new(p)).is_some()
                        || f.len() == 3 && super::frames::is_video(&root.join(p))
                })
            })
    };
    split_file(root, split).is_some_and(|path| {
        read_text(&path).is_ok_and(|t| t.lines().next().is_some_and(names_medium))
    })
}

/// Lists the media of a list file, or of the list for the split in a folder.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let split = &options.split;
    let file = match &options.annotations {
        Some(path) => path.clone(),
        None if root.is_file() => root.to_owned(),
        None => split_file(root, split).ok_or_else(|| {
            let what = format!("no list {split}.csv, {split}.txt or {split}.tsv in it");
            FormatError::new(root, FormatErrorKind::Layout(what))
        })?,
    };
    let base = if root.is_dir() { root } else { file.parent().unwrap_or(Path::new("")) };
    let text = read_text(&file)?;
    let rows = match text.starts_with(FRAME_LIST) {
        true => frame_list(&file, &text)?,
        false => lines(&text)
            .map(|(n, line)| {
                row(&file, line, options.separator).map_err(|e| e.at(format!("line {n}")))
            })
            .collect::<Result<_, _>>()?,
    };
    let labels: BTreeSet<&str> = rows.iter().filter_map(|r| r.label.as_deref()).collect();
    let numbers = labels.iter().all(|l| l.parse::<u32>().is_ok());
    let names: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
    let mut listing = Listing::default();
    for row in &rows {
        let id = row.label.as_ref().and_then(|label| match numbers {
            true => label.parse().ok(),
            false => names.binary_search(label).ok().map(|l| l as u32),
        });
        add(&mut listing, base, row, id);
    }
    listing.classes = match numbers {
        true => {
            let most = listing.entries.iter().filter_map(|e| e.label).max();
            if most.is_some_and(|most| most >= MAX_CLASSES) {
                let what = format!("class number {}, at most {MAX_CLASSES}", most.unwrap_or(0));
                return Err(FormatError::malformed(&file, what));
            }
            (0..most.map_or(0, |m| m + 1)).map(|l| l.to_string()).collect()
        }
        false => names,
    };
    Ok(listing)
}

/// Adds the medium of a line.
fn add(listing: &mut Listing, base: &Path, row: &Row, label: Option<u32>) {
    let path = base.join(&row.path);
    if path.is_file() {
        listing.add_found(base, path, label);
    } else if path.is_dir() {
        listing.add_frames(base, path, (row.frames, FRAME_RATE), label);
    } else if path.extension().is_none() && row.frames.is_none() {
        listing.add(base, path.with_extension("mp4"), label);
    } else {
        listing.add(base, path, label);
    }
}

/// The videos of a list of frames, in the order of their first frames.
fn frame_list(file: &Path, text: &str) -> Result<Vec<Row>, FormatError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (n, line) in lines(text).skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, path, label] = fields.as_slice() else {
            let what = format!("{} fields instead of 5", fields.len());
            return Err(FormatError::malformed(file, what).at(format!("line {n}")));
        };
        let path = Path::new(path.trim_matches('"')).parent().unwrap_or(Path::new("")).to_owned();
        let label = Some(label.trim_matches('"').to_owned()).filter(|l| !l.is_empty());
        if seen.insert(path.clone()) {
            rows.push(Row { path, frames: None, label });
        }
    }
    Ok(rows)
}

fn split_file(root: &Path, split: &str) -> Option<PathBuf> {
    ["csv", "txt", "tsv"].iter().map(|e| root.join(format!("{split}.{e}"))).find(|p| p.is_file())
}

/// One line's path, frames and label.
fn row(file: &Path, line: &str, separator: Option<char>) -> Result<Row, FormatError> {
    let wrong = |what: String| FormatError::malformed(file, what);
    let fields = fields(line, separator).map_err(wrong)?;
    let (path, frames, label) = match fields.as_slice() {
        [path] => (path, None, None),
        [path, label] => (path, None, Some(label.clone())),
        [path, frames, label] => (path, Some(frames), Some(label.clone())),
        _ => {
            return Err(wrong(format!(
                "{} fields instead of `path label`; quote a path with spaces or separate by tabs",
                fields.len()
            )));
        }
    };
    if path.is_empty() {
        return Err(wrong("the path is empty".to_owned()));
    }
    let frames =
        frames.map(|f| f.parse().map_err(|_| wrong(format!("`{f}` is no number of frames"))));
    Ok(Row { path: PathBuf::from(path), frames: frames.transpose()?, label })
}

/// The fields of one line.
fn fields(line: &str, separator: Option<char>) -> Result<Vec<String>, String> {
    let line = line.trim();
    let separator = separator.unwrap_or_else(|| {
        if line.contains('\t') {
            '\t'
        } else if !line.starts_with('"') && line.contains(',') || line.contains("\",") {
            ','
        } else {
            ' '
        }
    });
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
            assert_eq!(fields(line, None).expect("reads"), ["a b.mp4", "3"], "{line}");
        }
        assert_eq!(fields("x.mp4 120 7", None).expect("reads"), ["x.mp4", "120", "7"]);
        assert!(fields("\"open 3", None).is_err());
        assert_eq!(fields("a b,c.mp4;3", Some(';')).expect("reads"), ["a b,c.mp4", "3"]);
    }

    #[test]
    fn too_many_fields_are_an_error_with_a_hint() {
        let error = row(Path::new("l.csv"), "a b c.mp4 3", None);
        let error = error.err().expect("four fields").to_string();
        assert!(error.contains("quote a path"), "{error}");
    }
}
