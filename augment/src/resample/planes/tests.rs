use proptest::prelude::*;
use tubelet_core::{Upsampling, Yuv};

use super::*;
use crate::resample::Resampler;

const KERNELS: [Kernel; 4] = [
    Kernel::Pillow(Filter::Bilinear),
    Kernel::Pillow(Filter::Bicubic),
    Kernel::Pillow(Filter::Lanczos),
    Kernel::TorchBilinear,
];

fn clip_of(size: Size, region: Rect, yuv: Yuv, mut next: impl FnMut() -> u8) -> Clip {
    let mut clip = Clip::new();
    clip.reset_form(size, region, PixelForm::Yuv(yuv), &[0]);
    clip.nth_mut(0).iter_mut().for_each(|sample| *sample = next());
    clip
}

fn jpeg(chroma: Chroma) -> Yuv {
    Yuv { chroma, upsampling: Upsampling::Triangle, matrix: YuvMatrix::JPEG }
}

/// RGB of all pixels, with upsampling and matrix in floating point, rounded once.
fn to_rgb(clip: &Clip, yuv: Yuv) -> Vec<u8> {
    let (planes, size) = (clip.planes(0), clip.size());
    let half = yuv.chroma.size(size);
    let [columns, rows] = yuv.chroma.halved();
    let axis = |at: u32, halved: bool, whole: u32| match (halved, yuv.upsampling) {
        (false, _) => [(at, 1.0), (at, 0.0)],
        (true, Upsampling::Repeat) => [(at / 2, 1.0), (at / 2, 0.0)],
        (true, Upsampling::Triangle) => {
            let next = i64::from(at / 2) + if at % 2 == 0 { -1 } else { 1 };
            [(at / 2, 0.75), (next.clamp(0, i64::from(whole) - 1) as u32, 0.25)]
        }
    };
    let mut out = Vec::new();
    for y in 0..size.height {
        for x in 0..size.width {
            let luma = f64::from(planes.luma[(y * size.width + x) as usize]);
            let [u, v] = planes.chroma.map(|plane| {
                let mut sum = 0.0;
                for (row, of_row) in axis(y, rows, half.height) {
                    for (column, share) in axis(x, columns, half.width) {
                        let at = (row * half.width + column) as usize;
                        sum += of_row * share * plane.get(at).map_or(128.0, |c| f64::from(*c));
                    }
                }
                sum - 128.0
            });
            let pixel = [1.402 * v, -0.344136 * u - 0.714136 * v, 1.772 * u].map(|c| luma + c);
            out.extend(pixel.map(|c| c.round().clamp(0.0, 255.0) as u8));
        }
    }
    out
}

#[test]
fn smooth_pictures_are_within_a_level_of_the_exact_way() {
    let size = Size::new(93, 71);
    let wave = |n: usize, x: f64, y: f64| {
        128.0 + [30.0, 15.0, -15.0][n] * ((x * 0.11 + n as f64).sin() + (y * 0.07).cos())
    };
    for chroma in [Chroma::Absent, Chroma::Full, Chroma::HalfColumns, Chroma::HalfBoth] {
        for upsampling in [Upsampling::Triangle, Upsampling::Repeat] {
            let yuv = Yuv { upsampling, ..jpeg(chroma) };
            let mut clip = clip_of(size, Rect::full(size), yuv, || 0);
            let (widths, [columns, rows]) = ([size, chroma.size(size)], chroma.halved());
            let step = [1.0 + f64::from(u8::from(columns)), 1.0 + f64::from(u8::from(rows))];
            for (n, plane) in clip.planes_mut(0).into_iter().enumerate() {
                let (width, step) =
                    (widths[n.min(1)].width as usize, if n > 0 { step } else { [1.0; 2] });
                for (at, sample) in plane.iter_mut().enumerate() {
                    let (x, y) = ((at % width) as f64 * step[0], (at / width) as f64 * step[1]);
                    *sample = wave(n, x, y).round() as u8;
                }
            }
            let rgb = to_rgb(&clip, yuv);
            let region = Rect { x: 5, y: 7, width: 71, height: 50 };
            for kernel in KERNELS {
                for resized in [Size::new(48, 32), Size::new(150, 99), region.size()] {
                    let flip = resized.width == 48;
                    let cut = Cut { region, resized, window: Rect::full(resized), kernel, flip };
                    let (mut got, mut want) =
                        (vec![0; resized.area() * 3], vec![0; resized.area() * 3]);
                    PlaneResampler::default().resize(&clip, 0, &cut, &mut got);
                    let mut exact = Resampler::default();
                    match kernel {
                        Kernel::Pillow(f) => {
                            exact.resize(&rgb, size, region, f, resized, flip, &mut want);
                        }
                        Kernel::TorchBilinear => {
                            exact.resize_torch_bilinear(
                                &rgb, size, region, resized, flip, &mut want,
                            );
                        }
                    }
                    let far = got.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max();
                    assert!(
                        far <= Some(2),
                        "{chroma:?} {upsampling:?} {kernel:?} {resized}: {far:?}"
                    );
                    let sum: u64 =
                        got.iter().zip(&want).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
                    assert!(sum * 2 <= got.len() as u64, "{chroma:?} {kernel:?} {resized}: {sum}");
                }
            }
        }
    }
}

