//! Pre-training methods: which network sees what and predicts what.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::error::TrainError;
use crate::init::ParamSpec;
use crate::model::{
    Geometry, Mae, MaeSt, MaskFeat, MaskedTokens, VideoMae, patch_values, patchify, patchify_rows,
};
use crate::nn::{Drops, select_rows};
use crate::params::Params;

/// A pre-training network with its method.
#[derive(Clone, Debug)]
pub enum Method {
    /// MAE for pictures.
    Mae(Mae),
    /// VideoMAE.
    VideoMae(VideoMae),
    /// mae_st and SlowFast's masked autoencoder for video.
    MaeSt(MaeSt),
    /// MaskFeat for pictures.
    MaskFeat(MaskFeat),
}

impl Method {
    /// All parameters, with the reference's initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        match self {
            Self::Mae(model) => model.specs(),
            Self::VideoMae(model) => model.specs(),
            Self::MaeSt(model) => model.specs(),
            Self::MaskFeat(model) => model.specs(),
        }
    }

    /// Input and patch sizes.
    pub fn geometry(&self) -> &Geometry {
        match self {
            Self::Mae(model) => &model.geometry,
            Self::VideoMae(model) => &model.geometry,
            Self::MaeSt(model) => &model.geometry,
            Self::MaskFeat(model) => &model.geometry,
        }
    }

    /// Values predicted for a token.
    pub fn target_dim(&self) -> usize {
        match self {
            Self::Mae(model) => model.target_dim,
            Self::VideoMae(model) => model.target_dim,
            Self::MaeSt(model) => model.target_dim,
            Self::MaskFeat(model) => model.target_dim,
        }
    }

    /// Whether the encoder sees the visible tokens only.
    pub fn drops_masked(&self) -> bool {
        !matches!(self, Self::MaskFeat(_))
    }

    /// The patches the encoder sees, from `pixels` `[rows, 3, frames, height, width]`:
    /// `[rows · seen, patch values]`.
    ///
    /// # Errors
    /// When the batch has other sizes, or its rows show different numbers of tokens to a network
    /// that drops the masked ones.
    pub fn patches<B: Backend>(
        &self,
        pixels: &[f32],
        tokens: &MaskedTokens,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let geometry = self.geometry();
        if pixels.len() != tokens.rows * geometry.sample_values() || tokens.tokens != geometry.tokens() {
            let what = format!(
                "{} values and {} tokens for {} samples of {:?} pixels with patches of {:?}",
                pixels.len(), tokens.tokens, tokens.rows, geometry.input, geometry.patch
            );
            return Err(TrainError::batch(what));
        }
        let patches = if self.drops_masked() {
            tokens.visible_flat()?;
            patchify_rows(pixels, tokens.rows, geometry, &tokens.visible)
        } else {
            patchify(pixels, tokens.rows, geometry)
        };
        let width = patch_values(geometry);
        let shape = [patches.len() / width, width];
        Ok(Tensor::from_data(TensorData::new(patches, shape), device))
    }

    /// Predictions for the hidden tokens, `[masked, target dim]`, by row, then by token.
    ///
    /// # Errors
    /// When a parameter is missing or the masks do not suit the network.
    pub fn predict<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        tokens: &MaskedTokens,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        match self {
            Self::Mae(model) => {
                let x = model.encode(params, patches, tokens, drops)?;
                let x = model.decode(params, x, tokens)?;
                model.predict(params, select_rows(x, &tokens.masked))
            }
            Self::VideoMae(model) => {
                let x = model.encode(params, patches, tokens, drops)?;
                let x = model.decode(params, x, tokens)?;
                model.predict(params, x)
            }
            Self::MaeSt(model) => {
                let x = model.encode(params, patches, tokens, drops)?;
                let x = model.decode(params, x, tokens)?;
                model.predict(params, select_rows(x, &tokens.masked))
            }
            Self::MaskFeat(model) => model.predict_masked(params, patches, tokens, drops),
        }
    }
}
