//! What pre-training and fine-tuning share: options, the back end, steps, metrics.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tubelet_augment::{HostTensors, Recipe, RecipeFile};
use tubelet_core::{Heap, HostMemory};
use tubelet_formats::{OpenOptions, ShardReader, open};
use tubelet_loader::{Batches, Cursor, Loader, LoaderConfig, LoaderError, Order, RowMakers, Stats};

use crate::config::TrainConfig;
use crate::ema::Ema;
use crate::error::{TrainError, TrainErrorKind};
use crate::evaluate::Accuracy;
use crate::feed::{DeviceBatch, FedBatch, Feed, OnDevice, Source};
use crate::optim::{Algorithm, Group, Optimizer, clip_global, exempt_by_shape, global_norm};
use crate::params::{Gradients, Params, values};
use crate::schedule::Schedule;

/// What every run needs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The recipe.
    pub recipe: RecipeFile,
    /// The training data.
    pub data: PathBuf,
    /// How it is laid out.
    pub open: OpenOptions,
    /// Folder of the run.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in that folder.
    pub resume: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Worker threads of the loader.
    pub workers: usize,
    /// What makes the loader's rows: [`tubelet_loader::HostMakers`], or on a device.
    pub makers: Arc<dyn RowMakers>,
    /// Stop after this many steps (of the whole run), although the schedule goes on.
    pub max_steps: Option<u64>,
    /// Steps between checkpoints; 0 for one at each epoch's end.
    pub checkpoint_every: u64,
    /// Where to compute.
    pub device: Device,
    /// Whether to draw a progress bar.
    pub progress: bool,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Burn's flex back end.
    #[default]
    Cpu,
    /// CUDA; needs the feature `cuda`.
    Cuda,
    /// Vulkan; needs the feature `vulkan`.
    Vulkan,
}

impl Device {
    /// Rows that one thread works on at a time: a few on the processor, so that all cores have
    /// work; the whole batch on a device that is parallel itself.
    fn part_rows(self, batch: usize) -> usize {
        match self {
            Self::Cpu => batch.min(PART_ROWS),
            Self::Cuda | Self::Vulkan => batch,
        }
    }

    /// How floats are made on the device; `None` where the host makes them.
    fn floats(self, recipe: &Recipe) -> Option<OnDevice> {
        if self == Self::Cpu {
            return None;
        }
        match OnDevice::new(recipe, self == Self::Cuda) {
            Ok(plan) => Some(plan),
            Err(what) => {
                tracing::info!("floats are made on the host and copied: the recipe has {what}");
                None
            }
        }
    }

    /// Memory for slots: page-locked where CUDA copies from them.
    fn slots(self) -> Box<dyn HostMemory> {
        match self {
            Self::Cuda => tubelet_gpu::host_memory(),
            Self::Cpu | Self::Vulkan => Box::new(Heap),
        }
    }
}

/// Rows of a part on the processor. Part of what a seed promises: another value adds the same
/// gradients in another order.
const PART_ROWS: usize = 8;

