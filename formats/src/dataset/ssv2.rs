//! Something-Something v2: official JSON files and one video a sample.
//!
//! A class is a template without its brackets; its id comes from the labels file
//! (`{template: "id"}`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Listing, read_text};
use crate::error::{FormatError, FormatErrorKind};

const EXTENSIONS: [&str; 3] = ["webm", "mp4", "mkv"];

#[derive(Deserialize)]
struct Item {
    id: String,
    #[serde(default)]
    template: Option<String>,
}

/// Whether the labels file is there.
pub(super) fn looks_like(root: &Path) -> bool {
    find(root, &label_names()).is_some()
}

/// Lists the videos of `split`.
pub(super) fn list(
    root: &Path,
    split: &str,
    annotations: Option<&Path>,
) -> Result<Listing, FormatError> {
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
    let folder = video_folder(root);
    for (n, item) in parse::<Vec<Item>>(&path)?.into_iter().enumerate() {
        let label = match &item.template {
            None => None,
            Some(template) => {
                let name = template.replace(['[', ']'], "");
                let unknown = || {
                    let what = format!("template `{template}` is not in {}", labels.display());
                    FormatError::malformed(&path, what).at(format!("item {n}"))
                };
                Some(*ids.get(&name).ok_or_else(unknown)?)
            }
        };
        listing.add(root, locate(&folder, &item.id), label);
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

fn video_folder(root: &Path) -> PathBuf {
    ["20bn-something-something-v2", "videos", "video"]
        .iter()
        .map(|folder| root.join(folder))
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| root.to_owned())
}

fn locate(folder: &Path, id: &str) -> PathBuf {
    let path = |extension: &str| folder.join(format!("{id}.{extension}"));
    EXTENSIONS.iter().map(|e| path(e)).find(|p| p.is_file()).unwrap_or_else(|| path("webm"))
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
