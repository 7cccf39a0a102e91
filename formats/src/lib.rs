//! Data-set layouts, shards, index, decoders and conversion to Parquet.
//!
//! This crate never draws a random number and knows no recipe, no batch and no trainer.
//!
//! The two open seams are [`ShardReader`] (where encoded samples come from) and [`Decoder`] (how
//! they become frames). [`open`] turns a path into the former, [`decoder`] makes the latter.

pub mod error;
pub mod record;

pub use error::{DecodeError, FormatError};
pub use record::{FrameRequest, MediaKind, Record, ShardReader, Span};
