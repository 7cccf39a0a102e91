//! Supervised fine-tuning.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Tensor;
use serde::Serialize;
use tubelet_augment::{HostTensors, Recipe, Stage};
use tubelet_core::layout::NO_LABEL;
use tubelet_formats::OpenOptions;
use tubelet_loader::{Cursor, Order, Stats};

use crate::checkpoint::{self, InitReport, State};
use crate::config::{Family, ModelConfig, TrainConfig};
use crate::device::{Sees, on_device};
use crate::error::{TrainError, TrainErrorKind};
use crate::evaluate::{Accuracy, evaluate_params};
use crate::feed::{Source, TrainBackend, matrix};
use crate::init;
use crate::layer_decay::LayerDecay;
use crate::learner::{Learner, Objective};
use crate::loss::{cross_entropy, soft_cross_entropy};
use crate::model::Vit;
use crate::nn::Drops;
use crate::params::Params;
use crate::report;
use crate::run::{
    GpuTimes, Hooks, Metric, RunOptions, Training, prepare_folder, start_loader, write_json,
};
use crate::weights::Weights;

/// What fine-tuning needs besides a run's options.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// The run.
    pub run: RunOptions,
    /// Validation data and its layout; evaluated at the end and every [`Self::validate_every`]
    /// epochs.
    pub val: Option<(PathBuf, OpenOptions)>,
    /// Epochs between validations; 0 for one at the end only.
    pub validate_every: u32,
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
    /// What the device stage did, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuTimes>,
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

fn run<B: TrainBackend>(all: &FinetuneOptions) -> Result<FinetuneSummary, TrainError> {
    let options = &all.run;
    let begin = std::time::Instant::now();
    let device = B::Device::default();
    let recipe = options.recipe.stage(Stage::Finetune);
    let recipe = Arc::new(recipe.map_err(|e| TrainError::recipe("recipe", e.to_string()))?);
    let config = TrainConfig::read(&options.recipe, Stage::Finetune)?;
    check_smoothing(&recipe, &config)?;
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
    let params = params.with_precision(options.precision);

    let steps_per_epoch = (per_epoch / u64::from(config.accumulate)).max(1);
    let rows = recipe.batch_size() * config.accumulate;
    let schedule = config.schedule(rows, steps_per_epoch);
    let mut learner = Learner::new(params, &config, schedule, lr_scale(&model_config, &config));
    if let Some((state, _, optimizer)) = &stored {
        learner.optimizer.restore(optimizer, state.step, &device)?;
        if let Some(ema) = &mut learner.ema {
            ema.params = average_of(&learner.params, optimizer, &model, &device)?;
        }
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
    let objective = Supervised { model: &model, config: &config, seed: options.seed };
    let mut keeper = Keeper { all, model: &model, classes: &classes, steps_per_epoch, last: None };
    let trained = training.run(&objective, &mut keeper)?;
    let accuracy = match keeper.last.take() {
        Some(accuracy) => Some(accuracy),
        None => keeper.evaluate(&trained.learner)?,
    };
    let seconds = begin.elapsed().as_secs_f64();
    let summary = FinetuneSummary {
        steps: trained.learner.optimizer.steps(),
        parameters: trained.learner.params.trainable_values(),
        last_loss: trained.metrics.last().map_or(f64::NAN, |m| m.loss),
        seconds,
        data_wait: trained.waited.as_secs_f64() / seconds,
        init: report,
        accuracy,
        loader: trained.stats,
        gpu: trained.gpu,
        metrics: trained.metrics,
    };
    write_json(&options.out, "summary.json", &summary)?;
    Ok(summary)
}

/// Mixed rows have their smoothing beside mixup, others in the train table: not both.
fn check_smoothing(recipe: &Recipe, config: &TrainConfig) -> Result<(), TrainError> {
    if recipe.mix().is_some() && config.label_smoothing > 0.0 {
        let what = format!(
            "{}: mixup and cutmix take their smoothing from finetune.augment.smoothing",
            config.label_smoothing
        );
        return Err(TrainError::recipe("finetune.train.label_smoothing", what));
    }
    Ok(())
}

/// The loss of a classifier.
struct Supervised<'a> {
    model: &'a Vit,
    config: &'a TrainConfig,
    seed: u64,
}

