//! Pictures of what a pre-trained network sees and predicts.

use image::{Rgb, RgbImage, imageops};
use tubelet_augment::target::hog::HogSpec;
use tubelet_augment::{HostTensors, Recipe, TargetSpec};

/// Width of the lines between pictures.
const GAP: u32 = 4;
/// Hidden tokens.
const HIDDEN: Rgb<u8> = Rgb([128; 3]);
/// Frames of a clip that are shown.
const SHOWN_FRAMES: usize = 8;
/// Pictures are drawn at least this wide.
const MIN_SIDE: u32 = 96;

/// Every row of `batch`: the input, the input with hidden tokens grey, and `predicted`
/// `[hidden, target dim]` (by row, then by token) in the hidden tokens' places; a column a frame.
///
/// Normalised pixels are shown with the mean and spread that the true pixels of the token have in
/// each channel, as the references' own pictures do.
pub fn reconstructions(recipe: &Recipe, batch: &HostTensors, predicted: &[f32]) -> RgbImage {
    let chosen = shown_frames(recipe, batch);
    let shown = &chosen[..chosen.len().min(SHOWN_FRAMES)];
    let zoom = MIN_SIDE.div_ceil(batch.width.max(1) as u32).max(1);
    let (width, height) = (batch.width as u32 * zoom, batch.height as u32 * zoom);
    let mut out = RgbImage::from_pixel(
        shown.len() as u32 * (width + GAP) + GAP,
        (batch.rows * 3) as u32 * (height + GAP) + batch.rows as u32 * GAP,
        Rgb([255; 3]),
    );
    let mut predicted = predicted;
    for row in 0..batch.rows {
        let hidden = batch.masked_count.get(row).map_or(0, |c| *c as usize);
        let (own, rest) = predicted.split_at(hidden * batch.target_dim);
        predicted = rest;
        for (column, (frame, inside)) in shown.iter().enumerate() {
            let pictures = Row { recipe, batch, row, predicted: own }.draw(*frame, *inside);
            for (line, picture) in pictures.iter().enumerate() {
                let left = GAP + column as u32 * (width + GAP);
                let top = (row * 3 + line) as u32 * (height + GAP) + (row as u32 + 1) * GAP;
                let filter = imageops::FilterType::Nearest;
                let picture = imageops::resize(picture, width, height, filter);
                imageops::replace(&mut out, &picture, i64::from(left), i64::from(top));
            }
        }
    }
    out
}

/// The first frame of each time slot that has a target, and its number among the slot's targets.
fn shown_frames(recipe: &Recipe, batch: &HostTensors) -> Vec<(usize, usize)> {
    let slots = recipe.grid().t as usize;
    match recipe.target() {
        TargetSpec::Pixels(spec) => {
            let frames = spec.frames.indices(batch.frames as u32);
            let per_slot = (frames.len() / slots.max(1)).max(1);
            frames.chunks(per_slot).map(|slot| (slot[0] as usize, 0)).collect()
        }
        _ => (0..slots).map(|slot| (slot * recipe.patch().t as usize, 0)).collect(),
    }
}

/// One row of a batch with its predictions.
struct Row<'a> {
    recipe: &'a Recipe,
    batch: &'a HostTensors,
    row: usize,
    predicted: &'a [f32],
}

