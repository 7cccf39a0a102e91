//! `tubelet pretrain`, `tubelet finetune`, `tubelet eval`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, ValueEnum};
use tubelet_augment::Stage;
use tubelet_loader::Stats;
use tubelet_trainer::checkpoint::InitReport;
use tubelet_trainer::evaluate::Accuracy;
use tubelet_trainer::run::{GpuTimes, Metric};
use tubelet_trainer::{
    Device, FinetuneOptions, Precision, RunOptions, evaluate, finetune as fine_tune,
};

use crate::common::{HowArgs, RecipeArgs, bare_table, bytes_text, default_workers};
use crate::decode::{DecodeArgs, Decoding};

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceArg {
    /// The processor
    Cpu,
    /// An NVIDIA GPU; needs a build with --features cuda
    Cuda,
    /// Any GPU with Vulkan; needs a build with --features vulkan
    Vulkan,
}

impl From<DeviceArg> for Device {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Cuda => Self::Cuda,
            DeviceArg::Vulkan => Self::Vulkan,
        }
    }
}

/// The numbers of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// 32-bit floats
    F32,
    /// bfloat16 in linear layers, attention and GELU; weights, the optimiser's state, norms, softmax,
    /// residual sums and losses stay 32-bit floats
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

/// What pre-training and fine-tuning share.
#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Training data: a folder, a list file or a Parquet file; shards also by URL
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    #[command(flatten)]
    how: HowArgs,
    /// Epochs of the schedule [default: the recipe's]
    #[arg(long)]
    epochs: Option<u32>,
    /// Rows of a batch, of all ranks together [default: the recipe's]
    #[arg(long)]
    batch_size: Option<u32>,
    /// Folder for checkpoints, metrics and summary
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Go on from the newest checkpoint in that folder
    #[arg(long)]
    resume: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Worker threads of the loader [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    /// Stop after this many steps, although the schedule goes on
    #[arg(long)]
    max_steps: Option<u64>,
    /// Steps between checkpoints [default: one an epoch]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    checkpoint_every: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceArg::Cpu)]
    device: DeviceArg,
    /// In which numbers matrices are multiplied
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32)]
    precision: PrecisionArg,
    #[command(flatten)]
    decode: DecodeArgs,
}

impl RunArgs {
    fn options(&self, stage: Stage, decoding: &Decoding) -> Result<RunOptions> {
        let mut recipe = self.recipe.clone();
        let mut set = |key: &str, value: Option<u32>| {
            recipe.set.extend(value.map(|v| format!("{stage}.{key}={v}")));
        };
        set("train.epochs", self.epochs);
        set("batch_size", self.batch_size);
        Ok(RunOptions {
            recipe: recipe.file()?,
            data: self.data.clone(),
            open: self.how.options("train"),
            out: self.out.clone(),
            resume: self.resume,
            seed: self.seed,
            workers: self.workers.unwrap_or_else(default_workers),
            makers: Arc::clone(&decoding.makers),
            max_steps: self.max_steps,
            checkpoint_every: self.checkpoint_every,
            device: self.device.into(),
            precision: self.precision.into(),
            progress: true,
        })
    }
}

