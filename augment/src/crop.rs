//! Which region of a frame is used, by the published rules.

use serde::{Deserialize, Serialize};
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
    for _ in 0..TRIES {
        let (w, h) = draw_sides(size, scale, ratio, rng);
        if w > 0 && w <= size.width && h > 0 && h <= size.height {
            return place_anywhere(size, Size::new(w, h), rng);
        }
    }
    central_box(size, ratio)
}

/// The BYOL-style variant (MAE's linear probe, `util/crop.py`): drawn once, a side that is longer
/// than the picture's is cut to it.
pub fn random_resized_crop_once(
    size: Size,
    scale: [f64; 2],
    ratio: [f64; 2],
    rng: &mut SampleRng,
) -> Rect {
    let (w, h) = draw_sides(size, scale, ratio, rng);
    let cut = Size::new(w.clamp(1, size.width), h.clamp(1, size.height));
    place_anywhere(size, cut, rng)
}

/// Width and height of a random share of the area and a random aspect; may exceed the picture.
fn draw_sides(size: Size, scale: [f64; 2], ratio: [f64; 2], rng: &mut SampleRng) -> (u32, u32) {
    let whole = f64::from(size.width) * f64::from(size.height);
    let area = whole * rng.uniform(scale[0], scale[1]);
    let aspect = rng.uniform(ratio[0].ln(), ratio[1].ln()).exp();
    let side = |x: f64| x.sqrt().round_ties_even() as u32;
    (side(area * aspect), side(area / aspect))
}

/// A box of `crop` at a uniform place, row first.
fn place_anywhere(size: Size, crop: Size, rng: &mut SampleRng) -> Rect {
    let y = rng.below(size.height - crop.height + 1);
    let x = rng.below(size.width - crop.width + 1);
    Rect { x, y, width: crop.width, height: crop.height }
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

/// Width and height of the largest box of the aspect of `out`; the shorter side twice for a square.
fn largest_sides(size: Size, out: Size) -> (f64, f64) {
    let (w, h) = (f64::from(size.width), f64::from(size.height));
    let aspect = f64::from(out.width) / f64::from(out.height);
    if w > h * aspect { (h * aspect, h) } else { (w, w / aspect) }
}

/// Where the largest box lies along the side that it does not fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Along {
    /// Anywhere, uniformly.
    #[default]
    Anywhere,
    /// In the middle.
    Middle,
}

/// The largest box of the aspect of `out`, its sides rounded: what bucketed loaders cut out.
pub fn largest_crop(size: Size, out: Size, place: Along, rng: &mut SampleRng) -> Rect {
    let (w, h) = largest_sides(size, out);
    let side = |x: f64, most: u32| (x.round_ties_even() as u32).clamp(1, most);
    let crop = Size::new(side(w, size.width), side(h, size.height));
    match place {
        Along::Anywhere => place_anywhere(size, crop, rng),
        Along::Middle => {
            let (x, y) = ((size.width - crop.width) / 2, (size.height - crop.height) / 2);
            Rect { x, y, width: crop.width, height: crop.height }
        }
    }
}

