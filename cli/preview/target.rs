//! Targets as pictures.

use image::{Rgb, RgbImage};
use tubelet_augment::normalise::Normalise;
use tubelet_augment::target::hog::HogSpec;
use tubelet_augment::target::pixels::{PatchNorm, PixelSpec};
use tubelet_augment::{Recipe, TargetSpec};

/// How targets of a recipe are drawn.
pub(super) struct Targets<'a> {
    pub(super) recipe: &'a Recipe,
    /// Numbers of a token's target.
    pub(super) dim: usize,
}

/// The frames of `frames` that targets are made of; all where there is none.
pub(super) fn frames(target: TargetSpec, frames: u32, slot: u32) -> Vec<u32> {
    match target {
        TargetSpec::Pixels(spec) => spec.frames.indices(frames),
        TargetSpec::Hog(_) => (0..frames).step_by(slot.max(1) as usize).collect(),
        TargetSpec::HogPicture | TargetSpec::None => (0..frames).collect(),
    }
}

/// What a target is.
pub(super) fn name(target: TargetSpec) -> String {
    let pixels = |norm| match norm {
        PatchNorm::Raw => "mean/std-normalised pixels".to_owned(),
        PatchNorm::Unit => "pixels from 0 to 1".to_owned(),
        PatchNorm::Mae => "pixels standardised a token (MAE)".to_owned(),
        other => format!("pixels standardised a token and channel ({other:?})"),
    };
    match target {
        TargetSpec::None => "nothing".to_owned(),
        TargetSpec::Pixels(spec) => pixels(spec.norm),
        TargetSpec::Hog(spec) => format!("HOG of {} bins, cells of {} px", spec.bins, spec.cell),
        TargetSpec::HogPicture => "the picture of HOG".to_owned(),
    }
}

impl Targets<'_> {
    /// Draws a token's target at its place in frame `t`.
    pub(super) fn draw(&self, out: &mut RgbImage, values: &[f32], t: usize, at: (u32, u32)) {
        match self.recipe.target() {
            TargetSpec::None => {}
            TargetSpec::Pixels(spec) => self.pixels(out, spec, values, (t as u32, at)),
            TargetSpec::Hog(spec) => hog(out, values, spec, self.recipe.patch().w, at),
            TargetSpec::HogPicture => {
                let patch = self.recipe.patch();
                let first = t as u32 % patch.t * patch.h * patch.w;
                let values = &values[first as usize..];
                self.each_pixel(at, |x, y, n| out.put_pixel(x, y, grey(values[n as usize])));
            }
        }
    }

    fn pixels(
        &self,
        out: &mut RgbImage,
        spec: PixelSpec,
        values: &[f32],
        (t, at): (u32, (u32, u32)),
    ) {
        let patch = self.recipe.patch();
        let made = spec.frames.indices(self.recipe.frames());
        let slot = t / patch.t;
        let own: Vec<u32> = made
            .chunks((made.len() / self.recipe.grid().t as usize).max(1))
            .nth(slot as usize)
            .map(<[u32]>::to_vec)
            .unwrap_or_default();
        // Nearest where the frame itself is none of them.
        let inside = own.iter().rposition(|frame| *frame <= t).unwrap_or(0) as u32;
        let normalise = self.recipe.normalise();
        self.each_pixel(at, |x, y, n| {
            let pixel = [n / patch.w, n % patch.w];
            let index = |c| spec.order.index(patch, [own.len() as u32, inside], pixel, c);
            let level = |c: u32| level(spec.norm, values[index(c)], &normalise, c as usize);
            out.put_pixel(x, y, Rgb([level(0), level(1), level(2)]));
        });
    }

    /// Columns and rows of a token's pixels and their numbers.
    fn each_pixel(&self, (left, top): (u32, u32), mut visit: impl FnMut(u32, u32, u32)) {
        let patch = self.recipe.patch();
        for n in 0..patch.h * patch.w {
            visit(left + n % patch.w, top + n / patch.w, n);
        }
    }
}

/// A number of a pixel target as a grey level: standardised ones around the middle.
fn level(norm: PatchNorm, value: f32, normalise: &Normalise, c: usize) -> u8 {
    let shown = match norm {
        PatchNorm::Raw => value * normalise.std[c] + normalise.mean[c],
        PatchNorm::Unit => value,
        _ => 0.5 + value * 0.2,
    };
    (shown * 255.0).clamp(0.0, 255.0) as u8
}

fn grey(value: f32) -> Rgb<u8> {
    Rgb([(value * 255.0).clamp(0.0, 255.0) as u8; 3])
}

/// Orientation histograms of one token as lines, strength as brightness, colours averaged.
/// `values` is ordered channel, bin, cell row, cell column.
fn hog(out: &mut RgbImage, values: &[f32], spec: HogSpec, patch: u32, (left, top): (u32, u32)) {
    let HogSpec { bins, cell, .. } = spec;
    let cells = patch / cell;
    for (y, x) in (0..patch).flat_map(|y| (0..patch).map(move |x| (y, x))) {
        out.put_pixel(left + x, top + y, Rgb([0; 3]));
    }
    for (row, column) in (0..cells).flat_map(|row| (0..cells).map(move |column| (row, column))) {
        for bin in 0..bins {
            let at = |c: u32| ((c * bins + bin) * cells + row) * cells + column;
            let strength = (0..3).map(|c| values[at(c) as usize]).sum::<f32>() / 3.0;
            let corner = (left + column * cell, top + row * cell);
            // The angle is measured from the y axis; the edge runs across the gradient.
            let angle = (bin as f32 + 0.5) * std::f32::consts::PI / bins as f32;
            line(out, corner, cell, angle, grey(strength));
        }
    }
}

/// A line through the middle of a cell; brighter ones stay.
fn line(out: &mut RgbImage, (left, top): (u32, u32), cell: u32, angle: f32, ink: Rgb<u8>) {
    let half = cell as f32 / 2.0 - 0.5;
    let (dx, dy) = (angle.cos(), -angle.sin());
    for step in 0..=2 * cell {
        let along = (step as f32 / cell as f32 - 1.0) * half;
        let (x, y) = (left as f32 + half + along * dx, top as f32 + half + along * dy);
        let pixel = out.get_pixel_mut(x.round() as u32, y.round() as u32);
        *pixel = Rgb([pixel.0[0].max(ink.0[0]); 3]);
    }
}
