//! Random erasing on a batch in floats.

use bytemuck::{NoUninit, Zeroable};
use tubelet_augment::erase::{Erase, EraseMode};
use tubelet_core::key::last_word;
use tubelet_core::{Draw, Size};

use super::{Address, FloatBatch, Launch, PlaneOrder, by_dtype, check_area};
use crate::error::GpuError;

/// Threads of a block.
const THREADS: u32 = 256;
/// Values that a thread writes at most, before another block is added.
const VALUES: u64 = 4;

/// What a batch loses, found out from its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boxes {
    rows: u32,
    size: Size,
    /// Room for boxes in a row.
    boxes: u32,
    /// Pixels of the largest box, and of all together.
    largest: u64,
    all: u64,
}

impl Boxes {
    /// The boxes in `fields`, u32 `[rows, 2 + 4 · boxes]` ([`tubelet_core::BatchLayout::erase`]), of
    /// frames of `size`; `None` where there is none.
    ///
    /// # Errors
    /// When a box leaves the frame.
    pub fn of(fields: &[u32], rows: usize, size: Size) -> Result<Option<Self>, GpuError> {
        let words = fields.len() / rows.max(1);
        let mut out = Self { rows: rows as u32, size, boxes: 0, largest: 0, all: 0 };
        out.boxes = (words.saturating_sub(2) / 4) as u32;
        for (row, field) in fields.chunks_exact(words.max(2)).enumerate() {
            for region in Erase::load(field).boxes {
                if !region.fits(size) {
                    let value = format!("{region:?} of row {row}");
                    let valid = "a box lies inside the frame";
                    return Err(GpuError::shape("erased box", value, valid));
                }
                let area = region.size().area() as u64;
                out.largest = out.largest.max(area);
                out.all += area;
            }
        }
        Ok((out.largest > 0).then_some(out))
    }
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct EraseParams {
    data: Address,
    fields: Address,
    frames: u32,
    height: u32,
    width: u32,
    boxes: u32,
    blocks: u32,
    mode: u32,
    frame_major: u32,
    last: u32,
}

/// Erases `boxes` in `batch`, whose axes are in the order `order`; the device has their fields at
/// `fields`. The numbers are those of [`Erase::apply`], rounded to the batch's type.
///
/// # Errors
/// When the boxes are those of another shape, the batch is too large, or its type is no float.
pub fn erase(
    batch: &FloatBatch,
    order: PlaneOrder,
    mode: EraseMode,
    boxes: &Boxes,
    fields: Address,
) -> Result<Launch, GpuError> {
    check_area(batch.size)?;
    let kernel = by_dtype(["erase_f32", "erase_bf16", "erase_f16"], batch.dtype)?;
    if (boxes.rows, boxes.size) != (batch.rows, batch.size) {
        let valid = "boxes are used with the batch that they were read from";
        return Err(GpuError::shape("erased boxes", format!("{boxes:?}"), valid));
    }
    let planes = 3 * u64::from(batch.frames);
    let blocks = (boxes.largest * planes).div_ceil(u64::from(THREADS) * VALUES);
    let params = EraseParams {
        data: batch.address,
        fields,
        frames: batch.frames,
        height: batch.size.height,
        width: batch.size.width,
        boxes: boxes.boxes,
        blocks: blocks as u32,
        mode: match mode {
            EraseMode::Const => 0,
            EraseMode::Rand => 1,
            EraseMode::Pixel => 2,
        },
        frame_major: u32::from(order == PlaneOrder::FrameFirst),
        last: last_word(0, 0, Draw::Erase),
    };
    let all = u64::from(batch.rows) * u64::from(boxes.boxes) * blocks;
    let traffic = boxes.all * planes * batch.dtype.bytes() as u64;
    Ok(Launch::new(kernel, all, THREADS, &params)?.with_traffic(traffic))
}
