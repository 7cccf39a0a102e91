//! The trainer's tables of a recipe, and the model they describe.

use serde::Deserialize;
use tubelet_augment::{MaskPolicy, Method, Recipe, RecipeFile, Stage};

use crate::error::TrainError;
use crate::model::{
    Geometry, Mae, MaeSt, MaeStForm, MaskFeat, Pool, VideoMae, Vit, VitForm, Width,
};
use crate::schedule::Schedule;

/// Whose network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// MAE for pictures.
    Mae,
    /// VideoMAE.
    Videomae,
    /// mae_st.
    MaeSt,
    /// SlowFast's masked autoencoder for videos.
    SlowfastMae,
    /// MaskFeat for pictures.
    Maskfeat,
}

impl Family {
    /// Its name in a recipe.
    const fn name(self) -> &'static str {
        match self {
            Self::Mae => "mae",
            Self::Videomae => "videomae",
            Self::MaeSt => "mae-st",
            Self::SlowfastMae => "slowfast-mae",
            Self::Maskfeat => "maskfeat",
        }
    }

    /// The method that it is a network of.
    const fn method(self) -> Method {
        match self {
            Self::Mae => Method::Mae,
            Self::Videomae => Method::Videomae,
            Self::MaeSt | Self::SlowfastMae => Method::MaeSt,
            Self::Maskfeat => Method::Maskfeat,
        }
    }
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Whose network.
    pub family: Family,
    /// Encoder width.
    pub dim: usize,
    /// Encoder blocks.
    pub depth: usize,
    /// Encoder heads.
    pub heads: usize,
    /// MLP width over block width.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    /// Decoder width; absent for MaskFeat.
    #[serde(default)]
    pub decoder_dim: usize,
    /// Decoder blocks.
    #[serde(default)]
    pub decoder_depth: usize,
    /// Decoder heads.
    #[serde(default)]
    pub decoder_heads: usize,
}

const fn four() -> f64 {
    4.0
}

/// Which family of learning-rate schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// MAE: linear from 0, then cosine.
    Mae,
    /// BEiT, VideoMAE: linear with both ends, then cosine.
    Beit,
    /// SlowFast: cosine after warm-up.
    Slowfast,
}

/// A `[pretrain.train]` or `[finetune.train]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data.
    pub epochs: u32,
    /// Learning rate, or its base where `lr_per` is given.
    pub base_lr: f64,
    /// Rows that `base_lr` is for: lr = base_lr · (rows of a step) / lr_per.
    #[serde(default)]
    pub lr_per: Option<f64>,
    /// Floor of the schedule.
    #[serde(default)]
    pub min_lr: f64,
    /// Whether the floor and the warm-up's start scale as the learning rate does.
    #[serde(default)]
    pub min_lr_scaled: bool,
    /// Warm-up epochs.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Where the warm-up starts.
    #[serde(default)]
    pub warmup_lr: f64,
    /// Which schedule.
    pub schedule: ScheduleName,
    /// Weight decay of parameters with two or more axes.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay rates.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Largest common norm of the gradients.
    #[serde(default)]
    pub clip_grad: Option<f64>,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one")]
    pub accumulate: u32,
    /// Stochastic depth of the last block.
    #[serde(default)]
    pub drop_path: f64,
    /// Dropout before the head.
    #[serde(default)]
    pub dropout: f64,
    /// Factor on the learning rate from layer to layer, towards the input.
    #[serde(default)]
    pub layer_decay: Option<f64>,
    /// Label smoothing.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Factor on the head's first weights.
    #[serde(default = "unit")]
    pub head_init_scale: f64,
    /// Standard deviation of the head's first weights.
    #[serde(default = "default_head_std")]
    pub head_init_std: f64,
    /// Momentum of averaged weights, which are then the ones evaluated.
    #[serde(default)]
    pub ema: Option<f64>,
    /// What the head looks at.
    #[serde(default = "mean")]
    pub pool: Pool,
}

const fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

const fn default_eps() -> f64 {
    1e-8
}

const fn one() -> u32 {
    1
}

const fn unit() -> f64 {
    1.0
}

const fn default_head_std() -> f64 {
    0.02
}

const fn mean() -> Pool {
    Pool::Mean
}

impl ModelConfig {
    /// Reads the table of `file`.
    ///
    /// # Errors
    /// On unknown or missing keys and values that no network can have.
    pub fn read(file: &RecipeFile) -> Result<Self, TrainError> {
        check_trained(file)?;
        let config: Self =
            file.model.clone().try_into().map_err(|e: toml::de::Error| {
                TrainError::recipe("model", e.message().to_owned())
            })?;
        if config.family.method() != file.method {
            let what = format!("{}: no network of it trains {}", file.method, config.family.name());
            return Err(TrainError::recipe("method", what));
        }
        config.encoder().check("model")?;
        if config.family != Family::Maskfeat {
            config.decoder().check("model.decoder_*")?;
        }
        Ok(config)
    }

