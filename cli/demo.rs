//! `tubelet demo`: the whole path on a data set made on the spot.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use tubelet_augment::RecipeFile;
use tubelet_formats::convert::{ConvertOptions, OnBroken, convert};
use tubelet_formats::{OpenOptions, open};
use tubelet_trainer::report::{Line, Page, RECONSTRUCTIONS, RECONSTRUCTIONS_CAPTION, REPORT};
use tubelet_trainer::run::Metric;
use tubelet_trainer::{Device, FinetuneOptions, Precision, RunOptions, finetune, pretrain};

use crate::common::{default_workers, recipe_file};
use crate::motion::{MOTIONS, write_split};
use crate::progress::progress;

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Folder for data, runs and report
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Training clips
    #[arg(long, default_value_t = 800)]
    train: u32,
    /// Validation clips
    #[arg(long, default_value_t = 200)]
    val: u32,
    /// Draw clips so many times as large, for measurements: 4 gives 320x256
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    scale: u32,
    /// Repeat fine-tuning with three seeds and report mean and spread
    #[arg(long)]
    full: bool,
    /// Change a value of the recipe videomae-tiny; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of the data and of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Seconds of each part.
type Times = Vec<(&'static str, f64)>;

/// Accuracies of one way to start, by seed.
struct Outcome {
    name: &'static str,
    top1: Vec<f64>,
    metrics: Vec<Metric>,
}

pub(crate) fn run(args: &DemoArgs) -> Result<bool> {
    let recipe = recipe_file("videomae-tiny", &args.set)?;
    let mut times = Times::new();
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let data = args.out.join("data");
    timed(&mut times, "making clips", || make_data(args, &data))?;
    let shards = args.out.join("shards");
    timed(&mut times, "converting to Parquet", || convert_splits(&data, &shards))?;
    let preview = args.out.join("preview.png");
    timed(&mut times, "drawing the preview", || draw_preview(&shards.join("train"), &preview))?;

    let base = args.out.join("pretrain");
    let pretrained = timed(&mut times, "pre-training", || {
        Ok(pretrain(&options(&recipe, &shards, &base, args.seed)?)?)
    })?;
    let seeds = if args.full { 3 } else { 1 };
    let mut outcomes = Vec::new();
    for (name, init) in [("from pre-training", Some(base.clone())), ("from scratch", None)] {
        let part = if init.is_some() { "fine-tuning" } else { "training from scratch" };
        outcomes.push(timed(&mut times, part, || {
            tune(args, &recipe, &shards, name, init.as_deref(), seeds)
        })?);
    }
    let report = args.out.join(REPORT);
    let facts = Facts {
        args,
        times: &times,
        pretraining: &pretrained.metrics,
        outcomes: &outcomes,
        preview: &read(&preview)?,
        reconstructions: &read(&base.join(RECONSTRUCTIONS))?,
    };
    facts.page().write(&report)?;
    facts.print();
    eprintln!("report: {}", report.display());
    Ok(true)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn timed<T>(times: &mut Times, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("{name} …");
    let start = Instant::now();
    let result = work()?;
    times.push((name, start.elapsed().as_secs_f64()));
    Ok(result)
}

fn make_data(args: &DemoArgs, data: &Path) -> Result<()> {
    let bar = progress(u64::from(args.train + args.val), "clips");
    for (split, count, seed) in
        [("train", args.train, args.seed * 2 + 1), ("val", args.val, args.seed * 2 + 2)]
    {
        write_split(data, split, (count, args.scale), seed, &|| bar.inc())?;
    }
    bar.finish();
    Ok(())
}

fn convert_splits(data: &Path, shards: &Path) -> Result<()> {
    for split in ["train", "val"] {
        let reader =
            open(data, &OpenOptions { split: split.to_owned(), ..OpenOptions::default() })?;
        let options = ConvertOptions {
            shard_size: 4 << 20,
            on_error: OnBroken::Fail,
            workers: default_workers(),
            split: split.to_owned(),
            ..ConvertOptions::default()
        };
        convert(reader.as_ref(), "tubelet demo", &shards.join(split), &options, &|_, _| {})?;
    }
    Ok(())
}

fn draw_preview(shards: &Path, preview: &Path) -> Result<()> {
    crate::preview::draw(shards, "videomae-tiny", 4, preview)
}

fn options(recipe: &RecipeFile, shards: &Path, out: &Path, seed: u64) -> Result<RunOptions> {
    if out.exists() {
        std::fs::remove_dir_all(out).with_context(|| out.display().to_string())?;
    }
    Ok(RunOptions {
        recipe: recipe.clone(),
        data: shards.join("train"),
        open: OpenOptions::default(),
        out: out.to_owned(),
        resume: false,
        seed,
        workers: default_workers(),
        makers: tubelet_loader::HostMakers::shared(),
        max_steps: None,
        checkpoint_every: 0,
        device: Device::Cpu,
        precision: Precision::F32,
        progress: true,
    })
}

/// Fine-tunes with one or more seeds; `init` is a pre-training run.
fn tune(
    args: &DemoArgs,
    recipe: &RecipeFile,
    shards: &Path,
    name: &'static str,
    init: Option<&Path>,
    seeds: u64,
) -> Result<Outcome> {
    let mut outcome = Outcome { name, top1: Vec::new(), metrics: Vec::new() };
    for n in 0..seeds {
        let kind = if init.is_some() { "finetune" } else { "scratch" };
        let out = args.out.join(format!("{kind}-{n}"));
        let val = OpenOptions { split: "val".to_owned(), ..OpenOptions::default() };
        let summary = finetune(&FinetuneOptions {
            run: options(recipe, shards, &out, args.seed + n)?,
            val: Some((shards.join("val"), val)),
            validate_every: 2,
            init: init.map(Path::to_owned),
        })?;
        let accuracy = summary.accuracy.context("the evaluation gave nothing")?;
        outcome.top1.push(accuracy.top1);
        if n == 0 {
            outcome.metrics = summary.metrics;
        }
    }
    Ok(outcome)
}

/// Everything the report tells.
struct Facts<'a> {
    args: &'a DemoArgs,
    times: &'a Times,
    pretraining: &'a [Metric],
    outcomes: &'a [Outcome],
    preview: &'a [u8],
    reconstructions: &'a [u8],
}

impl Facts<'_> {
    fn print(&self) {
        for outcome in self.outcomes {
            eprintln!("{:<20} top-1 {}", outcome.name, accuracy_text(&outcome.top1));
        }
        for (name, seconds) in self.time_rows() {
            eprintln!("{name:<24} {seconds:>9}");
        }
    }

    fn page(&self) -> Page {
        let args = self.args;
        let mut page = Page::new("tubelet demo");
        page.text(&format!(
            "{} training and {} validation clips of {} motions ({}) that only motion tells apart; \
             VideoMAE, recipe videomae-tiny, seed {}. Both runs have the same recipe and number of \
             steps; chance is {:.1} %.",
            args.train,
            args.val,
            MOTIONS.len(),
            MOTIONS.join(", "),
            args.seed,
            100.0 / MOTIONS.len() as f64
        ));
        page.heading("Top-1 accuracy on the validation clips")
            .table(self.outcomes.iter().map(|o| (o.name, accuracy_text(&o.top1))));
        let accuracy = |o: &Outcome| {
            let of = |m: &Metric| Some((m.step as f64, 100.0 * m.validation.as_ref()?.top1));
            o.metrics.iter().filter_map(of).collect::<Vec<_>>()
        };
        let lines: Vec<_> = self.outcomes.iter().map(|o| Line::new(o.name, accuracy(o))).collect();
        page.chart("top-1 in %", &lines);
        page.heading("Loss of pre-training")
            .chart("loss", &[Line::loss("pre-training", self.pretraining)])
            .text(&format!("{:.1} % of the steps' time was spent waiting for data.", self.wait()));
        let lines: Vec<_> = self.outcomes.iter().map(|o| Line::loss(o.name, &o.metrics)).collect();
        page.heading("Loss of fine-tuning").chart("loss", &lines);
        page.heading("What the network sees").picture(self.preview, PREVIEW_CAPTION);
        page.heading("What it predicts").picture(self.reconstructions, RECONSTRUCTIONS_CAPTION);
        page.heading("Where the time went").table(self.time_rows());
        page
    }

    /// Mean share of the pre-training steps' time spent waiting for data, in %.
    fn wait(&self) -> f64 {
        let sum: f64 = self.pretraining.iter().map(|m| m.data_wait).sum();
        100.0 * sum / self.pretraining.len().max(1) as f64
    }

    fn time_rows(&self) -> Vec<(&'static str, String)> {
        let total: f64 = self.times.iter().map(|(_, s)| s).sum();
        let all = self.times.iter().copied().chain([("together", total)]);
        all.map(|(name, seconds)| (name, format!("{seconds:.1} s"))).collect()
    }
}

const PREVIEW_CAPTION: &str =
    "For each clip: frames as cropped, hidden tokens grey, targets of the hidden tokens.";

/// `71.5 %`, or mean, spread and all values where there are several.
fn accuracy_text(top1: &[f64]) -> String {
    let n = top1.len() as f64;
    let mean = top1.iter().sum::<f64>() / n;
    if top1.len() < 2 {
        return format!("{:.1} %", 100.0 * mean);
    }
    let spread = (top1.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let all: Vec<String> = top1.iter().map(|t| format!("{:.1}", 100.0 * t)).collect();
    format!("{:.1} ± {:.1} % ({})", 100.0 * mean, 100.0 * spread, all.join(", "))
}
