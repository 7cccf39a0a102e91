//! Supervised fine-tuning.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;
use tubelet_augment::Stage;
use tubelet_core::layout::NO_LABEL;
use tubelet_formats::OpenOptions;
use tubelet_loader::{Cursor, Order, Stats};

use crate::checkpoint::{self, InitReport, State};
use crate::config::{Family, ModelConfig, TrainConfig};
use crate::error::{TrainError, TrainErrorKind};
use crate::evaluate::{Accuracy, evaluate_params};
use crate::feed::{Feed, all_patches};
use crate::init;
use crate::layer_decay::LayerDecay;
use crate::loss::cross_entropy;
use crate::model::Vit;
use crate::nn::Drops;
use crate::params::Params;
use crate::run::{
    Learner, Metric, Reporter, RunOptions, on_device, prepare_folder, report_drops, start_loader,
    write_json,
};
use crate::weights::Weights;

/// What fine-tuning needs besides a run's options.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// The run.
    pub run: RunOptions,
    /// Validation data and its layout; evaluated at the end.
    pub val: Option<(PathBuf, OpenOptions)>,
    /// Weights to start from: a run's folder or a file.
    pub init: Option<PathBuf>,
}

/// What a fine-tuning run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FinetuneSummary {
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
    /// What was taken from the weights it started from.
    pub init: Option<InitReport>,
    /// Accuracy on the validation data.
    pub accuracy: Option<Accuracy>,
    /// What the loader did.
    pub loader: Stats,
    /// Every step.
    #[serde(skip)]
    pub metrics: Vec<Metric>,
}

/// Fine-tunes a classifier, or goes on with an interrupted run.
///
/// # Errors
/// When the recipe, the data, the weights or a checkpoint cannot be used, or the loss is no longer
/// finite.
pub fn finetune(options: &FinetuneOptions) -> Result<FinetuneSummary, TrainError> {
    on_device!(options.run.device, B => run::<B>(options))
}

fn run<B: AutodiffBackend>(all: &FinetuneOptions) -> Result<FinetuneSummary, TrainError> {
    let options = &all.run;
    let begin = std::time::Instant::now();
    let device = B::Device::default();
    let recipe = options.recipe.stage(Stage::Finetune);
    let recipe = Arc::new(recipe.map_err(|e| TrainError::recipe("recipe", e.to_string()))?);
    let config = TrainConfig::read(&options.recipe, Stage::Finetune)?;
    prepare_folder(&options.out, options.resume)?;
    let stored = if options.resume { checkpoint::load_latest(&options.out)? } else { None };
    let cursor = stored.as_ref().map_or(Cursor::default(), |(state, _, _)| state.cursor);
    let (shards, batches, per_epoch) = start_loader(options, &recipe, Order::Shuffled, cursor)?;
    let classes = shards.classes().to_vec();
    if classes.len() < 2 {
        let what = format!("{} classes: fine-tuning needs a data set with labels", classes.len());
        return Err(TrainError::file(&options.data, TrainErrorKind::Data(what)));
    }
    let model_config = ModelConfig::read(&options.recipe)?;
    let model = model_config.classifier(&recipe, classes.len(), &config)?;
    let (weights, report) = first_weights(all, &model, stored.as_ref().map(|s| &s.1))?;
    let params = Params::<B>::new(&model.specs(), &weights, &device)?;

    let steps_per_epoch = (per_epoch / u64::from(config.accumulate)).max(1);
    let rows = recipe.batch_size() * config.accumulate;
    let schedule = config.schedule(rows, steps_per_epoch);
    let mut learner = Learner::new(params, &config, schedule, lr_scale(&model_config, &config));
    if let Some((state, _, optimizer)) = &stored {
        learner.optimizer.restore(optimizer, state.step, &device)?;
        restore_average(&mut learner, optimizer, &model, &device)?;
    }
    let planned = u64::from(config.epochs) * steps_per_epoch;
    let total = options.max_steps.map_or(planned, |most| most.min(planned));
    let mut reporter =
        Reporter::new(&options.out, learner.optimizer.steps(), total, options.progress)?;
    let mut feed = Feed::new(batches, &recipe)?;
    let mut stats = Stats::default();
    while learner.optimizer.steps() < total {
        let Some(batch) = feed.next_batch()? else { break };
        check_labels(&batch.tensors.labels, classes.len())?;
        let number = learner.optimizer.steps();
        let mut drops = Drops::new(options.seed, number, config.drop_path);
        let patches = all_patches(&batch.tensors, &model.geometry, &device);
        let logits = model.forward(&learner.params, patches, batch.tensors.rows, &mut drops)?;
        let loss = cross_entropy(logits, &batch.tensors.labels, config.label_smoothing);
        let step = learner.learn(loss)?;
        stats = batch.stats;
        let Some(step) = step else { continue };
        let number = number + 1;
        let epoch = ((number - 1) / steps_per_epoch) as u32;
        reporter.step(number, epoch, &step, u64::from(rows), feed.waited())?;
        let every =
            if options.checkpoint_every > 0 { options.checkpoint_every } else { steps_per_epoch };
        if number % every == 0 || number == total {
            save(options, &learner, batch.cursor, &classes)?;
        }
    }
    report_drops(&stats);
    let metrics = reporter.finish();
    let seconds = begin.elapsed().as_secs_f64();
    let data_wait = feed.waited().as_secs_f64() / seconds;
    drop(feed);

    let evaluated =
        learner.ema.as_ref().map_or_else(|| learner.params.inner(), |e| e.params.clone());
    let accuracy = match &all.val {
        None => None,
        Some((path, open)) => Some(evaluate_params(
            &options.recipe,
            &model,
            &evaluated,
            path,
            open,
            &classes,
            options.workers,
        )?),
    };
    let summary = FinetuneSummary {
        steps: learner.optimizer.steps(),
        parameters: learner.params.trainable_values(),
        last_loss: metrics.last().map_or(f64::NAN, |m| m.loss),
        seconds,
        data_wait,
        init: report,
        accuracy,
        loader: stats,
        metrics,
    };
    write_json(&options.out, "summary.json", &summary)?;
    Ok(summary)
}

