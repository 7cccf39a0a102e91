//! MaskFeat for pictures with a ViT (Wei et al., 2022; SlowFast `models/masked.py`).

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::mae::{add_positions, blocks};
use super::{Geometry, MaskedTokens, Width, patch_embed_specs};
use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::nn::{
    Blocks, Drops, LayerInit, Projections, drop_first, layer_norm, linear, prepend, select_rows,
};
use crate::params::Params;

/// MaskFeat: the encoder sees every token, hidden ones replaced by a learned token after the
/// patch embedding, and a norm and a linear layer predict HOG features of the hidden ones.
#[derive(Clone, Debug)]
pub struct MaskFeat {
    /// Input and patch sizes.
    pub geometry: Geometry,
    /// The network.
    pub encoder: Width,
    /// MLP width over block width.
    pub mlp_ratio: f64,
    /// Values predicted a token.
    pub target_dim: usize,
}

impl MaskFeat {
    /// All parameters, with the reference's initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let dim = self.encoder.dim;
        let init = LayerInit::slowfast();
        let token = Init::trunc_normal(0.02);
        let mut specs = vec![
            ParamSpec::new("cls_token", [1, 1, dim], token.clone()),
            ParamSpec::new("mask_token", [1, 1, dim], token.clone()),
            ParamSpec::new("pos_embed", [1, 1 + self.geometry.tokens(), dim], token.clone()),
        ];
        specs.extend(patch_embed_specs("", &self.geometry, dim, token, Init::Constant(0.02)));
        specs.extend(self.blocks().specs(&init));
        specs.extend(init.norm(NORM, dim));
        let [weight, bias] = init.linear(HEAD, dim, self.target_dim);
        specs.extend([weight, ParamSpec { init: Init::ZEROS, ..bias }]);
        specs
    }

    /// All patches `[rows · tokens, patch values]` to the last block's output
    /// `[rows · tokens, dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn encode<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        tokens: &MaskedTokens,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let count = tokens.rows * tokens.tokens;
        let mut hidden = vec![0f32; count];
        tokens.masked.iter().for_each(|token| hidden[*token as usize] = 1.0);
        let x = linear(params, "patch_embed.proj", patches)?;
        let hidden = Tensor::<B, 2>::from_data(TensorData::new(hidden, [count, 1]), &x.device());
        let x = x * (-hidden.clone() + 1.0) + params.matrix_3d("mask_token")? * hidden;
        let x = prepend(params.matrix_3d("cls_token")?, x, tokens.rows);
        let x = add_positions(x, params.matrix_3d("pos_embed")?, tokens.rows);
        let x = self.blocks().forward(params, x, tokens.rows, drops)?;
        Ok(drop_first(x, tokens.rows))
    }

    /// Predictions for some rows of the encoder's output, `[n, target dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn predict<B: Backend>(
        &self,
        params: &Params<B>,
        x: Tensor<B, 2>,
    ) -> Result<Tensor<B, 2>, TrainError> {
        linear(params, HEAD, layer_norm(params, NORM, x)?)
    }

    /// Predictions for the hidden tokens, `[masked, target dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn predict_masked<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        tokens: &MaskedTokens,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let x = self.encode(params, patches, tokens, drops)?;
        self.predict(params, select_rows(x, &tokens.masked))
    }

    fn blocks(&self) -> Blocks {
        blocks("blocks", self.encoder, self.mlp_ratio, Projections::Fused)
    }
}

const NORM: &str = "pred_head.transforms.0.0";
const HEAD: &str = "pred_head.projections.0";