impl<B: TrainBackend> Objective<B> for Supervised<'_> {
    fn loss(
        &self,
        params: &Params<B>,
        batch: &dyn Source<B>,
        number: u64,
        part: u16,
    ) -> Result<Tensor<B, 1>, TrainError> {
        let device = B::Device::default();
        let patches = batch.all_patches(&self.model.geometry, &device);
        let batch = batch.lists();
        check_labels(&batch.labels, self.model.classes)?;
        let mut drops = Drops::new(self.seed, number, part, self.config.drop_path);
        let logits = self.model.forward(params, patches, batch.rows, &mut drops)?;
        let Some(mixed) = &batch.mixed else {
            return Ok(cross_entropy(logits, &batch.labels, self.config.label_smoothing));
        };
        let targets = mixed.distributions(&batch.labels, self.model.classes);
        Ok(soft_cross_entropy(logits, matrix(targets, batch.rows, &device)))
    }

    fn sees(&self) -> Sees {
        Sees::All
    }

    fn terms(&self, batch: &HostTensors) -> f64 {
        batch.rows as f64
    }
}

/// Checkpoints, validation and the report of a fine-tuning run.
struct Keeper<'a> {
    all: &'a FinetuneOptions,
    model: &'a Vit,
    classes: &'a [String],
    steps_per_epoch: u64,
    /// Accuracy after the last step, once measured.
    last: Option<Accuracy>,
}

impl Keeper<'_> {
    fn evaluate<B: TrainBackend>(
        &self,
        learner: &Learner<B>,
    ) -> Result<Option<Accuracy>, TrainError> {
        let Some((path, open)) = &self.all.val else { return Ok(None) };
        let options = &self.all.run;
        let params =
            learner.ema.as_ref().map_or_else(|| learner.params.inner(), |e| e.params.clone());
        let RunOptions { recipe, workers, makers, .. } = options;
        let classes = self.classes;
        evaluate_params(recipe, self.model, &params, path, open, classes, *workers, makers)
            .map(Some)
    }
}

impl<B: TrainBackend> Hooks<B> for Keeper<'_> {
    fn save(
        &mut self,
        learner: &Learner<B>,
        cursor: Cursor,
        _: &HostTensors,
        metrics: &[Metric],
    ) -> Result<(), TrainError> {
        let options = &self.all.run;
        save(options, learner, cursor, self.classes)?;
        report::write_finetuning(&options.out, &options.recipe.name, metrics, self.classes)
    }

    /// The accuracy after the last step is always measured; that of an epoch where asked for.
    fn validate(
        &mut self,
        learner: &Learner<B>,
        step: u64,
    ) -> Result<Option<Accuracy>, TrainError> {
        let every = u64::from(self.all.validate_every);
        let due = every > 0 && step % (every * self.steps_per_epoch) == 0;
        self.last = if due { self.evaluate(learner)? } else { None };
        Ok(self.last.clone())
    }
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

fn save<B: TrainBackend>(
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

/// The average that goes with `params`, as a checkpoint's state has it.
fn average_of<B: TrainBackend>(
    params: &Params<B>,
    state: &Weights,
    model: &Vit,
    device: &B::Device,
) -> Result<Params<B::InnerBackend>, TrainError> {
    let average = Params::<B>::new(&model.specs(), &averages(state), device)?;
    Ok(average.with_precision(params.precision()).inner())
}

/// The averaged weights in a checkpoint's state; empty where there are none.
pub(crate) fn averages(state: &Weights) -> Weights {
    state.clone().renamed(|name| name.strip_prefix(AVERAGE).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use tubelet_augment::builtin;

    use super::*;
    use crate::params::Precision;

    #[test]
    fn a_restored_average_is_multiplied_in_the_numbers_of_the_run() {
        let file = builtin::recipe("mae-tiny", &[]).expect("built in");
        let recipe = file.stage(Stage::Finetune).expect("checked");
        let config = TrainConfig::read(&file, Stage::Finetune).expect("checked");
        let model = ModelConfig::read(&file).and_then(|m| m.classifier(&recipe, 3, &config));
        let (model, device) = (model.expect("a classifier"), Default::default());
        let weights = init::draw(&model.specs(), 1);
        let state = weights.clone().renamed(|name| Some(format!("{AVERAGE}{name}")));
        let params = Params::<Autodiff<Flex>>::new(&model.specs(), &weights, &device);
        let params = params.expect("complete").with_precision(Precision::Bf16);
        let average = average_of(&params, &state, &model, &device).expect("complete");
        assert_eq!(average.precision(), Precision::Bf16);
        assert_eq!(average.to_weights(), weights);
    }
}
