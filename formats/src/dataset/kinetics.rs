//! Kinetics 400/600/700: official CSV or JSON files, and clips in folders or archives.
//!
//! CSV: `label,youtube_id,time_start,time_end,split[,is_cc]`; JSON: `{id: {annotations: {label,
//! segment}, subset}}`. Clips are called `<youtube_id>[_<start>_<end>].<ext>`, the times plain or
//! padded to six digits, and lie anywhere below a folder of the split: flat, in class folders, or in
//! the tar and tar.gz files of the CVDF mirror (looked into where a folder has no loose clips). What
//! lies in `replacement` stands for a broken clip of the same name. Class ids are the sorted names
//! over all annotation files of the data set, so that its splits agree. Labels may be absent from
//! the split `test` alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Listing, extension, kind_by_name, media_below, read_text, shards, sorted};
use crate::error::{FormatError, FormatErrorKind};
use crate::shard::OpenOptions;
use crate::shard::catalogue::Item;

/// One clip of the annotations.
struct Row {
    /// Where it stands, for errors.
    place: Place,
    label: String,
    youtube_id: String,
    time_start: Option<f64>,
    time_end: Option<f64>,
    split: String,
}

/// Where a clip's annotation stands.
#[derive(Clone, Copy)]
enum Place {
    Line(u64),
    /// In a JSON file, under its name.
    Name,
}

/// One clip of a JSON file.
#[derive(Deserialize)]
struct Clip {
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    subset: String,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(default)]
    label: String,
    #[serde(default)]
    segment: Option<(f64, f64)>,
}

/// Whether there is an annotation file of Kinetics' form.
pub(super) fn looks_like(root: &Path) -> bool {
    annotation_files(root).is_ok_and(|files| !files.is_empty())
}

/// Lists the clips of the split.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let split = options.split.as_str();
    let mut files = annotation_files(root)?;
    let wanted = match &options.annotations {
        Some(path) => path.clone(),
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
    let clips = Clips::find(root, options, &mut listing)?;
    for row in of_split(read(&wanted)?, split) {
        if row.label.is_empty() && split != "test" {
            let what =
                format!("clip {} has no label, as only those of split `test` may", row.youtube_id);
            let error = FormatError::malformed(&wanted, what);
            return Err(match row.place {
                Place::Line(line) => error.at(format!("line {line}")),
                Place::Name => error,
            });
        }
        let label = classes.binary_search(&row.label).ok().map(|l| l as u32);
        let stems = stems(&row);
        match stems.iter().find_map(|stem| clips.media.get(stem)) {
            Some(Medium::File(path)) => listing.add_found(root, path.clone(), label),
            Some(Medium::Member(archive, shard, item)) => {
                listing.add_item(root, archive, *shard, item, label);
            }
            None => listing.missing.push(format!("{split}/{}.mp4", stems[0])),
        }
    }
    listing.classes = classes;
    listing.notes.extend(clips.note());
    Ok(listing)
}

/// Rows of one split where a file has several.
fn of_split(mut rows: Vec<Row>, split: &str) -> Vec<Row> {
    // The files say `val`, `validate` and `validation`.
    let short = |s: &str| s.chars().take(3).collect::<String>().to_lowercase();
    let splits: BTreeSet<String> = rows.iter().map(|r| short(&r.split)).collect();
    if splits.len() > 1 && splits.contains(&short(split)) {
        rows.retain(|r| short(&r.split) == short(split));
    }
    rows
}

/// Where a clip is.
enum Medium {
    File(PathBuf),
    Member(PathBuf, u32, Item),
}

/// Clips by the stems of their names.
#[derive(Default)]
struct Clips {
    media: HashMap<String, Medium>,
    /// Stems that several files have, but for replacements: how many, and the first.
    twice: (usize, Option<String>),
    /// Folders that hold a conversion's output.
    outputs: BTreeSet<PathBuf>,
}