impl Row<'_> {
    /// Input, masked input and reconstruction of frame `frame`, number `inside` of its slot.
    fn draw(&self, frame: usize, inside: usize) -> [RgbImage; 3] {
        let batch = self.batch;
        let input = RgbImage::from_fn(batch.width as u32, batch.height as u32, |x, y| {
            Rgb([0, 1, 2].map(|c| grey(self.pixel(frame, x, y, c))))
        });
        let (mut masked, mut rebuilt) = (input.clone(), input.clone());
        let patch = self.recipe.patch();
        let (grid, dim) = (self.recipe.grid(), batch.target_dim);
        let plane = grid.plane();
        let slot = frame / patch.t as usize;
        let tokens = &batch.masked[self.row * batch.max_masked..][..batch.max_masked];
        for (n, predicted) in self.predicted.chunks_exact(dim.max(1)).enumerate() {
            let token = tokens[n] as usize;
            if token / plane != slot {
                continue;
            }
            let cell = (token % plane) as u32;
            let (left, top) = (cell % grid.w * patch.w, cell / grid.w * patch.h);
            for (x, y) in pixels_of(patch.w, patch.h) {
                masked.put_pixel(left + x, top + y, HIDDEN);
            }
            match self.recipe.target() {
                TargetSpec::None => {}
                TargetSpec::Hog(spec) => {
                    draw_hog(&mut rebuilt, predicted, &spec, patch.w, left, top)
                }
                TargetSpec::HogPicture => {
                    let pixels = pixels_of(patch.w, patch.h).zip(predicted);
                    for ((x, y), value) in pixels {
                        rebuilt.put_pixel(left + x, top + y, Rgb([grey(*value); 3]));
                    }
                }
                TargetSpec::Pixels(spec) => {
                    let start = (self.row * batch.max_masked + n) * dim;
                    let target = &batch.targets[start..start + dim];
                    let at = |x: u32, y: u32, c: u32| {
                        let frames = dim as u32 / (3 * patch.h * patch.w);
                        spec.order.index(patch, [frames, inside as u32], [y, x], c)
                    };
                    self.rebuild(&mut rebuilt, frame, at, target, predicted, left, top);
                }
            }
        }
        [input, masked, rebuilt]
    }

    /// Draws predicted pixels. Target and pixel are related by one affine map a channel and token,
    /// found from the true values of this frame.
    fn rebuild(
        &self,
        out: &mut RgbImage,
        frame: usize,
        at: impl Fn(u32, u32, u32) -> usize,
        target: &[f32],
        predicted: &[f32],
        left: u32,
        top: u32,
    ) {
        let patch = self.recipe.patch();
        for c in 0..3 {
            let at = |x: u32, y: u32| at(x, y, c as u32);
            let pixels = || {
                pixels_of(patch.w, patch.h).map(|(x, y)| self.pixel(frame, left + x, top + y, c))
            };
            let targets = || pixels_of(patch.w, patch.h).map(|(x, y)| target[at(x, y)]);
            let (pixel_mean, pixel_spread) = mean_spread(pixels);
            let (target_mean, target_spread) = mean_spread(targets);
            let scale = if target_spread > 1e-6 { pixel_spread / target_spread } else { 0.0 };
            for (x, y) in pixels_of(patch.w, patch.h) {
                let value = (predicted[at(x, y)] - target_mean) * scale + pixel_mean;
                out.get_pixel_mut(left + x, top + y).0[c] = grey(value);
            }
        }
    }

    /// Pixel value, 0 to 1.
    fn pixel(&self, frame: usize, x: u32, y: u32, c: usize) -> f32 {
        let batch = self.batch;
        let plane = batch.height * batch.width;
        let index = ((self.row * 3 + c) * batch.frames + frame) * plane
            + y as usize * batch.width
            + x as usize;
        let normalise = self.recipe.normalise();
        batch.pixels[index] * normalise.std[c] + normalise.mean[c]
    }
}

fn pixels_of(width: u32, height: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..height).flat_map(move |y| (0..width).map(move |x| (x, y)))
}

fn mean_spread<I: Iterator<Item = f32>>(values: impl Fn() -> I) -> (f32, f32) {
    let count = values().count().max(1) as f32;
    let mean = values().sum::<f32>() / count;
    let square = values().map(|v| (v - mean).powi(2)).sum::<f32>() / count;
    (mean, square.sqrt())
}

fn grey(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

/// The orientation histograms of one token (`values` ordered channel, bin, cell row, cell column)
/// as lines on black at (`left`, `top`): strength is brightness, colours are averaged.
pub fn draw_hog(
    out: &mut RgbImage,
    values: &[f32],
    spec: &HogSpec,
    patch: u32,
    left: u32,
    top: u32,
) {
    let (bins, cell) = (spec.bins, spec.cell);
    let cells = patch / cell;
    for (x, y) in pixels_of(patch, patch) {
        out.put_pixel(left + x, top + y, Rgb([0; 3]));
    }
    for (column, row) in pixels_of(cells, cells) {
        for bin in 0..bins {
            let strength: f32 = (0..3)
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
                *pixel = Rgb([pixel.0[0].max(grey(strength)); 3]);
            }
        }
    }
}
