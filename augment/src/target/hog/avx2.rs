//! Histograms eight columns at a time, bit-equal to the plain way.
//!
//! A gradient's bin is found without an arc tangent: turned into the first quadrant, it is as many
//! edges of bins past the y axis as products gx·cos θ − gy·sin θ are not negative. Where one of them is
//! so near to zero that rounding could decide, the plain rule is asked.

use std::arch::x86_64::{
    __m256, __m256i, _CMP_EQ_OQ, _CMP_GE_OQ, _CMP_NGT_UQ, _mm256_add_ps, _mm256_and_ps,
    _mm256_andnot_ps, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cmpeq_epi32, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_min_ps,
    _mm256_movemask_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sqrt_ps, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi32, _mm256_sub_ps, _mm256_xor_ps,
};

use tubelet_core::Size;

use super::{HogSpec, across, orientation_bin, reflect};

/// Columns of one step.
const STEP: usize = 8;
/// Where a line's first pixel lies; the one before it is its reflection.
const FIRST: usize = 8;
/// How near to an edge, in shares of |gx| + |gy|, the plain rule is asked. Four roundings of a product
/// and those of the plain rule's angle come to less than a third of it.
const NEAR: f32 = 4e-6;

/// Buffers kept between channels.
#[derive(Clone, Debug, Default)]
pub(super) struct Band {
    /// Lines of a row of cells, one more at each end, with reflected borders.
    lines: Vec<f32>,
    /// `[cell, 8]`, magnitudes of a step.
    magnitudes: Vec<f32>,
    /// `[cell, 8]`, bins of a step.
    bins: Vec<i32>,
    /// Cosine and sine of the edges between the y axis and the x axis, both left out.
    edges: Vec<[f32; 2]>,
    /// `[side, columns]`, the window's lines over the whole width.
    window: Vec<f32>,
}

/// Gradients of eight pixels.
#[derive(Clone, Copy)]
struct Gradients {
    x: __m256,
    y: __m256,
}

impl Band {
    /// As [`super::add_channel`].
    #[target_feature(enable = "avx2")]
    pub(super) fn add_channel(
        &mut self,
        spec: &HogSpec,
        plane: &[f32],
        size: Size,
        window: &[f32],
        sums: &mut Vec<f32>,
        histogram: &mut [f32],
    ) {
        let (width, height) = (size.width as usize, size.height as usize);
        let (cell, bins) = (spec.cell as usize, spec.bins as usize);
        let (rows, columns) = (height / cell, width / cell);
        let padded = width.next_multiple_of(STEP * STEP);
        self.prepare(spec, width, window);
        sums.clear();
        sums.resize(bins * padded, 0.0);
        for row in 0..rows {
            self.fill_lines(plane, (width, height), row * cell, cell);
            for x in (0..columns * cell).step_by(STEP) {
                self.step(spec, width, row * cell, x);
                for (bin, sums) in sums.chunks_exact_mut(padded).enumerate() {
                    self.add_bin(bin as i32, &mut sums[x..x + STEP]);
                }
            }
            for (bin, sums) in sums.chunks_exact(padded).enumerate() {
                let cells = &mut histogram[(bin * rows + row) * columns..][..columns];
                if cell == STEP {
                    for (out, sums) in cells.chunks_mut(STEP).zip(sums.chunks_exact(STEP * STEP)) {
                        out.copy_from_slice(&across_eight(sums)[..out.len()]);
                    }
                } else {
                    let sums = sums.chunks_exact(cell);
                    cells.iter_mut().zip(sums).for_each(|(out, sums)| *out = across(sums));
                }
            }
        }
    }

    /// Buffers for pictures of this width.
    fn prepare(&mut self, spec: &HogSpec, width: usize, window: &[f32]) {
        let (cell, stride) = (spec.cell as usize, stride(width));
        self.lines.clear();
        self.lines.resize((cell + 2) * stride, 0.0);
        self.magnitudes.resize(cell * STEP, 0.0);
        self.bins.resize(cell * STEP, 0);
        self.edges.clear();
        self.edges.extend((1..=(spec.bins.max(1) - 1) / 2).map(|k| {
            let angle = std::f64::consts::PI * f64::from(k) / f64::from(spec.bins);
            [angle.cos() as f32, angle.sin() as f32]
        }));
        self.window.clear();
        let side = spec.gaussian_window as usize;
        for line in window.chunks_exact(side.max(1)) {
            self.window.extend((0..width.next_multiple_of(STEP)).map(|x| line[x % side]));
        }
    }

