//! The views of a row after the first, and what erasing leaves.

use image::{Rgb, RgbImage};
use tubelet_augment::HostTensors;
use tubelet_augment::normalise::Normalise;
use tubelet_augment::plan::{Geometry, SamplePlan};
use tubelet_core::layout::ViewLayout;
use tubelet_core::{BatchRef, Rect, Size};

use super::panels::HIDDEN;

/// Colours of the views' regions on the original.
const INKS: [[u8; 3]; 8] = [
    [255, 64, 0],
    [0, 114, 255],
    [0, 160, 60],
    [200, 0, 200],
    [230, 170, 0],
    [0, 180, 190],
    [140, 90, 50],
    [110, 60, 220],
];

/// Frame `t` of view `n`, its hidden tokens half grey.
pub(super) fn frame(batch: BatchRef<'_>, n: usize, t: usize) -> RgbImage {
    let layout = &batch.layout().views[n];
    let bytes = layout.size.area() * 3;
    let pixels = batch.pixels(n)[t * bytes..(t + 1) * bytes].to_vec();
    let mut out = RgbImage::from_raw(layout.size.width, layout.size.height, pixels)
        .unwrap_or_else(|| RgbImage::new(layout.size.width, layout.size.height));
    if let Some(mask) = batch.mask(n) {
        grey_out(&mut out, layout, mask, t);
    }
    out
}

fn grey_out(out: &mut RgbImage, layout: &ViewLayout, mask: &[u8], t: usize) {
    let grid = layout.grid;
    let slot = t as u32 * grid.t / layout.frames;
    let (height, width) = (layout.size.height / grid.h, layout.size.width / grid.w);
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let token = ((slot * grid.h + y / height) * grid.w + x / width) as usize;
        if mask[token] & 1 == 1 {
            pixel.0 = pixel.0.map(|v| (u16::from(v) / 4 + u16::from(HIDDEN) * 3 / 4) as u8);
        }
    }
}

/// Frame `t` of the first row's floats as the trainer gets them, back in grey levels.
pub(super) fn float_frame(tensors: &HostTensors, normalise: Normalise, t: usize) -> RgbImage {
    let (width, height) = (tensors.width, tensors.height);
    let area = width * height;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        let level = |c: usize| {
            let value = tensors.pixels[(c * tensors.frames + t) * area + at];
            ((value * normalise.std[c] + normalise.mean[c]) * 255.0).round().clamp(0.0, 255.0) as u8
        };
        Rgb([level(0), level(1), level(2)])
    })
}

/// The different regions of the views in pixels of the source, and which of them each view has.
pub(super) fn regions(plan: &SamplePlan, source: Size) -> (Vec<Rect>, Vec<usize>) {
    let (mut all, mut of): (Vec<Rect>, Vec<usize>) = (Vec::new(), Vec::new());
    for view in &plan.views {
        let region = match view.geometry {
            Geometry::CropThenResize { region } => region,
            Geometry::ResizeThenCrop { resized, region } => scaled(region, resized, source),
        };
        let known = all.iter().position(|r| *r == region);
        of.push(known.unwrap_or(all.len()));
        if known.is_none() {
            all.push(region);
        }
    }
    (all, of)
}

/// The colour of region `n`.
pub(super) fn ink(n: usize) -> [u8; 3] {
    INKS[n % INKS.len()]
}

/// Draws regions on the original.
pub(super) fn outline(out: &mut RgbImage, regions: &[Rect], source: Size) {
    let width = (source.short_side() / 75).max(2);
    for (n, region) in regions.iter().enumerate() {
        frame_region(out, *region, width, ink(n));
    }
}

/// A region of the resized frame in pixels of the source.
fn scaled(region: Rect, resized: Size, source: Size) -> Rect {
    let scale =
        |v: u32, to: u32, from: u32| (u64::from(v) * u64::from(to) / u64::from(from)) as u32;
    Rect {
        x: scale(region.x, source.width, resized.width),
        y: scale(region.y, source.height, resized.height),
        width: scale(region.width, source.width, resized.width).max(1),
        height: scale(region.height, source.height, resized.height).max(1),
    }
}

fn frame_region(out: &mut RgbImage, region: Rect, width: u32, ink: [u8; 3]) {
    let inner = |x: u32, y: u32| {
        x >= region.x + width
            && y >= region.y + width
            && x + width < region.x + region.width
            && y + width < region.y + region.height
    };
    for y in region.y..region.y + region.height {
        for x in region.x..region.x + region.width {
            if !inner(x, y) {
                out.put_pixel(x, y, Rgb(ink));
            }
        }
    }
}
