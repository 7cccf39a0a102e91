//! `tubelet demo`: the whole path on a data set made on the spot.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use tubelet_augment::RecipeFile;
use tubelet_formats::convert::{ConvertOptions, OnBroken, convert};
use tubelet_formats::{OpenOptions, open};
use tubelet_trainer::run::Metric;
use tubelet_trainer::{Device, FinetuneOptions, RunOptions, finetune, pretrain};

use crate::common::{default_workers, progress, recipe_file};
use crate::motion::{MOTIONS, write_split};

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Folder for data, runs and report
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Training clips
    #[arg(long, default_value_t = 400)]
    train: u32,
    /// Validation clips
    #[arg(long, default_value_t = 200)]
    val: u32,
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
    let report = args.out.join("report.html");
    let facts =
        Facts { args, times: &times, pretraining: &pretrained.metrics, outcomes: &outcomes };
    std::fs::write(&report, facts.html(&preview)?).with_context(|| report.display().to_string())?;
    facts.print();
    eprintln!("report: {}", report.display());
    Ok(true)
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
        write_split(data, split, count, seed, &|| bar.inc(1))?;
    }
    bar.finish_and_clear();
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
        max_steps: None,
        checkpoint_every: 0,
        device: Device::Cpu,
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
}

impl Facts<'_> {
    fn print(&self) {
        for outcome in self.outcomes {
            eprintln!("{:<20} top-1 {}", outcome.name, accuracy_text(&outcome.top1));
        }
        let total: f64 = self.times.iter().map(|(_, s)| s).sum();
        for (name, seconds) in self.times {
            eprintln!("{name:<24} {seconds:7.1} s");
        }
        eprintln!("{:<24} {total:7.1} s", "together");
    }

    /// A page without any other file: curves as SVG, the preview inside.
    fn html(&self, preview: &Path) -> Result<String> {
        use base64::Engine;
        let picture = std::fs::read(preview).with_context(|| preview.display().to_string())?;
        let picture = base64::engine::general_purpose::STANDARD.encode(picture);
        let rows: String = self
            .outcomes
            .iter()
            .map(|o| format!("<tr><td>{}</td><td>{}</td></tr>", o.name, accuracy_text(&o.top1)))
            .collect();
        let times: String = self
            .times
            .iter()
            .map(|(name, s)| format!("<tr><td>{name}</td><td>{s:.1} s</td></tr>"))
            .collect();
        let tuning: Vec<(&str, &[Metric])> =
            self.outcomes.iter().map(|o| (o.name, o.metrics.as_slice())).collect();
        let wait = self.pretraining.iter().map(|m| m.data_wait).sum::<f64>()
            / self.pretraining.len().max(1) as f64;
        Ok(format!(
            "<!doctype html><meta charset=utf-8><title>tubelet demo</title>\
             <style>body{{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
             td,th{{padding:.2rem .8rem;text-align:left}}img{{max-width:100%}}</style>\
             <h1>tubelet demo</h1>\
             <p>{} training and {} validation clips of {} motions ({}) that only motion tells apart; \
             VideoMAE, recipe videomae-tiny, seed {}. Chance is {:.1} %.</p>\
             <h2>Top-1 accuracy on the validation clips</h2><table>{rows}</table>\
             <h2>Loss of pre-training</h2>{}<p>{:.1} % of the steps' time was spent waiting for data.</p>\
             <h2>Loss of fine-tuning</h2>{}\
             <h2>What the network sees and predicts</h2>\
             <p>For each clip: frames as cropped, hidden tokens grey, targets of the hidden tokens.</p>\
             <img alt=preview src=\"data:image/png;base64,{picture}\">\
             <h2>Where the time went</h2><table>{times}</table>",
            self.args.train,
            self.args.val,
            MOTIONS.len(),
            MOTIONS.join(", "),
            self.args.seed,
            100.0 / MOTIONS.len() as f64,
            curves(&[("pre-training", self.pretraining)]),
            100.0 * wait,
            curves(&tuning),
        ))
    }
}

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

/// Loss curves, smoothed over a fiftieth of their length, as SVG.
fn curves(lines: &[(&str, &[Metric])]) -> String {
    const COLOURS: [&str; 3] = ["#c2410c", "#1d4ed8", "#15803d"];
    let (width, height) = (720.0, 240.0);
    let smooth: Vec<Vec<f64>> = lines
        .iter()
        .map(|(_, metrics)| {
            let window = (metrics.len() / 50).max(1);
            metrics
                .chunks(window)
                .map(|c| c.iter().map(|m| m.loss).sum::<f64>() / c.len() as f64)
                .collect()
        })
        .collect();
    let all = || smooth.iter().flatten().copied();
    let (low, high) =
        (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let span = (high - low).max(1e-9);
    let mut svg = format!(
        "<svg viewBox=\"-60 -10 {} {}\" width=\"100%\"><text x=-55 y=5 font-size=12>{high:.3}</text>\
         <text x=-55 y={height} font-size=12>{low:.3}</text>",
        width + 70.0,
        height + 40.0
    );
    for (n, ((name, _), values)) in lines.iter().zip(&smooth).enumerate() {
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let x = width * i as f64 / (values.len().max(2) - 1) as f64;
                format!("{x:.1},{:.1}", height * (high - v) / span)
            })
            .collect();
        let colour = COLOURS[n % COLOURS.len()];
        svg += &format!(
            "<polyline fill=none stroke=\"{colour}\" stroke-width=2 points=\"{}\"/>\
             <text x={} y={} fill=\"{colour}\" font-size=13>{name}</text>",
            points.join(" "),
            n * 180,
            height + 22.0
        );
    }
    svg + "</svg>"
}