/// Runs `$body` with `$backend` bound to the autodiff back end of a device.
macro_rules! on_device {
    ($device:expr, $backend:ident => $body:expr) => {
        match $device {
            $crate::run::Device::Cpu => {
                type $backend = burn::backend::Autodiff<burn::backend::Flex>;
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::run::Device::Cuda => {
                type $backend = burn::backend::Autodiff<burn::backend::Cuda>;
                $body
            }
            #[cfg(feature = "vulkan")]
            $crate::run::Device::Vulkan => {
                type $backend = burn::backend::Autodiff<burn::backend::Vulkan>;
                $body
            }
            #[cfg(not(all(feature = "cuda", feature = "vulkan")))]
            #[allow(unreachable_patterns)]
            other => Err($crate::error::TrainError::new(
                "device",
                $crate::error::TrainErrorKind::Backend(format!(
                    "{other:?} is not in this build: build with --features {}",
                    format!("{other:?}").to_lowercase()
                )),
            )),
        }
    };
}
pub(crate) use on_device;

/// Opens the data and starts the loader.
pub(crate) fn start_loader(
    options: &RunOptions,
    recipe: &Arc<Recipe>,
    order: Order,
    from: Cursor,
) -> Result<(Arc<dyn ShardReader>, Batches, u64), TrainError> {
    let data =
        |e: LoaderError| TrainError::file(&options.data, TrainErrorKind::Data(e.to_string()));
    let shards = open(&options.data, &options.open)
        .map_err(|e| TrainError::file(&options.data, TrainErrorKind::Data(e.to_string())))?;
    let config = LoaderConfig {
        seed: options.seed,
        workers: options.workers,
        order,
        ..LoaderConfig::default()
    };
    let loader =
        Loader::new(Arc::clone(&shards), Arc::clone(recipe), &*options.device.slots(), config)
            .and_then(|loader| loader.with_makers(Arc::clone(&options.makers)))
            .map_err(data)?;
    let per_epoch = loader.batches_per_epoch();
    Ok((shards, loader.batches(from).map_err(data)?, per_epoch))
}

/// Parameters, optimiser and schedule of a run.
pub(crate) struct Learner<B: AutodiffBackend> {
    pub(crate) params: Params<B>,
    pub(crate) optimizer: Optimizer<B::InnerBackend>,
    pub(crate) ema: Option<Ema<B::InnerBackend>>,
    schedule: Schedule,
    clip: Option<f64>,
    accumulate: u32,
    gathered: Gradients<B::InnerBackend>,
    batches: u32,
    loss: f64,
}

/// One optimiser step.
pub(crate) struct Step {
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) grad_norm: f64,
}

