//! Plain lists: `path label` lines as VideoMAE, SlowFast and mmaction2 read them.
//!
//! Fields are separated as asked for, else by a tab, a comma or one space, tried in that order; a
//! path with spaces is quoted or tab separated. One to three fields: `path`, `path label`, `path
//! frames label`. Paths are relative to the list's folder (or the folder given). A path that is a
//! folder is a video of numbered pictures; one without an extension that is none gets `.mp4`. Labels
//! are all numbers or all names, `-1` is none; a first line of column names is passed over.
//! SlowFast's lists of frames (`original_vido_id video_id frame_id path labels`) are read too: the
//! folder of a video's frames is the video.

use std::path::{Path, PathBuf};

use super::labels::{Labels, MAX_CLASSES};
use super::{FRAME_RATE, Listing, kind_by_name, lines, read_text, some_of};
use crate::error::{FormatError, FormatErrorKind};
use crate::shard::OpenOptions;

/// First word of SlowFast's lists of frames, spelled as they spell it.
const FRAME_LIST: &str = "original_vido_id";
/// Words that head the columns of paths and of labels.
const HEADS: [&[&str]; 2] = [
    &[
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "video",
        "video_path",
        "video_id",
        "image",
        "image_path",
        "image_id",
        "name",
        "id",
    ],
    &[
        "label",
        "labels",
        "class",
        "class_id",
        "class_index",
        "class_name",
        "category",
        "target",
        "label_id",
    ],
];

/// One line.
struct Row {
    /// Its number from 1.
    line: usize,
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
    let names_columns = |line: &str| row(root, line, None).is_ok_and(|row| is_header(&row));
    let fits = |text: String| {
        let mut lines = text.lines();
        match lines.next() {
            Some(first) if names_columns(first) => lines.next().is_some_and(names_medium),
            first => first.is_some_and(names_medium),
        }
    };
    split_file(root, split).is_some_and(|path| read_text(&path).is_ok_and(fits))
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
    let mut rows = match text.starts_with(FRAME_LIST) {
        true => frame_list(&file, &text)?,
        false => lines(&text)
            .map(|(n, line)| {
                row(&file, line, options.separator)
                    .map(|row| Row { line: n, ..row })
                    .map_err(|e| e.at(format!("line {n}")))
            })
            .collect::<Result<_, _>>()?,
    };
    let mut listing = Listing::default();
    if rows.first().is_some_and(|row| is_header(row) && !base.join(&row.path).exists()) {
        let head = rows.remove(0);
        listing.notes.push(format!("line {} of {} names columns", head.line, file.display()));
    }
    let labels = labels(&file, &rows)?;
    for row in &rows {
        add(&mut listing, base, row, labels.label((None, row.label.as_deref())));
    }
    listing.classes = labels.names;
    if listing.entries.is_empty() && !listing.missing.is_empty() {
        let first = lines(&text).last().map_or("", |(_, line)| line);
        let what = format!(
            "all {} files that it lists are missing: {}; its fields are taken to be separated by {:?}, \
             --separator names another character",
            listing.missing.len(),
            some_of(&listing.missing),
            options.separator.unwrap_or_else(|| separator_of(first)),
        );
        return Err(FormatError::new(&file, FormatErrorKind::Layout(what)));
    }
    Ok(listing)
}

/// The classes of the lines.
fn labels(file: &Path, rows: &[Row]) -> Result<Labels, FormatError> {
    let wrong = |row: usize, what: String| {
        FormatError::malformed(file, what).at(format!("line {}", rows[row].line))
    };
    let numbers = || rows.iter().map(|r| r.label.as_deref().map(str::parse::<u64>));
    let large = numbers().position(|l| matches!(l, Some(Ok(n)) if n >= u64::from(MAX_CLASSES)));
    if let (Some(large), true) = (large, numbers().flatten().all(|l| l.is_ok())) {
        let text = rows[large].label.clone().unwrap_or_default();
        return Err(wrong(large, format!("class number {text}, at most {}", MAX_CLASSES - 1)));
    }
    Labels::of(rows.iter().map(|r| (None, r.label.as_deref())))
        .map_err(|odd| wrong(odd.sample, odd.what))
}

/// Whether a line names columns.
fn is_header(row: &Row) -> bool {
    let is = |words: &[&str], text: &str| words.contains(&text.to_lowercase().as_str());
    is(HEADS[0], &row.path.to_string_lossy())
        && row.label.as_deref().is_none_or(|label| is(HEADS[1], label))
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
            rows.push(Row { line: n, path, frames: None, label });
        }
    }
    Ok(rows)
}

fn split_file(root: &Path, split: &str) -> Option<PathBuf> {
    let names = super::split_names(split).into_iter();
    names
        .flat_map(|name| ["csv", "txt", "tsv"].map(|e| root.join(format!("{name}.{e}"))))
        .find(|path| path.is_file())
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
    let mut row = Row { line: 0, path: PathBuf::from(path), frames: None, label };
    match frames.map(|f| f.parse().map_err(|_| wrong(format!("`{f}` is no number of frames")))) {
        Some(Err(_)) if is_header(&row) => {}
        frames => row.frames = frames.transpose()?,
    }
    Ok(row)
}

/// What separates the fields of a line, by its looks.
fn separator_of(line: &str) -> char {
    if line.contains('\t') {
        '\t'
    } else if !line.starts_with('"') && line.contains(',') || line.contains("\",") {
        ','
    } else {
        ' '
    }
}

/// The fields of one line.
fn fields(line: &str, separator: Option<char>) -> Result<Vec<String>, String> {
    let line = line.trim();
    let separator = separator.unwrap_or_else(|| separator_of(line));
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
