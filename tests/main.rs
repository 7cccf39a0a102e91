//! Integration tests: one binary, a module a subject. All media are made here, with FFmpeg's own
//! encoders; files of `../shared` are used where they are present.

mod cli;
mod clusters;
mod convert;
mod faults;
mod layouts;
mod makers;
mod media;
mod order;
mod parity;
mod pixels;
mod plans;
#[cfg(feature = "store")]
mod store;
