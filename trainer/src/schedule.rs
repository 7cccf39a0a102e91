//! Learning-rate, weight-decay, momentum and temperature schedules: pure functions of the
//! iteration, f64.
//!
//! The families differ in where warm-up starts, whether it reaches its end, and what the cosine
//! counts; see each variant.

use std::f64::consts::PI;

/// A schedule over iterations (or epochs, for a temperature), from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// MAE, MAE-ST, FastMIM, FCMAE, SdAE (`util/lr_sched.py`): linear from 0 over the warm-up, then
    /// a cosine over the rest, both in fractional epochs.
    Mae {
        /// Peak.
        base: f64,
        /// Floor of the cosine.
        min: f64,
        /// Warm-up epochs.
        warmup_epochs: f64,
        /// All epochs.
        epochs: f64,
        /// Iterations of an epoch.
        per_epoch: u64,
    },
    /// BEiT, VideoMAE, MVD, iBOT (`utils.cosine_scheduler`): warm-up is a linspace with both ends,
    /// then a cosine over the iterations that remain. Also their weight-decay and momentum tables.
    Beit {
        /// Value at the end of the warm-up.
        base: f64,
        /// Value the cosine aims at.
        last: f64,
        /// Value the warm-up starts from.
        start: f64,
        /// Warm-up iterations.
        warmup: u64,
        /// All iterations.
        total: u64,
    },
    /// SlowFast (`utils/lr_policy.py`), in fractional epochs.
    SlowFast {
        /// Peak.
        base: f64,
        /// Value the cosine aims at.
        last: f64,
        /// Value the warm-up starts from.
        start: f64,
        /// Warm-up epochs.
        warmup_epochs: f64,
        /// All epochs.
        epochs: f64,
        /// Iterations of an epoch.
        per_epoch: u64,
        /// Whether the cosine starts after the warm-up (`COSINE_AFTER_WARMUP`).
        after_warmup: bool,
    },
    /// SimMIM's long run: linear warm-up, then a factor at each milestone.
    MultiStep {
        /// Value after the warm-up.
        base: f64,
        /// Value the warm-up starts from.
        start: f64,
        /// Warm-up iterations.
        warmup: u64,
        /// Iterations from which one more factor applies.
        milestones: Vec<u64>,
        /// The factor.
        gamma: f64,
    },
    /// SimMIM's short run (timm's cosine without shift): the warm-up is part of the cosine's count,
    /// so the value drops when it ends; `min` from `total` on.
    CosineNoShift {
        /// Peak.
        base: f64,
        /// Floor.
        min: f64,
        /// Value the warm-up starts from.
        start: f64,
        /// Warm-up iterations.
        warmup: u64,
        /// Iterations of the cosine.
        total: u64,
    },
    /// iBOT's and DINO's teacher temperature by epoch: a linspace with both ends, then constant.
    LinearThenConstant {
        /// First value.
        from: f64,
        /// Last value.
        to: f64,
        /// Length of the linspace.
        warmup: u64,
    },
}

impl Schedule {
    /// The value at iteration `i`.
    pub fn at(&self, i: u64) -> f64 {
        match *self {
            Self::Mae { base, min, warmup_epochs, epochs, per_epoch } => {
                let e = i as f64 / per_epoch.max(1) as f64;
                if e < warmup_epochs {
                    base * e / warmup_epochs
                } else {
                    cosine(base, min, share(e - warmup_epochs, epochs - warmup_epochs))
                }
            }
            Self::Beit { base, last, start, warmup, total } => {
                if i < warmup {
                    linspace(start, base, warmup, i)
                } else {
                    cosine(
                        base,
                        last,
                        share((i - warmup) as f64, (total - warmup.min(total)) as f64),
                    )
                }
            }
            Self::SlowFast {
                base,
                last,
                start,
                warmup_epochs,
                epochs,
                per_epoch,
                after_warmup,
            } => {
                let offset = if after_warmup { warmup_epochs } else { 0.0 };
                let decayed = |e: f64| cosine(base, last, share(e - offset, epochs - offset));
                let e = i as f64 / per_epoch.max(1) as f64;
                if e < warmup_epochs {
                    start + e * (decayed(warmup_epochs) - start) / warmup_epochs
                } else {
                    decayed(e)
                }
            }
            Self::MultiStep { base, start, warmup, ref milestones, gamma } => {
                if i < warmup {
                    return start + i as f64 * (base - start) / warmup as f64;
                }
                let passed = milestones.iter().filter(|m| **m <= i).count();
                base * gamma.powi(passed as i32)
            }
            Self::CosineNoShift { base, min, start, warmup, total } => {
                if i < warmup {
                    start + i as f64 * (base - start) / warmup as f64
                } else if i < total {
                    cosine(base, min, share(i as f64, total as f64))
                } else {
                    min
                }
            }
            Self::LinearThenConstant { from, to, warmup } => {
                if i < warmup {
                    linspace(from, to, warmup, i)
                } else {
                    to
                }
            }
        }
    }
}

fn cosine(base: f64, last: f64, share: f64) -> f64 {
    last + 0.5 * (base - last) * (1.0 + (PI * share).cos())
}

/// `part / whole`, clamped to 1 so that a run beyond its planned end keeps the last value.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 }
}

/// Value `i` of `n` evenly spaced ones, both ends included.
fn linspace(from: f64, to: f64, n: u64, i: u64) -> f64 {
    if n < 2 {
        return from;
    }
    if i + 1 == n { to } else { from + i as f64 * ((to - from) / (n - 1) as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_ups_end_where_their_families_say() {
        let mae =
            Schedule::Mae { base: 1.0, min: 0.0, warmup_epochs: 2.0, epochs: 10.0, per_epoch: 5 };
        assert_eq!((mae.at(0), mae.at(5), mae.at(10)), (0.0, 0.5, 1.0));
        let beit = Schedule::Beit { base: 1.0, last: 0.0, start: 0.0, warmup: 5, total: 20 };
        assert_eq!((beit.at(0), beit.at(4), beit.at(5)), (0.0, 1.0, 1.0));
        assert!(beit.at(19) > 0.0);
        let slow = |after_warmup| Schedule::SlowFast {
            base: 1.0,
            last: 0.0,
            start: 0.1,
            warmup_epochs: 2.0,
            epochs: 10.0,
            per_epoch: 4,
            after_warmup,
        };
        assert_eq!((slow(true).at(0), slow(true).at(8)), (0.1, 1.0));
        assert!(slow(false).at(8) < 1.0);
    }

    #[test]
    fn steps_and_floors() {
        let steps = Schedule::MultiStep {
            base: 1.0,
            start: 0.5,
            warmup: 2,
            milestones: vec![5, 8],
            gamma: 0.1,
        };
        assert_eq!((steps.at(1), steps.at(4)), (0.75, 1.0));
        assert!((steps.at(5) - 0.1).abs() < 1e-15 && (steps.at(8) - 0.01).abs() < 1e-15);
        let flat =
            Schedule::CosineNoShift { base: 1.0, min: 0.2, start: 0.0, warmup: 2, total: 10 };
        assert!(flat.at(2) < 1.0);
        assert_eq!((flat.at(10), flat.at(99)), (0.2, 0.2));
    }
}
