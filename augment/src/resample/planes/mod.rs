//! Crop, resize and colour conversion of a codec's planes in one go: what `pixels = "fast"` means.
//!
//! The exact way converts all pixels of the region to RGB, rounds, resizes three channels and rounds
//! twice more. Here luma and chroma are resized as they are coded, and RGB is made of the pixels of
//! the slot alone. Both steps are linear, so that their order does not matter but for rounding and
//! for what is cut off at 0 and 255: chroma's coefficients are those of the resize, folded with those
//! of its upsampling. `plain` has the loops, `avx2` the same numbers faster.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;
mod taps;

use std::ops::Range;

use tubelet_core::{Chroma, Clip, PixelForm, Rect, Size, Yuv, YuvMatrix};

use self::taps::{Real, Resized, Taps, Upsampled};
use super::Filter;

/// Fractional bits of coefficients.
pub const WEIGHT_BITS: u32 = 14;
/// Fractional bits of samples between the passes.
pub const SAMPLE_BITS: u32 = 6;
/// Fractional bits of the colour matrix.
pub const MATRIX_BITS: u32 = 13;
/// Output columns are made in steps of so many.
const STEP: usize = 16;

/// Which interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Pillow's filters, widened when shrinking.
    Pillow(Filter),
    /// torch's bilinear interpolation, never widened.
    TorchBilinear,
}

/// What is cut out of a frame, and to which size.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// In pixels of the whole frame.
    pub region: Rect,
    /// Size of the region after resizing.
    pub resized: Size,
    /// The part of it that is put out.
    pub window: Rect,
    /// Interpolation.
    pub kernel: Kernel,
    /// Mirrored left to right.
    pub flip: bool,
}

/// Planes of a frame, wherever they are: what of them is held, and how they are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Size of the whole frame.
    pub size: Size,
    /// The part of luma that is held, in pixels of the whole frame.
    pub region: Rect,
    /// The part of chroma that is held, in samples of the whole plane.
    pub chroma: Rect,
    /// How they are coded.
    pub yuv: Yuv,
}

impl Held {
    /// Whether every sample is held that the pixels `region` are made of.
    pub fn suffices(&self, region: Rect) -> bool {
        let chroma = self.yuv.chroma.region(self.size, region);
        self.region.holds(region)
            && (self.yuv.chroma == Chroma::Absent || self.chroma.holds(chroma))
    }
}

/// Coefficients of one axis of one plane, in 1/2^[`WEIGHT_BITS`], for who resizes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coefficients<'a> {
    /// Samples that are looked at, of those held.
    pub range: Range<usize>,
    /// First sample of each output position, from the range's start on.
    pub first: &'a [u32],
    /// Coefficients of each output position.
    pub count: &'a [u32],
    /// Room for coefficients a position, even; what is too many is 0.
    pub per: usize,
    /// `[positions, per]`, and perhaps more.
    pub weights: &'a [i16],
}

/// Resizes planes with kept tables and buffers: after the first frame of a geometry nothing is
/// allocated.
pub struct PlaneResampler {
    /// Of columns and rows.
    real: [Real; 2],
    /// Columns and rows of luma, then of chroma.
    taps: [[Taps; 2]; 2],
    line: Vec<i16>,
    /// A row of Y, U and V.
    rows: [Vec<i16>; 3],
    fast: bool,
}

impl Default for PlaneResampler {
    /// With the fastest loops this machine has.
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        let fast = std::arch::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let fast = false;
        Self { fast, ..Self::plain() }
    }
}

/// One plane with the part of it that is held.
struct Plane<'a> {
    samples: &'a [u8],
    stride: usize,
}

/// The colour matrix with everything that is added to a pixel's products.
struct Colors {
    matrix: YuvMatrix,
    offset: [i32; 3],
}

impl PlaneResampler {
    /// With the plain loops: for tests and comparisons.
    pub fn plain() -> Self {
        Self {
            real: Default::default(),
            taps: Default::default(),
            line: Vec::new(),
            rows: Default::default(),
            fast: false,
        }
    }

