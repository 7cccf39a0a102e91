//! Masked pre-training.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::Serialize;
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage};
use tubelet_loader::{Cursor, Order, Stats};

use crate::checkpoint::{self, State};
use crate::config::{ModelConfig, Pretraining, TrainConfig};
use crate::device::{Sees, on_device};
use crate::error::TrainError;
use crate::evaluate::Accuracy;
use crate::feed::{Source, TrainBackend};
use crate::init;
use crate::learner::{Learner, Objective};
use crate::loss::mse;
use crate::model::MaskedTokens;
use crate::nn::{Drops, select_rows};
use crate::params::{Params, values};
use crate::report::{self, reconstructions};
use crate::run::{
    GpuTimes, Hooks, Metric, RunOptions, Training, prepare_folder, start_loader, write_json,
};

/// What a pre-training run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PretrainSummary {
    /// Optimiser steps in all.
    pub steps: u64,
    /// Trained values of the network.
    pub parameters: usize,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Wall time of this call in seconds.
    pub seconds: f64,
    /// Share of it spent waiting for data.
    pub data_wait: f64,
    /// What the loader did.
    pub loader: Stats,
    /// What the device stage did, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuTimes>,
    /// Every step.
    #[serde(skip)]
    pub metrics: Vec<Metric>,
}

impl Pretraining {
    /// Parameters with their first values.
    pub fn specs(&self) -> Vec<init::ParamSpec> {
        match self {
            Self::Mae(m) => m.specs(),
            Self::VideoMae(m) => m.specs(),
            Self::MaeSt(m) => m.specs(),
            Self::MaskFeat(m) => m.specs(),
        }
    }

    /// The patches that its first layer looks at.
    pub fn sees(&self) -> Sees {
        match self {
            Self::Mae(_) | Self::VideoMae(_) | Self::MaeSt(_) => Sees::Visible,
            Self::MaskFeat(_) => Sees::All,
        }
    }

    /// Predictions for the hidden tokens of `batch`, `[hidden, target dim]`, by row, then by token.
    ///
    /// # Errors
    /// When a parameter is missing or the masks do not fit the method.
    pub fn predict<B: burn::tensor::backend::Backend>(
        &self,
        params: &Params<B>,
        batch: &dyn Source<B>,
        drops: &mut Drops,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let lists = batch.lists();
        let tokens = MaskedTokens::from_mask(&lists.mask, lists.rows, lists.tokens)?;
        match self {
            Self::Mae(m) => {
                let patches = batch.visible_patches(&m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let all = m.decode(params, latent, &tokens)?;
                m.predict(params, select_rows(all, &tokens.masked))
            }
            Self::MaeSt(m) => {
                let patches = batch.visible_patches(&m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let all = m.decode(params, latent, &tokens)?;
                m.predict(params, select_rows(all, &tokens.masked))
            }
            Self::VideoMae(m) => {
                let patches = batch.visible_patches(&m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let hidden = m.decode(params, latent, &tokens)?;
                m.predict(params, hidden)
            }
            Self::MaskFeat(m) => {
                let patches = batch.all_patches(&m.geometry, device);
                m.predict_masked(params, patches, &tokens, drops)
            }
        }
    }
}

/// Pre-trains, or goes on with an interrupted run to the same losses.
///
/// # Errors
/// When the recipe, the data or a checkpoint cannot be used, or the loss is no longer finite.
pub fn pretrain(options: &RunOptions) -> Result<PretrainSummary, TrainError> {
    on_device!(options.device, B => run::<B>(options))
}

/// The loss of a pre-training network.
struct Masked<'a> {
    model: &'a Pretraining,
    seed: u64,
    drop_path: f64,
}

impl<B: TrainBackend> Objective<B> for Masked<'_> {
    fn loss(
        &self,
        params: &Params<B>,
        batch: &dyn Source<B>,
        number: u64,
        part: u16,
    ) -> Result<Tensor<B, 1>, TrainError> {
        let device = B::Device::default();
        let mut drops = Drops::new(self.seed, number, part, self.drop_path);
        let pred = self.model.predict(params, batch, &mut drops, &device)?;
        Ok(mse(pred, batch.hidden_targets(&device)))
    }

    fn sees(&self) -> Sees {
        self.model.sees()
    }

    fn terms(&self, batch: &HostTensors) -> f64 {
        batch.masked_count.iter().map(|c| f64::from(*c)).sum()
    }
}

/// Checkpoints and the report of a pre-training run.
struct Keeper<'a> {
    options: &'a RunOptions,
    recipe: &'a Recipe,
    model: &'a Pretraining,
}

