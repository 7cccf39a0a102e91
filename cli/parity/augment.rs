//! Runners for the kinds that need only `tubelet-augment`.

use anyhow::Result;

use super::Outcome;
use super::case::{Case, Inputs};

/// Runs one case of the kinds listed here.
///
/// # Errors
/// When a parameter or an input is missing or of another type than the kind asks for.
pub(crate) fn run_kind(case: &Case, inputs: &Inputs) -> Result<Outcome> {
    let _ = inputs;
    Ok(Outcome::Unsupported(format!("kind {} is not covered", case.kind)))
}