#[derive(Args)]
pub(crate) struct PretrainArgs {
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Validation data, evaluated at the end and every --validate-every epochs
    #[arg(long, value_name = "PATH")]
    val: Option<PathBuf>,
    /// Split of the validation data
    #[arg(long, value_name = "NAME", default_value = "val")]
    val_split: String,
    /// Epochs between validations [default: one at the end only]
    #[arg(long, value_name = "EPOCHS", default_value_t = 0, hide_default_value = true)]
    validate_every: u32,
    /// Weights to start from: a run's folder, .safetensors, .pth, .pt or .pyth
    #[arg(long, value_name = "RUN|FILE")]
    init: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// Folder of a fine-tuning run
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Data to evaluate on
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    #[command(flatten)]
    how: HowArgs,
    /// Worker threads of the loader [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    #[command(flatten)]
    decode: DecodeArgs,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn pretrain(args: &PretrainArgs) -> Result<bool> {
    let decoding = args.run.decode.open()?;
    let summary = tubelet_trainer::pretrain(&args.run.options(Stage::Pretrain, &decoding)?)?;
    decoding.report()?;
    print_run(
        &args.run.out,
        summary.steps,
        summary.parameters,
        summary.last_loss,
        [summary.seconds, summary.data_wait],
        &summary.loader,
    );
    print_pace(&summary.metrics, summary.gpu.as_ref());
    Ok(true)
}

pub(crate) fn finetune(args: &FinetuneArgs) -> Result<bool> {
    let mut val_open = args.run.how.options(&args.val_split);
    val_open.split.clone_from(&args.val_split);
    val_open.annotations = None;
    let decoding = args.run.decode.open()?;
    let options = FinetuneOptions {
        run: args.run.options(Stage::Finetune, &decoding)?,
        val: args.val.clone().map(|path| (path, val_open)),
        validate_every: args.validate_every,
        init: args.init.clone(),
    };
    let summary = fine_tune(&options)?;
    decoding.report()?;
    if let Some(report) = &summary.init {
        print_init(report);
    }
    print_run(
        &args.run.out,
        summary.steps,
        summary.parameters,
        summary.last_loss,
        [summary.seconds, summary.data_wait],
        &summary.loader,
    );
    print_pace(&summary.metrics, summary.gpu.as_ref());
    if let Some(accuracy) = &summary.accuracy {
        print_accuracy(accuracy);
    }
    Ok(true)
}

pub(crate) fn eval(args: &EvalArgs) -> Result<bool> {
    let workers = args.workers.unwrap_or_else(default_workers);
    let decoding = args.decode.open()?;
    let open = args.how.options("val");
    let accuracy = evaluate(&args.run, &args.data, &open, workers, &decoding.makers)?;
    decoding.report()?;
    if args.json {
        println!("{}", serde_json::to_string(&accuracy)?);
    } else {
        print_accuracy(&accuracy);
    }
    Ok(true)
}

/// What a run did; `time` is its seconds and the share of them spent waiting for data.
fn print_run(
    out: &Path,
    steps: u64,
    parameters: usize,
    loss: f64,
    [seconds, wait]: [f64; 2],
    loader: &Stats,
) {
    let dropped = loader.dropped;
    eprintln!(
        "{steps} steps, {parameters} parameters, last loss {loss:.4}, {seconds:.1} s, {:.1} % of it waiting for data, {dropped} samples dropped; in {}",
        100.0 * wait,
        out.display()
    );
    if let Some(decoded) = loader.decoded_per_wanted() {
        let how = if decoded < 1.05 { "no more than needed" } else { "others lean on some" };
        eprintln!("{decoded:.2} pictures decoded for each wanted frame: {how}");
    }
}

/// First steps of a run, in which kernels are compiled and caches warm.
const WARM_UP: usize = 5;

/// Step time, rows a second and waiting, over the later steps; on a GPU, the copies to it.
fn print_pace(metrics: &[Metric], gpu: Option<&GpuTimes>) {
    let mut steps: Vec<&Metric> = metrics.iter().skip(WARM_UP).collect();
    if steps.is_empty() {
        return;
    }
    let wait = steps.iter().map(|m| m.data_wait * m.step_s).sum::<f64>();
    let all = steps.iter().map(|m| m.step_s).sum::<f64>().max(1e-9);
    steps.sort_by(|a, b| a.step_s.total_cmp(&b.step_s));
    let middle = steps[steps.len() / 2];
    let mut table = bare_table();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("a step", format!("{:.1} ms (median after {WARM_UP})", 1e3 * middle.step_s));
    row("rows a second", format!("{:.1}", middle.rows_per_s));
    row("waiting for data", format!("{:.2} % of the time", 100.0 * wait / all));
    if let Some(gpu) = gpu {
        let (copied, rate) = (bytes_text(gpu.copied_bytes), gpu.bandwidth() / 1e9);
        row("copied to the GPU", format!("{copied} at {rate:.1} GB/s"));
        row("behind training", format!("{:.0} % of the copies' time", 100.0 * gpu.overlap()));
        let a_step = 1e3 * gpu.hand_over_s / metrics.len() as f64;
        row("handing over", format!("{a_step:.2} ms a step"));
    }
    eprintln!("{table}");
}

fn print_accuracy(accuracy: &Accuracy) {
    eprintln!(
        "top-1 {:.2} %, top-5 {:.2} % of {} samples, {} views each, {} left out",
        100.0 * accuracy.top1,
        100.0 * accuracy.top5,
        accuracy.samples,
        accuracy.views,
        accuracy.left_out
    );
}

/// Which weights were taken and which were not.
fn print_init(report: &InitReport) {
    eprintln!("{} parameters taken over", report.loaded);
    for (what, names) in [("missing", &report.missing), ("unexpected", &report.unexpected)] {
        if !names.is_empty() {
            let shown: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
            let more = names.len().saturating_sub(12);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            eprintln!("{} {what}: {}{rest}", names.len(), shown.join(", "));
        }
    }
    for (name, theirs, ours) in &report.mismatched {
        eprintln!("other shape: {name}: {theirs:?} in the file, {ours:?} in the network");
    }
}
