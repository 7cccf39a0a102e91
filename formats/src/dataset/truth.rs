//! Classes of ImageNet's validation pictures.
//!
//! The devkit numbers classes in an order of its own (`ILSVRC2012_ID`); a label is the place of the
//! class's wnid among the sorted ones, as everywhere else. Read are, in this order: the devkit
//! (`ILSVRC2012_devkit_t12.tar.gz`, or its files: `meta.mat` and
//! `ILSVRC2012_validation_ground_truth.txt`), that text with a list of wnids in the devkit's order
//! (`synsets.txt`) instead of `meta.mat`, and lists that name the wnid of each picture
//! (`LOC_val_solution.csv`, `imagenet_2012_validation_synset_labels.txt`).

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::ilsvrc::truth_number;
use super::imagenet::is_wnid;
use super::mat5::{self, Value};
use super::{lines, read_text};
use crate::error::{FormatError, FormatErrorKind};

const NUMBERS: &str = "ILSVRC2012_validation_ground_truth.txt";
const LISTS: [&str; 2] = ["LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt"];
/// Classes of the challenge; higher numbers of the devkit are inner nodes of the tree.
const CLASSES: usize = 1000;

/// The class of each picture.
pub(super) struct Truth {
    source: PathBuf,
    classes: Vec<String>,
    labels: Vec<Option<u32>>,
}

impl Truth {
    /// Finds and reads the classes that lie in `folder`.
    pub(super) fn find(folder: &Path) -> Result<Self, FormatError> {
        let kit = folder.join("ILSVRC2012_devkit_t12");
        let archive = kit.with_extension("tar.gz");
        if archive.is_file() {
            return Self::read(&archive);
        }
        for place in [kit.join("data"), folder.join("data"), folder.to_owned()] {
            let file = place.join(NUMBERS);
            if file.is_file() {
                return Self::read(&file);
            }
        }
        if let Some(file) = LISTS.iter().map(|name| folder.join(name)).find(|f| f.is_file()) {
            return Self::read(&file);
        }
        let what = format!(
            "the classes of validation pictures are not there: put ILSVRC2012_devkit_t12.tar.gz, or \
             {NUMBERS} with meta.mat, or {} beside the archive, or name one with --annotations",
            LISTS[0]
        );
        Err(FormatError::new(folder, FormatErrorKind::Layout(what)))
    }

    /// Reads a devkit's archive, its ground truth, or a list of wnids.
    pub(super) fn read(file: &Path) -> Result<Self, FormatError> {
        if super::extension(file) == "gz" {
            let (text, meta) = devkit(file)?;
            return Self::from_numbers(file, &text, &from_meta(file, &meta)?);
        }
        let text = read_text(file)?;
        let numbers = lines(&text).next().is_some_and(|(_, l)| l.parse::<u32>().is_ok());
        if !numbers {
            return Self::from_names(file, &text);
        }
        let beside = |name: &str| file.with_file_name(name);
        let wnids = if beside("meta.mat").is_file() {
            let meta = beside("meta.mat");
            from_meta(&meta, &std::fs::read(&meta).map_err(|e| FormatError::new(&meta, e))?)?
        } else if beside("synsets.txt").is_file() {
            from_list(&beside("synsets.txt"))?
        } else {
            let what = "numbers need meta.mat or synsets.txt beside them to become classes";
            return Err(FormatError::new(file, FormatErrorKind::Layout(what.to_owned())));
        };
        Self::from_numbers(file, &text, &wnids)
    }

    /// `wnids` are those of the numbers from 1.
    fn from_numbers(file: &Path, text: &str, wnids: &[String]) -> Result<Self, FormatError> {
        let named = lines(text).map(|(n, line)| {
            let number = line.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            number.and_then(|n| wnids.get(n)).cloned().ok_or_else(|| {
                let what = format!("`{line}` is no class number from 1 to {}", wnids.len());
                FormatError::malformed(file, what).at(format!("{NUMBERS}, line {n}"))
            })
        });
        let named: Vec<String> = named.collect::<Result<_, _>>()?;
        let named = named.into_iter().map(Some).collect();
        Ok(Self::new(file, named, wnids.iter().cloned().collect()))
    }

    /// Lines of a wnid each, in order, or of a picture's name and its wnid.
    fn from_names(file: &Path, text: &str) -> Result<Self, FormatError> {
        let mut named: Vec<Option<String>> = Vec::new();
        for (n, line) in lines(text) {
            let fields: Vec<&str> =
                line.split([' ', '\t', ',']).filter(|f| !f.is_empty()).collect();
            let (number, wnid) = match fields.as_slice() {
                [wnid] if is_wnid(wnid) => (Some(named.len() + 1), *wnid),
                [picture, wnid, ..] if is_wnid(wnid) => (truth_number(picture), *wnid),
                _ if n == 1 => continue,
                _ => (None, ""),
            };
            let number = number.filter(|n| *n <= 1 << 20).ok_or_else(|| {
                let what = format!("`{line}` names no picture and wnid");
                FormatError::malformed(file, what).at(format!("line {n}"))
            })?;
            named.resize(named.len().max(number), None);
            named[number - 1] = Some(wnid.to_owned());
        }
        let classes = named.iter().flatten().cloned().collect();
        Ok(Self::new(file, named, classes))
    }