impl Clips {
    /// Those of the split, which replacements override.
    fn find(
        root: &Path,
        options: &OpenOptions,
        listing: &mut Listing,
    ) -> Result<Self, FormatError> {
        let split = options.split.as_str();
        let mut clips = Self::default();
        let short = if matches!(split, "validation" | "validate") { "val" } else { split };
        let long = if short == "val" { "validation" } else { split };
        let named = [split, short, long, "validate"].map(str::to_owned);
        let mut folders: Vec<String> = named[..if short == "val" { 4 } else { 3 }].to_vec();
        for name in [split, short] {
            folders.extend([format!("videos_{name}"), format!("{name}_256")]);
        }
        folders.sort();
        folders.dedup();
        for folder in folders.iter().map(|f| root.join(f)).filter(|f| f.is_dir()) {
            clips.add_folder(&folder, options, listing)?;
        }
        let archive = |path: &Path, word: &str| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(word))
        };
        let mut own = shards::tars(root);
        own.retain(|p| archive(p, short));
        clips.add_archives(root, &own, options, listing)?;
        if clips.media.is_empty() {
            clips.add_folder(root, options, listing)?;
        }
        let twice = clips.twice.clone();
        for path in sorted(root)?.iter().filter(|p| archive(p, "replacement")) {
            if path.is_dir() {
                clips.add_folder(path, options, listing)?;
            } else if shards::tars(root).contains(path) {
                clips.add_archives(root, std::slice::from_ref(path), options, listing)?;
            }
        }
        clips.twice = twice;
        Ok(clips)
    }

    fn insert(&mut self, stem: String, medium: Medium) {
        if self.media.insert(stem.clone(), medium).is_some() {
            self.twice.0 += 1;
            self.twice.1.get_or_insert(stem);
        }
    }

    /// What a person should know of how clips were found.
    fn note(self) -> Vec<String> {
        let mut notes = Vec::new();
        if let (count, Some(first)) = self.twice {
            notes.push(format!(
                "{count} clips are there more than once, such as {first}: the last one found is taken"
            ));
        }
        let left =
            |path: PathBuf| format!("{} holds a conversion and was left out", path.display());
        notes.extend(self.outputs.into_iter().map(left));
        notes
    }

    /// Adds the clips below a folder or, where there are none, those of the archives in it.
    fn add_folder(
        &mut self,
        folder: &Path,
        options: &OpenOptions,
        listing: &mut Listing,
    ) -> Result<(), FormatError> {
        let (media, outputs) = media_below(folder)?;
        self.outputs.extend(outputs);
        if media.is_empty() {
            return self.add_archives(folder, &shards::tars(folder), options, listing);
        }
        for path in media {
            self.insert(stem(&path), Medium::File(path));
        }
        Ok(())
    }

    fn add_archives(
        &mut self,
        root: &Path,
        paths: &[PathBuf],
        options: &OpenOptions,
        listing: &mut Listing,
    ) -> Result<(), FormatError> {
        for (path, (file, items)) in paths.iter().zip(shards::members_of(paths, options)?) {
            let shard = listing.add_archive(file);
            for lost in items.iter().filter(|item| item.is_lost()) {
                listing.add_lost(root, path, lost);
            }
            let items = items.into_iter().filter(|item| !item.is_lost());
            for item in items.filter(|i| kind_by_name(Path::new(&i.name)).is_some()) {
                let stem = stem(Path::new(&item.name));
                self.insert(stem, Medium::Member(path.clone(), shard, item));
            }
        }
        Ok(())
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names that a clip may have, the usual one first.
fn stems(row: &Row) -> Vec<String> {
    let mut stems = Vec::new();
    if let (Some(start), Some(end)) = (row.time_start, row.time_end) {
        let (start, end) = (start as i64, end as i64);
        stems.push(format!("{}_{start:06}_{end:06}", row.youtube_id));
        stems.push(format!("{}_{start}_{end}", row.youtube_id));
    }
    stems.push(row.youtube_id.clone());
    stems
}

/// Annotation files in `root` and `root/annotations`, sorted: those in CSV or, without any, in JSON.
fn annotation_files(root: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let mut files = Vec::new();
    for folder in [root.to_owned(), root.join("annotations")] {
        if folder.is_dir() {
            files.extend(sorted(&folder)?);
        }
    }
    let csv: Vec<PathBuf> = files.iter().filter(|p| has_header(p)).cloned().collect();
    files.retain(|p| csv.is_empty() && is_json(p));
    Ok(if csv.is_empty() { files } else { csv })
}

fn has_header(path: &Path) -> bool {
    if extension(path) != "csv" {
        return false;
    }
    let line = beginning(path, 4096);
    let line = line.lines().next().unwrap_or_default();
    line.split(',').any(|column| column.trim().trim_matches('"') == "youtube_id")
}

/// Whether a JSON file begins with a clip of Kinetics.
fn is_json(path: &Path) -> bool {
    let wanted = ["\"annotations\"", "\"segment\"", "\"subset\""];
    extension(path) == "json" && {
        let text = beginning(path, 4096);
        wanted.iter().all(|word| text.contains(word))
    }
}

fn beginning(path: &Path, bytes: u64) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| {
        std::io::Read::read_to_end(&mut std::io::Read::take(file, bytes), &mut text)
    });
    read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
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
    if extension(path) == "json" {
        return read_json(path);
    }
    let at = |e: csv::Error| {
        let line = e.position().map_or(0, csv::Position::line);
        FormatError::malformed(path, e.to_string()).at(format!("line {line}"))
    };
    let reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path);
    let mut reader = reader.map_err(at)?;
    let columns = Columns::of(path, reader.headers().map_err(at)?)?;
    reader.records().map(|record| columns.row(path, &record.map_err(at)?)).collect()
}

