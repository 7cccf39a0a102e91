//! HMDB51: `testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt` and `<class>/<name>.avi`, or a
//! folder of frames for each video.
//!
//! Lines are `name.avi 1` for training, `2` for testing, `0` for neither. The split `train2` takes
//! the second of the three files of each class; without a number the first. Classes are sorted.

use std::path::{Path, PathBuf};

use super::ucf101::{add_video, split_number};
use super::{Listing, lines, read_text, sorted};
use crate::error::{FormatError, FormatErrorKind};

/// Folders that may hold the class folders.
const VIDEOS: [&str; 6] = ["hmdb51_org", "hmdb51", "videos", "rawframes", "frames", ""];
/// Folders that may hold the split files.
const LISTS: [&str; 4] = ["testTrainMulti_7030_splits", "test_train_splits", "annotations", ""];
/// Frames per second of the videos.
const FPS: u32 = 30;

/// Whether the split files are there.
pub(super) fn looks_like(root: &Path) -> bool {
    folder(root).is_some()
}

/// Lists the videos of `split`; `annotations` is the folder of the split files.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    let (train, number) = split_number(root, split)?;
    let folder = annotations.map(Path::to_owned).or_else(|| folder(root)).ok_or_else(|| {
        let what = "no <class>_test_split1.txt in it or in testTrainMulti_7030_splits".to_owned();
        FormatError::new(root, FormatErrorKind::Layout(what))
    })?;
    let suffix = format!("_test_split{number}.txt");
    let mut listing = Listing::default();
    for file in sorted(&folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(class) = name.strip_suffix(&suffix) else { continue };
        let label = listing.classes.len() as u32;
        listing.classes.push(class.to_owned());
        for (n, line) in lines(&read_text(&file)?) {
            let wanted = match line.rsplit_once(char::is_whitespace) {
                Some((video, "1")) => train.then_some(video),
                Some((video, "2")) => (!train).then_some(video),
                Some((_, "0")) => None,
                _ => {
                    let what = format!("`{line}` is not `<name>.avi 0|1|2`");
                    return Err(FormatError::malformed(&file, what).at(format!("line {n}")));
                }
            };
            if let Some(video) = wanted {
                let video = format!("{class}/{}", video.trim());
                add_video(&mut listing, root, &VIDEOS, &video, FPS, Some(label));
            }
        }
    }
    Ok(listing)
}

/// The folder of the split files.
fn folder(root: &Path) -> Option<PathBuf> {
    let is_split = |p: &PathBuf| p.to_string_lossy().ends_with("_test_split1.txt");
    let has_splits = |f: &PathBuf| sorted(f).is_ok_and(|files| files.iter().any(is_split));
    LISTS.iter().map(|name| root.join(name)).find(has_splits)
}
