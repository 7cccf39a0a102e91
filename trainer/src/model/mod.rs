//! The networks. Each knows its parameters by the names of its reference repository and computes
//! from token rows; none of them holds a tensor.

mod mae;
mod mae_st;
mod maskfeat;
mod patches;
mod videomae;
mod vit;

pub use mae::Mae;
pub use mae_st::{MaeSt, MaeStForm};
pub use maskfeat::MaskFeat;
pub use patches::{Geometry, MaskedTokens, argsort_mask, patch_values, patchify, patchify_rows};
pub use videomae::VideoMae;
pub use vit::{Pool, Vit, VitForm};

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::params::Params;
use crate::position::sinusoid_1d;

/// Width, depth and heads of a stack of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Width of the tokens.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
}

impl Width {
    /// Checks that the heads divide the width and that nothing is zero.
    ///
    /// # Errors
    /// When they do not; `key` names the setting.
    pub fn check(self, key: &str) -> Result<Self, TrainError> {
        let Self { dim, depth, heads } = self;
        if dim == 0 || depth == 0 || heads == 0 || dim % heads != 0 {
            let what = format!(
                "dim {dim}, depth {depth}, heads {heads}: heads must divide dim, all above 0"
            );
            return Err(TrainError::recipe(key, what));
        }
        Ok(self)
    }
}

/// VideoMAE's positions of `tokens` tokens, `[tokens, dim]`: made once.
fn sinusoid<B: Backend>(
    params: &Params<B>,
    tokens: usize,
    dim: usize,
    device: &B::Device,
) -> Result<Tensor<B, 2>, TrainError> {
    params.table(&format!("sinusoid {tokens} {dim}"), device, || sinusoid_1d(tokens, dim))
}

/// The patch embedding's two parameters: weight `[dim, 3, (t,) h, w]` and bias.
fn patch_embed_specs(
    prefix: &str,
    geometry: &Geometry,
    dim: usize,
    weight: Init,
    bias: Init,
) -> [ParamSpec; 2] {
    let [t, h, w] = geometry.patch;
    let mut shape = vec![dim, CHANNELS];
    if geometry.patch_3d {
        shape.push(t);
    }
    shape.extend([h, w]);
    [
        ParamSpec::new(format!("{prefix}patch_embed.proj.weight"), shape, weight),
        ParamSpec::new(format!("{prefix}patch_embed.proj.bias"), [dim], bias),
    ]
}

/// Colour channels of every input.
const CHANNELS: usize = 3;
