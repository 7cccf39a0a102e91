//! How far a re-encoded medium is from what was encoded.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Side of a window of structural similarity, and the distance from one to the next.
const WINDOW: usize = 8;
const STEP: usize = 4;
/// What keeps flat windows from dividing by zero: (0.01 · 255)² and (0.03 · 255)².
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;

/// Sums over the compared values and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Sum of squared errors.
    pub squared: f64,
    /// Number of values compared.
    pub values: u64,
    /// Sum of the structural similarities of windows of brightness.
    pub ssim: f64,
    /// Number of windows.
    pub windows: u64,
}

impl Quality {
    /// Peak signal-to-noise ratio in decibels: infinite where nothing differs, absent where nothing was
    /// compared.
    pub fn psnr(&self) -> Option<f64> {
        (self.values > 0).then(|| psnr(self.squared / self.values as f64))
    }

    /// Mean structural similarity of 8×8 windows, four pixels apart, of brightness, by the formula of
    /// Wang et al. 2004; 1 where nothing differs, absent where there was no window.
    pub fn ssim(&self) -> Option<f64> {
        (self.windows > 0).then(|| self.ssim / self.windows as f64)
    }

    /// Compares two pictures of brightness, rows of `width` values.
    pub(super) fn compare(&mut self, a: &[u8], b: &[u8], width: usize) {
        self.squared += squared_error(a, b);
        self.values += a.len().min(b.len()) as u64;
        self.compare_windows(a, b, width);
    }

    /// Compares two packed RGB pictures: their values, and windows of their brightness.
    pub(super) fn compare_rgb(&mut self, a: &[u8], b: &[u8], width: usize) {
        self.squared += squared_error(a, b);
        self.values += a.len().min(b.len()) as u64;
        self.compare_windows(&brightness(a), &brightness(b), width);
    }

    fn compare_windows(&mut self, a: &[u8], b: &[u8], width: usize) {
        let height = a.len().min(b.len()) / width.max(1);
        for y in (0..(height + 1).saturating_sub(WINDOW)).step_by(STEP) {
            for x in (0..(width + 1).saturating_sub(WINDOW)).step_by(STEP) {
                let rows = (y..y + WINDOW).map(|row| row * width + x);
                self.ssim += similarity(rows.map(|at| (&a[at..at + WINDOW], &b[at..at + WINDOW])));
                self.windows += 1;
            }
        }
    }
}

impl AddAssign for Quality {
    fn add_assign(&mut self, other: Self) {
        self.squared += other.squared;
        self.values += other.values;
        self.ssim += other.ssim;
        self.windows += other.windows;
    }
}

/// Peak signal-to-noise ratio in decibels of a mean squared error over 8-bit values; infinite
/// where there is none.
fn psnr(mean_squared: f64) -> f64 {
    10.0 * (255.0 * 255.0 / mean_squared).log10()
}

/// Structural similarity of one window, from pairs of rows.
fn similarity<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> f64 {
    let (mut a, mut b, mut aa, mut bb, mut ab) = (0u32, 0u32, 0u32, 0u32, 0u32);
    for (left, right) in rows {
        for (x, y) in left.iter().zip(right) {
            let (x, y) = (u32::from(*x), u32::from(*y));
            (a, b) = (a + x, b + y);
            (aa, bb, ab) = (aa + x * x, bb + y * y, ab + x * y);
        }
    }
    let mean = |sum: u32| f64::from(sum) / (WINDOW * WINDOW) as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (va, vb, cov) = (mean(aa) - ma * ma, mean(bb) - mb * mb, mean(ab) - ma * mb);
    (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
}

/// Brightness by BT.601 of packed RGB.
fn brightness(rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let value = |[r, g, b]: &[u8; 3]| {
        ((299 * u32::from(*r) + 587 * u32::from(*g) + 114 * u32::from(*b) + 500) / 1000) as u8
    };
    pixels.iter().map(value).collect()
}

/// Sum of squared differences of two equally long runs of values.
pub(super) fn squared_error(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_of_known_errors() {
        assert_eq!(psnr(255.0 * 255.0), 0.0);
        assert!((psnr(1.0) - 48.130_803_6).abs() < 1e-6);
        assert_eq!(squared_error(&[1, 2, 3], &[1, 0, 6]), 13.0);
        assert_eq!((Quality::default().psnr(), Quality::default().ssim()), (None, None));
    }

    /// By hand: two flat pictures have no variance, so the similarity is that of their means; a
    /// picture and its negative around the mean correlate to minus one.
    #[test]
    fn similarity_of_known_windows() {
        let of = |a: &[u8], b: &[u8], width| {
            let mut quality = Quality::default();
            quality.compare(a, b, width);
            (quality.ssim(), quality.windows)
        };
        let wanted = (2.0 * 100.0 * 200.0 + C1) / (100.0f64.powi(2) + 200.0f64.powi(2) + C1);
        let (flat, windows) = of(&[100; 160], &[200; 160], 16);
        assert!((flat.unwrap_or(0.0) - wanted).abs() < 1e-12 && windows == 3, "{flat:?} {windows}");
        let check: Vec<u8> = (0..64).map(|n| if (n + n / 8) % 2 == 0 { 90 } else { 110 }).collect();
        let negative: Vec<u8> = check.iter().map(|v| 200 - v).collect();
        let wanted = (C2 - 200.0) / (C2 + 200.0);
        assert!((of(&check, &negative, 8).0.unwrap_or(0.0) - wanted).abs() < 1e-12);
        assert_eq!(of(&check, &check, 8), (Some(1.0), 1));
        assert_eq!(of(&check[..56], &check[..56], 8), (None, 0));
    }
}
