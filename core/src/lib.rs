//! Plain types everyone shares: clips, keys, masks, layouts, memory.
//!
//! This crate depends on none of tubelet's other crates, opens no file, starts no thread and
//! knows no codec, no GPU and no training framework.

pub mod clip;
pub mod key;
pub mod layout;
pub mod memory;
pub mod patch;
#[cfg(target_arch = "x86_64")]
pub mod simd;

pub use clip::{
    Chroma, Clip, MediaInfo, PixelForm, Planes, Rect, Size, Spacing, Upsampling, Yuv, YuvMatrix,
};
pub use key::{BatchKey, Draw, SampleId, SampleKey, SampleRng};
pub use layout::{BatchLayout, BatchRef, Field, RowMut, ViewLayout};
pub use memory::{AllocError, Heap, HostBuf, HostMemory};
pub use patch::{Mask, MaskError, PatchGrid, PatchSize};