    /// Copies the lines around the row of cells whose first line is `top`.
    fn fill_lines(
        &mut self,
        plane: &[f32],
        (width, height): (usize, usize),
        top: usize,
        cell: usize,
    ) {
        for (k, line) in self.lines.chunks_exact_mut(stride(width)).take(cell + 2).enumerate() {
            let y = match k {
                0 => reflect(top, -1, height),
                _ => reflect(top + k - 1, 0, height),
            };
            let from = &plane[y * width..][..width];
            line[FIRST..FIRST + width].copy_from_slice(from);
            (line[FIRST - 1], line[FIRST + width]) = (from[1], from[width - 2]);
        }
    }

    /// Magnitudes and bins of eight columns of a row of cells.
    #[target_feature(enable = "avx2")]
    fn step(&mut self, spec: &HogSpec, width: usize, top: usize, x: usize) {
        let (cell, stride) = (spec.cell as usize, stride(width));
        let side = spec.gaussian_window as usize;
        let window_stride = width.next_multiple_of(STEP);
        for k in 0..cell {
            let around = &self.lines[k * stride + FIRST - 1 + x..][..2 * stride + STEP + 2];
            // SAFETY: the slice reaches eight numbers past the last place that is read.
            let gradients = unsafe { sobel(around.as_ptr(), stride) };
            let Gradients { x: gx, y: gy } = gradients;
            let squares = _mm256_add_ps(_mm256_mul_ps(gx, gx), _mm256_mul_ps(gy, gy));
            let mut magnitude = _mm256_sqrt_ps(squares);
            if side > 0 {
                let weights = &self.window[(top + k) % side * window_stride + x..][..STEP];
                // SAFETY: eight numbers are read.
                magnitude = _mm256_mul_ps(magnitude, unsafe { _mm256_loadu_ps(weights.as_ptr()) });
            }
            let bins = self.orientation(gradients, spec.bins);
            let magnitudes = &mut self.magnitudes[k * STEP..][..STEP];
            // SAFETY: eight numbers are written.
            unsafe { _mm256_storeu_ps(magnitudes.as_mut_ptr(), magnitude) };
            store(bins, &mut self.bins[k * STEP..][..STEP]);
        }
    }

    /// The bins of eight gradients.
    #[target_feature(enable = "avx2")]
    fn orientation(&self, gradients: Gradients, bins: u32) -> __m256i {
        let Gradients { x: gx, y: gy } = gradients;
        let (zero, minus) = (_mm256_setzero_ps(), _mm256_set1_ps(-0.0));
        // A gradient and its opposite have the same bin.
        let x = _mm256_andnot_ps(minus, gx);
        let turned = _mm256_xor_ps(gy, _mm256_and_ps(gx, minus));
        let y = _mm256_andnot_ps(minus, gy);
        // The y axis is an edge, and so is the x axis where bins are even.
        let mut nearest = if bins % 2 == 0 { _mm256_min_ps(x, y) } else { x };
        let mut bin = _mm256_setzero_si256();
        for [cosine, sine] in &self.edges {
            let (cosine, sine) = (_mm256_set1_ps(*cosine), _mm256_set1_ps(*sine));
            let past = _mm256_sub_ps(_mm256_mul_ps(x, cosine), _mm256_mul_ps(y, sine));
            let beyond = _mm256_cmp_ps::<_CMP_GE_OQ>(past, zero);
            bin = _mm256_sub_epi32(bin, _mm256_castps_si256(beyond));
            nearest = _mm256_min_ps(nearest, _mm256_andnot_ps(minus, past));
        }
        // The second quadrant mirrors the first.
        let last = _mm256_set1_epi32(bins as i32 - 1);
        let mirrored = _mm256_castsi256_ps(_mm256_sub_epi32(last, bin));
        let bin = _mm256_blendv_ps(_mm256_castsi256_ps(bin), mirrored, turned);
        // On the y axis the bin is the first one, whatever the magnitude.
        let upright = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, zero);
        let bin = _mm256_castps_si256(_mm256_andnot_ps(upright, bin));
        let near = _mm256_mul_ps(_mm256_add_ps(x, y), _mm256_set1_ps(NEAR));
        let unsure = _mm256_cmp_ps::<_CMP_NGT_UQ>(nearest, near);
        match _mm256_movemask_ps(_mm256_andnot_ps(upright, unsure)) {
            0 => bin,
            lanes => ask(bin, lanes, gradients, bins),
        }
    }

    /// Writes the magnitudes of bin `bin` of a step, added down each column.
    #[target_feature(enable = "avx2")]
    fn add_bin(&self, bin: i32, out: &mut [f32]) {
        let wanted = _mm256_set1_epi32(bin);
        let mut sum = _mm256_setzero_ps();
        for (bins, magnitudes) in
            self.bins.chunks_exact(STEP).zip(self.magnitudes.chunks_exact(STEP))
        {
            // SAFETY: eight numbers are read of each.
            let (bins, magnitudes) = unsafe {
                (_mm256_loadu_si256(bins.as_ptr().cast()), _mm256_loadu_ps(magnitudes.as_ptr()))
            };
            let those = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bins, wanted));
            sum = _mm256_add_ps(sum, _mm256_and_ps(magnitudes, those));
        }
        assert!(out.len() >= STEP);
        // SAFETY: eight numbers are written.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// Numbers from line to line: room for the reflections and for the last step.