/// The weights a run starts with: its checkpoint's, somebody's, or drawn.
fn first_weights(
    all: &FinetuneOptions,
    model: &Vit,
    stored: Option<&Weights>,
) -> Result<(Weights, Option<InitReport>), TrainError> {
    if let Some(weights) = stored {
        return Ok((weights.clone(), None));
    }
    let specs = model.specs();
    let mut weights = init::draw(&specs, all.run.seed);
    let Some(path) = &all.init else { return Ok((weights, None)) };
    let report = checkpoint::initialise(&mut weights, &specs, checkpoint::read_any(path)?);
    if report.loaded == 0 {
        let what = format!(
            "none of its {} arrays fits the network: is it of another family or size?",
            report.unexpected.len() + report.mismatched.len()
        );
        return Err(TrainError::checkpoint(path, what));
    }
    Ok((weights, Some(report)))
}

/// Factor on the learning rate by layer.
fn lr_scale(model: &ModelConfig, config: &TrainConfig) -> impl Fn(&str) -> f64 + use<> {
    let layers = match model.family {
        Family::Mae | Family::MaeSt | Family::SlowfastMae => LayerDecay::Mae { depth: model.depth },
        Family::Videomae | Family::Maskfeat => LayerDecay::Beit { depth: model.depth },
    };
    let scales = config.layer_decay.map(|decay| layers.scales(decay));
    move |name| scales.as_ref().map_or(1.0, |scales| scales[layers.layer(name)])
}

fn check_labels(labels: &[u32], classes: usize) -> Result<(), TrainError> {
    match labels.iter().find(|l| **l as usize >= classes) {
        None => Ok(()),
        Some(&NO_LABEL) => Err(TrainError::batch("a training sample has no label")),
        Some(label) => Err(TrainError::batch(format!("label {label} of {classes} classes"))),
    }
}

fn save<B: AutodiffBackend>(
    options: &RunOptions,
    learner: &Learner<B>,
    cursor: Cursor,
    classes: &[String],
) -> Result<(), TrainError> {
    let state = State {
        stage: Stage::Finetune.name().to_owned(),
        step: learner.optimizer.steps(),
        cursor,
        seed: options.seed,
        classes: classes.to_vec(),
        recipe: options.recipe.to_toml(),
    };
    let mut optimizer = learner.optimizer.state();
    if let Some(ema) = &learner.ema {
        for (name, array) in ema.params.to_weights() {
            optimizer.insert(format!("{AVERAGE}{name}"), array);
        }
    }
    checkpoint::save(&options.out, &state, &learner.params.to_weights(), &optimizer)
}

/// Prefix of averaged weights in a checkpoint's state.
pub(crate) const AVERAGE: &str = "ema.";

fn restore_average<B: AutodiffBackend>(
    learner: &mut Learner<B>,
    state: &Weights,
    model: &Vit,
    device: &B::Device,
) -> Result<(), TrainError> {
    if let Some(ema) = &mut learner.ema {
        let averaged = averages(state);
        ema.params = Params::<B>::new(&model.specs(), &averaged, device)?.inner();
    }
    Ok(())
}

/// The averaged weights in a checkpoint's state; empty where there are none.
pub(crate) fn averages(state: &Weights) -> Weights {
    state.clone().renamed(|name| name.strip_prefix(AVERAGE).map(str::to_owned))
}
