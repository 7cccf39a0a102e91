//! What pre-training and fine-tuning share: options, the loop over steps, metrics.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tubelet_augment::{HostTensors, Recipe, RecipeFile};
use tubelet_formats::{OpenOptions, ShardReader, open};
use tubelet_loader::{Batches, Cursor, Loader, LoaderConfig, LoaderError, Order, RowMakers, Stats};

use crate::device::Device;
use crate::error::{TrainError, TrainErrorKind};
use crate::evaluate::Accuracy;
use crate::feed::{Feed, Floats, TrainBackend};
use crate::learner::{Learner, Objective, Step};
use crate::params::Precision;

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
    /// In which numbers matrices are multiplied.
    pub precision: Precision,
    /// Whether to draw a progress bar.
    pub progress: bool,
}

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
        slots: options.device.slot_count(),
        order,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(
        Arc::clone(&shards),
        Arc::clone(recipe),
        &*options.device.slots(&*options.makers),
        config,
    )
    .and_then(|loader| loader.with_makers(Arc::clone(&options.makers)))
    .map_err(data)?;
    let per_epoch = loader.batches_per_epoch();
    Ok((shards, loader.batches(from).map_err(data)?, per_epoch))
}

/// What a run works with, once its network is known.
pub(crate) struct Training<'a, B: TrainBackend> {
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
pub(crate) struct Trained<B: TrainBackend> {
    pub(crate) learner: Learner<B>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) waited: Duration,
    pub(crate) stats: Stats,
    pub(crate) gpu: Option<GpuTimes>,
}

/// What the device stage of a run did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GpuTimes {
    /// Bytes copied to the GPU.
    pub copied_bytes: u64,
    /// Seconds that the GPU was copying them.
    pub copy_s: f64,
    /// Seconds that training waited on the GPU for batches that were asked for: what was hidden neither of
    /// copies nor of kernels, and the hand-over itself.
    pub hand_over_s: f64,
}

impl GpuTimes {
    /// Bytes a second of the copies.
    pub fn bandwidth(&self) -> f64 {
        self.copied_bytes as f64 / self.copy_s.max(1e-9)
    }

    /// Share of the copies' time behind training, 0 to 1, at least: all that training waited for is
    /// counted against it.
    pub fn overlap(&self) -> f64 {
        (1.0 - self.hand_over_s / self.copy_s.max(1e-9)).clamp(0.0, 1.0)
    }
}

/// What a stage does besides steps.
pub(crate) trait Hooks<B: TrainBackend> {
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

impl<B: TrainBackend> Training<'_, B> {
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
        let every =
            if options.checkpoint_every > 0 { options.checkpoint_every } else { steps_per_epoch };
        let saves = move |step: u64| step % every == 0 || step == total;
        let (floats, hand_over) =
            options.device.floats(recipe, objective.sees(), options.precision)?;
        let copies = match &floats {
            Floats::Stage(stage) => Some(Arc::clone(stage.copies())),
            Floats::Host | Floats::Bytes(_) => None,
        };
        learner.hand_over = hand_over;
        // A saved step's report shows rows of its last batch.
        let batches_per_step = u64::from(learner.accumulate());
        let shown = move |batch: u64| {
            let done = batch + 1;
            done % batches_per_step == 0 && saves(start + done / batches_per_step)
        };
        let mut feed = Feed::new(batches, recipe, floats, shown)?;
        let mut stats = Stats::default();
        let part_rows = options.device.part_rows(recipe.batch_size() as usize);
        while learner.optimizer.steps() < total {
            let Some(mut batch) = feed.next_batch()? else { break };
            let step = learner.learn(objective, &mut batch, part_rows)?;
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
            if saves(number) {
                hooks.save(&learner, batch.cursor, &batch.tensors, &reporter.metrics)?;
            }
            feed.give_back(batch);
        }
        let gpu = copies.zip(learner.hand_over.as_mut()).map(|(copies, hand_over)| {
            let (copied_bytes, copy_s) = copies.read();
            GpuTimes { copied_bytes, copy_s, hand_over_s: hand_over.seconds() }
        });
        report_drops(&stats);
        let metrics = reporter.finish();
        Ok(Trained { learner, metrics, waited: feed.waited(), stats, gpu })
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
    /// Seconds since the last line.
    #[serde(default)]
    pub step_s: f64,
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
            step_s: seconds,
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
