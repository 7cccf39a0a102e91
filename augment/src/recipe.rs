//! A recipe: everything that decides what a batch holds.
//!
//! It is read twice: [`RecipeFile`] is exactly what the TOML file says; [`RecipeFile::stage`]
//! resolves and checks one of its stages into a [`Recipe`], after which nothing asks "was it set?".

mod augment;
mod bucket;
mod check;
mod checked;
mod clip_rule;
mod crop_rule;
mod error;
mod file;
mod names;
mod phase;
mod target;
mod view;

pub use augment::{AugmentFile, ColorSpec, Place};
pub use bucket::{Buckets, BucketsFile, Unknown};
pub use checked::Recipe;
pub use clip_rule::ClipRule;
pub use crop_rule::CropRule;
pub use error::RecipeError;
pub use file::{RecipeFile, StageFile};
pub use names::{Media, Method, NormaliseName, Pixels, Resize, Stage};
pub use phase::{Multigrid, Phase, PhaseFile, ShapeFile};
pub use target::{TargetFile, TargetSpec};
pub use view::{Region, ViewFile, ViewSpec};

#[cfg(test)]
mod tests;