    fn encoder(&self) -> Width {
        Width { dim: self.dim, depth: self.depth, heads: self.heads }
    }

    fn decoder(&self) -> Width {
        Width { dim: self.decoder_dim, depth: self.decoder_depth, heads: self.decoder_heads }
    }

    /// Whether the patch embedding is a 3-D convolution.
    fn is_video(&self) -> bool {
        !matches!(self.family, Family::Mae | Family::Maskfeat)
    }

    /// Sizes of the network's input under `recipe`.
    ///
    /// # Errors
    /// When the patches do not tile it, or the recipe has what no network here reads.
    pub fn geometry(&self, recipe: &Recipe) -> Result<Geometry, TrainError> {
        let refuse = |key: &str, what: &str| {
            Err(TrainError::recipe(format!("{}.{key}", recipe.stage()), what))
        };
        if !recipe.phases().is_empty() {
            return refuse("phases", "the networks here have one input size; leave phases out");
        }
        if recipe.buckets().is_some() {
            return refuse("buckets", "the networks here have one input size; leave buckets out");
        }
        if recipe.views().count() > 1 {
            return refuse("views", "no method here reads further views; leave them out");
        }
        let (size, patch) = (recipe.size(), recipe.patch());
        Geometry::new(
            [recipe.frames(), size.height, size.width].map(|v| v as usize),
            [patch.t, patch.h, patch.w].map(|v| v as usize),
            self.is_video(),
        )
    }

    /// The network that pre-training trains.
    ///
    /// # Errors
    /// When the recipe's sizes do not fit.
    pub fn pretraining(
        &self,
        recipe: &Recipe,
        target_dim: usize,
    ) -> Result<Pretraining, TrainError> {
        let (geometry, mlp_ratio) = (self.geometry(recipe)?, self.mlp_ratio);
        if self.family != Family::Maskfeat {
            check_counts(recipe.mask(), self.family)?;
        }
        let (encoder, decoder) = (self.encoder(), self.decoder());
        Ok(match self.family {
            Family::Mae => {
                Pretraining::Mae(Mae { geometry, encoder, decoder, mlp_ratio, target_dim })
            }
            Family::Videomae => Pretraining::VideoMae(VideoMae {
                geometry,
                encoder,
                decoder,
                mlp_ratio,
                target_dim,
            }),
            Family::MaeSt | Family::SlowfastMae => Pretraining::MaeSt(MaeSt {
                form: if self.family == Family::MaeSt {
                    MaeStForm::MaeSt
                } else {
                    MaeStForm::SlowFast
                },
                geometry,
                encoder,
                decoder,
                mlp_ratio,
                target_dim,
            }),
            Family::Maskfeat => {
                Pretraining::MaskFeat(MaskFeat { geometry, encoder, mlp_ratio, target_dim })
            }
        })
    }

    /// The classifier that fine-tuning trains.
    ///
    /// # Errors
    /// When the recipe's sizes do not fit.
    pub fn classifier(
        &self,
        recipe: &Recipe,
        classes: usize,
        train: &TrainConfig,
    ) -> Result<Vit, TrainError> {
        Ok(Vit {
            form: match self.family {
                Family::Mae => VitForm::Mae,
                Family::Videomae => VitForm::VideoMae,
                Family::MaeSt => VitForm::MaeSt,
                Family::SlowfastMae => VitForm::SlowFastVideo,
                Family::Maskfeat => VitForm::SlowFastImage,
            },
            geometry: self.geometry(recipe)?,
            encoder: self.encoder(),
            mlp_ratio: self.mlp_ratio,
            pool: train.pool,
            classes,
            head_std: train.head_init_std,
            head_scale: train.head_init_scale,
            dropout: train.dropout,
        })
    }
}

/// Refuses masks under which an encoder of visible tokens would get rows of several lengths.
fn check_counts(mask: &MaskPolicy, family: Family) -> Result<(), TrainError> {
    if mask.is_exact() && mask.reconstructs() && mask.passes() == 0 {
        return Ok(());
    }
    let what = format!(
        "the encoder of {} sees the visible tokens alone, as many in every row, in one pass: random, \
         tube, frame, grid or block-exact",
        family.name()
    );
    Err(TrainError::recipe("pretrain.mask.policy", what))
}