#[test]
fn a_window_is_that_part_of_the_whole() {
    let size = Size::new(61, 45);
    let mut state = 7u32;
    let clip = clip_of(size, Rect::full(size), jpeg(Chroma::HalfBoth), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let resized = Size::new(40, 30);
    let (region, kernel, flip) = (Rect::full(size), KERNELS[1], false);
    let mut whole = vec![0; resized.area() * 3];
    let cut = Cut { region, resized, window: Rect::full(resized), kernel, flip };
    PlaneResampler::default().resize(&clip, 0, &cut, &mut whole);
    let window = Rect { x: 9, y: 4, width: 21, height: 17 };
    let mut part = vec![0; window.size().area() * 3];
    PlaneResampler::default().resize(&clip, 0, &Cut { window, ..cut }, &mut part);
    for (y, row) in part.chunks(21 * 3).enumerate() {
        assert_eq!(row, &whole[((4 + y) * 40 + 9) * 3..][..21 * 3], "row {y}");
    }
}

proptest! {
    /// Fast loops equal the plain ones, and what is held beside the region does not matter.
    #[test]
    fn fast_loops_equal_the_plain_ones(
        (w, h) in (1u32..300, 1u32..90),
        cut in (0u32..300, 0u32..90, 0u32..300, 0u32..90),
        (to_w, to_h) in (1u32..120, 1u32..60),
        (which, chroma, triangle, flip) in (0usize..4, 0usize..4, any::<bool>(), any::<bool>()),
        seed: u64,
    ) {
        let size = Size::new(w, h);
        let (x, y) = (cut.0 % w, cut.1 % h);
        let region = Rect { x, y, width: 1 + cut.2 % (w - x), height: 1 + cut.3 % (h - y) };
        let chroma = [Chroma::Absent, Chroma::Full, Chroma::HalfColumns, Chroma::HalfBoth][chroma];
        let upsampling = if triangle { Upsampling::Triangle } else { Upsampling::Repeat };
        let yuv = Yuv { upsampling, ..jpeg(chroma) };
        let mut state = seed | 1;
        let whole = clip_of(size, Rect::full(size), yuv, || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Extremes overshoot the most.
            match state >> 62 { 0 => 0, 1 => 255, _ => (state >> 40) as u8 }
        });
        let resized = Size::new(to_w, to_h);
        let window = Rect::full(resized);
        let cut = Cut { region, resized, window, kernel: KERNELS[which], flip };
        let run = |mut resampler: PlaneResampler, clip: &Clip| {
            let mut out = vec![0; resized.area() * 3];
            resampler.resize(clip, 0, &cut, &mut out);
            out
        };
        let plain = run(PlaneResampler::plain(), &whole);
        prop_assert_eq!(&run(PlaneResampler::default(), &whole), &plain);
        let mut part = clip_of(size, region, yuv, || 0);
        let (held, of_chroma) = (part.region(), part.chroma_region());
        let from = [Rect::full(size), whole.chroma_region(), whole.chroma_region()];
        let source = whole.planes(0);
        let source = [source.luma, source.chroma[0], source.chroma[1]];
        let regions = [held, of_chroma, of_chroma];
        for (n, plane) in part.planes_mut(0).into_iter().enumerate() {
            for (at, sample) in plane.iter_mut().enumerate() {
                let (r, at) = (regions[n], at as u32);
                let (x, y) = (r.x + at % r.width, r.y + at / r.width);
                *sample = source[n][(y * from[n].width + x) as usize];
            }
        }
        prop_assert_eq!(&run(PlaneResampler::default(), &part), &plain);
    }
}
