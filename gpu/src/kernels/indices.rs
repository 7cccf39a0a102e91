//! Masks to lists of tokens.

use bytemuck::{NoUninit, Zeroable};

use super::{Address, Launch, token_count};
use crate::error::GpuError;

/// Threads of a block; the kernel's scan has room for as many.
const THREADS: u32 = 256;

/// Where the lists go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLists {
    /// u32 `[rows, max_visible]`, ascending; shorter rows repeat their last index (0 where there is
    /// none).
    pub visible: Address,
    /// u32 `[rows, max_masked]`, likewise.
    pub masked: Address,
    /// u32 `[rows]`, real entries of `masked`.
    pub masked_count: Address,
    /// Most visible tokens of a row.
    pub max_visible: u32,
    /// Most masked tokens of a row.
    pub max_masked: u32,
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct IndicesParams {
    mask: Address,
    visible: Address,
    masked: Address,
    masked_count: Address,
    tokens: u32,
    max_visible: u32,
    max_masked: u32,
    bit: u32,
}

/// Lists the visible and the masked tokens of u8 `mask` `[rows, tokens]`, masked where bit `bit` is set.
///
/// # Errors
/// When there is no row.
pub fn indices(
    mask: Address,
    rows: u32,
    tokens: u32,
    bit: u32,
    lists: &IndexLists,
) -> Result<Launch, GpuError> {
    let params = IndicesParams {
        mask,
        visible: lists.visible,
        masked: lists.masked,
        masked_count: lists.masked_count,
        tokens,
        max_visible: lists.max_visible,
        max_masked: lists.max_masked,
        bit,
    };
    let entries = u64::from(lists.max_visible + lists.max_masked + 1);
    let traffic = u64::from(rows) * (u64::from(tokens) + 4 * entries);
    Ok(Launch::new("indices", rows.into(), THREADS, &params)?.with_traffic(traffic))
}

#[derive(Clone, Copy, NoUninit, Zeroable)]
#[repr(C)]
struct FlagsParams {
    mask: Address,
    out: Address,
    count: u32,
    bit: u32,
}

/// Bit `bit` of u8 `mask` `[rows, tokens]` to u8 `out`, 0 or 1.
///
/// # Errors
/// When there is no token, or too many.
pub fn flags(
    mask: Address,
    rows: u32,
    tokens: u32,
    bit: u32,
    out: Address,
) -> Result<Launch, GpuError> {
    let count = token_count(rows, tokens.into())?;
    let params = FlagsParams { mask, out, count: count as u32, bit };
    let blocks = count.div_ceil(THREADS.into());
    Ok(Launch::new("flags", blocks, THREADS, &params)?.with_traffic(2 * count))
}