    /// Resizes frame `n` of `clip`, a clip of planes: packed RGB, `window.height × window.width × 3`
    /// bytes.
    ///
    /// # Panics
    /// When the clip holds RGB, the region does not lie inside what is held, the window not inside
    /// the resized region, or `out` has another length.
    pub fn resize(&mut self, clip: &Clip, n: usize, cut: &Cut, out: &mut [u8]) {
        let PixelForm::Yuv(yuv) = clip.form() else { panic!("a clip of packed RGB") };
        let Cut { region: wanted, resized, window, .. } = *cut;
        assert!(clip.region().holds(wanted), "{wanted:?} of {:?}", clip.region());
        assert!(window.fits(resized) && out.len() == window.size().area() * 3, "{window:?}");
        let (size, region, chroma) = (clip.size(), clip.region(), clip.chroma_region());
        self.prepare(&Held { size, region, chroma, yuv }, cut);
        let planes = clip.planes(n);
        let columns = |held: Rect| held.width as usize;
        let (luma, chroma) = (columns(clip.region()), columns(clip.chroma_region()));
        let planes = [
            Plane { samples: planes.luma, stride: luma },
            Plane { samples: planes.chroma[0], stride: chroma },
            Plane { samples: planes.chroma[1], stride: chroma },
        ];
        let width = window.width as usize;
        for row in &mut self.rows {
            row.clear();
            // Grey is chroma of 128.
            row.resize(width.next_multiple_of(STEP), 128 << SAMPLE_BITS);
        }
        let count = if yuv.chroma == Chroma::Absent { 1 } else { 3 };
        let colors = Colors::new(yuv.matrix);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            for (n, plane) in planes[..count].iter().enumerate() {
                self.row(n, plane, y);
            }
            self.pixels(&colors, out);
        }
    }

    /// The tables of a resize, `[luma, chroma][columns, rows]`, chroma where there is any. A row of a
    /// plane is made in two passes: over the row's lines, every product rounded to [`SAMPLE_BITS`];
    /// then over the columns of that, rounded and clamped to 16 bits.
    ///
    /// # Panics
    /// When `held` lacks what `cut` looks at, or the window does not lie inside the resized region.
    pub fn coefficients(&mut self, held: &Held, cut: &Cut) -> [Option<[Coefficients<'_>; 2]>; 2] {
        assert!(held.suffices(cut.region), "{:?} of {held:?}", cut.region);
        assert!(cut.window.fits(cut.resized), "{:?}", cut.window);
        self.prepare(held, cut);
        let [luma, chroma] = &self.taps;
        let has_chroma = held.yuv.chroma != Chroma::Absent;
        [
            Some(luma.each_ref().map(Taps::public)),
            has_chroma.then(|| chroma.each_ref().map(Taps::public)),
        ]
    }

    /// Row `y` of plane `n`, resized.
    fn row(&mut self, n: usize, plane: &Plane<'_>, y: usize) {
        let [columns, rows] = &self.taps[n.min(1)];
        let (first, weights) = rows.at(y);
        let range = columns.range();
        let length = range.len();
        let start = first * plane.stride + range.start;
        let lines = &plane.samples[start..][..(weights.len() - 1) * plane.stride + length];
        // Coefficients of 0 look past the end.
        self.line.resize(length + columns.weights().0, 0);
        let (line, row) = (&mut self.line, &mut self.rows[n]);
        #[cfg(target_arch = "x86_64")]
        if self.fast {
            // SAFETY: AVX2 was asked for.
            unsafe {
                avx2::vertical(lines, plane.stride, weights, &mut line[..length]);
                avx2::horizontal(columns, line, row);
            }
            return;
        }
        plain::vertical(lines, plane.stride, weights, &mut line[..length]);
        plain::horizontal(columns, line, row);
    }

    fn pixels(&self, colors: &Colors, out: &mut [u8]) {
        let [y, u, v] = &self.rows;
        #[cfg(target_arch = "x86_64")]
        if self.fast {
            // SAFETY: AVX2 was asked for.
            unsafe { avx2::pixels(colors, [y, u, v], out) };
            return;
        }
        plain::pixels(colors, [y, u, v], out);
    }

    /// Coefficients of both axes of luma and chroma.
    fn prepare(&mut self, held: &Held, cut: &Cut) {
        let Held { size, region: held, chroma, yuv } = *held;
        let plane = yuv.chroma.size(size);
        let [half_columns, half_rows] = yuv.chroma.halved();
        let (region, resized, window) = (cut.region, cut.resized, cut.window);
        let axis = |from, length, to, window, reversed| {
            let kernel = cut.kernel;
            Resized { from, length, to, window, reversed, kernel }
        };
        let across = (window.x, window.width);
        let columns = axis(region.x, region.width, resized.width, across, cut.flip);
        let down = (window.y, window.height);
        let rows = axis(region.y, region.height, resized.height, down, false);
        let is_new = [self.real[0].prepare(columns), self.real[1].prepare(rows)];
        let of_luma = [(held.x, None), (held.y, None)];
        let upsampled =
            |halved: bool, whole: u32| halved.then_some(Upsampled { whole, rule: yuv.upsampling });
        let of_chroma = [
            (chroma.x, upsampled(half_columns, plane.width)),
            (chroma.y, upsampled(half_rows, plane.height)),
        ];
        for (n, planes) in [of_luma, of_chroma].into_iter().enumerate() {
            // Where there is no chroma its coefficients are forgotten, not kept for another region.
            for (axis, (origin, upsampled)) in planes.into_iter().enumerate() {
                if n == 0 || yuv.chroma != Chroma::Absent {
                    self.taps[n][axis].prepare(&self.real[axis], is_new[axis], origin, upsampled);
                } else {
                    self.taps[n][axis] = Taps::default();
                }
            }
        }
    }
}

impl Colors {
    fn new(matrix: YuvMatrix) -> Self {
        Self { matrix, offset: color_offsets(&matrix) }
    }
}

/// What is added to the products of red, green and blue before [`MATRIX_BITS`] + [`SAMPLE_BITS`] are
/// cut off: black level, bias and half a level.
pub fn color_offsets(matrix: &YuvMatrix) -> [i32; 3] {
    let black = i32::from(matrix.black) << SAMPLE_BITS;
    matrix.bias.map(|bias| {
        let half = 1 << (MATRIX_BITS + SAMPLE_BITS - 1);
        half - black * i32::from(matrix.luma) + (i32::from(bias) << MATRIX_BITS)
    })
}

#[cfg(test)]
mod tests;
