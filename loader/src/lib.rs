//! Order, workers, slots, batches and statistics.
//!
//! A training binary depends on this crate alone: it opens a data set ([`open`]), takes a recipe
//! ([`RecipeFile`]) and iterates over [`Batches`]. It knows no float, no training framework and no
//! GPU; the memory its batches live in comes from a [`HostMemory`].
//!
//! One sample's way: [`order`] says which sample comes when, the dispatcher reserves its rows in a
//! free slot ([`slot`]), a worker (`worker`) reads, plans, has its rows made ([`maker`]: decode, render)
//! and commits, and [`batches`] hands out full slots in order. [`stats`] times every stage and every queue.

pub mod batches;
pub mod buckets;
pub mod error;
pub mod maker;
pub mod order;
pub mod schedule;
pub mod slot;
pub mod stats;
mod worker;

pub use batches::{Batches, Loader, LoaderConfig, OnError};
pub use buckets::BucketReport;
pub use error::{LoaderError, SampleError, SampleErrorKind};
pub use maker::{HostMakers, Planned, RowMaker, RowMakers, Rows};
pub use order::Cursor;
pub use schedule::Order;
pub use slot::Batch;
pub use stats::{Drop, Stats};
pub use tubelet_augment::{HostStage, HostTensors, Recipe, RecipeFile, Stage};
pub use tubelet_core::{BatchLayout, BatchRef, Heap, HostMemory};
pub use tubelet_formats::{OpenOptions, ShardReader, open};
