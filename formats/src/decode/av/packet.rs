//! Packets.

use std::os::raw::c_int;

use ffmpeg_next::ffi as c;

use super::{slice, time};
/// An encoded frame.
pub(crate) struct Packet(pub(super) *mut c::AVPacket);

impl Packet {
    pub(super) fn new() -> Option<Self> {
        // SAFETY: allocation only.
        let raw = unsafe { c::av_packet_alloc() };
        (!raw.is_null()).then_some(Self(raw))
    }

    pub(super) fn stream(&self) -> usize {
        // SAFETY: owned and valid.
        unsafe { (*self.0).stream_index as usize }
    }

    /// Presentation time.
    pub(crate) fn pts(&self) -> Option<i64> {
        // SAFETY: owned and valid.
        time(unsafe { (*self.0).pts })
    }

    /// Whether it is marked as a key frame.
    pub(crate) fn is_key(&self) -> bool {
        self.flags() & c::AV_PKT_FLAG_KEY != 0
    }

    /// How long it is shown, in the stream's time base, where the container tells.
    pub(crate) fn duration(&self) -> Option<i64> {
        // SAFETY: the packet is valid.
        Some(unsafe { (*self.0).duration }).filter(|d| *d > 0)
    }

    /// Whether its frame is decoded but not shown (an edit list cuts it away).
    pub(crate) fn is_hidden(&self) -> bool {
        self.flags() & c::AV_PKT_FLAG_DISCARD != 0
    }

    /// The encoded bytes.
    pub(crate) fn data(&self) -> &[u8] {
        // SAFETY: data has size bytes while the packet lives.
        unsafe { slice((*self.0).data, (*self.0).size) }
    }

    pub(super) fn flags(&self) -> c_int {
        // SAFETY: owned and valid.
        unsafe { (*self.0).flags }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: owned; freed once.
        unsafe { c::av_packet_free(&mut self.0) }
    }
}
