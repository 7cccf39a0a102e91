//! Masked pre-training.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;
use tubelet_augment::{HostStage, HostTensors, Stage};
use tubelet_loader::{Cursor, Order, Stats};

use crate::checkpoint::{self, State};
use crate::config::{ModelConfig, Pretraining, TrainConfig};
use crate::error::TrainError;
use crate::feed::{Feed, all_patches, hidden_targets, visible_patches};
use crate::init;
use crate::loss::mse;
use crate::model::MaskedTokens;
use crate::nn::{Drops, select_rows};
use crate::params::{Params, values};
use crate::run::{
    Learner, Metric, Reporter, RunOptions, on_device, prepare_folder, report_drops, start_loader,
    write_json,
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

    /// Predictions for the hidden tokens of `batch`, `[hidden, target dim]`, by row, then by token.
    ///
    /// # Errors
    /// When a parameter is missing or the masks do not fit the method.
    pub fn predict<B: burn::tensor::backend::Backend>(
        &self,
        params: &Params<B>,
        batch: &HostTensors,
        drops: &mut Drops,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>, TrainError> {
        let tokens = MaskedTokens::from_mask(&batch.mask, batch.rows, batch.tokens)?;
        match self {
            Self::Mae(m) => {
                let patches = visible_patches(batch, &m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let all = m.decode(params, latent, &tokens)?;
                m.predict(params, select_rows(all, &tokens.masked))
            }
            Self::MaeSt(m) => {
                let patches = visible_patches(batch, &m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let all = m.decode(params, latent, &tokens)?;
                m.predict(params, select_rows(all, &tokens.masked))
            }
            Self::VideoMae(m) => {
                let patches = visible_patches(batch, &m.geometry, &tokens, device);
                let latent = m.encode(params, patches, &tokens)?;
                let hidden = m.decode(params, latent, &tokens)?;
                m.predict(params, hidden)
            }
            Self::MaskFeat(m) => {
                let patches = all_patches(batch, &m.geometry, device);
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

fn run<B: AutodiffBackend>(options: &RunOptions) -> Result<PretrainSummary, TrainError> {
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
    let params = Params::<B>::new(&specs, &weights, &device)?;
    let cursor = stored.as_ref().map_or(Cursor::default(), |(state, _, _)| state.cursor);
    let (_, batches, per_epoch) = start_loader(options, &recipe, Order::Shuffled, cursor)?;
    let steps_per_epoch = (per_epoch / u64::from(config.accumulate)).max(1);
    let rows = recipe.batch_size() * config.accumulate;
    let schedule = config.schedule(rows, steps_per_epoch);
    let mut learner = Learner::new(params, &config, schedule, |_| 1.0);
    if let Some((state, _, optimizer)) = &stored {
        learner.optimizer.restore(optimizer, state.step, &device)?;
    }

    let planned = u64::from(config.epochs) * steps_per_epoch;
    let total = options.max_steps.map_or(planned, |most| most.min(planned));
    let mut reporter =
        Reporter::new(&options.out, learner.optimizer.steps(), total, options.progress)?;
    let mut feed = Feed::new(batches, &recipe)?;
    let mut stats = Stats::default();
    let mut saved = learner.optimizer.steps();
    while learner.optimizer.steps() < total {
        let Some(batch) = feed.next_batch()? else { break };
        let number = learner.optimizer.steps();
        let mut drops = Drops::new(options.seed, number, config.drop_path);
        let pred = model.predict(&learner.params, &batch.tensors, &mut drops, &device)?;
        let loss = mse(pred, hidden_targets(&batch.tensors, &device));
        let step = learner.learn(loss)?;
        stats = batch.stats;
        let Some(step) = step else { continue };
        let number = number + 1;
        let epoch = ((number - 1) / steps_per_epoch) as u32;
        reporter.step(number, epoch, &step, u64::from(rows), feed.waited())?;
        let every =
            if options.checkpoint_every > 0 { options.checkpoint_every } else { steps_per_epoch };
        if number % every == 0 || number == total {
            save(options, &learner, batch.cursor)?;
            saved = number;
        }
    }
    debug_assert_eq!(saved, learner.optimizer.steps());
    report_drops(&stats);
    let metrics = reporter.finish();
    let seconds = begin.elapsed().as_secs_f64();
    let summary = PretrainSummary {
        steps: learner.optimizer.steps(),
        parameters: learner.params.trainable_values(),
        last_loss: metrics.last().map_or(f64::NAN, |m| m.loss),
        seconds,
        data_wait: feed.waited().as_secs_f64() / seconds,
        loader: stats,
        metrics,
    };
    write_json(&options.out, "summary.json", &summary)?;
    Ok(summary)
}

fn save<B: AutodiffBackend>(
    options: &RunOptions,
    learner: &Learner<B>,
    cursor: Cursor,
) -> Result<(), TrainError> {
    let state = State {
        stage: Stage::Pretrain.name().to_owned(),
        step: learner.optimizer.steps(),
        cursor,
        seed: options.seed,
        classes: Vec::new(),
        recipe: options.recipe.to_toml(),
    };
    checkpoint::save(&options.out, &state, &learner.params.to_weights(), &learner.optimizer.state())
}

/// Predictions of a pre-trained run for `batch` on the CPU, `[hidden, target dim]`: for pictures of
/// reconstructions.
///
/// # Errors
/// When the run has no checkpoint or it does not fit its recipe.
pub fn reconstruct(run: &std::path::Path, batch: &HostTensors) -> Result<Vec<f32>, TrainError> {
    type B = burn::backend::Flex;
    let missing = || TrainError::checkpoint(run, "no checkpoint in this folder");
    let (state, weights, _) = checkpoint::load_latest(run)?.ok_or_else(missing)?;
    let file = tubelet_augment::RecipeFile::parse("checkpoint", &state.recipe, &[])
        .map_err(|e| TrainError::checkpoint(run, e.to_string()))?;
    let recipe =
        file.stage(Stage::Pretrain).map_err(|e| TrainError::checkpoint(run, e.to_string()))?;
    let model = ModelConfig::read(&file)?.pretraining(&recipe, batch.target_dim)?;
    let device = Default::default();
    let params = Params::<B>::new(&model.specs(), &weights, &device)?;
    Ok(values(&model.predict(&params, batch, &mut Drops::none(), &device)?))
}
