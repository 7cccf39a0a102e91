//! What can go wrong while loading: which sample, which attempt, what.

use tubelet_augment::PlanError;
use tubelet_core::{AllocError, SampleId};
use tubelet_formats::{DecodeError, FormatError};

/// One sample could not be turned into a row.
#[derive(Debug, thiserror::Error)]
#[error("sample {sample} ({name}), attempt {attempt}: {kind}")]
pub struct SampleError {
    /// Its number.
    pub sample: SampleId,
    /// Its name in the data set.
    pub name: String,
    /// 0 for the sample itself, n for its n-th substitute.
    pub attempt: u32,
    /// What broke.
    #[source]
    pub kind: SampleErrorKind,
}

/// What broke.
#[derive(Debug, thiserror::Error)]
pub enum SampleErrorKind {
    /// The bytes could not be read.
    #[error(transparent)]
    Read(#[from] FormatError),
    /// The bytes could not be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Nothing can be drawn from what it holds.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A wanted frame was not delivered.
    #[error("frame {0} was not delivered by the decoder")]
    Frame(u32),
    /// A worker panicked: a bug worth a report.
    #[error("a worker panicked: {0}")]
    Panic(String),
}

/// The loader cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A setting that cannot work.
    #[error("loader: {0}")]
    Config(String),
    /// No memory for the slots.
    #[error(transparent)]
    Memory(#[from] AllocError),
    /// A sample failed and the policy is to stop.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// Too large a share of the samples failed.
    #[error(
        "{dropped} of {seen} samples could not be used, more than the limit of {limit} %; last: {last}"
    )]
    TooManyDrops {
        /// Samples dropped.
        dropped: u64,
        /// Samples tried.
        seen: u64,
        /// The limit in percent.
        limit: f64,
        /// The latest failure.
        last: String,
    },
    /// Pixels could not be copied from where their maker left them.
    #[error("the pixels of a batch cannot be copied from where they were made: {0}")]
    Fetch(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// All threads ended before the data did.
    #[error("the loader's threads ended early")]
    Ended,
}
