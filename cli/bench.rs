//! `tubelet bench`: samples a second, and where the time goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::{Value, json};
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage};
use tubelet_core::{Heap, HostMemory};
use tubelet_gpu::kernels::PlaneOrder;
use tubelet_gpu::{DType, DeviceStage, Gpu, Input, PinnedMemory, StagePlan};
use tubelet_loader::{
    Batch, Batches, BucketReport, Cursor, Loader, LoaderConfig, Order, RowMakers, Stats,
};

use crate::common::{DataArgs, RecipeArgs, Usage, bare_table, bytes_text, default_workers};
use crate::decode::DecodeArgs;

/// How far a batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// u8 rows in the slot
    None,
    /// Normalised f32 and targets on the host
    Host,
    /// Normalised pixels and targets on the GPU
    Device,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Stage of the recipe: pretrain, finetune or eval
    #[arg(long = "for", value_name = "STAGE", default_value_t = Stage::Pretrain)]
    recipe_stage: Stage,
    /// Worker threads [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    /// Rows of a batch [default: the recipe's]
    #[arg(long)]
    batch: Option<u32>,
    /// How long to measure
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    decode: DecodeArgs,
    /// How far each batch goes
    #[arg(long, value_enum, default_value_t = Until::Host)]
    stage: Until,
    /// Seed of every draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Where floats are made of a batch.
enum Floats {
    None,
    /// The stage and the tensors that it fills again and again.
    Host(HostStage, Box<HostTensors>),
    Device(Box<DeviceStage>),
}

impl Floats {
    /// The stage that was asked for, and memory for its slots, which `makers` fill.
    fn new(
        until: Until,
        recipe: &Recipe,
        makers: &dyn RowMakers,
    ) -> Result<(Self, Box<dyn HostMemory>)> {
        match until {
            Until::None => Ok((Self::None, Box::new(Heap))),
            Until::Host => Ok((Self::Host(HostStage::new(recipe), Box::default()), Box::new(Heap))),
            Until::Device => {
                let gpu = Gpu::probe().map_err(|e| Usage(format!("--stage device: {e}")))?;
                let input = Input::Planes(PlaneOrder::ChannelFirst);
                let plan = StagePlan::new(recipe, input, DType::F32)
                    .map_err(|e| Usage(format!("--stage device: {e}")))?;
                let stage = DeviceStage::new(&gpu, plan)?;
                let memory = makers.memory().unwrap_or_else(|| Box::new(PinnedMemory::new(&gpu)));
                Ok((Self::Device(Box::new(stage)), memory))
            }
        }
    }

    /// Makes the floats of `batch`, on the device without waiting for them.
    fn make(&mut self, batch: Batch) -> Result<()> {
        match self {
            Self::None => {}
            Self::Host(stage, tensors) => {
                stage.run_into(batch.as_ref(), tensors);
                std::hint::black_box(tensors);
            }
            Self::Device(stage) => drop(stage.submit(batch, Batch::as_ref)?),
        }
        Ok(())
    }

    /// Bytes copied to the device so far, and the seconds that it was copying.
    fn copies(&self) -> Option<(u64, f64)> {
        match self {
            Self::None | Self::Host(..) => None,
            Self::Device(stage) => Some(stage.copies().read()),
        }
    }

    /// Waits for the device.
    fn finish(&self) -> Result<()> {
        match self {
            Self::None | Self::Host(..) => Ok(()),
            Self::Device(stage) => Ok(stage.finish()?),
        }
    }
}

/// What was measured.
struct Measured {
    seconds: f64,
    rows: u64,
    stage_s: f64,
    /// Bytes a second of the copies to a device.
    copy_rate: Option<f64>,
    stats: Stats,
}

pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    if args.seconds.is_nan() || args.seconds <= 0.0 {
        bail!(Usage(format!("--seconds {}: must be above 0", args.seconds)));
    }
    let shards = args.data.open()?;
    let mut recipe_args = args.recipe.clone();
    if let Some(batch) = args.batch {
        recipe_args.set.push(format!("{}.batch_size={batch}", args.recipe_stage));
    }
    let recipe = recipe_args.stage(args.recipe_stage)?;
    let workers = args.workers.unwrap_or_else(default_workers);
    let config = LoaderConfig {
        seed: args.seed,
        workers,
        order: if args.recipe_stage == Stage::Eval { Order::Sequential } else { Order::Shuffled },
        ..LoaderConfig::default()
    };
    let decoding = args.decode.open()?;
    let (floats, memory) = Floats::new(args.stage, &recipe, decoding.makers.as_ref())?;
    let loader = Loader::new(shards, Arc::clone(&recipe), memory.as_ref(), config)?
        .with_makers(Arc::clone(&decoding.makers))?;
    let measured = measure(loader.batches(Cursor::default())?, args, floats)?;
    decoding.report()?;
    let report = report(args, &measured, recipe.batch_size(), workers);
    if args.json {
        println!("{report}");
    } else {
        println!("{}", table(&measured, &report));
    }
    Ok(true)
}

/// Takes batches until the time is up; the first batch, in which caches warm, is not counted.
fn measure(mut batches: Batches, args: &BenchArgs, mut floats: Floats) -> Result<Measured> {
    let Some(first) = batches.next() else { bail!("the data set gave no batch") };
    floats.make(first?)?;
    floats.finish()?;
    let (before, start) = (batches.stats(), Instant::now());
    let limit = Duration::from_secs_f64(args.seconds);
    let (mut rows, mut stage_s) = (0, 0.0);
    for batch in batches.by_ref() {
        let batch = batch?;
        rows += batch.as_ref().rows() as u64;
        let begin = Instant::now();
        floats.make(batch)?;
        stage_s += begin.elapsed().as_secs_f64();
        if start.elapsed() >= limit {
            break;
        }
    }
    let begin = Instant::now();
    floats.finish()?;
    stage_s += begin.elapsed().as_secs_f64();
    let seconds = start.elapsed().as_secs_f64();
    let stats = difference(&batches.stats(), &before);
    if rows == 0 {
        bail!("the data set ended after one batch: nothing was measured; use a smaller --batch");
    }
    let copy_rate = floats.copies().map(|(bytes, seconds)| bytes as f64 / seconds.max(1e-9));
    Ok(Measured { seconds, rows, stage_s, copy_rate, stats })
}

