//! Burn models, losses, pre-training, fine-tuning and checkpoints.
//!
//! A recipe's tables ([`config`]) describe a network ([`model`], made of [`nn`]) over named
//! parameters ([`params`], [`weights`], [`init`]) on a [`mod@device`]; [`feed`] brings batches, [`mod@pretrain`] and
//! [`mod@finetune`] train with [`optim`], [`schedule`], [`layer_decay`] and [`ema`], [`checkpoint`] stores,
//! [`mod@evaluate`] scores, [`report`] shows. No other crate knows Burn.

pub mod checkpoint;
pub mod config;
pub mod device;
pub mod ema;
pub mod error;
pub mod evaluate;
pub mod feed;
pub mod finetune;
pub mod init;
pub mod layer_decay;
mod learner;
pub mod loss;
pub mod model;
pub mod nn;
pub mod optim;
pub mod params;
pub mod position;
pub mod pretrain;
pub mod report;
pub mod run;
pub mod schedule;
pub mod weights;

pub use device::Device;
pub use error::{TrainError, TrainErrorKind};
pub use evaluate::evaluate;
pub use finetune::{FinetuneOptions, finetune};
pub use params::Precision;
pub use pretrain::pretrain;
pub use run::RunOptions;

/// The tensor library, for callers of the generic functions.
pub use burn;
