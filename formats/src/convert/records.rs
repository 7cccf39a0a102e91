//! What a folder remembers: one file about the job, one about each finished shard.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{Filter, Format, Images, Videos};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::in_parallel;
use crate::record::MediaKind;
use crate::transcode::{Pyramid, Quality};

/// Folder of the records inside the output.
pub(crate) const FOLDER: &str = ".tubelet";

/// Everything about a conversion but its shards; the same for all tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) tool: String,
    pub(crate) source: String,
    /// Hash of the listing: names and sizes in order.
    pub(crate) listing: String,
    pub(crate) settings: Settings,
    pub(crate) shards: usize,
    pub(crate) samples: usize,
    pub(crate) missing: Vec<String>,
    pub(crate) classes: Vec<String>,
}

/// What the bytes of the shards depend on beside the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) split: String,
    pub(crate) shard_size: u64,
    pub(crate) format: Format,
    pub(crate) images: Images,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pyramid: Option<Pyramid>,
    pub(crate) video: Videos,
    pub(crate) filter: Filter,
    pub(crate) kind: MediaKind,
}

impl Settings {
    /// Shorter sides of the further encodings of a picture.
    pub(crate) fn sides(&self) -> &[u32] {
        self.pyramid.as_ref().map_or(&[], |p| &p.sides)
    }

    /// Whether payloads are made anew rather than copied.
    pub(crate) fn reencodes(&self) -> bool {
        match self.kind {
            MediaKind::Video => self.video != Videos::Keep,
            MediaKind::Image | MediaKind::Jpeg => self.images != Images::Keep,
        }
    }
}

/// What is remembered of a finished shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    /// Its file; for plain files the name it would have.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) xxh3: String,
    pub(crate) samples: Vec<SampleRecord>,
    /// How far payloads are from their sources, and how many were measured for that.
    pub(crate) quality: Quality,
    pub(crate) measured: u64,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Written,
    Broken,
    Filtered,
}

impl Outcome {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Broken => "broken",
            Self::Filtered => "filtered",
        }
    }
}

/// One sample of a shard's part of the listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SampleRecord {
    pub(crate) name: String,
    pub(crate) label: Option<u32>,
    pub(crate) outcome: Outcome,
    /// Why it was left out, or what of it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Size and hash of the source.
    pub(crate) source: (u64, String),
    /// Size and hash of the payload.
    pub(crate) payload: (u64, String),
    /// The sample's own file, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The files of its smaller encodings with their sizes, where they have files of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) levels: Vec<(String, u64)>,
}

impl JobRecord {
    fn name() -> String {
        format!("{FOLDER}/job.json")
    }

    /// The job whose shards are in `out`.
    pub(crate) fn read(out: &Place) -> Result<Self, FormatError> {
        let absent = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let found = Self::find(out)?;
        found.ok_or_else(|| FormatError::new(out.path(&Self::name()), absent()))
    }

    fn find(out: &Place) -> Result<Option<Self>, FormatError> {
        let Some(text) = out.read(&Self::name())? else { return Ok(None) };
        let wrong =
            |e: serde_json::Error| FormatError::malformed(out.path(&Self::name()), e.to_string());
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// Makes `out` the folder of this job; refuses one that holds another.
    pub(crate) fn claim(&self, out: &Place) -> Result<(), FormatError> {
        out.prepare()?;
        match Self::find(out)? {
            None => out.write(&Self::name(), to_json(self).as_bytes()),
            Some(other) => self.check(&other, &out.path("")),
        }
    }

    /// Refuses `other`, found in `folder`, unless it is the same job.
    pub(crate) fn check(&self, other: &Self, folder: &Path) -> Result<(), FormatError> {
        let differs = |what: &str| {
            let what = format!(
                "it holds shards of another conversion ({what}): give another folder, or remove it"
            );
            Err(FormatError::new(folder, FormatErrorKind::Layout(what)))
        };
        if self.settings.split != other.settings.split {
            return differs(&format!("of split `{}`", other.settings.split));
        }
        if self.settings != other.settings {
            return differs(&format!("settings {}", one_line(&other.settings)));
        }
        if self.listing != other.listing || self.missing != other.missing {
            return differs("other source files");
        }
        if self.tool != other.tool {
            return differs(&format!("by {}", other.tool));
        }
        Ok(())
    }

    /// Name of shard `n`.
    pub(crate) fn file_name(&self, n: usize) -> String {
        let stem = format!("{}-{n:05}-of-{:05}", self.settings.split, self.shards);
        match self.settings.format {
            Format::Parquet => format!("{stem}.parquet"),
            Format::Webdataset => format!("{stem}.tar"),
            Format::Folder => stem,
        }
    }

    /// Under which name shard `n` is remembered.
    pub(crate) fn record_name(&self, n: usize) -> String {
        format!("{FOLDER}/{}.json", self.file_name(n))
    }

    /// The record of shard `n`, if all its files are there with their sizes.
    ///
    /// # Errors
    /// When a store cannot be asked.
    pub(crate) fn finished(
        &self,
        out: &Place,
        n: usize,
    ) -> Result<Option<ShardRecord>, FormatError> {
        let Some(text) = out.read(&self.record_name(n))? else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<ShardRecord>(&text) else { return Ok(None) };
        let has = |file: &str, bytes: u64| out.has(file, bytes).unwrap_or(false);
        let whole = match self.settings.format {
            Format::Folder => record.samples.iter().all(|s| match &s.file {
                Some(file) => {
                    has(file, s.payload.0) && s.levels.iter().all(|(file, bytes)| has(file, *bytes))
                }
                None => s.outcome != Outcome::Written,
            }),
            _ => out.has(&record.file, record.bytes)?,
        };
        Ok(whole.then_some(record))
    }

    /// The records of all finished shards.
    pub(crate) fn all_finished(
        &self,
        out: &Place,
    ) -> Result<Vec<Option<ShardRecord>>, FormatError> {
        let found =
            in_parallel(self.shards, out.requests(), &|_, _| (), || |n| self.finished(out, n));
        found.into_iter().collect()
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn one_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The name under which this process writes `path` before it is whole.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{}.tmp", std::process::id()))
}

/// Writes a file whole or not at all; several threads may write the same one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let temporary = temporary(&path.with_added_extension(turn.to_string()));
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|e| FormatError::new(path, e))
}

/// Removes what interrupted processes left half written. Only for a folder whose conversion is
/// complete: nobody writes there any more.
pub(crate) fn sweep(out: &Path) -> Result<(), FormatError> {
    let walk = walkdir::WalkDir::new(out).into_iter().filter_map(Result::ok);
    for entry in walk.filter(|e| e.file_type().is_file()) {
        if entry.path().extension().is_some_and(|e| e == "tmp") {
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FormatError::new(entry.path(), e));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
