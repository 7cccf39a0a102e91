//! Coefficients of one axis: the resize's, folded with those of chroma's upsampling.

use std::ops::Range;

use tubelet_core::Upsampling;

use super::super::pillow_weights;
use super::{Coefficients, Kernel, STEP, WEIGHT_BITS};

/// One axis of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resized {
    /// First position of the region, of luma, and their number.
    pub(super) from: u32,
    pub(super) length: u32,
    /// Number of positions after the resize.
    pub(super) to: u32,
    /// First of those that are put out, and their number.
    pub(super) window: (u32, u32),
    pub(super) reversed: bool,
    pub(super) kernel: Kernel,
}

/// Unrounded coefficients of luma, of sum 1, for each output position.
#[derive(Clone, Debug, Default)]
pub(super) struct Real {
    axis: Option<Resized>,
    first: Vec<u32>,
    count: Vec<u32>,
    weights: Vec<f64>,
    one: Vec<f64>,
}

impl Real {
    /// Makes the coefficients; whether they are others than before.
    pub(super) fn prepare(&mut self, axis: Resized) -> bool {
        if self.axis.replace(axis) == Some(axis) {
            return false;
        }
        self.first.clear();
        self.count.clear();
        self.weights.clear();
        let (start, count) = axis.window;
        for n in 0..count {
            let at = start + if axis.reversed { count - 1 - n } else { n };
            let first = match axis.kernel {
                Kernel::Pillow(filter) => {
                    pillow_weights(axis.length, axis.to, filter, at, &mut self.one)
                }
                Kernel::TorchBilinear => linear_weights(axis.length, axis.to, at, &mut self.one),
            };
            self.first.push(axis.from + first);
            self.count.push(self.one.len() as u32);
            self.weights.extend_from_slice(&self.one);
        }
        true
    }
}

/// The two coefficients of torch's linear interpolation, or one at the end; says the first position.
fn linear_weights(from: u32, to: u32, at: u32, real: &mut Vec<f64>) -> u32 {
    let x = ((f64::from(at) + 0.5) * f64::from(from) / f64::from(to) - 0.5).max(0.0);
    let first = (x as u32).min(from - 1);
    let share = x - f64::from(first);
    real.clear();
    if first + 1 < from {
        real.extend([1.0 - share, share]);
    } else {
        real.push(1.0);
    }
    first
}

/// Chroma that comes to luma's size first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upsampled {
    /// Samples of the whole plane along the axis: what lies outside repeats the outermost.
    pub(super) whole: u32,
    pub(super) rule: Upsampling,
}

/// For each output position the first sample and the coefficients from there on.
#[derive(Clone, Debug, Default)]
pub(super) struct Taps {
    /// What they were made from, beside [`Real`]: the first sample that is held, and upsampling.
    made: Option<(u32, Option<Upsampled>)>,
    /// Samples that are looked at, of those held.
    range: Range<usize>,
    /// First samples from the range's start on; as many as a multiple of [`STEP`].
    first: Vec<u32>,
    count: Vec<u32>,
    /// Coefficients a position: 4, or a multiple of 8; what is too many is 0.
    per: usize,
    weights: Vec<i16>,
    folded: Vec<f64>,
    rounded: Vec<i16>,
}

impl Taps {
    /// Makes the coefficients of a plane that is held from sample `origin` on, unless `real` is what
    /// it was and they are there already.
    pub(super) fn prepare(
        &mut self,
        real: &Real,
        is_new: bool,
        origin: u32,
        upsampled: Option<Upsampled>,
    ) {
        if self.made.replace((origin, upsampled)) == Some((origin, upsampled)) && !is_new {
            return;
        }
        self.first.clear();
        self.count.clear();
        self.rounded.clear();
        let mut rest = real.weights.as_slice();
        for (from, count) in real.first.iter().zip(&real.count) {
            let (own, after) = rest.split_at(*count as usize);
            rest = after;
            self.folded.clear();
            let first = match upsampled {
                None => {
                    self.folded.extend_from_slice(own);
                    *from
                }
                Some(upsampled) => upsampled.fold(*from, own, &mut self.folded),
            };
            self.first.push(first - origin);
            self.count.push(self.folded.len() as u32);
            round(&self.folded, &mut self.rounded);
        }
        self.lay_out();
    }