fn stride(width: usize) -> usize {
    FIRST + width.next_multiple_of(STEP) + 2 * STEP
}

/// Gradients of eight pixels in the order of the taps that [`super::sobel`] has.
///
/// # Safety
/// Ten numbers are read at `at` and at one and two `stride`s behind it.
#[target_feature(enable = "avx2")]
unsafe fn sobel(at: *const f32, stride: usize) -> Gradients {
    // SAFETY: by the caller.
    let line = |k: usize| [0, 1, 2].map(|x| unsafe { _mm256_loadu_ps(at.add(k * stride + x)) });
    let ([a0, a1, a2], [b0, _, b2], [c0, c1, c2]) = (line(0), line(1), line(2));
    let (add, sub) = (|a, b| _mm256_add_ps(a, b), |a, b| _mm256_sub_ps(a, b));
    let twice = |a| _mm256_add_ps(a, a);
    let x = sub(add(sub(add(sub(a0, a2), twice(b0)), twice(b2)), c0), c2);
    let y = sub(sub(sub(add(add(a0, twice(a1)), a2), c0), twice(c1)), c2);
    Gradients { x, y }
}

/// The plain rule for the lanes whose bit is set in `lanes`.
#[cold]
#[target_feature(enable = "avx2")]
fn ask(bin: __m256i, lanes: i32, gradients: Gradients, bins: u32) -> __m256i {
    let (mut gx, mut gy, mut all) = ([0.0f32; STEP], [0.0f32; STEP], [0i32; STEP]);
    // SAFETY: eight numbers are written to eight.
    unsafe {
        _mm256_storeu_ps(gx.as_mut_ptr(), gradients.x);
        _mm256_storeu_ps(gy.as_mut_ptr(), gradients.y);
    }
    store(bin, &mut all);
    for lane in (0..STEP).filter(|lane| lanes >> lane & 1 == 1) {
        all[lane] = orientation_bin(gx[lane], gy[lane], bins) as i32;
    }
    // SAFETY: eight numbers are read of eight.
    unsafe { _mm256_loadu_si256(all.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store(numbers: __m256i, out: &mut [i32]) {
    assert!(out.len() >= STEP);
    // SAFETY: eight numbers are written.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), numbers) };
}

/// [`across`] of eight cells of eight columns.
#[target_feature(enable = "avx2")]
fn across_eight(sums: &[f32]) -> [f32; STEP] {
    assert!(sums.len() >= STEP * STEP);
    // SAFETY: 64 numbers are read.
    let cell = |k: usize| unsafe { _mm256_loadu_ps(sums.as_ptr().add(k * STEP)) };
    let pairs = |k: usize| _mm256_hadd_ps(cell(k), cell(k + 1));
    let (first, second) = (_mm256_hadd_ps(pairs(0), pairs(2)), _mm256_hadd_ps(pairs(4), pairs(6)));
    let low = _mm256_permute2f128_ps::<0x20>(first, second);
    let high = _mm256_permute2f128_ps::<0x31>(first, second);
    let mut out = [0.0; STEP];
    // SAFETY: eight numbers are written to eight.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(low, high)) };
    out
}
