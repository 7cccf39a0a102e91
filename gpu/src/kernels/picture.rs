//! Pictures of HOG as targets.

use bytemuck::{NoUninit, Zeroable};
use tubelet_augment::target::hog_picture::{BINS, CELL, cell_lines};
use tubelet_core::{PatchSize, Size};

use super::{Address, Launch, Pixels, Source, TokenList, check_area, token_count};
use crate::error::GpuError;

/// Cells that a block makes, with a thread a pixel.
const CELLS: u64 = 4;
/// Threads of a block.
const THREADS: u32 = 256;

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct CellsParams {
    pixels: Address,
    floats: Address,
    table: Address,
    out: Address,
    frames: u32,
    height: u32,
    width: u32,
    columns: u32,
    cells: u32,
    blocks: u32,
}

/// Whole cells along height and width.
fn cells_of(size: Size) -> (u32, u32) {
    (size.height / CELL as u32, size.width / CELL as u32)
}

/// Numbers that the cells of one frame have.
pub fn cells_len(size: Size) -> usize {
    let (rows, columns) = cells_of(size);
    rows as usize * columns as usize * BINS
}

/// Which bins' lines cross each pixel of a cell, to be copied to the device for [`picture`].
pub fn line_table() -> Vec<u32> {
    cell_lines().map(u32::from).to_vec()
}

/// Histograms of all cells to `out`, f32 `[rows, frames, cells_len]`.
///
/// # Errors
/// When a frame has no whole cell, or the batch is empty or too large.
pub fn picture_cells(pixels: &Pixels, source: Source, out: Address) -> Result<Launch, GpuError> {
    check_area(pixels.size)?;
    let (rows, columns) = cells_of(pixels.size);
    let cells = u64::from(rows) * u64::from(columns);
    let blocks = cells.div_ceil(CELLS);
    let (bytes, floats, table) = source.addresses(pixels);
    let params = CellsParams {
        pixels: bytes,
        floats,
        table,
        out,
        frames: pixels.frames,
        height: pixels.size.height,
        width: pixels.size.width,
        columns,
        cells: cells as u32,
        blocks: blocks as u32,
    };
    let cell = (CELL * CELL) as u64 * source.pixel_bytes() + 4 * BINS as u64;
    let launch = Launch::new("picture_cells", pixels.planes() * blocks, THREADS, &params)?;
    Ok(launch.with_traffic(pixels.planes() * cells * cell))
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct PictureParams {
    cells: Address,
    lines: Address,
    tokens: Address,
    counts: Address,
    out: Address,
    max_tokens: u32,
    frames: u32,
    height: u32,
    width: u32,
    patch_t: u32,
    patch_h: u32,
    patch_w: u32,
    unused: u32,
}

/// Draws the listed tokens to `out`, f32 `[rows, count, t · h · w]` ordered frame, row, column; padding
/// is zero. `cells` are [`picture_cells`]' numbers, `lines` [`line_table`]'s; of `pixels` the shape
/// counts.
///
/// # Errors
/// When the patches do not tile the frames, or the batch is empty or too large.
pub fn picture(
    pixels: &Pixels,
    cells: Address,
    lines: Address,
    patch: PatchSize,
    tokens: &TokenList,
    out: Address,
) -> Result<Launch, GpuError> {
    pixels.check_tiling(patch)?;
    let params = PictureParams {
        cells,
        lines,
        tokens: tokens.address,
        counts: tokens.counts,
        out,
        max_tokens: tokens.count,
        frames: pixels.frames,
        height: pixels.size.height,
        width: pixels.size.width,
        patch_t: patch.t,
        patch_h: patch.h,
        patch_w: patch.w,
        unused: 0,
    };
    let blocks = token_count(pixels.rows, tokens.count.into())?;
    let dim = u64::from(patch.t) * u64::from(patch.h) * u64::from(patch.w);
    let read = dim * (4 * BINS as u64) / (CELL * CELL) as u64;
    let launch = Launch::new("picture", blocks, THREADS / 2, &params)?;
    Ok(launch.with_traffic(blocks * (read + 4 * dim)))
}