/// Places of the columns of a CSV file.
struct Columns {
    youtube_id: usize,
    label: Option<usize>,
    times: [Option<usize>; 2],
    split: Option<usize>,
}

impl Columns {
    fn of(path: &Path, header: &csv::StringRecord) -> Result<Self, FormatError> {
        let find =
            |name: &str| header.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
        let youtube_id = find("youtube_id").ok_or_else(|| {
            let names = header.iter().collect::<Vec<_>>().join(", ");
            let what = format!("no column `youtube_id` among {names}");
            FormatError::malformed(path, what).at("line 1")
        })?;
        let times = [find("time_start"), find("time_end")];
        Ok(Self { youtube_id, label: find("label"), times, split: find("split") })
    }

    fn row(&self, path: &Path, record: &csv::StringRecord) -> Result<Row, FormatError> {
        let line = record.position().map_or(0, csv::Position::line);
        let text = |column: Option<usize>| column.and_then(|c| record.get(c)).unwrap_or_default();
        let time = |n: usize| match text(self.times[n]) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let column = ["time_start", "time_end"][n];
                let what = format!("column {column} is `{text}`, not a number of seconds");
                FormatError::malformed(path, what).at(format!("line {line}"))
            }),
        };
        Ok(Row {
            place: Place::Line(line),
            label: text(self.label).to_owned(),
            youtube_id: text(Some(self.youtube_id)).to_owned(),
            time_start: time(0)?,
            time_end: time(1)?,
            split: text(self.split).to_owned(),
        })
    }
}

fn read_json(path: &Path) -> Result<Vec<Row>, FormatError> {
    let clips: BTreeMap<String, Clip> = serde_json::from_str(&read_text(path)?).map_err(|e| {
        FormatError::malformed(path, e.to_string()).at(format!("line {}", e.line()))
    })?;
    let row = |(youtube_id, clip): (String, Clip)| {
        let (label, segment) =
            clip.annotations.map_or_else(Default::default, |a| (a.label, a.segment));
        let (time_start, time_end) = (segment.map(|s| s.0), segment.map(|s| s.1));
        let place = Place::Name;
        Row { place, label, youtube_id, time_start, time_end, split: clip.subset }
    };
    Ok(clips.into_iter().map(row).collect())
}
