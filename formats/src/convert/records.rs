//! What a folder remembers: one file about the job, one about each finished shard.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{Filter, Format, Images, Videos};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::in_parallel;
use crate::record::MediaKind;
use crate::transcode::{Pyramid, Quality};

/// Folder of the records inside the output.
pub(crate) const FOLDER: &str = ".tubelet";

/// The file about the job.
pub(crate) const JOB: &str = ".tubelet/job.json";

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
    /// The job whose shards are in `out`.
    pub(crate) fn read(out: &Place) -> Result<Self, FormatError> {
        Self::find(out)?.ok_or_else(|| {
            let what = format!("no conversion is here: {JOB} is not there");
            FormatError::new(out.path(""), FormatErrorKind::Layout(what))
        })
    }

    fn find(out: &Place) -> Result<Option<Self>, FormatError> {
        let Some(text) = out.read(JOB)? else { return Ok(None) };
        let wrong = |e: serde_json::Error| FormatError::malformed(out.path(JOB), e.to_string());
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }

    /// Makes `out` the folder of this job; refuses one that holds another.
    pub(crate) fn claim(&self, out: &Place) -> Result<(), FormatError> {
        out.prepare()?;
        match Self::find(out)? {
            None => {
                out.write(JOB, to_json(self).as_bytes())?;
                // Another one may have been begun at the same moment.
                self.check(&Self::read(out)?, &out.path(""))
            }
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
            return differs(&differences(&self.settings, &other.settings).join(", "));
        }
        if self.listing != other.listing || self.missing != other.missing {
            return differs("other source files");
        }
        if self.classes != other.classes {
            return differs("other classes or another order of them");
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

/// Which settings differ, and how: `images.train.quality is 85, now 90`.
fn differences(now: &Settings, before: &Settings) -> Vec<String> {
    let value = |settings| serde_json::to_value(settings).unwrap_or_default();
    let mut found = Vec::new();
    compare("", &value(now), &value(before), &mut found);
    found
}

fn compare(at: &str, now: &serde_json::Value, before: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    if let (Value::Object(a), Value::Object(b)) = (now, before) {
        // Variants such as `keep` and `train` are no settings of their own.
        if a.keys().all(|key| b.contains_key(key)) || at.is_empty() {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let inner = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let of = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or_default();
                compare(&inner, &of(a), &of(b), found);
            }
            return;
        }
    }
    if now != before {
        let text = |value: &Value| match value {
            Value::Null => "not set".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        found.push(format!("{at} is {}, now {}", text(before), text(now)));
    }
}
