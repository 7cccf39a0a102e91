//! Mixup and CutMix on a batch in floats.

use std::ops::Range;

use bytemuck::{NoUninit, Pod, Zeroable};
use tubelet_augment::mix::Mix;
use tubelet_core::{Rect, Size};

use super::{Address, FloatBatch, Launch, by_dtype};
use crate::error::GpuError;

/// Threads of a block.
const THREADS: u32 = 256;
/// Elements that a thread changes at most, before another block is added.
const ELEMENTS: u64 = 16;
/// Pairs of one launch: their parameters fit the 4 KiB that every driver takes.
const PAIRS: usize = 32;

/// Two rows that are mixed with each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairMix {
    /// The two rows.
    pub rows: [u32; 2],
    /// How each is mixed with the other.
    pub mixes: [Mix; 2],
}

impl PairMix {
    /// The pairs of the rows `group`: each row and the one at the mirrored place. A row in the middle
    /// is nobody's partner, and pairs of which nothing changes are left out.
    pub fn of_group(group: Range<usize>, mixes: &[Mix]) -> impl Iterator<Item = Self> + '_ {
        let last = mixes.len().saturating_sub(1);
        let start = group.start;
        (0..mixes.len() / 2)
            .map(move |n| Self {
                rows: [(start + n) as u32, (start + last - n) as u32],
                mixes: [mixes[n], mixes[last - n]],
            })
            .filter(|pair| pair.changed(Size::square(1)).is_some())
    }

    /// The part of frames of `size` outside which nothing changes; `None` for nothing at all.
    fn changed(&self, size: Size) -> Option<Rect> {
        let of = |mix| match mix {
            Mix::None => None,
            Mix::Mixup(_) => Some(Rect::full(size)),
            Mix::Cutmix { region, .. } => (region.size().area() > 0).then_some(region),
        };
        match self.mixes.map(of) {
            [Some(one), Some(two)] => Some(one.union(two)),
            [one, two] => one.or(two),
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MixRow {
    kind: u32,
    keep: f32,
    take: f32,
    top: u32,
    left: u32,
    height: u32,
    width: u32,
    unused: u32,
}

impl MixRow {
    fn of(mix: Mix) -> Self {
        match mix {
            Mix::None => Self::zeroed(),
            Mix::Mixup(lambda) => {
                let (keep, take) = (lambda as f32, (1.0 - lambda) as f32);
                Self { kind: 1, keep, take, ..Self::zeroed() }
            }
            Mix::Cutmix { region: Rect { x, y, width, height }, .. } => {
                Self { kind: 2, top: y, left: x, height, width, ..Self::zeroed() }
            }
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    first: u32,
    second: u32,
    top: u32,
    left: u32,
    height: u32,
    width: u32,
    own: [MixRow; 2],
}

impl Pair {
    /// `fours`: whether the box is made of whole fours of columns.
    fn of(pair: &PairMix, size: Size, fours: bool) -> Self {
        let Rect { x, y, width, height } =
            pair.changed(size).unwrap_or(Rect::full(Size::new(0, 0)));
        let step = if fours { 4 } else { 1 };
        let left = x / step * step;
        Self {
            first: pair.rows[0],
            second: pair.rows[1],
            top: y,
            left,
            height,
            width: (x + width).next_multiple_of(step) - left,
            own: pair.mixes.map(MixRow::of),
        }
    }

    fn area(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct MixParams {
    data: Address,
    planes: u32,
    height: u32,
    width: u32,
    blocks: u32,
    vector: u32,
    unused: u32,
    pairs: [Pair; PAIRS],
}

/// Mixes the rows of `pairs` in place; a row is in one pair at most. None where there is no pair.
///
/// # Errors
/// When a box leaves the frame, λ is not within 0 to 1, there is no such row, or rows are too large.
pub fn mix(batch: &FloatBatch, pairs: &[PairMix]) -> Result<Vec<Launch>, GpuError> {
    let kernel = by_dtype(["mix_f32", "mix_bf16", "mix_f16"], batch.dtype)?;
    let row_values = 3 * u64::from(batch.frames) * batch.size.area() as u64;
    if row_values > u64::from(u32::MAX / 2) {
        let valid = "a row has at most 2147483647 values";
        return Err(GpuError::shape("row of a batch", row_values, valid));
    }
    pairs.iter().try_for_each(|pair| check(batch, pair))?;
    let parts = pairs.chunks(PAIRS).map(|pairs| launch(kernel, batch, pairs));
    parts.filter_map(Result::transpose).collect()
}

/// Up to [`PAIRS`] pairs; `None` where nothing of them changes.
fn launch(
    kernel: &'static str,
    batch: &FloatBatch,
    pairs: &[PairMix],
) -> Result<Option<Launch>, GpuError> {
    let fours = batch.size.width % 4 == 0 && batch.address.is_aligned(16);
    let planes = 3 * batch.frames;
    let mut params = MixParams {
        data: batch.address,
        planes,
        height: batch.size.height,
        width: batch.size.width,
        vector: u32::from(fours),
        ..MixParams::zeroed()
    };
    for (out, pair) in params.pairs.iter_mut().zip(pairs) {
        *out = Pair::of(pair, batch.size, fours);
    }
    let areas = || params.pairs.iter().map(|pair| pair.area() * u64::from(planes));
    let (largest, all) = (areas().max().unwrap_or(0), areas().sum::<u64>());
    if largest == 0 {
        return Ok(None);
    }
    let blocks = largest.div_ceil(u64::from(THREADS) * ELEMENTS);
    params.blocks = blocks as u32;
    let launch = Launch::new(kernel, pairs.len() as u64 * blocks, THREADS, &params)?;
    Ok(Some(launch.with_traffic(all * 4 * batch.dtype.bytes() as u64)))
}

fn check(batch: &FloatBatch, pair: &PairMix) -> Result<(), GpuError> {
    let [first, second] = pair.rows;
    if first == second || first >= batch.rows || second >= batch.rows {
        let valid = "partners are two rows of the batch";
        return Err(GpuError::shape("mixed rows", format!("{first} and {second}"), valid));
    }
    for mix in pair.mixes {
        match mix {
            Mix::None => {}
            Mix::Mixup(lambda) if (0.0..=1.0).contains(&lambda) => {}
            Mix::Mixup(lambda) => {
                return Err(GpuError::shape("mixup's lambda", lambda, "0 to 1 are"));
            }
            Mix::Cutmix { region: r, .. } => {
                if !r.fits(batch.size) {
                    let valid = "a box lies inside the frame";
                    return Err(GpuError::shape("CutMix's box", format!("{r:?}"), valid));
                }
            }
        }
    }
    Ok(())
}
