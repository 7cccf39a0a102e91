//! Data-set layouts, shards, index, decoders and conversion to Parquet.
//!
//! This crate never draws a random number and knows no recipe, no batch and no trainer.
//!
//! The two open seams are [`ShardReader`] (where encoded samples come from) and [`Decoder`] (how
//! they become frames). [`open`] turns a path into the former, [`decoder`] makes the latter.
//!
//! | module | what it is |
//! |---|---|
//! | [`record`], [`error`] | the seams and what can go wrong |
//! | [`dataset`] | annotations and folders to a listing |
//! | [`shard`] | readers: files on disk, Parquet shards |
//! | [`decode`] | JPEG, pictures, video |
//! | [`store`] | object stores, and copies of what was read from them |
//! | [`index`] | media facts found once |
//! | [`convert`](mod@convert), [`verify`] | Parquet shards made and checked |
//! | [`transcode`] | pictures and videos made cheap to decode |
//! | [`encode`] | media for tests and demonstrations |

mod compact;
pub mod convert;
pub mod dataset;
pub mod decode;
#[cfg(feature = "video")]
pub mod encode;
pub mod error;
mod facts;
mod frames;
#[doc(hidden)]
pub mod fuzz;
pub mod index;
#[cfg(feature = "video")]
mod mux;
pub mod record;
pub mod shard;
pub mod store;
mod temporary;
pub mod transcode;
pub mod verify;
mod whole;

pub use dataset::Layout;
pub use decode::{ColorConversion, MediaDecoder, decoder, sniff};
pub use error::{DecodeError, FormatError};
pub use index::Index;
pub use record::{Decoder, FrameRequest, MediaKind, Record, ShardReader, Span};
pub use shard::{OpenOptions, layout, open, open_as};
pub use store::{CacheOptions, Limits, StoreOptions};
