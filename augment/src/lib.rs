//! Recipes, plans, crops, masks and targets on the host.
//!
//! This crate never opens a file and knows no codec, no thread and no GPU.

pub mod crop;
pub mod mask;
pub mod normalise;
pub mod resample;
pub mod target;
pub mod temporal;