/// VideoMAE's `GroupMultiScaleCrop`: (width, height) candidates in the reference's order. Sides
/// less than 3 px from those of `out` snap to them; pairs are at most `max_distort` steps of `scales`
/// apart. Scales are of the largest box of the aspect of `out`, for a square of the shorter side.
pub fn multi_scale_candidates(
    size: Size,
    out: Size,
    scales: &[f64],
    max_distort: u32,
) -> Vec<(u32, u32)> {
    let (width, height) = largest_sides(size, out);
    let snapped = |base: f64, out: u32| {
        let side = move |scale: &f64| {
            let side = (base * scale) as u32;
            if side.abs_diff(out) < 3 { out } else { side }
        };
        scales.iter().map(side).collect::<Vec<u32>>()
    };
    let (widths, heights) = (snapped(width, out.width), snapped(height, out.height));
    let mut pairs = Vec::new();
    for (i, h) in heights.iter().enumerate() {
        for (j, w) in widths.iter().enumerate() {
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

/// Where a multi-scale box may lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Places {
    /// The 13 of [`fixed_offsets`]: VideoMAE.
    #[default]
    Thirteen,
    /// The four corners and the middle.
    Five,
    /// Anywhere.
    Anywhere,
}

/// VideoMAE's `GroupMultiScaleCrop`: a candidate and one of its places, both uniformly.
/// A snapped side larger than the picture is cut to it.
pub fn multi_scale_crop(
    size: Size,
    out: Size,
    scales: &[f64],
    max_distort: u32,
    places: Places,
    rng: &mut SampleRng,
) -> Rect {
    let candidates = multi_scale_candidates(size, out, scales, max_distort);
    let (w, h) = candidates[rng.below(candidates.len() as u32) as usize];
    let crop = Size::new(w.clamp(1, size.width), h.clamp(1, size.height));
    let among = match places {
        Places::Thirteen => 13,
        Places::Five => 5,
        Places::Anywhere => return place_anywhere(size, crop, rng),
    };
    let (x, y) = fixed_offsets(size, crop)[rng.below(among) as usize];
    Rect { x, y, width: crop.width, height: crop.height }
}

/// SlowFast's `random_short_side_scale_jitter`: length of the shorter side, uniform in `min..=max`
/// or in its inverse, rounded half to even.
pub fn jittered_side(min: u32, max: u32, inverse: bool, rng: &mut SampleRng) -> u32 {
    let (min, max) = (f64::from(min), f64::from(max));
    let side =
        if inverse { 1.0 / rng.uniform(1.0 / max, 1.0 / min) } else { rng.uniform(min, max) };
    side.round_ties_even() as u32
}

/// Size after SlowFast scaled the shorter side to `side`: the other side is ⌊long / short · side⌋
/// with a rounded quotient, so now and then one less than [`short_side_size`] gives.
pub fn slowfast_short_side(size: Size, side: u32) -> Size {
    if size.short_side() == side {
        return size;
    }
    let scaled = |long: u32, short: u32| {
        ((f64::from(long) / f64::from(short) * f64::from(side)).floor() as u32).max(side)
    };
    if size.width < size.height {
        Size::new(side, scaled(size.height, size.width))
    } else {
        Size::new(scaled(size.width, size.height), side)
    }
}

/// SlowFast's `random_crop`: a `side`² whose first row and column are drawn below (long − side),
/// that bound excluded.
pub fn slowfast_random_crop(size: Size, side: u32, rng: &mut SampleRng) -> Rect {
    let y = rng.below(size.height - side);
    let x = rng.below(size.width - side);
    Rect { x, y, width: side, height: side }
}

/// SlowFast's `uniform_crop`: square `index` of `crops` along the longer side, the middle rounded
/// up on both axes; the only crop of one is the middle.
pub fn slowfast_crop_along(size: Size, side: u32, index: u32, crops: u32) -> Rect {
    let ends = Size::new(size.width - side, size.height - side);
    let (mut x, mut y) = (ends.width.div_ceil(2), ends.height.div_ceil(2));
    let tall = size.height > size.width;
    let along = if tall { &mut y } else { &mut x };
    match (crops, index) {
        (1, _) | (_, 1) => {}
        (_, 0) => *along = 0,
        _ => *along = if tall { ends.height } else { ends.width },
    }
    Rect { x, y, width: side, height: side }
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

/// A random `side`² of a picture at least that large, every place as likely, the last one included:
/// torchvision's `RandomCrop`.
pub fn random_crop(size: Size, side: u32, rng: &mut SampleRng) -> Rect {
    let y = rng.below(size.height - side + 1);
    let x = rng.below(size.width - side + 1);
    Rect { x, y, width: side, height: side }
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
        fn boxes_stay_inside(
            w in 1u32..700, h in 1u32..700, tall in 1u32..400, low in 0.01f64..1.0, seed: u64,
        ) {
            let (size, out) = (Size::new(w, h), Size::new(224, tall));
            let ratio = [3.0 / 4.0, 4.0 / 3.0];
            let rect = random_resized_crop(size, [low, 1.0], ratio, &mut rng(seed));
            prop_assert!(rect.fits(size) && rect.width > 0 && rect.height > 0);
            let rect = random_resized_crop_once(size, [low, 1.0], ratio, &mut rng(seed));
            prop_assert!(rect.fits(size) && rect.width > 0 && rect.height > 0);
            for places in [Places::Thirteen, Places::Five, Places::Anywhere] {
                let scales = [1.0, 0.875, 0.75, 0.66];
                let rect = multi_scale_crop(size, out, &scales, 1, places, &mut rng(seed));
                prop_assert!(rect.fits(size) && rect.width > 0 && rect.height > 0);
            }
        }

        #[test]
        fn jittered_crops_stay_inside(
            w in 1u32..700, h in 1u32..700, side in 1u32..300, more in 0u32..90, inverse: bool,
            seed: u64,
        ) {
            let short = jittered_side(side, side + more, inverse, &mut rng(seed));
            prop_assert!((side..=side + more).contains(&short));
            let resized = slowfast_short_side(Size::new(w, h), short);
            prop_assert_eq!(resized.short_side(), short);
            prop_assert!(slowfast_random_crop(resized, side, &mut rng(seed)).fits(resized));
            for index in 0..3 {
                prop_assert!(slowfast_crop_along(resized, side, index, 3).fits(resized));
            }
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

    /// 427x240 at 224: the long side is 398, the middle (398 - 224) / 2 = 87; an odd rest rounds up.
    #[test]
    fn slowfast_rounds_the_middle_up() {
        let at = |size, index, crops| {
            let rect = slowfast_crop_along(size, 224, index, crops);
            (rect.x, rect.y)
        };
        assert_eq!(slowfast_short_side(Size::new(427, 240), 224), Size::new(398, 224));
        let wide = Size::new(399, 225);
        assert_eq!([0, 1, 2].map(|i| at(wide, i, 3)), [(0, 1), (88, 1), (175, 1)]);
        assert_eq!(at(Size::new(256, 341), 0, 1), (16, 59));
    }

    #[test]
    fn random_crops_reach_both_ends() {
        let mut rng = rng(6);
        let mut seen = [[false; 3]; 2];
        for _ in 0..200 {
            let rect = random_crop(Size::new(6, 5), 4, &mut rng);
            assert!(rect.fits(Size::new(6, 5)));
            (seen[0][rect.x as usize], seen[1][rect.y as usize]) = (true, true);
        }
        assert_eq!(seen, [[true; 3], [true, true, false]]);
    }

    /// Uniform in the inverse means a mean length of ln(max/min) / (1/min - 1/max).
    #[test]
    fn inverse_jitter_prefers_short_sides() {
        let mut rng = rng(5);
        let mean = |inverse, rng: &mut SampleRng| {
            let sum: u64 =
                (0..20_000).map(|_| u64::from(jittered_side(256, 320, inverse, rng))).sum();
            sum as f64 / 20_000.0
        };
        let want = (320f64 / 256.0).ln() / (1.0 / 256.0 - 1.0 / 320.0);
        assert!((mean(true, &mut rng) - want).abs() < 0.6);
        assert!((mean(false, &mut rng) - 288.0).abs() < 0.6);
    }

    #[test]
    fn candidates_are_ten_pairs_and_snap() {
        let pairs = multi_scale_candidates(
            Size::new(340, 256),
            Size::square(224),
            &[1.0, 0.875, 0.75, 0.66],
            1,
        );
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
