//! The vision transformer that fine-tuning trains, in the form each pre-training method expects.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::mae::{add_positions, blocks};
use super::mae_st::{separable_positions, separable_specs};
use super::{Geometry, Width, patch_embed_specs, patch_values, sinusoid};
use crate::error::TrainError;
use crate::init::{Init, ParamSpec};
use crate::nn::{Blocks, Drops, LayerInit, Projections, layer_norm, linear, prepend};
use crate::params::Params;
use crate::position::sincos_2d;

/// Whose parameter names, positions and projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VitForm {
    /// MAE (timm): class token, learned `pos_embed`, fused qkv.
    Mae,
    /// VideoMAE: no class token, fixed sinusoid, keys without bias.
    VideoMae,
    /// mae_st: class token, separable positions, separate q, k, v.
    MaeSt,
    /// SlowFast's video ViT: class token, separable positions, fused qkv, `head.projection`.
    SlowFastVideo,
    /// SlowFast's picture ViT: class token, learned `pos_embed`, fused qkv, `head.projection`.
    SlowFastImage,
}

/// What the classifier looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token after the final norm.
    Cls,
    /// The mean of the patch tokens, then a norm.
    Mean,
}

/// A classifier.
#[derive(Clone, Debug)]
pub struct Vit {
    /// Names, positions and projections.
    pub form: VitForm,
    /// Input and patch sizes.
    pub geometry: Geometry,
    /// The network.
    pub encoder: Width,
    /// MLP width over block width.
    pub mlp_ratio: f64,
    /// What the head looks at.
    pub pool: Pool,
    /// Number of classes.
    pub classes: usize,
    /// Initial standard deviation of the head's weight (MAE: 2e-5; others 0.02).
    pub head_std: f64,
    /// Factor on the head's initial weight and bias (VideoMAE, SlowFast: 0.001).
    pub head_scale: f64,
    /// Dropout before the head.
    pub dropout: f64,
}

impl Vit {
    /// All parameters, with the fine-tuning initial values.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let dim = self.encoder.dim;
        let init = LayerInit::timm();
        let token = Init::trunc_normal(0.02);
        let bias = Init::torch_default(patch_values(&self.geometry));
        let mut specs = Vec::new();
        specs.extend(patch_embed_specs("", &self.geometry, dim, bias.clone(), bias));
        if self.has_cls() {
            specs.push(ParamSpec::new("cls_token", [1, 1, dim], token.clone()));
        }
        match self.form {
            VitForm::Mae => {
                let [_, h, w] = self.geometry.grid();
                let table = sincos_2d(dim, [h, w], true);
                let fixed = ParamSpec::fixed("pos_embed", table);
                specs.push(ParamSpec { trainable: true, ..fixed });
            }
            VitForm::SlowFastImage => {
                let shape = [1, 1 + self.geometry.tokens(), dim];
                specs.push(ParamSpec::new("pos_embed", shape, token));
            }
            VitForm::MaeSt | VitForm::SlowFastVideo => {
                specs.extend(separable_specs("pos_embed", &self.geometry, dim));
            }
            VitForm::VideoMae => {}
        }
        specs.extend(self.blocks().specs(&init));
        specs.extend(init.norm(self.norm_name(), dim));
        specs.extend(self.head_specs());
        specs
    }

    /// All patches `[rows · tokens, patch values]` to the features the head sees `[rows, dim]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn features<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        rows: usize,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let dim = self.encoder.dim;
        let x = self.embed(params, patches, rows)?;
        let x = self.blocks().forward(params, x, rows, drops)?;
        let first = usize::from(self.has_cls());
        let tokens = first + self.geometry.tokens();
        let x = x.reshape([rows, tokens, dim]);
        let pooled = match self.pool {
            Pool::Cls => x.slice([0..rows, 0..1]).reshape([rows, dim]),
            Pool::Mean => x.slice([0..rows, first..tokens]).mean_dim(1).reshape([rows, dim]),
        };
        layer_norm(params, self.norm_name(), pooled)
    }

    /// All patches to class scores `[rows, classes]`.
    ///
    /// # Errors
    /// When a parameter is missing.
    pub fn forward<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        rows: usize,
        drops: &mut Drops,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let features = self.features(params, patches, rows, drops)?;
        linear(params, self.head_name(), drops.values(features, self.dropout))
    }

    /// Name of the final norm.
    pub fn norm_name(&self) -> &'static str {
        let slowfast = matches!(self.form, VitForm::SlowFastVideo | VitForm::SlowFastImage);
        if self.pool == Pool::Mean && !slowfast { "fc_norm" } else { "norm" }
    }

    /// Name of the classifier layer.
    pub fn head_name(&self) -> &'static str {
        match self.form {
            VitForm::SlowFastVideo | VitForm::SlowFastImage => "head.projection",
            _ => "head",
        }
    }

    /// Whether there is a class token.
    pub fn has_cls(&self) -> bool {
        self.form != VitForm::VideoMae
    }

    fn embed<B: Backend>(
        &self,
        params: &Params<B>,
        patches: Tensor<B, 2>,
        rows: usize,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let x = linear(params, "patch_embed.proj", patches)?;
        match self.form {
            VitForm::VideoMae => {
                let (tokens, dim) = (self.geometry.tokens(), self.encoder.dim);
                let table = sinusoid(params, tokens, dim, &x.device())?;
                Ok(add_positions(x, table, rows))
            }
            VitForm::Mae | VitForm::SlowFastImage => {
                let x = prepend(params.matrix_3d("cls_token")?, x, rows);
                Ok(add_positions(x, params.matrix_3d("pos_embed")?, rows))
            }
            VitForm::MaeSt | VitForm::SlowFastVideo => {
                let x = add_positions(x, separable_positions(params, "pos_embed")?, rows);
                let first = params.matrix_3d("cls_token")? + params.matrix_3d("pos_embed_class")?;
                Ok(prepend(first, x, rows))
            }
        }
    }

    fn head_specs(&self) -> [ParamSpec; 2] {
        let (name, dim) = (self.head_name(), self.encoder.dim);
        let std = self.head_std * self.head_scale;
        let bound = 2.0 * self.head_scale;
        let weight = Init::TruncatedNormal { std, bound };
        [
            ParamSpec::new(format!("{name}.weight"), [self.classes, dim], weight),
            ParamSpec::new(format!("{name}.bias"), [self.classes], Init::ZEROS),
        ]
    }

    fn blocks(&self) -> Blocks {
        let projections = match self.form {
            VitForm::VideoMae => Projections::FusedNoKeyBias,
            VitForm::MaeSt => Projections::Separate,
            _ => Projections::Fused,
        };
        blocks("blocks", self.encoder, self.mlp_ratio, projections)
    }
}
