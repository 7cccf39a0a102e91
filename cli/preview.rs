//! `tubelet preview`: what a recipe makes of samples, as one picture.
//!
//! A sample is three rows (cropped frames, the same with hidden tokens grey, targets of the hidden
//! tokens), a column a frame; pictures are one column, with the original beside it.

mod views;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::{Rgb, RgbImage, imageops};
use tubelet_augment::plan::Scratch;
use tubelet_augment::target::pixels::{PatchNorm, PixelSpec};
use tubelet_augment::{HostStage, HostTensors, Recipe, SamplePlan, Stage, TargetSpec};
use tubelet_core::layout::NO_LABEL;
use tubelet_core::{
    BatchRef, Clip, Heap, HostMemory, MediaInfo, RowMut, SampleId, SampleKey, Size,
};
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

/// Width of the lines between pictures.
const GAP: u32 = 4;
/// Paper colour.
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Hidden tokens.
const HIDDEN: u8 = 128;
/// Pictures are drawn at least this wide.
const MIN_SIDE: u32 = 112;

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
    let recipe = whole.shape(args.epoch, 0);
    let end = (args.first + args.samples).min(shards.len());
    if args.first >= end {
        bail!(Usage(format!("--first {}: the data set has {} samples", args.first, shards.len())));
    }
    let mut strips = Vec::new();
    for n in args.first..end {
        let name = shards.record(n).name;
        match draw_sample(args, shards.as_ref(), recipe, n) {
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
    let picture = stack(&strips);
    picture.save(&args.output).with_context(|| args.output.display().to_string())?;
    eprintln!("rows: {}; written to {}", views::legend(recipe), args.output.display());
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
    let sample = SampleId(n as u64);
    let key = SampleKey { seed: args.seed, epoch: args.epoch, sample, repeat: 0 };
    let plan = recipe.plan(key, &info)?;
    let want = FrameRequest { frames: plan.frames(), region: None, planes: false };
    decoder.decode(bytes, &info, &want, &mut clip)?;

    let layout = recipe.layout_of(args.epoch, 1);
    let memory = Heap.allocate(layout.bytes)?;
    // SAFETY: the buffer has the layout's bytes, the layout one row, and nothing else refers to it.
    let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), 0) };
    recipe
        .render(&plan, &clip, &mut Scratch::default(), &mut row)
        .map_err(|frame| anyhow::anyhow!("frame {frame} was not decoded"))?;
    row.set_facts(record.label.unwrap_or(NO_LABEL), n as u64);
    let batch = BatchRef::new(&layout, memory.as_slice(), 1);
    let tensors = HostStage::new(recipe).run(batch);
    let drawer = Drawer { recipe, batch, tensors: &tensors };
    Ok(drawer.strip(&plan, &clip, args.frames))
}

/// Draws one row of a batch.
struct Drawer<'a> {
    recipe: &'a Recipe,
    batch: BatchRef<'a>,
    tensors: &'a HostTensors,
}

