//! Masked autoencoders for video with learned separable positions: mae_st (Feichtenhofer et al.,
//! 2022; `models_mae.py`) and SlowFast's `MaskMViT` with `MASK.MAE_ON`.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::mae::{add_positions, blocks, unshuffle};
use super::{Geometry, MaskedTokens, Width, patch_embed_specs, patch_values};
use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::nn::{
    Blocks, Drops, LayerInit, Projections, drop_first, layer_norm, linear, prepend, select_rows,
};
use crate::params::Params;

/// Which of the two published implementations: they differ in names, in the decoder's positions
/// and in what passes from encoder to decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaeStForm {
    /// mae_st: separate q, k, v; the encoder's class row is dropped and the decoder has a class
    /// token of its own; separable decoder positions.
    MaeSt,
    /// SlowFast: fused qkv; the class row goes on into the decoder; one learned decoder table.
    SlowFast,
}

/// A spatiotemporal masked autoencoder.
#[derive(Clone, Debug)]
pub struct MaeSt {
    /// Which implementation.
    pub form: MaeStForm,
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

impl MaeSt {
    /// All parameters, with the reference's initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (dim, narrow) = (self.encoder.dim, self.decoder.dim);
        let token = Init::trunc_normal(0.02);
        let (init, patch, patch_bias) = match self.form {
            MaeStForm::MaeSt => {
                let bias = Init::torch_default(patch_values(&self.geometry));
                (LayerInit::xavier(), Init::XavierUniform, bias)
            }
            MaeStForm::SlowFast => (LayerInit::slowfast(), token.clone(), Init::Constant(0.02)),
        };
        let mut specs = vec![
            ParamSpec::new("cls_token", [1, 1, dim], token.clone()),
            ParamSpec::new("mask_token", [1, 1, narrow], token.clone()),
        ];
        specs.extend(separable_specs("pos_embed", &self.geometry, dim));
        specs.extend(patch_embed_specs("", &self.geometry, dim, patch, patch_bias));
        specs.extend(self.encoder_blocks().specs(&init));
        specs.extend(init.norm("norm", dim));
        specs.extend(init.linear("decoder_embed", dim, narrow));
        specs.extend(self.decoder_blocks().specs(&init));
        match self.form {
            MaeStForm::MaeSt => {
                specs.push(ParamSpec::new("decoder_cls_token", [1, 1, narrow], token));
                specs.extend(separable_specs("decoder_pos_embed", &self.geometry, narrow));
            }
            MaeStForm::SlowFast => {
                let shape = [1, 1 + self.geometry.tokens(), narrow];
                specs.push(ParamSpec::new("decoder_pos_embed", shape, token));
            }
        }
        let [norm, head] = self.head_names();
        specs.extend(init.norm(&norm, narrow));
        let [weight, bias] = init.linear(&head, narrow, self.target_dim);
        specs.extend([weight, ParamSpec { init: Init::ZEROS, ..bias }]);
        specs
    }

    /// The visible tubelets `[rows · visible, patch values]` to normalised latents
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
        let positions = separable_positions(params, "pos_embed")?;
        let x = linear(params, "patch_embed.proj", patches)?;
        let x = x + select_rows(positions, &tokens.visible);
        let first = params.matrix_3d("cls_token")? + params.matrix_3d("pos_embed_class")?;
        let x = prepend(first, x, tokens.rows);
        let x = self.encoder_blocks().forward(params, x, tokens.rows, &mut Drops::none())?;
        layer_norm(params, "norm", x)
    }

    /// What the reference calls the latent: with the class row (SlowFast) or without (mae_st).
    pub fn reference_latent<B: Backend>(&self, latent: Tensor<B, 2>, rows: usize) -> Tensor<B, 2> {
        match self.form {
            MaeStForm::MaeSt => drop_first(latent, rows),
            MaeStForm::SlowFast => latent,
        }
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
        let latent = self.reference_latent(latent, tokens.rows);
        let x = linear(params, "decoder_embed", latent)?;
        let mask = params.matrix_3d("mask_token")?;
        let x = match self.form {
            MaeStForm::MaeSt => {
                let x = unshuffle(x, mask, tokens, false)?;
                let x = add_positions(
                    x,
                    separable_positions(params, "decoder_pos_embed")?,
                    tokens.rows,
                );
                let first = params.matrix_3d("decoder_cls_token")?;
                prepend(first + params.matrix_3d("decoder_pos_embed_class")?, x, tokens.rows)
            }
            MaeStForm::SlowFast => {
                let x = unshuffle(x, mask, tokens, true)?;
                add_positions(x, params.matrix_3d("decoder_pos_embed")?, tokens.rows)
            }
        };
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
        let [norm, head] = self.head_names();
        linear(params, &head, layer_norm(params, &norm, x)?)
    }

    fn head_names(&self) -> [String; 2] {
        match self.form {
            MaeStForm::MaeSt => ["decoder_norm".to_owned(), "decoder_pred".to_owned()],
            MaeStForm::SlowFast => [
                format!("pred_head.transforms.0.{}", self.decoder.depth),
                "pred_head.projections.0".to_owned(),
            ],
        }
    }

    fn encoder_blocks(&self) -> Blocks {
        blocks("blocks", self.encoder, self.mlp_ratio, self.projections())
    }

    fn decoder_blocks(&self) -> Blocks {
        let prefix = match self.form {
            MaeStForm::MaeSt => "decoder_blocks",
            MaeStForm::SlowFast => "pred_head.transforms.0",
        };
        blocks(prefix, self.decoder, self.mlp_ratio, self.projections())
    }

    fn projections(&self) -> Projections {
        match self.form {
            MaeStForm::MaeSt => Projections::Separate,
            MaeStForm::SlowFast => Projections::Fused,
        }
    }
}

/// `{name}_spatial`, `{name}_temporal` and `{name}_class`.
pub(super) fn separable_specs(name: &str, geometry: &Geometry, dim: usize) -> [ParamSpec; 3] {
    let [t, h, w] = geometry.grid();
    let table = |part: &str, rows: usize| {
        ParamSpec::new(format!("{name}_{part}"), [1, rows, dim], Init::trunc_normal(0.02))
    };
    [table("spatial", h * w), table("temporal", t), table("class", 1)]
}

/// Every token's position `[tokens, dim]`: the sum of its slot's and its cell's.
pub(super) fn separable_positions<B: Backend>(
    params: &Params<B>,
    name: &str,
) -> Result<Tensor<B, 2>, TrainError> {
    let space = params.get::<3>(&format!("{name}_spatial"))?;
    let time = params.get::<3>(&format!("{name}_temporal"))?;
    let [_, cells, dim] = space.dims();
    let slots = time.dims()[1];
    let all = time.reshape([slots, 1, dim]) + space;
    Ok(all.reshape([slots * cells, dim]))
}
