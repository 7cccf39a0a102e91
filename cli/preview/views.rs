//! The views of a row after the first, and what erasing leaves.

use image::{Rgb, RgbImage};
use tubelet_augment::HostTensors;
use tubelet_augment::normalise::Normalise;
use tubelet_augment::plan::{Geometry, ViewPlan};
use tubelet_core::layout::ViewLayout;
use tubelet_core::{BatchRef, Rect, Size};

/// Colours of the views' regions on the original.
const INKS: [[u8; 3]; 16] = [
    [255, 64, 0],
    [0, 114, 255],
    [0, 160, 60],
    [200, 0, 200],
    [230, 170, 0],
    [0, 180, 190],
    [140, 90, 50],
    [110, 60, 220],
    [255, 150, 150],
    [120, 190, 255],
    [150, 230, 90],
    [255, 130, 255],
    [255, 235, 60],
    [150, 255, 230],
    [120, 0, 30],
    [0, 60, 90],
];

/// Packed RGB as a picture.
pub(super) fn picture(size: Size, pixels: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(size.width, size.height, pixels)
        .unwrap_or_else(|| RgbImage::new(size.width, size.height))
}

/// Frame `t` of view `n` of a row.
pub(super) fn frame(batch: BatchRef<'_>, row: usize, n: usize, t: usize) -> RgbImage {
    let layout = &batch.layout().views[n];
    let bytes = layout.size.area() * 3;
    let pixels = &batch.pixels(n)[row * layout.pixels.row_bytes + t * bytes..][..bytes];
    picture(layout.size, pixels.to_vec())
}

/// The mask of view `n` of a row, one byte a token.
pub(super) fn mask(batch: BatchRef<'_>, row: usize, n: usize) -> Option<&[u8]> {
    let tokens = batch.layout().views[n].grid.len();
    batch.mask(n).map(|mask| &mask[row * tokens..(row + 1) * tokens])
}

/// Changes the pixels of the tokens of frame `t` that `mask` hides, or of those it does not.
pub(super) fn change(
    out: &mut RgbImage,
    layout: &ViewLayout,
    (mask, hidden): (&[u8], bool),
    t: usize,
    to: fn(u8) -> u8,
) {
    let grid = layout.grid;
    let slot = t as u32 * grid.t / layout.frames;
    let (height, width) = (layout.size.height / grid.h, layout.size.width / grid.w);
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let token = ((slot * grid.h + y / height) * grid.w + x / width) as usize;
        if (mask[token] & 1 == 1) == hidden {
            pixel.0 = pixel.0.map(to);
        }
    }
}

/// Frame `t` of a row's floats as the trainer gets them, back in grey levels.
pub(super) fn float_frame(
    tensors: &HostTensors,
    row: usize,
    normalise: Normalise,
    t: usize,
) -> RgbImage {
    let (width, height) = (tensors.width, tensors.height);
    let area = width * height;
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        let level = |c: usize| {
            let value = tensors.pixels[((row * 3 + c) * tensors.frames + t) * area + at];
            ((value * normalise.std[c] + normalise.mean[c]) * 255.0).round().clamp(0.0, 255.0) as u8
        };
        Rgb([level(0), level(1), level(2)])
    })
}

/// The different regions of the views in pixels of the source, and which of them each view has.
pub(super) fn regions<'a>(
    views: impl IntoIterator<Item = &'a ViewPlan>,
    source: Size,
) -> (Vec<Rect>, Vec<usize>) {
    let (mut all, mut of): (Vec<Rect>, Vec<usize>) = (Vec::new(), Vec::new());
    for view in views {
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
