//! The masked autoencoder for pictures (He et al., 2022; `models_mae.py`).

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Geometry, MaskedTokens, Width, patch_embed_specs, patch_values};
use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::nn::{
    Blocks, Drops, LayerInit, Projections, drop_first, layer_norm, linear, prepend, select_rows,
};
use crate::params::Params;
use crate::position::sincos_2d;

/// MAE: a ViT over the visible patches and a narrow decoder over all of them, both with fixed 2-D
/// sine-cosine positions.
#[derive(Clone, Debug)]
pub struct Mae {
    /// Input and patch sizes; one frame.
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

impl Mae {
    /// All parameters, with the reference's initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (dim, narrow) = (self.encoder.dim, self.decoder.dim);
        let [_, h, w] = self.geometry.grid();
        let init = LayerInit::xavier();
        let token = Init::Normal { std: 0.02 };
        let bias = Init::torch_default(patch_values(&self.geometry));
        let mut specs = vec![
            ParamSpec::new("cls_token", [1, 1, dim], token.clone()),
            ParamSpec::new("mask_token", [1, 1, narrow], token),
            ParamSpec::fixed("pos_embed", sincos_2d(dim, [h, w], true)),
            ParamSpec::fixed("decoder_pos_embed", sincos_2d(narrow, [h, w], true)),
        ];
        specs.extend(patch_embed_specs("", &self.geometry, dim, Init::XavierUniform, bias));
        specs.extend(self.encoder_blocks().specs(&init));
        specs.extend(init.norm("norm", dim));
        specs.extend(init.linear("decoder_embed", dim, narrow));
        specs.extend(self.decoder_blocks().specs(&init));
        specs.extend(init.norm("decoder_norm", narrow));
        specs.extend(init.linear("decoder_pred", narrow, self.target_dim));
        specs
    }

    /// The visible patches `[rows · visible, patch values]` to the normalised latents
    /// `[rows · (1 + visible), dim]`, class token first.
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
        let positions = params.matrix_3d("pos_embed")?;
        let slots: Vec<u32> = tokens.visible.iter().map(|t| t + 1).collect();
        let x = linear(params, "patch_embed.proj", patches)?;
        let x = x + select_rows(positions.clone(), &slots);
        let first = params.matrix_3d("cls_token")? + positions.slice([0..1]);
        let x = prepend(first, x, tokens.rows);
        let x = self.encoder_blocks().forward(params, x, tokens.rows, &mut Drops::none())?;
        layer_norm(params, "norm", x)
    }

    /// The latents to decoder outputs for every token `[rows · tokens, decoder dim]`, before the
    /// last norm.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode<B: Backend>(
        &self,
        params: &Params<B>,
        latent: Tensor<B, 2>,
        tokens: &MaskedTokens,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let x = linear(params, "decoder_embed", latent)?;
        let x = unshuffle(x, params.matrix_3d("mask_token")?, tokens, true)?;
        let x = add_positions(x, params.matrix_3d("decoder_pos_embed")?, tokens.rows);
        let x = self.decoder_blocks().forward(params, x, tokens.rows, &mut Drops::none())?;
        Ok(drop_first(x, tokens.rows))
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
        linear(params, "decoder_pred", layer_norm(params, "decoder_norm", x)?)
    }

    fn encoder_blocks(&self) -> Blocks {
        blocks("blocks", self.encoder, self.mlp_ratio, Projections::Fused)
    }

    fn decoder_blocks(&self) -> Blocks {
        blocks("decoder_blocks", self.decoder, self.mlp_ratio, Projections::Fused)
    }
}

impl<B: Backend> Params<B> {
    /// The parameter `name` `[1, rows, dim]` as `[rows, dim]`.
    ///
    /// # Errors
    /// When it is missing or has another number of axes.
    pub fn matrix_3d(&self, name: &str) -> Result<Tensor<B, 2>, TrainError> {
        let x = self.get::<3>(name)?;
        let [one, rows, dim] = x.dims();
        Ok(x.reshape([one * rows, dim]))
    }
}

/// Blocks of one width.
pub(super) fn blocks(
    prefix: &str,
    width: Width,
    mlp_ratio: f64,
    projections: Projections,
) -> Blocks {
    let Width { dim, depth, heads } = width;
    let hidden = (dim as f64 * mlp_ratio) as usize;
    Blocks { prefix: prefix.to_owned(), depth, dim, heads, hidden, projections }
}

/// Puts the encoder's rows `x` `[rows · (cls + visible), dim]` back into token order and the mask
/// token `[1, dim]` everywhere else: `[rows · (cls + tokens), dim]`.
pub(super) fn unshuffle<B: Backend>(
    x: Tensor<B, 2>,
    mask_token: Tensor<B, 2>,
    tokens: &MaskedTokens,
    cls: bool,
) -> Result<Tensor<B, 2>, TrainError> {
    let extra = u32::from(cls);
    let visible = tokens.visible_count as u32;
    let hidden = x.dims()[0] as u32;
    let restore = tokens.restore(u32::MAX)?;
    let mut from = Vec::with_capacity(tokens.rows * (tokens.tokens + 1));
    for (row, slots) in restore.chunks(tokens.tokens).enumerate() {
        let start = row as u32 * (visible + extra);
        from.extend(cls.then_some(start));
        from.extend(slots.iter().map(|slot| match *slot {
            u32::MAX => hidden,
            slot => start + extra + (slot - row as u32 * visible),
        }));
    }
    Ok(select_rows(Tensor::cat(vec![x, mask_token], 0), &from))
}

/// Adds the same table `[tokens, dim]` to each of `rows` sequences.
pub(super) fn add_positions<B: Backend>(
    x: Tensor<B, 2>,
    table: Tensor<B, 2>,
    rows: usize,
) -> Tensor<B, 2> {
    let [tokens, dim] = table.dims();
    let y = x.reshape([rows, tokens, dim]) + table.unsqueeze::<3>();
    y.reshape([rows * tokens, dim])
}
