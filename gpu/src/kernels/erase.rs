//! Random erasing on a batch in floats.

use bytemuck::{NoUninit, Pod, Zeroable};
use tubelet_core::key::{last_word, philox4x32_10};
use tubelet_core::{Draw, Rect, SampleKey};

use super::{Address, FloatBatch, Launch, by_dtype};
use crate::error::GpuError;

/// Threads of a block.
const THREADS: u32 = 256;
/// First word of the counters of noise: a sample's own draws stay below.
const FIRST_COUNTER: u32 = 1 << 31;

/// A box to be filled with noise: copied to the device as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EraseBox {
    /// Row of the batch.
    pub row: u32,
    /// First row of pixels.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Rows of pixels.
    pub height: u32,
    /// Columns.
    pub width: u32,
    epoch: u32,
    sample: u32,
    last: u32,
}

impl EraseBox {
    /// The box `region` of row `row`, which holds the sample `key`. Its noise depends on the key
    /// alone; the key's seed goes to [`erase`].
    pub fn new(row: u32, region: Rect, key: &SampleKey) -> Self {
        Self {
            row,
            top: region.y,
            left: region.x,
            height: region.height,
            width: region.width,
            epoch: key.epoch,
            sample: key.sample.0 as u32,
            last: last_word(key.sample.0, key.repeat, Draw::Mix),
        }
    }
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct EraseParams {
    data: Address,
    boxes: Address,
    frames: u32,
    height: u32,
    width: u32,
    blocks: u32,
    seed_low: u32,
    seed_high: u32,
}

/// Fills `boxes`, which the device has at `address`, with standard normal noise under `seed`; see
/// [`noise`]. `None` where there is no box.
///
/// # Errors
/// When a box leaves its frame or the batch, or there are too many.
pub fn erase(
    batch: &FloatBatch,
    boxes: &[EraseBox],
    address: Address,
    seed: u64,
) -> Result<Option<Launch>, GpuError> {
    let kernel = by_dtype(["erase_f32", "erase_bf16", "erase_f16"], batch.dtype)?;
    boxes.iter().try_for_each(|b| check_box(batch, b))?;
    let elements = |b: &EraseBox| u64::from(b.height) * u64::from(b.width) * planes(batch);
    let Some(most) = boxes.iter().map(elements).max() else { return Ok(None) };
    let blocks = most.div_ceil(4 * u64::from(THREADS)).max(1);
    let params = EraseParams {
        data: batch.address,
        boxes: address,
        frames: batch.frames,
        height: batch.size.height,
        width: batch.size.width,
        blocks: blocks as u32,
        seed_low: seed as u32,
        seed_high: (seed >> 32) as u32,
    };
    let traffic = boxes.iter().map(elements).sum::<u64>() * batch.dtype.bytes() as u64;
    let launch = Launch::new(kernel, boxes.len() as u64 * blocks, THREADS, &params)?;
    Ok(Some(launch.with_traffic(traffic)))
}

fn planes(batch: &FloatBatch) -> u64 {
    3 * u64::from(batch.frames)
}

fn check_box(batch: &FloatBatch, b: &EraseBox) -> Result<(), GpuError> {
    let ends = |start: u32, length: u32| u64::from(start) + u64::from(length);
    let inside = b.row < batch.rows
        && ends(b.left, b.width) <= u64::from(batch.size.width)
        && ends(b.top, b.height) <= u64::from(batch.size.height);
    if inside {
        return Ok(());
    }
    Err(GpuError::shape("erased box", format!("{b:?}"), "a box lies inside a frame of the batch"))
}

/// Number `element` of the noise that fills `erased` under `seed`: the specification of the kernel.
/// Elements are numbered channel, frame, row, column of the box.
///
/// Philox 4x32-10 under the key `seed`, counter (2^31 + element / 4, epoch, sample, sample's high
/// bits and repeat); Box–Muller in f32 on the upper 24 bits of each word.
pub fn noise(erased: &EraseBox, seed: u64, element: u64) -> f32 {
    let counter = [
        FIRST_COUNTER.wrapping_add((element / 4) as u32),
        erased.epoch,
        erased.sample,
        erased.last,
    ];
    let random = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
    let pair = (element % 4 / 2 * 2) as usize;
    let scale = 1.0 / (1 << 24) as f32;
    let radius = (-2.0 * (((random[pair] >> 8) + 1) as f32 * scale).ln()).sqrt();
    let angle = std::f32::consts::TAU * ((random[pair + 1] >> 8) as f32 * scale);
    radius * if element % 2 == 0 { angle.cos() } else { angle.sin() }
}
