//! A container file written to memory.

use std::ffi::CString;
use std::os::raw::{c_int, c_void};
use std::ptr;

use ffmpeg_next::ffi as c;

use crate::decode::av::message;
use crate::encode::EncodeError;

/// A container being written to memory; no time of day and no version goes into it.
pub(crate) struct Muxer {
    ctx: *mut c::AVFormatContext,
    sink: Box<Sink>,
}

/// The file being written.
#[derive(Default)]
struct Sink {
    data: Vec<u8>,
    at: usize,
}

unsafe extern "C" fn write(opaque: *mut c_void, from: *mut u8, len: c_int) -> c_int {
    // SAFETY: `opaque` is the boxed sink of the muxer that calls us, `from` has `len` bytes.
    let (sink, bytes) = unsafe {
        (&mut *opaque.cast::<Sink>(), std::slice::from_raw_parts(from, len.max(0) as usize))
    };
    let end = sink.at + bytes.len();
    if sink.data.len() < end {
        sink.data.resize(end, 0);
    }
    sink.data[sink.at..end].copy_from_slice(bytes);
    sink.at = end;
    len
}

unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as in `write`.
    let sink = unsafe { &mut *opaque.cast::<Sink>() };
    let base = match whence & 3 {
        _ if whence & c::AVSEEK_SIZE != 0 => return sink.data.len() as i64,
        1 => sink.at,
        2 => sink.data.len(),
        _ => 0,
    };
    match usize::try_from(base as i64 + offset) {
        Ok(at) => {
            sink.at = at;
            at as i64
        }
        Err(_) => -1,
    }
}

impl Muxer {
    /// A muxer for FFmpeg's container `container`.
    pub(crate) fn new(container: &str) -> Result<Self, EncodeError> {
        let name = text(container)?;
        let mut muxer = Self { ctx: ptr::null_mut(), sink: Box::default() };
        // SAFETY: the name is terminated; `Drop` frees the context.
        unsafe {
            check(c::avformat_alloc_output_context2(
                &mut muxer.ctx,
                ptr::null(),
                name.as_ptr(),
                ptr::null(),
            ))?;
            (*muxer.ctx).flags |= c::AVFMT_FLAG_BITEXACT as c_int;
            (*muxer.ctx).max_interleave_delta = 0;
        }
        Ok(muxer)
    }

    /// Whether codecs must put their set-up into the header.
    pub(crate) fn wants_global_header(&self) -> bool {
        // SAFETY: the context is allocated and has a format.
        unsafe { (*(*self.ctx).oformat).flags & c::AVFMT_GLOBALHEADER as c_int != 0 }
    }

    /// Whether the container can hold this codec.
    pub(crate) fn can_hold(&self, codec: c::AVCodecID) -> bool {
        // SAFETY: as above.
        unsafe { c::avformat_query_codec((*self.ctx).oformat, codec, c::FF_COMPLIANCE_NORMAL) == 1 }
    }

    /// A new stream, to be filled in before [`Self::start`].
    pub(crate) fn add_stream(&mut self) -> Result<*mut c::AVStream, EncodeError> {
        // SAFETY: the context is allocated and owns the stream.
        let stream = unsafe { c::avformat_new_stream(self.ctx, ptr::null()) };
        if stream.is_null() { Err(EncodeError("out of memory".to_owned())) } else { Ok(stream) }
    }

    /// Stream `n`, which must have been added.
    pub(crate) fn stream(&self, n: usize) -> *mut c::AVStream {
        // SAFETY: the caller added it.
        unsafe { *(*self.ctx).streams.add(n) }
    }

    /// Writes the header.
    pub(crate) fn start(&mut self) -> Result<(), EncodeError> {
        // SAFETY: the context owns the buffer; the sink is boxed and outlives it.
        unsafe {
            let (room, sink) = (1 << 16, &raw mut *self.sink);
            let buffer = c::av_malloc(room).cast();
            (*self.ctx).pb = c::avio_alloc_context(
                buffer,
                room as c_int,
                1,
                sink.cast(),
                None,
                Some(write),
                Some(seek),
            );
            if buffer.is_null() || (*self.ctx).pb.is_null() {
                return Err(EncodeError("out of memory".to_owned()));
            }
            check(c::avformat_write_header(self.ctx, ptr::null_mut()))
        }
    }

    /// Takes a packet, its times in its stream's time base.
    ///
    /// # Safety
    /// `packet` must be valid and its stream number one that was added.
    pub(crate) unsafe fn write(&mut self, packet: *mut c::AVPacket) -> Result<(), EncodeError> {
        // SAFETY: the caller's promise; the header is written.
        unsafe { check(c::av_interleaved_write_frame(self.ctx, packet)) }
    }

    /// Ends the file.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, EncodeError> {
        // SAFETY: the header was written; after the flush nothing is left to be written.
        unsafe {
            check(c::av_write_trailer(self.ctx))?;
            c::avio_flush((*self.ctx).pb);
        }
        Ok(std::mem::take(&mut self.sink.data))
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: each is owned and freed once; the functions accept null.
        unsafe {
            if !self.ctx.is_null() && !(*self.ctx).pb.is_null() {
                c::av_freep((&raw mut (*(*self.ctx).pb).buffer).cast());
                c::avio_context_free(&mut (*self.ctx).pb);
            }
            c::avformat_free_context(self.ctx);
        }
    }
}

/// Text as C wants it.
pub(crate) fn text(value: &str) -> Result<CString, EncodeError> {
    CString::new(value).map_err(|_| EncodeError(format!("{value:?} holds a zero byte")))
}

/// FFmpeg's code as a result.
pub(crate) fn check(code: c_int) -> Result<(), EncodeError> {
    if code < 0 { Err(EncodeError(message(code))) } else { Ok(()) }
}
