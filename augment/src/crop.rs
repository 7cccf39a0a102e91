//! Which region of a frame is used, by the published rules.

use tubelet_core::{Rect, SampleRng, Size};

/// Boxes tried before [`random_resized_crop`] falls back to the middle.
pub const TRIES: u32 = 10;

/// torchvision's and timm's RandomResizedCrop: an area of `scale` of the picture's, an aspect drawn
/// uniformly in its logarithm, up to [`TRIES`] tries, then the largest central box of an allowed
/// aspect. Always inside `size`, never empty.
pub fn random_resized_crop(
    size: Size,
    scale: [f64; 2],
    ratio: [f64; 2],
    rng: &mut SampleRng,
) -> Rect {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    for _ in 0..TRIES {
        let area = width * height * rng.uniform(scale[0], scale[1]);
        let aspect = rng.uniform(ratio[0].ln(), ratio[1].ln()).exp();
        let w = (area * aspect).sqrt().round_ties_even() as u32;
        let h = (area / aspect).sqrt().round_ties_even() as u32;
        if w > 0 && w <= size.width && h > 0 && h <= size.height {
            let y = rng.below(size.height - h + 1);
            let x = rng.below(size.width - w + 1);
            return Rect { x, y, width: w, height: h };
        }
    }
    central_box(size, ratio)
}

/// The largest central box whose aspect lies in `ratio`.
fn central_box(size: Size, ratio: [f64; 2]) -> Rect {
    let aspect = f64::from(size.width) / f64::from(size.height);
    let (w, h) = if aspect < ratio[0] {
        (size.width, (f64::from(size.width) / ratio[0]).round_ties_even() as u32)
    } else if aspect > ratio[1] {
        ((f64::from(size.height) * ratio[1]).round_ties_even() as u32, size.height)
    } else {
        (size.width, size.height)
    };
    let (w, h) = (w.clamp(1, size.width), h.clamp(1, size.height));
    Rect { x: (size.width - w) / 2, y: (size.height - h) / 2, width: w, height: h }
}

/// VideoMAE's `GroupMultiScaleCrop`: (width, height) candidates in the reference's order. Sides
/// less than 3 px from `out` snap to it; pairs are at most `max_distort` steps of `scales` apart.
pub fn multi_scale_candidates(
    size: Size,
    out: u32,
    scales: &[f64],
    max_distort: u32,
) -> Vec<(u32, u32)> {
    let base = f64::from(size.short_side());
    let snapped = |scale: &f64| {
        let side = (base * scale) as u32;
        if side.abs_diff(out) < 3 { out } else { side }
    };
    let sides: Vec<u32> = scales.iter().map(snapped).collect();
    let mut pairs = Vec::new();
    for (i, h) in sides.iter().enumerate() {
        for (j, w) in sides.iter().enumerate() {
            if i.abs_diff(j) <= max_distort as usize {
                pairs.push((*w, *h));
            }
        }
    }
    pairs
}

/// The 13 fixed places of a box in a picture, in the reference's order: (x, y).
pub fn fixed_offsets(size: Size, crop: Size) -> [(u32, u32); 13] {
    let x = size.width.saturating_sub(crop.width) / 4;
    let y = size.height.saturating_sub(crop.height) / 4;
    const STEPS: [(u32, u32); 13] = [
        (0, 0),
        (4, 0),
        (0, 4),
        (4, 4),
        (2, 2),
        (0, 2),
        (4, 2),
        (2, 4),
        (2, 0),
        (1, 1),
        (3, 1),
        (1, 3),
        (3, 3),
    ];
    STEPS.map(|(a, b)| (a * x, b * y))
}

/// VideoMAE's `GroupMultiScaleCrop`: a candidate and one of its fixed places, both uniformly.
/// A snapped side larger than the picture is cut to it.
pub fn multi_scale_crop(
    size: Size,
    out: u32,
    scales: &[f64],
    max_distort: u32,
    rng: &mut SampleRng,
) -> Rect {
    let candidates = multi_scale_candidates(size, out, scales, max_distort);
    let (w, h) = candidates[rng.below(candidates.len() as u32) as usize];
    let crop = Size::new(w.clamp(1, size.width), h.clamp(1, size.height));
    let (x, y) = fixed_offsets(size, crop)[rng.below(13) as usize];
    Rect { x, y, width: crop.width, height: crop.height }
}

