//! Recipes, plans, crops, masks and targets on the host.
//!
//! This crate never opens a file and knows no codec, no loader and no GPU.
//!
//! A recipe file becomes a [`Recipe`] ([`recipe`]); a recipe and a key become a [`SamplePlan`]
//! ([`plan`]), with frames from [`temporal`], boxes from [`crop`] and masks from [`mask`]; the plan
//! and a decoded clip become a row of bytes ([`Recipe::render`], [`resample`]); rows become floats
//! and targets in [`stage`] ([`normalise`], [`target`]).

pub mod builtin;
pub mod color;
pub mod crop;
pub mod erase;
pub mod mask;
pub mod mix;
pub mod normalise;
pub mod plan;
pub mod policy;
pub mod recipe;
pub mod resample;
pub mod stage;
pub mod target;
pub mod temporal;

pub use plan::{PlanError, SamplePlan, Scratch, ViewPlan};
pub use policy::MaskPolicy;
pub use recipe::{Method, Pixels, Recipe, RecipeError, RecipeFile, Stage, TargetSpec};
pub use stage::{HostStage, HostTensors};