impl<B: AutodiffBackend> Learner<B> {
    pub(crate) fn new(
        params: Params<B>,
        config: &TrainConfig,
        schedule: Schedule,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Self {
        let groups = params
            .iter()
            .filter(|(_, p)| p.trainable)
            .map(|(name, p)| {
                let exempt = exempt_by_shape(name, &p.shape);
                let weight_decay = if exempt { 0.0 } else { config.weight_decay };
                (name.to_owned(), Group { lr_scale: lr_scale(name), weight_decay })
            })
            .collect();
        let algorithm = Algorithm::AdamW { betas: config.betas, eps: config.eps };
        Self {
            ema: config.ema.map(|momentum| Ema::new(params.inner(), momentum)),
            optimizer: Optimizer::new(algorithm, groups),
            params,
            schedule,
            clip: config.clip_grad,
            accumulate: config.accumulate,
            gathered: Gradients::new(),
            batches: 0,
            loss: 0.0,
        }
    }

    /// Adds the gradients of one batch; a step is made when enough are gathered.
    pub(crate) fn learn<O: Objective<B>>(
        &mut self,
        objective: &O,
        batch: &FedBatch,
        part_rows: usize,
        on_device: Option<&OnDevice>,
    ) -> Result<Option<Step>, TrainError> {
        let (value, grads) = match (on_device, &batch.slot) {
            (Some(plan), Some(slot)) => {
                let device = B::Device::default();
                let batch = DeviceBatch::new(plan, slot, &batch.tensors, &device);
                self.gradients_at_once(objective, &batch)?
            }
            _ => self.gradients(objective, &batch.tensors, part_rows)?,
        };
        if !value.is_finite() {
            let step = format!("step {}", self.optimizer.steps());
            return Err(TrainError::new(step, TrainErrorKind::Diverged(value)));
        }
        add(&mut self.gathered, grads);
        self.loss += value / f64::from(self.accumulate);
        self.batches += 1;
        if self.batches < self.accumulate {
            return Ok(None);
        }
        let mut grads = std::mem::take(&mut self.gathered);
        let grad_norm = match self.clip {
            Some(most) => clip_global(&mut grads, most),
            None => global_norm(&grads),
        };
        let lr = self.schedule.at(self.optimizer.steps());
        self.optimizer.step(&mut self.params, grads, lr);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.params);
        }
        let step = Step { loss: self.loss, lr, grad_norm };
        (self.batches, self.loss) = (0, 0.0);
        Ok(Some(step))
    }

    /// Number of the batch, over all steps.
    fn number(&self) -> u64 {
        self.optimizer.steps() * u64::from(self.accumulate) + u64::from(self.batches)
    }

    /// [`Self::gradients`] of a batch that is on the device as a whole.
    fn gradients_at_once<O: Objective<B>>(
        &self,
        objective: &O,
        batch: &DeviceBatch<'_, B>,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError> {
        terms(objective, batch.lists())?;
        let params = self.params.fork();
        let loss = objective.loss(&params, batch, self.number(), 0)?;
        let value = f64::from(values(&loss)[0]);
        let mut grads = (loss / f64::from(self.accumulate)).backward();
        Ok((value, params.gradients(&mut grads)))
    }

    /// Loss of `batch` and its gradients over the number of gathered batches. The batch is cut into
    /// parts of `part_rows` rows that as many threads as there are cores work on; the parts are
    /// added up in their order, so the sum does not depend on the number of threads.
    fn gradients<O: Objective<B>>(
        &self,
        objective: &O,
        batch: &HostTensors,
        part_rows: usize,
    ) -> Result<(f64, Gradients<B::InnerBackend>), TrainError> {
        let terms = terms(objective, batch)?;
        let parts = batch.rows.div_ceil(part_rows);
        let number = self.number();
        let work = |part: usize| -> Result<_, TrainError> {
            let rows = part * part_rows..((part + 1) * part_rows).min(batch.rows);
            let batch = batch.slice(rows);
            let share = objective.terms(&batch) / terms;
            if share == 0.0 {
                return Ok((0.0, Gradients::new()));
            }
            let params = self.params.fork();
            let loss = objective.loss(&params, &batch, number, part as u16)? * share;
            let value = f64::from(values(&loss)[0]);
            let mut grads = (loss / f64::from(self.accumulate)).backward();
            Ok((value, params.gradients(&mut grads)))
        };
        let mut sum = (0.0, Gradients::new());
        for part in in_threads(parts, work) {
            let (value, grads) = part?;
            sum.0 += value;
            add(&mut sum.1, grads);
        }
        Ok(sum)
    }
}

/// Terms of the loss of `batch`, at least one.
fn terms<B: AutodiffBackend, O: Objective<B>>(
    objective: &O,
    batch: &HostTensors,
) -> Result<f64, TrainError> {
    match objective.terms(batch) {
        0.0 => Err(TrainError::batch("no token of the batch is hidden: nothing to learn")),
        terms => Ok(terms),
    }
}

/// What a stage minimises.
pub(crate) trait Objective<B: AutodiffBackend>: Sync {
    /// Mean loss of `batch`, `[1]`. Drops are drawn for (batch number, part).
    fn loss(
        &self,
        params: &Params<B>,
        batch: &dyn Source<B>,
        number: u64,
        part: u16,
    ) -> Result<Tensor<B, 1>, TrainError>;

    /// How many terms that mean has.
    fn terms(&self, batch: &HostTensors) -> f64;
}

/// Adds `grads` to `sum`.
fn add<B: Backend>(sum: &mut Gradients<B>, grads: Gradients<B>) {
    for (name, grad) in grads {
        let grad = match sum.remove(&name) {
            Some(sum) => sum + grad,
            None => grad,
        };
        sum.insert(name, grad);
    }
}

/// `work(0..count)` on threads of its own (not rayon's: a tensor operation inside may wait there
/// while it holds a lock), results in order.
fn in_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count);
    if threads < 2 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= count {
                return done;
            }
            done.push((part, work(part)));
        }
    };
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    results.sort_by_key(|(part, _)| *part);
    results.into_iter().map(|(_, result)| result).collect()
}