    fn new(file: &Path, named: Vec<Option<String>>, classes: BTreeSet<String>) -> Self {
        let classes: Vec<String> = classes.into_iter().collect();
        let label = |wnid: &String| classes.binary_search(wnid).ok().map(|l| l as u32);
        let labels = named.iter().map(|wnid| wnid.as_ref().and_then(label)).collect();
        Self { source: file.to_owned(), classes, labels }
    }

    /// The file that tells.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// Sorted wnids.
    pub(super) fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of pictures that it tells of.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The label of a picture by its number from 1.
    pub(super) fn label(&self, number: Option<usize>) -> Option<u32> {
        *self.labels.get(number?.checked_sub(1)?)?
    }
}

/// Ground truth and `meta.mat` of a devkit's archive.
fn devkit(file: &Path) -> Result<(String, Vec<u8>), FormatError> {
    let io = |e: std::io::Error| FormatError::new(file, e);
    let opened = std::fs::File::open(file).map_err(io)?;
    let mut archive = ::tar::Archive::new(flate2::read::GzDecoder::new(opened));
    let (mut text, mut meta) = (None, None);
    for entry in archive.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let slot = match Path::new(&name).file_name().and_then(|n| n.to_str()) {
            Some(NUMBERS) => &mut text,
            Some("meta.mat") if name.ends_with("data/meta.mat") => &mut meta,
            _ => continue,
        };
        let mut bytes = Vec::new();
        let read = (&mut entry).take(1 << 28).read_to_end(&mut bytes);
        read.map_err(|e| io(e).at(format!("member {name}")))?;
        *slot = Some(bytes);
    }
    let absent = |name: &str| FormatError::malformed(file, format!("no data/{name} in it"));
    let text = text.ok_or_else(|| absent(NUMBERS))?;
    let text = String::from_utf8(text)
        .map_err(|e| FormatError::malformed(file, e.to_string()).at(format!("member {NUMBERS}")))?;
    Ok((text, meta.ok_or_else(|| absent("meta.mat"))?))
}

/// Wnids of the classes 1 to 1000 from `meta.mat`: those of its `synsets` without children.
fn from_meta(file: &Path, meta: &[u8]) -> Result<Vec<String>, FormatError> {
    let wrong = |what: String| FormatError::malformed(file, what).at("meta.mat");
    let variables = mat5::read(meta).map_err(wrong)?;
    let synsets = variables.into_iter().find(|(name, _)| name == "synsets").map(|v| v.1);
    let Some(Value::Structs(fields, elements)) = synsets else {
        return Err(wrong("no struct `synsets` in it".to_owned()));
    };
    let place = |name: &str| {
        let found = fields.iter().position(|f| f == name);
        found.ok_or_else(|| wrong(format!("no field `{name}`")))
    };
    let (id, wnid) = (place("ILSVRC2012_ID")?, place("WNID")?);
    let children = place("num_children")?;
    let number = |value: &Value| match value {
        Value::Numbers(n) => n.first().copied(),
        _ => None,
    };
    let mut wnids = vec![None; CLASSES];
    for (n, element) in elements.iter().enumerate() {
        let (Some(number), Value::Text(wnid)) = (number(&element[id]), &element[wnid]) else {
            return Err(wrong(format!("synset {n} has no number or no wnid")));
        };
        let leaf = element.get(children).and_then(|c| match c {
            Value::Numbers(n) => n.first().copied(),
            _ => None,
        });
        let slot = (number as usize).checked_sub(1).and_then(|n| wnids.get_mut(n));
        if let (Some(slot), Some(0.0)) = (slot, leaf) {
            *slot = Some(wnid.clone());
        }
    }
    let count = wnids.iter().take_while(|w| w.is_some()).count();
    if count == 0 || wnids[count..].iter().any(Option::is_some) {
        return Err(wrong(format!("class {} is not told", count + 1)));
    }
    Ok(wnids.into_iter().flatten().collect())
}

/// Wnids in the devkit's order from a list, the first word of each line.
fn from_list(file: &Path) -> Result<Vec<String>, FormatError> {
    let mut wnids = Vec::new();
    for (n, line) in lines(&read_text(file)?) {
        let wnid = line.split_whitespace().next().unwrap_or_default();
        if !is_wnid(wnid) {
            let what = format!("`{line}` does not start with a wnid");
            return Err(FormatError::malformed(file, what).at(format!("line {n}")));
        }
        wnids.push(wnid.to_owned());
    }
    if wnids.len() > 2 && wnids.is_sorted() {
        let what = "the wnids are sorted, but the ground truth counts in the devkit's order (its \
                    class 1 is n02119789): use meta.mat or a list in that order";
        return Err(FormatError::malformed(file, what));
    }
    Ok(wnids)
}