impl Drawer<'_> {
    fn strip(&self, plan: &SamplePlan, clip: &Clip, most: usize) -> RgbImage {
        let frames = self.tensors.frames;
        let shown: Vec<usize> = if frames <= most {
            (0..frames).collect()
        } else {
            (0..most).map(|k| k * frames / most).collect()
        };
        let size = self.recipe.size();
        let zoom = MIN_SIDE.div_ceil(size.width).max(1);
        let cell = Size::new(size.width * zoom, size.height * zoom);
        let mut columns: Vec<[RgbImage; 3]> = shown.iter().map(|t| self.column(*t)).collect();
        if frames == 1 {
            let blank = || RgbImage::from_pixel(1, 1, PAPER);
            columns.insert(0, [original(plan, clip), blank(), blank()]);
        }
        let lines = if self.recipe.stage() == Stage::Pretrain { 3 } else { 2 };
        let width = columns.len() as u32 * (cell.width + GAP) + GAP;
        let mut out = RgbImage::from_pixel(width, lines * (cell.height + GAP) + 2 * GAP, PAPER);
        for (x, column) in columns.iter().enumerate() {
            for (y, picture) in column.iter().enumerate().take(lines as usize) {
                let fitted = fit(picture, cell);
                let left = GAP + x as u32 * (cell.width + GAP);
                let top = GAP + y as u32 * (cell.height + GAP);
                imageops::replace(&mut out, &fitted, i64::from(left), i64::from(top));
            }
        }
        match views::strip(self.batch, &shown, cell) {
            Some(further) => stack(&[out, further]),
            None => out,
        }
    }

    /// Frame `t` as cropped, masked, and its target; outside of pre-training as cropped and erased.
    fn column(&self, t: usize) -> [RgbImage; 3] {
        let size = self.recipe.size();
        let bytes = size.area() * 3;
        let frame = self.batch.pixels(0)[t * bytes..(t + 1) * bytes].to_vec();
        let cropped = RgbImage::from_raw(size.width, size.height, frame)
            .unwrap_or_else(|| RgbImage::new(size.width, size.height));
        if self.recipe.stage() != Stage::Pretrain {
            let erased = views::float_frame(self.tensors, self.recipe.normalise(), t);
            return [cropped, erased, RgbImage::from_pixel(1, 1, PAPER)];
        }
        let mut masked = cropped.clone();
        let mut target = dimmed(&cropped);
        let patch = self.recipe.patch();
        let slot = t / patch.t as usize;
        let plane = self.recipe.grid().plane();
        for (n, token) in self.tensors.masked.iter().enumerate().take(self.hidden()) {
            let (token_slot, cell) = (*token as usize / plane, *token as usize % plane);
            if token_slot != slot {
                continue;
            }
            let columns = self.recipe.grid().w as usize;
            let left = (cell % columns) as u32 * patch.w;
            let top = (cell / columns) as u32 * patch.h;
            for y in 0..patch.h {
                for x in 0..patch.w {
                    masked.put_pixel(left + x, top + y, Rgb([HIDDEN; 3]));
                }
            }
            self.draw_target(&mut target, n, t, left, top);
        }
        [cropped, masked, target]
    }

    fn hidden(&self) -> usize {
        self.tensors.masked_count.first().map_or(0, |c| *c as usize)
    }

    /// The target of the `n`-th hidden token, at its place in frame `t`.
    fn draw_target(&self, out: &mut RgbImage, n: usize, t: usize, left: u32, top: u32) {
        let dim = self.tensors.target_dim;
        let values = &self.tensors.targets[n * dim..(n + 1) * dim];
        let patch = self.recipe.patch();
        match self.recipe.target() {
            TargetSpec::None => {}
            TargetSpec::Pixels(PixelSpec { norm, frames, order }) => {
                let per_slot =
                    frames.indices(self.recipe.frames()).len() as u32 / self.recipe.grid().t;
                let inside = (t as u32 % patch.t).min(per_slot - 1);
                let normalise = self.recipe.normalise();
                for y in 0..patch.h {
                    for x in 0..patch.w {
                        let grey = |c: usize| {
                            let at = order.index(patch, [per_slot, inside], [y, x], c as u32);
                            let value = values[at];
                            let shown = match norm {
                                PatchNorm::Raw => value * normalise.std[c] + normalise.mean[c],
                                PatchNorm::Unit => value,
                                _ => 0.5 + value * 0.2,
                            };
                            (shown * 255.0).clamp(0.0, 255.0) as u8
                        };
                        out.put_pixel(left + x, top + y, Rgb([grey(0), grey(1), grey(2)]));
                    }
                }
            }
            TargetSpec::Hog(spec) => {
                draw_hog(out, values, spec.bins, spec.cell, patch.w, left, top)
            }
            TargetSpec::HogPicture => {
                let frame = &values[(t as u32 % patch.t * patch.h * patch.w) as usize..];
                let pixels = (0..patch.h * patch.w).zip(frame);
                for (at, value) in pixels {
                    let grey = Rgb([(value * 255.0).clamp(0.0, 255.0) as u8; 3]);
                    out.put_pixel(left + at % patch.w, top + at / patch.w, grey);
                }
            }
        }
    }
}