/// What a run works with, once its network is known.
pub(crate) struct Training<'a, B: AutodiffBackend> {
    pub(crate) options: &'a RunOptions,
    pub(crate) recipe: &'a Recipe,
    pub(crate) learner: Learner<B>,
    pub(crate) batches: Batches,
    /// Optimiser steps of an epoch.
    pub(crate) steps_per_epoch: u64,
    /// Optimiser steps of the whole schedule.
    pub(crate) planned: u64,
    /// Rows of a step.
    pub(crate) rows: u32,
}

/// What came of a run.
pub(crate) struct Trained<B: AutodiffBackend> {
    pub(crate) learner: Learner<B>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) waited: Duration,
    pub(crate) stats: Stats,
}

/// What a stage does besides steps.
pub(crate) trait Hooks<B: AutodiffBackend> {
    /// Keeps the state; `batch` is the last one.
    fn save(
        &mut self,
        learner: &Learner<B>,
        cursor: Cursor,
        batch: &HostTensors,
        metrics: &[Metric],
    ) -> Result<(), TrainError>;

    /// Validates at an epoch's end or the run's, where the stage has something to validate on.
    fn validate(&mut self, learner: &Learner<B>, step: u64)
    -> Result<Option<Accuracy>, TrainError>;
}

impl<B: AutodiffBackend> Training<'_, B> {
    /// Trains to the planned end.
    pub(crate) fn run<O: Objective<B>>(
        self,
        objective: &O,
        hooks: &mut impl Hooks<B>,
    ) -> Result<Trained<B>, TrainError> {
        let Self { options, recipe, mut learner, batches, steps_per_epoch, planned, rows } = self;
        let total = options.max_steps.map_or(planned, |most| most.min(planned));
        let start = learner.optimizer.steps();
        let mut reporter = Reporter::new(&options.out, start, total, options.progress)?;
        let on_device = options.device.floats(recipe);
        let mut feed = Feed::new(batches, recipe, on_device.is_some())?;
        let mut stats = Stats::default();
        let every =
            if options.checkpoint_every > 0 { options.checkpoint_every } else { steps_per_epoch };
        let part_rows = options.device.part_rows(recipe.batch_size() as usize);
        while learner.optimizer.steps() < total {
            let Some(mut batch) = feed.next_batch()? else { break };
            let step = learner.learn(objective, &batch, part_rows, on_device.as_ref())?;
            stats.clone_from(&batch.stats);
            let Some(step) = step else {
                feed.give_back(batch);
                continue;
            };
            let number = learner.optimizer.steps();
            let epoch = ((number - 1) / steps_per_epoch) as u32;
            let mut metric = reporter.measure(number, epoch, &step, u64::from(rows), feed.waited());
            metric.decoded_per_wanted = stats.decoded_per_wanted();
            metric.by_references = stats.by_references();
            if number % steps_per_epoch == 0 || number == total {
                metric.validation = hooks.validate(&learner, number)?;
            }
            reporter.write(metric, feed.waited())?;
            if number % every == 0 || number == total {
                feed.fill(&mut batch);
                hooks.save(&learner, batch.cursor, &batch.tensors, &reporter.metrics)?;
            }
            feed.give_back(batch);
        }
        report_drops(&stats);
        let metrics = reporter.finish();
        Ok(Trained { learner, metrics, waited: feed.waited(), stats })
    }
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct Metric {
    /// Optimiser step, from 1.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Loss of the step's batches.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Rows a second since the last line.
    pub rows_per_s: f64,
    /// Share of the time since the last line spent waiting for data.
    pub data_wait: f64,
    /// Pictures decoded so far for each frame that was wanted: 1 where shards are made for the clips'
    /// stride, many where every frame leans on others; absent where nothing was decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_per_wanted: Option<f64>,
    /// Share of the samples so far that were decoded of regularly spaced references alone, the others
    /// with all that their frames lean on; absent where no video has such references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_references: Option<f64>,
    /// Accuracy on the validation data, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Accuracy>,
}

