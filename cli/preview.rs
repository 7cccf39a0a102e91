//! `tubelet preview`: what a recipe makes of samples, as one picture.
//!
//! A row of a batch is a title and its panels: the original with the regions of the views, what is
//! cropped, what each pass hides, what is predicted, further views, what erasing and mixing leave. Each
//! panel has its label; a panel of a clip is a line of frames. All rows of a sample are drawn; the
//! crops that an evaluation makes of one clip stand together.

mod panels;
mod rows;
mod sheet;
mod target;
mod views;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::RgbImage;
use rows::{Rows, Sample};
use tubelet_augment::{Recipe, Stage};
use tubelet_formats::ShardReader;

use crate::common::{DataArgs, RecipeArgs, Usage};

#[derive(Args)]
pub(crate) struct PreviewArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Stage of the recipe: pretrain, finetune or eval
    #[arg(long = "for", value_name = "STAGE", default_value_t = Stage::Pretrain)]
    stage: Stage,
    /// Number of samples; all rows of each are drawn. Where the stage mixes rows, those that fit in a
    /// batch are mixed with each other
    #[arg(long, default_value_t = 4)]
    samples: usize,
    /// First sample
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Frames of a clip that are drawn
    #[arg(long, default_value_t = 8)]
    frames: usize,
    /// Seed of every draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Epoch of the draws, and of the shape where it changes by epoch
    #[arg(long, default_value_t = 0)]
    epoch: u32,
    /// Number of the batch in the epoch: its shape where that changes from batch to batch, and how
    /// its rows are mixed
    #[arg(long, value_name = "N", default_value_t = 0)]
    batch: u64,
    /// PNG file to write
    #[arg(short, long, value_name = "FILE", default_value = "preview.png")]
    output: PathBuf,
}

/// Draws the first `samples` samples of a data set through a built-in recipe.
pub(crate) fn draw(
    data: &std::path::Path,
    recipe: &str,
    samples: usize,
    output: &std::path::Path,
) -> Result<()> {
    let args = PreviewArgs {
        data: DataArgs { path: data.to_owned(), how: crate::common::HowArgs::default() },
        recipe: RecipeArgs { recipe: recipe.to_owned(), set: Vec::new() },
        stage: Stage::Pretrain,
        samples,
        first: 0,
        frames: 8,
        seed: 0,
        epoch: 0,
        batch: 0,
        output: output.to_owned(),
    };
    run(&args).map(|_| ())
}

pub(crate) fn run(args: &PreviewArgs) -> Result<bool> {
    let shards = args.data.open()?;
    let whole = args.recipe.stage(args.stage)?;
    let end = args.first.saturating_add(args.samples).min(shards.len());
    if args.first >= end {
        bail!(Usage(format!("--first {}: the data set has {} samples", args.first, shards.len())));
    }
    let strips = strips(args, shards.as_ref(), &whole, end)?;
    if strips.is_empty() {
        bail!("no sample could be drawn");
    }
    let picture = sheet::stack(&strips);
    picture.save(&args.output).with_context(|| args.output.display().to_string())?;
    eprintln!("written to {}", args.output.display());
    Ok(true)
}

/// The samples from the first one to `end`, batch by batch.
fn strips(
    args: &PreviewArgs,
    shards: &dyn ShardReader,
    whole: &Recipe,
    end: usize,
) -> Result<Vec<RgbImage>> {
    let (mut strips, mut number) = (Vec::new(), args.batch);
    let mut batch: Vec<Sample<'_>> = Vec::new();
    for n in args.first..end {
        let name = shards.record(n).name;
        match Sample::read(args, shards, whole, n) {
            Ok(sample) => {
                eprintln!("sample {n}: {name}");
                if !sample.fits(&batch) {
                    draw_batch(args, whole, &batch, number, &mut strips)?;
                    batch.clear();
                    number += 1;
                }
                batch.push(sample);
            }
            Err(error) => eprintln!("sample {n}: {name}: left out: {error:#}"),
        }
    }
    draw_batch(args, whole, &batch, number, &mut strips)?;
    Ok(strips)
}

/// Draws all rows of `batch`, samples of one shape.
fn draw_batch(
    args: &PreviewArgs,
    whole: &Recipe,
    batch: &[Sample<'_>],
    number: u64,
    strips: &mut Vec<RgbImage>,
) -> Result<()> {
    let Some(shape) = batch.first().map(|sample| sample.shape) else { return Ok(()) };
    let rows = Rows::render(args, shape, batch, number)?;
    let mut first = 0;
    for sample in batch {
        for (n, plans) in sample.together().enumerate() {
            let drawer = rows.drawer(sample, plans, first);
            let title = format!("{}{}", sample.title(n), shape_text(args, whole, shape));
            strips.push(sheet::strip(&title, &drawer.panels(args.frames), drawer.cell()));
            first += plans.len();
        }
    }
    Ok(())
}

/// Which of several shapes `shape` is.
fn shape_text(args: &PreviewArgs, whole: &Recipe, shape: &Recipe) -> String {
    let (size, rows) = (shape.size(), shape.batch_size());
    let of_batch = match (whole.phases(), whole.buckets()) {
        ([], None) => return String::new(),
        (_, Some(_)) => "bucket".to_owned(),
        _ => format!("epoch {}, batch {}", args.epoch, args.batch),
    };
    let frames = match shape.frames() {
        1 => String::new(),
        frames => format!("{frames} frames of "),
    };
    format!("; {of_batch}: {frames}{}x{}, {rows} rows a batch", size.height, size.width)
}