/// Orientation histograms of one token as lines, strength as brightness, colours averaged.
/// `values` is ordered channel, bin, cell row, cell column.
fn draw_hog(
    out: &mut RgbImage,
    values: &[f32],
    bins: u32,
    cell: u32,
    patch: u32,
    left: u32,
    top: u32,
) {
    let cells = patch / cell;
    for y in 0..patch {
        for x in 0..patch {
            out.put_pixel(left + x, top + y, Rgb([0; 3]));
        }
    }
    for row in 0..cells {
        for column in 0..cells {
            for bin in 0..bins {
                let strength: f32 = (0..3u32)
                    .map(|c| values[(((c * bins + bin) * cells + row) * cells + column) as usize])
                    .sum::<f32>()
                    / 3.0;
                let centre_x = left as f32 + (column * cell) as f32 + cell as f32 / 2.0 - 0.5;
                let centre_y = top as f32 + (row * cell) as f32 + cell as f32 / 2.0 - 0.5;
                // The angle is measured from the y axis; the edge runs across the gradient.
                let angle = (bin as f32 + 0.5) * std::f32::consts::PI / bins as f32;
                let (dx, dy) = (angle.cos(), -angle.sin());
                let half = cell as f32 / 2.0 - 0.5;
                for step in 0..=cell {
                    let along = (step as f32 / cell as f32 * 2.0 - 1.0) * half;
                    let (x, y) = (centre_x + along * dx, centre_y + along * dy);
                    let pixel = out.get_pixel_mut(x.round() as u32, y.round() as u32);
                    let lit = (strength * 255.0).clamp(0.0, 255.0) as u8;
                    *pixel = Rgb([pixel.0[0].max(lit); 3]);
                }
            }
        }
    }
}

/// The whole source frame with the views' regions.
fn original(plan: &SamplePlan, clip: &Clip) -> RgbImage {
    let size = clip.size();
    let mut out = RgbImage::from_raw(size.width, size.height, clip.nth(0).to_vec())
        .unwrap_or_else(|| RgbImage::new(size.width, size.height));
    views::outline(&mut out, plan, size);
    out
}

/// Visible tokens as background of a target.
fn dimmed(picture: &RgbImage) -> RgbImage {
    let mut out = picture.clone();
    for pixel in out.pixels_mut() {
        pixel.0 = pixel.0.map(|v| 160 + v / 4);
    }
    out
}

/// `picture` scaled to fit into `cell`, on paper.
fn fit(picture: &RgbImage, cell: Size) -> RgbImage {
    let (w, h) = picture.dimensions();
    let scale = (f64::from(cell.width) / f64::from(w)).min(f64::from(cell.height) / f64::from(h));
    let width = ((f64::from(w) * scale) as u32).clamp(1, cell.width);
    let height = ((f64::from(h) * scale) as u32).clamp(1, cell.height);
    let filter =
        if scale >= 1.0 { imageops::FilterType::Nearest } else { imageops::FilterType::Triangle };
    let scaled = imageops::resize(picture, width, height, filter);
    let mut out = RgbImage::from_pixel(cell.width, cell.height, PAPER);
    let (x, y) = ((cell.width - width) / 2, (cell.height - height) / 2);
    imageops::replace(&mut out, &scaled, i64::from(x), i64::from(y));
    out
}

/// Strips one below the other.
fn stack(strips: &[RgbImage]) -> RgbImage {
    let width = strips.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = strips.iter().map(RgbImage::height).sum::<u32>().max(1);
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    let mut top = 0;
    for strip in strips {
        imageops::replace(&mut out, strip, 0, i64::from(top));
        top += strip.height();
    }
    out
}