/// Metrics to file and to a progress bar.
pub(crate) struct Reporter {
    file: std::fs::File,
    path: PathBuf,
    bar: ProgressBar,
    since: Instant,
    waited: Duration,
    pub(crate) metrics: Vec<Metric>,
}

impl Reporter {
    /// Appends to `run/metrics.jsonl`; lines after step `from` of an interrupted run are dropped.
    pub(crate) fn new(
        run: &Path,
        from: u64,
        total: u64,
        progress: bool,
    ) -> Result<Self, TrainError> {
        let path = run.join("metrics.jsonl");
        let io = |e: std::io::Error| TrainError::file(&path, e);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let metrics: Vec<Metric> = old
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|m: &Metric| m.step <= from)
            .collect();
        let mut file = std::fs::File::create(&path).map_err(io)?;
        for metric in &metrics {
            write_line(&mut file, metric).map_err(io)?;
        }
        let bar = if progress { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} {eta} left") {
            bar.set_style(style);
        }
        bar.set_position(from);
        Ok(Self { file, path, bar, since: Instant::now(), waited: Duration::ZERO, metrics })
    }

    pub(crate) fn measure(
        &self,
        number: u64,
        epoch: u32,
        step: &Step,
        rows: u64,
        waited: Duration,
    ) -> Metric {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        Metric {
            step: number,
            epoch,
            loss: step.loss,
            lr: step.lr,
            grad_norm: step.grad_norm,
            rows_per_s: rows as f64 / seconds,
            data_wait: ((waited - self.waited).as_secs_f64() / seconds).min(1.0),
            decoded_per_wanted: None,
            by_references: None,
            validation: None,
        }
    }

    pub(crate) fn write(&mut self, metric: Metric, waited: Duration) -> Result<(), TrainError> {
        (self.since, self.waited) = (Instant::now(), waited);
        let write = write_line(&mut self.file, &metric);
        write.map_err(|e| TrainError::file(&self.path, e))?;
        self.bar.set_position(metric.step);
        self.bar.set_message(format!(
            "loss {:.4}, {:.0} images/s, {:.0} % waiting for data",
            metric.loss,
            metric.rows_per_s,
            100.0 * metric.data_wait
        ));
        if let Some(accuracy) = &metric.validation {
            self.bar.println(format!(
                "epoch {}: top-1 {:.2} %",
                metric.epoch + 1,
                100.0 * accuracy.top1
            ));
        }
        self.metrics.push(metric);
        Ok(())
    }

    pub(crate) fn finish(self) -> Vec<Metric> {
        self.bar.finish_and_clear();
        self.metrics
    }
}

fn write_line(file: &mut std::fs::File, metric: &Metric) -> std::io::Result<()> {
    writeln!(file, "{}", serde_json::to_string(metric)?)
}

/// Makes the folder of a run; one that holds a run is only taken to resume it.
pub(crate) fn prepare_folder(out: &Path, resume: bool) -> Result<(), TrainError> {
    std::fs::create_dir_all(out).map_err(|e| TrainError::file(out, e))?;
    if !resume && out.join("latest").exists() {
        let what = "this folder holds a run already: resume it, or name another folder";
        return Err(TrainError::checkpoint(out, what));
    }
    Ok(())
}

/// Writes `value` as JSON to `run/name`.
pub(crate) fn write_json(run: &Path, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
    let path = run.join(name);
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    std::fs::write(&path, text + "\n").map_err(|e| TrainError::file(&path, e))
}

/// Says what the loader had to leave out.
pub(crate) fn report_drops(stats: &Stats) {
    for drop in stats.drops.iter().take(20) {
        tracing::warn!("sample {} ({}) could not be used: {}", drop.sample, drop.name, drop.cause);
    }
    if stats.drops.len() > 20 {
        tracing::warn!("and {} more; all are in summary.json", stats.drops.len() - 20);
    }
}