/// Size after the shorter side became `side`; the other side is rounded down, as torchvision and
/// the video loaders do.
pub fn short_side_size(size: Size, side: u32) -> Size {
    let scaled =
        |long: u32, short: u32| (u64::from(long) * u64::from(side) / u64::from(short)) as u32;
    if size.width <= size.height {
        Size::new(side, scaled(size.height, size.width).max(side))
    } else {
        Size::new(scaled(size.width, size.height).max(side), side)
    }
}

/// The middle `side`² of a picture at least that large; halves are rounded to even, as torchvision
/// does.
pub fn center_crop(size: Size, side: u32) -> Rect {
    let middle = |long: u32| (f64::from(long - side) / 2.0).round_ties_even() as u32;
    Rect { x: middle(size.width), y: middle(size.height), width: side, height: side }
}

/// Square `index` of `crops` along the longer side of a picture whose shorter side is `side`:
/// ⌊index·(long − side)/2⌋ for three (VideoMAE's evaluation), the middle for one.
pub fn crop_along(size: Size, side: u32, index: u32, crops: u32) -> Rect {
    let at = |long: u32| match crops {
        1 => (long - side) / 2,
        _ => (f64::from(index) * f64::from(long - side) / f64::from(crops - 1)) as u32,
    };
    Rect { x: at(size.width), y: at(size.height), width: side, height: side }
}

/// Copies `region` of packed RGB `source` to `out`, mirrored left to right where `flip` says so.
pub fn copy_region(source: &[u8], size: Size, region: Rect, flip: bool, out: &mut [u8]) {
    let row_bytes = region.width as usize * 3;
    for (y, out) in out.chunks_exact_mut(row_bytes).enumerate() {
        let start = ((region.y as usize + y) * size.width as usize + region.x as usize) * 3;
        let row = &source[start..start + row_bytes];
        if flip {
            for (to, from) in out.chunks_exact_mut(3).zip(row.chunks_exact(3).rev()) {
                to.copy_from_slice(from);
            }
        } else {
            out.copy_from_slice(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tubelet_core::Draw;

    fn rng(seed: u64) -> SampleRng {
        SampleRng::new(seed, 0, 0, 0, Draw::Crop)
    }

    proptest! {
        #[test]
        fn boxes_stay_inside(w in 1u32..700, h in 1u32..700, low in 0.01f64..1.0, seed: u64) {
            let size = Size::new(w, h);
            let ratio = [3.0 / 4.0, 4.0 / 3.0];
            let rect = random_resized_crop(size, [low, 1.0], ratio, &mut rng(seed));
            prop_assert!(rect.fits(size) && rect.width > 0 && rect.height > 0);
            let rect = multi_scale_crop(size, 224, &[1.0, 0.875, 0.75, 0.66], 1, &mut rng(seed));
            prop_assert!(rect.fits(size) && rect.width > 0 && rect.height > 0);
        }

        #[test]
        fn evaluation_crops_stay_inside(w in 1u32..700, h in 1u32..700, side in 1u32..300) {
            let resized = short_side_size(Size::new(w, h), side);
            prop_assert_eq!(resized.short_side(), side);
            prop_assert!(center_crop(resized, side).fits(resized));
            for index in 0..3 {
                prop_assert!(crop_along(resized, side, index, 3).fits(resized));
            }
            let ends = [crop_along(resized, side, 0, 3), crop_along(resized, side, 2, 3)];
            prop_assert_eq!((ends[0].x, ends[0].y), (0, 0));
            prop_assert_eq!(ends[1].x + side, resized.width);
        }
    }

    #[test]
    fn candidates_are_ten_pairs_and_snap() {
        let pairs = multi_scale_candidates(Size::new(340, 256), 224, &[1.0, 0.875, 0.75, 0.66], 1);
        assert_eq!(pairs.len(), 10);
        assert_eq!(pairs[0], (256, 256));
        assert_eq!(pairs[1], (224, 256));
    }

    #[test]
    fn flips_mirror_rows() {
        let source: Vec<u8> = (0..2 * 4 * 3).collect();
        let mut out = vec![0; 2 * 2 * 3];
        let region = Rect { x: 1, y: 0, width: 2, height: 2 };
        copy_region(&source, Size::new(4, 2), region, true, &mut out);
        assert_eq!(out[..6], [6, 7, 8, 3, 4, 5]);
    }
}