impl<B: TrainBackend> Hooks<B> for Keeper<'_> {
    fn save(
        &mut self,
        learner: &Learner<B>,
        cursor: Cursor,
        batch: &HostTensors,
        metrics: &[Metric],
    ) -> Result<(), TrainError> {
        let options = self.options;
        let state = State {
            stage: Stage::Pretrain.name().to_owned(),
            step: learner.optimizer.steps(),
            cursor,
            seed: options.seed,
            classes: Vec::new(),
            recipe: options.recipe.to_toml(),
        };
        let weights = learner.params.to_weights();
        checkpoint::save(&options.out, &state, &weights, &learner.optimizer.state())?;
        let shown = batch.slice(0..batch.rows.min(SHOWN_ROWS));
        let params = learner.params.inner();
        let predicted =
            self.model.predict(&params, &shown, &mut Drops::none(), &B::Device::default())?;
        let picture = reconstructions(self.recipe, &shown, &values(&predicted));
        report::write_pretraining(&options.out, &options.recipe.name, metrics, &picture)
    }

    fn validate(&mut self, _: &Learner<B>, _: u64) -> Result<Option<Accuracy>, TrainError> {
        Ok(None)
    }
}

/// Rows of the last batch that the report shows.
const SHOWN_ROWS: usize = 4;

fn run<B: TrainBackend>(options: &RunOptions) -> Result<PretrainSummary, TrainError> {
    let begin = std::time::Instant::now();
    let device = B::Device::default();
    let recipe = options.recipe.stage(Stage::Pretrain);
    let recipe = Arc::new(recipe.map_err(|e| TrainError::recipe("recipe", e.to_string()))?);
    let config = TrainConfig::read(&options.recipe, Stage::Pretrain)?;
    let target_dim = HostStage::new(&recipe).target_dim(recipe.frames(), recipe.grid().t);
    let model = ModelConfig::read(&options.recipe)?.pretraining(&recipe, target_dim)?;
    let specs = model.specs();
    prepare_folder(&options.out, options.resume)?;

    let stored = if options.resume { checkpoint::load_latest(&options.out)? } else { None };
    let weights = match &stored {
        Some((_, weights, _)) => weights.clone(),
        None => init::draw(&specs, options.seed),
    };
    let params = Params::<B>::new(&specs, &weights, &device)?.with_precision(options.precision);
    let cursor = stored.as_ref().map_or(Cursor::default(), |(state, _, _)| state.cursor);
    let (_, batches, per_epoch) = start_loader(options, &recipe, Order::Shuffled, cursor)?;
    let steps_per_epoch = (per_epoch / u64::from(config.accumulate)).max(1);
    let rows = recipe.batch_size() * config.accumulate;
    let schedule = config.schedule(rows, steps_per_epoch);
    let mut learner = Learner::new(params, &config, schedule, |_| 1.0);
    if let Some((state, _, optimizer)) = &stored {
        learner.optimizer.restore(optimizer, state.step, &device)?;
    }
    let training = Training {
        options,
        recipe: &recipe,
        learner,
        batches,
        steps_per_epoch,
        planned: u64::from(config.epochs) * steps_per_epoch,
        rows,
    };
    let objective = Masked { model: &model, seed: options.seed, drop_path: config.drop_path };
    let mut keeper = Keeper { options, recipe: &recipe, model: &model };
    let trained = training.run(&objective, &mut keeper)?;
    let seconds = begin.elapsed().as_secs_f64();
    let summary = PretrainSummary {
        steps: trained.learner.optimizer.steps(),
        parameters: trained.learner.params.trainable_values(),
        last_loss: trained.metrics.last().map_or(f64::NAN, |m| m.loss),
        seconds,
        data_wait: trained.waited.as_secs_f64() / seconds,
        loader: trained.stats,
        gpu: trained.gpu,
        metrics: trained.metrics,
    };
    write_json(&options.out, "summary.json", &summary)?;
    Ok(summary)
}
