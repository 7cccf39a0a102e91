//! Decoders.

use std::ptr;

use ffmpeg_next::ffi as c;

use super::{Frame, Packet, message};

/// What a codec answers when asked for a frame.
pub(crate) enum Answer {
    /// The frame was filled.
    Frame,
    /// It wants more packets.
    More,
    /// There will be no more.
    End,
}

/// What a codec is set up from: a codec set up for an equal one can be used after a flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodecSetup {
    pub(super) codec: String,
    pub(super) extradata: Vec<u8>,
    /// The other parameters that reach a decoder, and the time base.
    pub(super) numbers: [i32; 13],
    /// Reorder depth, where known.
    pub(crate) reorder: Option<usize>,
}

impl CodecSetup {
    /// Whether it is all that a decoder starts from: some codecs carry what is missing here in the
    /// stream, and keep it over a flush.
    pub(crate) fn is_complete(&self) -> bool {
        !self.extradata.is_empty() || ["vp8", "vp9", "mjpeg"].contains(&self.codec.as_str())
    }
}

/// A decoder.
pub(crate) struct Codec(pub(super) *mut c::AVCodecContext);

// SAFETY: a single-threaded codec context has no thread affinity, and there is one owner.
unsafe impl Send for Codec {}

impl Codec {
    /// Hands over a packet, or the end of the stream. Damage is not told here: it shows as frames
    /// that are missing or marked.
    pub(crate) fn send(&mut self, packet: Option<&Packet>) {
        let raw = packet.map_or(ptr::null(), |p| p.0.cast_const());
        // SAFETY: the context is open, the packet valid or null (the end).
        let code = unsafe { c::avcodec_send_packet(self.0, raw) };
        if code < 0 {
            tracing::debug!("a packet could not be decoded: {}", message(code));
        }
    }

    /// The next frame in presentation order.
    pub(crate) fn receive(&mut self, frame: &mut Frame) -> Answer {
        // SAFETY: both are valid.
        match unsafe { c::avcodec_receive_frame(self.0, frame.0) } {
            0 => Answer::Frame,
            code if code == c::AVERROR_EOF => Answer::End,
            _ => Answer::More,
        }
    }

    /// Forgets all frames, to go on at a key frame.
    pub(crate) fn flush(&mut self) {
        // SAFETY: the context is open.
        unsafe { c::avcodec_flush_buffers(self.0) }
    }
}

impl Drop for Codec {
    fn drop(&mut self) {
        // SAFETY: owned; freed once.
        unsafe { c::avcodec_free_context(&mut self.0) }
    }
}