    /// Gives every position the same number of coefficients.
    fn lay_out(&mut self) {
        let most = self.count.iter().max().copied().unwrap_or(1) as usize;
        self.per = if most <= 4 { 4 } else { most.next_multiple_of(8) };
        let positions = self.first.len().next_multiple_of(STEP);
        self.weights.clear();
        self.weights.resize(positions * self.per, 0);
        let mut rest = self.rounded.as_slice();
        for (to, count) in self.weights.chunks_exact_mut(self.per).zip(&self.count) {
            let (own, after) = rest.split_at(*count as usize);
            to[..own.len()].copy_from_slice(own);
            rest = after;
        }
        let start = self.first.iter().min().copied().unwrap_or(0);
        let ends = self.first.iter().zip(&self.count).map(|(first, count)| first + count);
        self.range = start as usize..ends.max().unwrap_or(start) as usize;
        self.first.iter_mut().for_each(|first| *first -= start);
        self.first.resize(positions, 0);
    }

    /// All of it.
    pub(super) fn public(&self) -> Coefficients<'_> {
        let (range, first) = (self.range.clone(), &self.first[..self.count.len()]);
        Coefficients { range, first, count: &self.count, per: self.per, weights: &self.weights }
    }

    /// The samples that are looked at, of those held.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// First sample held and coefficients of an output position.
    pub(super) fn at(&self, position: usize) -> (usize, &[i16]) {
        let count = self.count[position] as usize;
        let weights = &self.weights[position * self.per..][..count];
        (self.range.start + self.first[position] as usize, weights)
    }

    /// First samples from the range's start on, of whole steps of positions, each less than the
    /// range's length.
    pub(super) fn first(&self) -> &[u32] {
        &self.first
    }

    /// Coefficients a position, and all of them.
    pub(super) fn weights(&self) -> (usize, &[i16]) {
        (self.per, &self.weights)
    }
}

impl Upsampled {
    /// Coefficients over samples of chroma instead of those over positions of luma from `from` on; says
    /// which sample is the first.
    fn fold(self, from: u32, weights: &[f64], folded: &mut Vec<f64>) -> u32 {
        let end = from + weights.len() as u32 - 1;
        if self.rule == Upsampling::Repeat {
            let low = from / 2;
            folded.resize((end / 2 - low + 1) as usize, 0.0);
            for (x, weight) in (from..).zip(weights) {
                folded[(x / 2 - low) as usize] += weight;
            }
            return low;
        }
        let beside = |x: u32| match x % 2 {
            0 => (x / 2).saturating_sub(1),
            _ => (x / 2 + 1).min(self.whole - 1),
        };
        let low = beside(from).min(from / 2);
        folded.resize((beside(end).max(end / 2) - low + 1) as usize, 0.0);
        for (x, weight) in (from..).zip(weights) {
            folded[(x / 2 - low) as usize] += 0.75 * weight;
            folded[(beside(x) - low) as usize] += 0.25 * weight;
        }
        low
    }
}

/// Appends fixed-point coefficients whose sum is exactly one.
fn round(real: &[f64], out: &mut Vec<i16>) {
    let (start, one) = (out.len(), 1i32 << WEIGHT_BITS);
    out.extend(real.iter().map(|w| {
        let w = w * f64::from(one);
        (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i16
    }));
    let own = &mut out[start..];
    let rest = one - own.iter().map(|w| i32::from(*w)).sum::<i32>();
    if let Some(largest) = own.iter_mut().max_by_key(|w| **w) {
        *largest += rest as i16;
    }
}