/// Checks the trainer's tables of `file`, where it has a network: `[model]` and the `train` table of
/// every stage it has.
///
/// # Errors
/// As [`ModelConfig::read`], [`TrainConfig::read`], and where recipe and network do not fit.
pub fn check(file: &RecipeFile) -> Result<(), TrainError> {
    if file.model.is_empty() {
        return Ok(());
    }
    let model = ModelConfig::read(file)?;
    for stage in file.stages() {
        if stage != Stage::Eval {
            TrainConfig::read(file, stage)?;
        }
    }
    if file.pretrain.is_some() && model.family != Family::Maskfeat {
        let recipe = file
            .stage(Stage::Pretrain)
            .map_err(|e| TrainError::recipe("pretrain", e.to_string()))?;
        check_counts(recipe.mask(), model.family)?;
    }
    Ok(())
}

/// Refuses a recipe that describes data alone.
fn check_trained(file: &RecipeFile) -> Result<(), TrainError> {
    if !file.model.is_empty() {
        return Ok(());
    }
    let what = format!(
        "absent: the recipe describes the data of `{}`, which no network here trains; preview, \
         bench, dump and the loader use it",
        file.method
    );
    Err(TrainError::recipe("model", what))
}

/// A pre-training network.
#[derive(Clone, Debug)]
pub enum Pretraining {
    /// MAE.
    Mae(Mae),
    /// VideoMAE.
    VideoMae(VideoMae),
    /// mae_st and SlowFast's form of it.
    MaeSt(MaeSt),
    /// MaskFeat.
    MaskFeat(MaskFeat),
}

impl TrainConfig {
    /// Reads the `train` table of `stage`.
    ///
    /// # Errors
    /// On unknown or missing keys and numbers that cannot work.
    pub fn read(file: &RecipeFile, stage: Stage) -> Result<Self, TrainError> {
        check_trained(file)?;
        let place = format!("{stage}.train");
        let table = file.stage_file(stage).ok_or_else(|| {
            TrainError::recipe(stage.name(), "absent: the recipe has no such stage")
        })?;
        let config: Self = table
            .train
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| TrainError::recipe(&place, e.message().to_owned()))?;
        let wrong = |key: &str, what: &str| Err(TrainError::recipe(format!("{place}.{key}"), what));
        if config.epochs == 0 || config.accumulate == 0 {
            return wrong("epochs", "epochs and accumulate must be at least 1");
        }
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if !positive(config.base_lr) || !config.lr_per.is_none_or(positive) {
            return wrong("base_lr", "base_lr and lr_per must be above 0");
        }
        if !(0.0..1.0).contains(&config.drop_path) || !(0.0..1.0).contains(&config.dropout) {
            return wrong("drop_path", "drop_path and dropout must be in 0..1");
        }
        if !(0.0..1.0).contains(&config.label_smoothing) {
            return wrong("label_smoothing", "must be in 0..1");
        }
        Ok(config)
    }

    /// The schedule of a run with `per_epoch` steps of `rows` rows each.
    pub fn schedule(&self, rows: u32, per_epoch: u64) -> Schedule {
        let scale = self.lr_per.map_or(1.0, |per| f64::from(rows) / per);
        let base = self.base_lr * scale;
        let floor_scale = if self.min_lr_scaled { scale } else { 1.0 };
        let (min, start) = (self.min_lr * floor_scale, self.warmup_lr * floor_scale);
        let (warmup_epochs, epochs) = (self.warmup_epochs, f64::from(self.epochs));
        match self.schedule {
            ScheduleName::Mae => Schedule::Mae { base, min, warmup_epochs, epochs, per_epoch },
            ScheduleName::Beit => Schedule::Beit {
                base,
                last: min,
                start,
                warmup: (warmup_epochs * per_epoch as f64) as u64,
                total: u64::from(self.epochs) * per_epoch,
            },
            ScheduleName::Slowfast => Schedule::SlowFast {
                base,
                last: min,
                start,
                warmup_epochs,
                epochs,
                per_epoch,
                after_warmup: true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_augment::builtin;

    #[test]
    fn every_recipe_describes_a_network_and_two_runs() {
        for (name, _) in builtin::ALL {
            let file = builtin::recipe(name, &[]).expect("built in");
            if file.model.is_empty() {
                for error in [
                    ModelConfig::read(&file).err(),
                    TrainConfig::read(&file, Stage::Pretrain).err(),
                ] {
                    let error = error.expect("no network").to_string();
                    assert!(
                        error.contains(file.method.name()) && error.contains("preview"),
                        "{error}"
                    );
                }
                continue;
            }
            let model = ModelConfig::read(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
            let recipe = file.stage(Stage::Finetune).expect("checked");
            model.geometry(&recipe).unwrap_or_else(|e| panic!("{name}: {e}"));
            for stage in [Stage::Pretrain, Stage::Finetune] {
                TrainConfig::read(&file, stage).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let set = ["pretrain.train.epochz=3".to_owned()];
        let file = builtin::recipe("mae-tiny", &set).expect("not looked at there");
        let error = TrainConfig::read(&file, Stage::Pretrain).expect_err("unknown").to_string();
        assert!(error.contains("epochz"), "{error}");
    }
}
