//! Burn models, losses, pre-training, fine-tuning and checkpoints.

pub mod error;
pub mod ema;
pub mod init;
pub mod layer_decay;
pub mod loss;
pub mod model;
pub mod nn;
pub mod optim;
pub mod params;
pub mod position;
pub mod schedule;
pub mod weights;

pub use error::{TrainError, TrainErrorKind};
