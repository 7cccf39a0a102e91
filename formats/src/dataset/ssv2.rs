//! Something-Something: official annotation files and one video, or one folder of frames, a sample.
//!
//! v2 is annotated by JSON files: a class is a template without its brackets, its id comes from the
//! labels file (`{template: "id"}`). v1 is annotated by text files: lines `id;template`, and a list
//! of templates whose sorted order numbers the classes; its videos are folders of `%05d.jpg`. Only the
//! split `test` may lack templates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Listing, frames, lines, read_text, relative_name};
use crate::error::{FormatError, FormatErrorKind};

const EXTENSIONS: [&str; 3] = ["webm", "mp4", "mkv"];
/// Folders that may hold videos or folders of frames.
const VIDEOS: [&str; 7] = [
    "20bn-something-something-v2",
    "20bn-something-something-v1",
    "20bn-something-something-v2-frames",
    "videos",
    "video",
    "rawframes",
    "frames",
];
/// Frames per second that the videos are made with and frames extracted at.
const FPS: u32 = 12;

#[derive(Deserialize)]
struct Item {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    #[serde(default)]
    template: Option<String>,
}

/// `"17"` or `17`.
fn text_or_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(u64),
    }
    Ok(match Id::deserialize(from)? {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    })
}

/// Whether the labels file is there.
pub(super) fn looks_like(root: &Path) -> bool {
    find(root, &label_names()).is_some() || v1_labels(root).is_some()
}

/// Lists the videos of `split`.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
    if let Some(labels) = v1_labels(root) {
        return list_v1(root, split, annotations, &labels);
    }
    let missing = |what: &str| {
        let what = format!("no {what}; name the split's file with --annotations");
        FormatError::new(root, FormatErrorKind::Layout(what))
    };
    let labels = find(root, &label_names()).ok_or_else(|| missing("labels.json"))?;
    let path = match annotations {
        Some(path) => path.to_owned(),
        None => find(root, &split_names(split)).ok_or_else(|| missing("annotation file"))?,
    };
    let ids = read_labels(&labels)?;
    let count = ids.values().max().map_or(0, |m| *m as usize + 1);
    let mut listing = Listing { classes: vec![String::new(); count], ..Listing::default() };
    for (name, id) in &ids {
        listing.classes[*id as usize].clone_from(name);
    }
    let folders = video_folders(root);
    for (n, item) in parse::<Vec<Item>>(&path)?.into_iter().enumerate() {
        let label = match &item.template {
            None if split == "test" => None,
            None => {
                let what =
                    format!("video {} has no template, as only those of split `test` may", item.id);
                return Err(FormatError::malformed(&path, what).at(format!("item {n}")));
            }
            Some(template) => {
                let name = template.replace(['[', ']'], "");
                let unknown = || {
                    let what = format!("template `{template}` is not in {}", labels.display());
                    FormatError::malformed(&path, what).at(format!("item {n}"))
                };
                Some(*ids.get(&name).ok_or_else(unknown)?)
            }
        };
        add(&mut listing, root, &folders, &item.id, label);
    }
    Ok(listing)
}

fn label_names() -> Vec<String> {
    ["labels.json", "something-something-v2-labels.json"].map(str::to_owned).to_vec()
}

fn split_names(split: &str) -> Vec<String> {
    let split = if split == "val" { "validation" } else { split };
    vec![format!("{split}.json"), format!("something-something-v2-{split}.json")]
}

/// The first of `names` in `root` or its usual folders for annotations.
fn find(root: &Path, names: &[String]) -> Option<PathBuf> {
    ["", "labels", "annotations"]
        .iter()
        .flat_map(|folder| names.iter().map(move |name| root.join(folder).join(name)))
        .find(|path| path.is_file())
}

fn video_folders(root: &Path) -> Vec<PathBuf> {
    let named = VIDEOS.iter().map(|folder| root.join(folder)).filter(|f| f.is_dir());
    named.chain([root.to_owned()]).collect()
}

/// Adds a video, a folder of frames, or a missing one.
fn add(listing: &mut Listing, root: &Path, folders: &[PathBuf], id: &str, label: Option<u32>) {
    for folder in folders {
        let path = |extension: &str| folder.join(format!("{id}.{extension}"));
        if let Some(path) = EXTENSIONS.iter().map(|e| path(e)).find(|p| p.is_file()) {
            return listing.add_found(root, path, label);
        }
        if frames::is_video(&folder.join(id)) {
            return listing.add_frames(root, folder.join(id), (None, FPS), label);
        }
    }
    let usual = folders.first().map(|f| f.join(format!("{id}.webm")));
    listing.missing.push(usual.map_or_else(|| id.to_owned(), |path| relative_name(root, &path)));
}

fn v1_labels(root: &Path) -> Option<PathBuf> {
    find(root, &["something-something-v1-labels.csv".to_owned()])
}

fn list_v1(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
    labels: &Path,
) -> Result<Listing, FormatError> {
    let name =
        format!("something-something-v1-{}.csv", if split == "val" { "validation" } else { split });
    let path = annotations.map(Path::to_owned).or_else(|| find(root, std::slice::from_ref(&name)));
    let path = path.ok_or_else(|| {
        let what = format!("no {name}; name the split's file with --annotations");
        FormatError::new(root, FormatErrorKind::Layout(what))
    })?;
    let mut classes: Vec<String> =
        lines(&read_text(labels)?).map(|(_, line)| line.to_owned()).collect();
    classes.sort();
    let folders = video_folders(root);
    let mut listing = Listing { classes, ..Listing::default() };
    for (n, line) in lines(&read_text(&path)?) {
        let (id, template) = line.split_once(';').unwrap_or((line, ""));
        let label = match template {
            "" if split == "test" => None,
            "" => {
                let what = format!("video {id} has no template, as only those of split `test` may");
                return Err(FormatError::malformed(&path, what).at(format!("line {n}")));
            }
            template => {
                Some(listing.classes.iter().position(|c| c == template).ok_or_else(|| {
                    let what = format!("template `{template}` is not in {}", labels.display());
                    FormatError::malformed(&path, what).at(format!("line {n}"))
                })?)
            }
        };
        add(&mut listing, root, &folders, id, label.map(|l| l as u32));
    }
    Ok(listing)
}

/// Class ids by name; ids are numbers written as text.
fn read_labels(path: &Path) -> Result<BTreeMap<String, u32>, FormatError> {
    let raw: BTreeMap<String, serde_json::Value> = parse(path)?;
    raw.into_iter()
        .map(|(name, id)| {
            let number = id.as_u64().or_else(|| id.as_str()?.parse().ok());
            let id = number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n < 1 << 20);
            id.map(|id| (name.clone(), id)).ok_or_else(|| {
                FormatError::malformed(path, "a class id is not a number").at(format!("`{name}`"))
            })
        })
        .collect()
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, FormatError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|e| FormatError::malformed(path, e.to_string()).at(format!("line {}", e.line())))
}
