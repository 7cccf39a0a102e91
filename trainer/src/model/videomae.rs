//! VideoMAE (Tong et al., 2022; `modeling_pretrain.py`).

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::mae::blocks;
use super::{Geometry, MaskedTokens, Width, patch_embed_specs, patch_values, sinusoid};
use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::nn::{Blocks, Drops, LayerInit, Projections, layer_norm, linear, select_rows};
use crate::params::Params;

/// VideoMAE: no class token, a sinusoid over the flattened token index that is not in the state
/// dict, keys without bias, and a decoder that sees the visible tokens first and the masked ones
/// last.
#[derive(Clone, Debug)]
pub struct VideoMae {
    /// Input and tubelet sizes.
    pub geometry: Geometry,
    /// Encoder.
    pub encoder: Width,
    /// Decoder.
    pub decoder: Width,
    /// MLP width over block width.
    pub mlp_ratio: f64,
    /// Values predicted a token.
    pub target_dim: usize,
}

impl VideoMae {
    /// All parameters, with the reference's initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (dim, narrow) = (self.encoder.dim, self.decoder.dim);
        let init = LayerInit::xavier();
        let patch = Init::torch_default(patch_values(&self.geometry));
        let token = Init::TruncatedNormal { std: 0.02, bound: 0.02 };
        let mut specs = vec![
            ParamSpec::new("mask_token", [1, 1, narrow], token),
            ParamSpec::new("encoder_to_decoder.weight", [narrow, dim], Init::XavierUniform),
        ];
        specs.extend(patch_embed_specs("encoder.", &self.geometry, dim, patch.clone(), patch));
        specs.extend(self.encoder_blocks().specs(&init));
        specs.extend(init.norm("encoder.norm", dim));
        specs.extend(self.decoder_blocks().specs(&init));
        specs.extend(init.norm("decoder.norm", narrow));
        specs.extend(init.linear("decoder.head", narrow, self.target_dim));
        specs
    }

    /// The visible tubelets `[rows · visible, patch values]` to normalised latents
    /// `[rows · visible, dim]`.
    ///
    /// # Errors
    /// When a parameter is missing or the rows show different numbers of tokens.
    pub fn encode<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        tokens: &MaskedTokens,
    ) -> Result<Tensor<B, 2>, TrainError> {
        tokens.visible_flat()?;
        let positions = sinusoid(params, tokens.tokens, self.encoder.dim, &patches.device())?;
        let x = linear(params, "encoder.patch_embed.proj", patches)?;
        let x = x + select_rows(positions, &tokens.visible);
        let x = self.encoder_blocks().forward(params, x, tokens.rows, &mut Drops::none())?;
        layer_norm(params, "encoder.norm", x)
    }

    /// The latents to decoder outputs for the masked tokens `[masked, decoder dim]`, by row, then
    /// by token, before the last norm.
    ///
    /// # Errors
    /// When a parameter is missing or the rows hide different numbers of tokens.
    pub fn decode<B: Backend>(
        &self,
        params: &Params<B>,
        latent: Tensor<B, 2>,
        tokens: &MaskedTokens,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let (rows, dim) = (tokens.rows, self.decoder.dim);
        let hidden = tokens.tokens - tokens.visible_count;
        let masked = tokens.masked_per_row()?;
        let positions = sinusoid(params, tokens.tokens, dim, &latent.device())?;
        let seen = linear(params, "encoder_to_decoder", latent)?;
        let seen = seen + select_rows(positions.clone(), &tokens.visible);
        let unseen = select_rows(positions, &masked) + params.matrix_3d("mask_token")?;
        let seen = seen.reshape([rows, tokens.visible_count, dim]);
        let all = Tensor::cat(vec![seen, unseen.reshape([rows, hidden, dim])], 1);
        let x = all.reshape([rows * tokens.tokens, dim]);
        let x = self.decoder_blocks().forward(params, x, rows, &mut Drops::none())?;
        let x = x.reshape([rows, tokens.tokens, dim]);
        let x = x.slice([0..rows, tokens.visible_count..tokens.tokens]);
        Ok(x.reshape([rows * hidden, dim]))
    }

    /// Predictions for some rows of the decoder's output, `[n, target dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn predict<B: Backend>(
        &self,
        params: &Params<B>,
        x: Tensor<B, 2>,
    ) -> Result<Tensor<B, 2>, TrainError> {
        linear(params, "decoder.head", layer_norm(params, "decoder.norm", x)?)
    }

    fn encoder_blocks(&self) -> Blocks {
        blocks("encoder.blocks", self.encoder, self.mlp_ratio, Projections::FusedNoKeyBias)
    }

    fn decoder_blocks(&self) -> Blocks {
        blocks("decoder.blocks", self.decoder, self.mlp_ratio, Projections::FusedNoKeyBias)
    }
}