/// What happened between two snapshots.
fn difference(after: &Stats, before: &Stats) -> Stats {
    Stats {
        workers: after.workers,
        samples: after.samples - before.samples,
        rows: after.rows - before.rows,
        bytes: after.bytes - before.bytes,
        wanted_frames: after.wanted_frames - before.wanted_frames,
        decoded_frames: after.decoded_frames - before.decoded_frames,
        level_samples: after.level_samples - before.level_samples,
        spaced_samples: after.spaced_samples - before.spaced_samples,
        reference_samples: after.reference_samples - before.reference_samples,
        read_s: after.read_s - before.read_s,
        probe_s: after.probe_s - before.probe_s,
        plan_s: after.plan_s - before.plan_s,
        decode_s: after.decode_s - before.decode_s,
        render_s: after.render_s - before.render_s,
        worker_idle_s: after.worker_idle_s - before.worker_idle_s,
        slot_wait_s: after.slot_wait_s - before.slot_wait_s,
        batch_wait_s: after.batch_wait_s - before.batch_wait_s,
        dropped: after.dropped - before.dropped,
        drops: after.drops.clone(),
        buckets: after.buckets.clone(),
    }
}

fn report(args: &BenchArgs, measured: &Measured, batch_size: u32, workers: usize) -> Value {
    let Measured { seconds, rows, stage_s, copy_rate, stats } = measured;
    let mut stages = serde_json::Map::new();
    for (name, time) in stats.stages() {
        stages.insert(name.to_owned(), json!(time));
    }
    stages.insert("stage".to_owned(), json!(stage_s));
    let samples = stats.samples.max(1) as f64;
    json!({
        "samples_per_s": *rows as f64 / seconds,
        "decoded_frames_per_sample": stats.decoded_frames as f64 / samples,
        "decoded_frames_per_wanted": stats.decoded_per_wanted().unwrap_or(0.0),
        "level_samples": stats.level_samples,
        "clips": {
            "by_references": stats.reference_samples,
            "exact": stats.samples - stats.reference_samples,
            "of_spaced_videos": stats.spaced_samples,
        },
        "bytes_per_s": stats.bytes as f64 / seconds,
        "copy_to_device_bytes_per_s": copy_rate,
        "stages": stages,
        "limiting_stage": if stage_s > &(seconds * 0.5) { "stage" } else { stats.limiting_stage() },
        "worker_idle_s": stats.worker_idle_s,
        "slot_wait_s": stats.slot_wait_s,
        "batch_wait_s": stats.batch_wait_s,
        "seconds": seconds,
        "rows": rows,
        "dropped": stats.dropped,
        "drops": stats.drops,
        "buckets": stats.buckets,
        "settings": {
            "path": args.data.path, "recipe": args.recipe.recipe, "set": args.recipe.set,
            "for": args.recipe_stage, "workers": workers, "batch": batch_size,
            "decode": args.decode.name(),
            "stage": format!("{:?}", args.stage).to_lowercase(), "seed": args.seed,
        },
    })
}

fn table(measured: &Measured, report: &Value) -> Table {
    let number = |key: &str| report[key].as_f64().unwrap_or(0.0);
    let Measured { seconds, stats, .. } = measured;
    let mut table = bare_table();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("rows a second", format!("{:.1}", number("samples_per_s")));
    let each = number("decoded_frames_per_wanted");
    let frames = format!("{:.1}, {each:.2} a wanted one", number("decoded_frames_per_sample"));
    row("decoded frames a sample", frames);
    if let Some(share) = stats.by_references() {
        let (some, all) = (stats.reference_samples, stats.samples);
        row("clips of references alone", format!("{some} of {all}, {:.0} %", 100.0 * share));
    }
    row("read a second", bytes_text(number("bytes_per_s") as u64));
    row("limited by", report["limiting_stage"].as_str().unwrap_or("?").to_owned());
    let worker_seconds = seconds * stats.workers as f64;
    for (name, time) in stats.stages() {
        let share = 100.0 * time / worker_seconds;
        row(&format!("workers: {name}"), format!("{time:.2} s, {share:.0} %"));
    }
    let idle = 100.0 * stats.worker_idle_s / worker_seconds;
    row("workers: idle", format!("{:.2} s, {idle:.0} %", stats.worker_idle_s));
    let floats = 100.0 * measured.stage_s / seconds;
    row("floats and targets", format!("{:.2} s, {floats:.0} %", measured.stage_s));
    if let Some(rate) = measured.copy_rate {
        row("copies to the device", format!("{:.1} GB/s", rate / 1e9));
    }
    let wait = 100.0 * stats.batch_wait_s / seconds;
    row("waiting for batches", format!("{:.2} s, {wait:.0} %", stats.batch_wait_s));
    row("dropped samples", stats.dropped.to_string());
    for bucket in &stats.buckets {
        let BucketReport { size, rows, samples, batches, left_out, .. } = bucket;
        let text = format!(
            "{samples} samples, {batches} batches of {rows} rows, {left_out} samples left out"
        );
        row(&format!("bucket {}x{}", size.height, size.width), text);
    }
    table
}
