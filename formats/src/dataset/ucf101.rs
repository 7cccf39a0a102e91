//! UCF101: `ucfTrainTestlist/{classInd,trainlist01…03,testlist01…03}.txt` and
//! `UCF-101/<Class>/v_<Class>_g01_c01.avi`, or a folder of frames for each video.
//!
//! The split `train2` is the second of the three training lists, `test2` its counterpart (so is
//! `val2`); without a number the first. Class numbers are those of `classInd.txt`, from 0.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Listing, frames, lines, read_text, relative_name};
use crate::error::{FormatError, FormatErrorKind};

/// Folders that may hold the class folders.
const VIDEOS: [&str; 6] = ["UCF-101", "UCF101", "videos", "rawframes", "frames", ""];
/// Folders that may hold the lists.
const LISTS: [&str; 3] = ["ucfTrainTestlist", "annotations", ""];

/// Whether the lists are there.
pub(super) fn looks_like(root: &Path) -> bool {
    find(root, "classInd.txt").is_some() && find(root, "trainlist01.txt").is_some()
}

/// Lists the videos of `split`.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    let missing = |name: &str| {
        let what = format!("no {name} in it or in ucfTrainTestlist");
        FormatError::new(root, FormatErrorKind::Layout(what))
    };
    let (train, number) = split_number(root, split)?;
    let name = format!("{}list{number:02}.txt", if train { "train" } else { "test" });
    let file = match annotations {
        Some(path) => path.to_owned(),
        None => find(root, &name).ok_or_else(|| missing(&name))?,
    };
    let index = find(root, "classInd.txt").ok_or_else(|| missing("classInd.txt"))?;
    let (classes, numbers) = read_classes(&index)?;
    let mut listing = Listing { classes, ..Listing::default() };
    for (n, line) in lines(&read_text(&file)?) {
        let video = line.split_whitespace().next().unwrap_or(line);
        let class = video.split('/').next().unwrap_or_default();
        let label = numbers.get(class).copied().ok_or_else(|| {
            let what = format!("class `{class}` is not in {}", index.display());
            FormatError::malformed(&file, what).at(format!("line {n}"))
        })?;
        add_video(&mut listing, root, &VIDEOS, video, FPS, Some(label));
    }
    Ok(listing)
}

/// Frames per second of the videos.
const FPS: u32 = 25;

/// Whether a split is a training one, and its number from 1 to 3.
pub(super) fn split_number(root: &Path, split: &str) -> Result<(bool, u32), FormatError> {
    let name = split.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = if name.len() == split.len() { Ok(1) } else { split[name.len()..].parse() };
    let train = match name.trim_end_matches(['-', '_']) {
        "train" => Some(true),
        "test" | "val" | "validation" => Some(false),
        _ => None,
    };
    match (train, number) {
        (Some(train), Ok(number @ 1..=3)) => Ok((train, number)),
        _ => {
            let what = format!(
                "no split `{split}`: there are train1, train2, train3, test1, test2 and test3"
            );
            Err(FormatError::new(root, FormatErrorKind::Layout(what)))
        }
    }
}

/// Adds `video`, a path below one of `folders`: the file, a folder of its frames, or a missing one.
pub(super) fn add_video(
    listing: &mut Listing,
    root: &Path,
    folders: &[&str],
    video: &str,
    fps: u32,
    label: Option<u32>,
) {
    let stem = Path::new(video).with_extension("");
    for base in folders.iter().map(|f| root.join(f)).filter(|f| f.is_dir()) {
        for path in [base.join(video), base.join(&stem).with_added_extension("mp4")] {
            if path.is_file() {
                return listing.add_found(root, path, label);
            }
        }
        let folder = base.join(&stem);
        if frames::is_video(&folder) {
            return listing.add_frames(root, folder, (None, fps), label);
        }
    }
    let usual = folders.iter().map(|f| root.join(f)).find(|f| f.is_dir());
    listing
        .missing
        .push(relative_name(root, &usual.unwrap_or_else(|| root.to_owned()).join(video)));
}

/// Names of the classes in order, and their numbers.
fn read_classes(path: &Path) -> Result<(Vec<String>, HashMap<String, u32>), FormatError> {
    let mut classes = Vec::new();
    let mut numbers = HashMap::new();
    for (n, line) in lines(&read_text(path)?) {
        let fields = line.split_once(char::is_whitespace).map(|(id, name)| (id, name.trim()));
        let wanted = classes.len() + 1;
        let Some((_, name)) = fields.filter(|(id, _)| id.parse() == Ok(wanted)) else {
            let what = format!("`{line}` is not `{wanted} <class>`");
            return Err(FormatError::malformed(path, what).at(format!("line {n}")));
        };
        numbers.insert(name.to_owned(), classes.len() as u32);
        classes.push(name.to_owned());
    }
    Ok((classes, numbers))
}

fn find(root: &Path, name: &str) -> Option<PathBuf> {
    LISTS.iter().map(|folder| root.join(folder).join(name)).find(|path| path.is_file())
}
