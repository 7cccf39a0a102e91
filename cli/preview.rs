//! `tubelet preview`: what a recipe makes of samples, as one picture.
//!
//! A sample is a title and its panels: the original with the regions of the views, what is cropped,
//! what each pass hides, what is predicted, further views. Each panel has its label; a panel of a clip
//! is a line of frames.

mod panels;
mod sheet;
mod target;
mod views;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::RgbImage;
use panels::Drawer;
use tubelet_augment::plan::Scratch;
use tubelet_augment::{HostStage, Recipe, Stage};
use tubelet_core::layout::NO_LABEL;
use tubelet_core::{BatchRef, Clip, Heap, HostMemory, MediaInfo, RowMut, SampleId, SampleKey};
use tubelet_formats::{FrameRequest, ShardReader, decoder};

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
    /// Number of samples
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
    /// Epoch of the draws
    #[arg(long, default_value_t = 0)]
    epoch: u32,
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
        output: output.to_owned(),
    };
    run(&args).map(|_| ())
}

pub(crate) fn run(args: &PreviewArgs) -> Result<bool> {
    let shards = args.data.open()?;
    let whole = args.recipe.stage(args.stage)?;
    let end = (args.first + args.samples).min(shards.len());
    if args.first >= end {
        bail!(Usage(format!("--first {}: the data set has {} samples", args.first, shards.len())));
    }
    let mut strips = Vec::new();
    for n in args.first..end {
        let name = shards.record(n).name;
        match draw_sample(args, shards.as_ref(), &whole, n) {
            Ok(strip) => {
                eprintln!("sample {n}: {name}");
                strips.push(strip);
            }
            Err(error) => eprintln!("sample {n}: {name}: left out: {error:#}"),
        }
    }
    if strips.is_empty() {
        bail!("no sample could be drawn");
    }
    let picture = sheet::stack(&strips);
    picture.save(&args.output).with_context(|| args.output.display().to_string())?;
    eprintln!("written to {}", args.output.display());
    Ok(true)
}

/// One sample through the recipe, as a strip of pictures.
fn draw_sample(
    args: &PreviewArgs,
    shards: &dyn ShardReader,
    recipe: &Recipe,
    n: usize,
) -> Result<RgbImage> {
    let record = shards.record(n);
    let (mut buf, mut decoder, mut clip) = (Vec::new(), decoder(), Clip::new());
    let bytes = shards.read(&record, &mut buf)?;
    let info: MediaInfo = match &record.info {
        Some(info) => info.as_ref().clone(),
        None => decoder.probe(bytes)?,
    };
    let recipe = recipe.shape_for(args.epoch, 0, info.size);
    let sample = SampleId(n as u64);
    let key = SampleKey { seed: args.seed, epoch: args.epoch, sample, repeat: 0 };
    let plan = recipe.plan(key, &info)?;
    let want = FrameRequest { frames: plan.frames(), region: None, planes: false };
    decoder.decode(bytes, &info, &want, &mut clip)?;

    let layout = recipe.rows_layout(1);
    let memory = Heap.allocate(layout.bytes)?;
    // SAFETY: the buffer has the layout's bytes, the layout one row, and nothing else refers to it.
    let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), 0) };
    recipe
        .render(&plan, &clip, &mut Scratch::default(), &mut row)
        .map_err(|frame| anyhow::anyhow!("frame {frame} was not decoded"))?;
    row.set_facts(record.label.unwrap_or(NO_LABEL), n as u64);
    let batch = BatchRef::new(&layout, memory.as_slice(), 1);
    let tensors = HostStage::new(recipe).run(batch);
    let drawer = Drawer { recipe, batch, tensors: &tensors, plan: &plan, clip: &clip };
    let panels = drawer.panels(args.frames);
    Ok(sheet::strip(&format!("sample {n}: {}", record.name), &panels, drawer.cell()))
}
