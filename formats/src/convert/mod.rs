//! Any data set to shards for training.
//!
//! Which sample goes into which shard is a pure function of the listing and the sizes of the
//! sources; every shard is written under a temporary name, then renamed, and leaves a done-record.
//! So any number of workers and tasks, and any interruption, end with the same bytes.
//!
//! | module | what it does |
//! |---|---|
//! | `job` | cuts the listing into shards and runs them |
//! | `sample` | one source to one payload: read, checked, filtered, re-encoded |
//! | `sink` | shards as Parquet, WebDataset tar or plain files |
//! | `place` | a local folder or one of an object store |
//! | `table` | the Parquet schema |
//! | `records` | what a folder remembers of its job and its finished shards |
//! | `manifest` | `manifest.json`, `manifest.parquet`, `quarantine.tsv` |

mod job;
mod manifest;
pub(crate) mod place;
pub(crate) mod records;
mod sample;
mod sink;
mod table;
#[cfg(all(test, feature = "video"))]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::FormatError;
use crate::record::ShardReader;
use crate::store::StoreOptions;
use crate::transcode::{PictureSettings, Pyramid, Quality, VideoSettings};

pub use manifest::{MANIFEST, MANIFEST_TABLE, QUARANTINE, merge};
pub(crate) use records::JOB;
pub use sink::CLASSES;
pub(crate) use sink::{UNLABELLED, full_names};

/// How pictures are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    /// The encoded bytes as they are.
    #[default]
    Keep,
    /// Re-encoded for training.
    Train(PictureSettings),
}

/// How videos are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Videos {
    /// The encoded bytes as they are.
    #[default]
    Keep,
    /// Re-encoded for training.
    Train(VideoSettings),
}

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet shards, one payload a page.
    #[default]
    Parquet,
    /// WebDataset tar shards: `<number>.<extension>`, `.cls`, `.json`.
    Webdataset,
    /// One file a sample in a folder a class.
    Folder,
}

/// What happens with media that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBroken {
    /// They are left out and named.
    Skip,
    /// The conversion stops.
    Fail,
}

/// Which samples are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Fewest frames of a video.
    pub min_frames: u32,
    /// Smallest shorter side in pixels.
    pub min_side: u32,
}

/// How to convert.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertOptions {
    /// Bytes of source payload after which a shard is full.
    pub shard_size: u64,
    /// How pictures are stored.
    pub images: Images,
    /// Further, smaller encodings of pictures.
    pub pyramid: Option<Pyramid>,
    /// How videos are stored.
    pub video: Videos,
    /// What is written.
    pub format: Format,
    /// Which samples are wanted.
    pub filter: Filter,
    /// Part and number of parts: part i writes the shards whose number is i modulo n.
    pub task: (u32, u32),
    /// What happens with media that cannot be read.
    pub on_error: OnBroken,
    /// Threads.
    pub workers: usize,
    /// Name of the split, first part of the shards' names.
    pub split: String,
    /// How an object store is reached, where the output is in one.
    pub store: StoreOptions,
}

/// Bytes of source payload of a shard, where nothing else is asked for.
pub const SHARD_SIZE: u64 = 512 << 20;

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            shard_size: SHARD_SIZE,
            images: Images::Keep,
            pyramid: None,
            video: Videos::Keep,
            format: Format::Parquet,
            filter: Filter::default(),
            task: (0, 1),
            on_error: OnBroken::Skip,
            workers: 1,
            split: "train".to_owned(),
            store: StoreOptions::default(),
        }
    }
}

/// A sample that was left out, or one of which something was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// What a conversion did; once it is complete, `listed = written + missing + broken + filtered`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConvertReport {
    /// Samples that the data set lists.
    pub listed: usize,
    /// Samples in the shards that exist now.
    pub written: usize,
    /// Samples whose files are absent.
    pub missing: usize,
    /// Samples that could not be read.
    pub broken: Vec<Dropped>,
    /// Samples that the filter left out.
    pub filtered: Vec<Dropped>,
    /// Samples of which something was lost, such as sound that MP4 cannot hold.
    pub notes: Vec<Dropped>,
    /// Shards that exist now.
    pub shards: usize,
    /// Shards of all tasks together.
    pub planned: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How far re-encoded samples are from their sources, over those that were measured.
    pub quality: Quality,
    /// How many were.
    pub measured: u64,
    /// Whether all shards of all tasks are there and the manifest was written.
    pub complete: bool,
}

/// Writes the samples of `reader` to shards in `out`, a folder or the URL of one; `source` names it in the manifest; `progress`
/// is told done and total samples.
///
/// # Errors
/// When the output cannot be written or holds another conversion, pictures and videos are mixed,
/// a profile does not fit the media, or a sample is broken and the policy is to stop.
pub fn convert(
    reader: &dyn ShardReader,
    source: &str,
    out: &Path,
    options: &ConvertOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ConvertReport, FormatError> {
    let out = place::Place::open(out, &options.store)?;
    let job = job::Job::new(reader, source, &out, options)?;
    job.run(progress)?;
    manifest::finish(&out)
}
