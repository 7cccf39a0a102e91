//! Many samples in few bytes each: names, media facts and sources as arrays instead of structures, in
//! memory or mapped from a file.
//!
//! | module | what it holds |
//! |---|---|
//! | `column` | numbers, of our own or mapped |
//! | `names` | paths: their folders once, their last parts end to end |
//! | `facts` | media facts: what many media share once |
//! | `entries` | the samples of a listing |

mod column;
mod entries;
mod facts;
mod names;

pub(crate) use column::Column;
pub use entries::Entries;
pub(crate) use facts::{Facts, Shape};
pub(crate) use names::Names;
