//! Which sample, which draw: counter-based random numbers.
//!
//! Everything random about a sample is a pure function of (seed, epoch, sample, repeat, purpose).
//! The generator is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011): the key is the seed, the counter names the draw, so streams never overlap and none
//! has to be stored to resume.

use serde::{Deserialize, Serialize};

/// Number of a sample in its data set, stable from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleId(pub u64);

impl std::fmt::Display for SampleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a draw is for. Each purpose has a stream of its own: adding a draw to one changes no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Draw {
    /// Which frames.
    Frames = 0,
    /// Which region.
    Crop = 1,
    /// Mirrored or not.
    Flip = 2,
    /// Colour changes.
    Color = 3,
    /// Which tokens are hidden.
    Mask = 4,
    /// Mixup and CutMix (of a batch, not of a sample).
    Mix = 5,
    /// Order of an epoch (not of a sample).
    Order = 6,
    /// Weights, drop path and other draws of the model (not of a sample).
    Model = 7,
    /// Random erasing.
    Erase = 8,
}

/// Views a sample may have: each has streams of its own.
pub const MAX_VIEWS: usize = 16;

/// Names one use of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// The sample; below 2^40.
    pub sample: SampleId,
    /// Which of the several clips taken from this sample (repeated augmentation).
    pub repeat: u16,
}

impl SampleKey {
    /// The stream of random numbers for `purpose`, always from its start.
    pub fn rng(&self, purpose: Draw) -> SampleRng {
        SampleRng::new(self.seed, self.epoch, self.sample.0, self.repeat, purpose)
    }

    /// The stream for `purpose` in view `view` (below [`MAX_VIEWS`]); view 0 has [`Self::rng`]'s.
    pub fn view_rng(&self, purpose: Draw, view: usize) -> SampleRng {
        debug_assert!(view < MAX_VIEWS, "view {view}");
        let mut rng = self.rng(purpose);
        // The byte of the purpose has room: its upper half names the view.
        rng.counter[3] |= (view as u32 & 0xf) << 20;
        rng
    }
}

/// Names one batch of a run, for draws that concern a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchKey {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Number of the batch in the epoch, from 0; below 2^40.
    pub number: u64,
    /// First row of the batch that this process holds: 0 but for ranks after the first.
    pub first_row: u32,
}

impl BatchKey {
    /// The stream of random numbers for the `group`-th group of rows of the whole batch.
    pub fn rng(&self, group: u16) -> SampleRng {
        SampleRng::new(self.seed, self.epoch, self.number, group, Draw::Mix)
    }
}

/// A stream of random numbers; see the module.
#[derive(Clone, Debug)]
pub struct SampleRng {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl SampleRng {
    /// The stream named by these five numbers.
    pub fn new(seed: u64, epoch: u32, sample: u64, repeat: u16, purpose: Draw) -> Self {
        debug_assert!(sample < 1 << 40, "sample ids are below 2^40");
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, epoch, sample as u32, last_word(sample, repeat, purpose)],
            block: [0; 4],
            used: 4,
        }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform between `low` and `high`, in either order.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n without bias; 0 for n = 0.
    pub fn below(&mut self, n: u32) -> u32 {
        if n < 2 {
            return 0;
        }
        // Lemire's multiply-and-reject.
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// True with probability `p`.
    pub fn coin(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }

    /// Normal with mean 0 and variance 1 (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Gamma with shape `k` and scale 1 (Marsaglia–Tsang).
    pub fn gamma(&mut self, k: f64) -> f64 {
        if k < 1.0 {
            let boost = (1.0 - self.unit()).powf(1.0 / k);
            return self.gamma(k + 1.0) * boost;
        }
        let d = k - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.unit();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Beta(a, b).
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let x = self.gamma(a);
        let y = self.gamma(b);
        x / (x + y)
    }

    /// Puts `items` in uniformly random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

/// The last word of a stream's counter: what `epoch` and the sample's low bits do not say.
pub fn last_word(sample: u64, repeat: u16, purpose: Draw) -> u32 {
    ((sample >> 32) as u32 & 0xff) << 24 | (purpose as u32) << 16 | u32::from(repeat)
}

/// One block of Philox 4x32 with ten rounds: 128 random bits of a counter and a key. Streams count
/// in the first word from 0; counters from 2^31 on are free for draws made in parallel.
pub fn philox4x32_10(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sample: u64) -> SampleKey {
        SampleKey { seed: 7, epoch: 3, sample: SampleId(sample), repeat: 0 }
    }

    /// Vectors published with the Random123 library (kat_vectors, philox4x32 10).
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn same_key_same_numbers_other_purpose_other_numbers() {
        let take = |purpose| {
            let mut rng = key(5).rng(purpose);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(take(Draw::Mask), take(Draw::Mask));
        assert_ne!(take(Draw::Mask), take(Draw::Crop));
        assert_ne!(key(5).rng(Draw::Mask).next_u64(), key(6).rng(Draw::Mask).next_u64());
        let mut seen: Vec<u64> = (0..MAX_VIEWS)
            .flat_map(|view| {
                let draws = [Draw::Frames, Draw::Crop, Draw::Flip, Draw::Color, Draw::Mask];
                let more = [Draw::Mix, Draw::Order, Draw::Model, Draw::Erase];
                draws.into_iter().chain(more).map(move |d| key(5).view_rng(d, view).next_u64())
            })
            .collect();
        assert_eq!(seen[4], key(5).rng(Draw::Mask).next_u64());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), MAX_VIEWS * 9);
    }

    #[test]
    fn below_is_uniform() {
        let mut counts = [0u32; 7];
        let mut rng = key(1).rng(Draw::Crop);
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        // Each is Binomial(70000, 1/7): sigma 92.6; five sigma.
        assert!(counts.iter().all(|&c| (f64::from(c) - 10_000.0).abs() < 463.0), "{counts:?}");
    }

    #[test]
    fn beta_has_its_mean_and_variance() {
        let mut rng = key(2).rng(Draw::Mix);
        let draws: Vec<f64> = (0..50_000).map(|_| rng.beta(0.8, 0.8)).collect();
        let mean = draws.iter().sum::<f64>() / 50_000.0;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 50_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((var - 0.25 / 2.6).abs() < 0.003, "{var}");
    }
}
