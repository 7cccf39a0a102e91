//! Containers.

use std::marker::PhantomData;
use std::os::raw::{c_int, c_void};
use std::ptr;

use ffmpeg_next::ffi as c;

use super::{Codec, CodecSetup, Packet, check, init, message, ratio, slice, static_text};
use crate::error::DecodeError;

/// Bytes being read by FFmpeg.
struct Source {
    data: *const u8,
    len: usize,
    at: usize,
}

unsafe extern "C" fn read(opaque: *mut c_void, to: *mut u8, room: c_int) -> c_int {
    // SAFETY: `opaque` is the boxed source of the input that calls us, `to` has `room` bytes, and
    // the borrow held by `Input` keeps `data` alive.
    unsafe {
        let source = &mut *opaque.cast::<Source>();
        let count = (source.len - source.at).min(room.max(0) as usize);
        if count == 0 {
            return c::AVERROR_EOF;
        }
        ptr::copy_nonoverlapping(source.data.add(source.at), to, count);
        source.at += count;
        count as c_int
    }
}

unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as in `read`.
    let source = unsafe { &mut *opaque.cast::<Source>() };
    let base = match whence & 3 {
        _ if whence & c::AVSEEK_SIZE != 0 => return source.len as i64,
        1 => source.at as i64,
        2 => source.len as i64,
        _ => 0,
    };
    match base.checked_add(offset) {
        Some(at) if (0..=source.len as i64).contains(&at) => {
            source.at = at as usize;
            at
        }
        _ => -1,
    }
}

/// An open container over borrowed bytes, with its first video stream chosen.
pub(crate) struct Input<'a> {
    ctx: *mut c::AVFormatContext,
    io: *mut c::AVIOContext,
    stream: usize,
    _source: Box<Source>,
    _bytes: PhantomData<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// Opens the container. With `thorough`, FFmpeg decodes a little to find out what the header
    /// does not say.
    pub(crate) fn open(bytes: &'a [u8], thorough: bool) -> Result<Self, DecodeError> {
        init();
        let mut source = Box::new(Source { data: bytes.as_ptr(), len: bytes.len(), at: 0 });
        let opaque: *mut Source = &mut *source;
        // SAFETY: every pointer passed is valid or null where allowed; `Drop` frees what was
        // allocated, and a failed open frees the context itself and leaves null.
        unsafe {
            let room = 1 << 16;
            let buffer = c::av_malloc(room).cast::<u8>();
            let io = c::avio_alloc_context(
                buffer,
                room as c_int,
                0,
                opaque.cast(),
                Some(read),
                None,
                Some(seek),
            );
            let ctx = c::avformat_alloc_context();
            let mut input = Self { ctx, io, stream: 0, _source: source, _bytes: PhantomData };
            if buffer.is_null() || io.is_null() || ctx.is_null() {
                return Err(DecodeError::Damaged("out of memory".to_owned()));
            }
            (*ctx).pb = io;
            let code =
                c::avformat_open_input(&mut input.ctx, ptr::null(), ptr::null(), ptr::null_mut());
            if code < 0 {
                return Err(DecodeError::Damaged(format!("container: {}", message(code))));
            }
            if thorough || !input.header_suffices() {
                c::avformat_find_stream_info(input.ctx, ptr::null_mut());
            }
            input.choose()?;
            Ok(input)
        }
    }

    /// MP4 and Matroska carry times, sizes and codec set-up in their headers.
    fn header_suffices(&self) -> bool {
        // SAFETY: an open context has an input format with a name.
        let name = static_text(unsafe { (*(*self.ctx).iformat).name });
        name.starts_with("mov,") || name.starts_with("matroska")
    }

    /// Takes the first video stream that is not a cover picture (FFmpeg's `0:v:0`, PyAV's
    /// `streams.video[0]`) and has the container skip the others.
    fn choose(&mut self) -> Result<(), DecodeError> {
        let cover = c::AV_DISPOSITION_ATTACHED_PIC as c_int;
        // SAFETY: the context is open; streams are valid up to nb_streams, each with parameters.
        unsafe {
            let count = (*self.ctx).nb_streams as usize;
            let is_video = |n: &usize| {
                let stream = *(*self.ctx).streams.add(*n);
                let kind = (*(*stream).codecpar).codec_type;
                kind == c::AVMediaType::AVMEDIA_TYPE_VIDEO && (*stream).disposition & cover == 0
            };
            self.stream = (0..count)
                .find(is_video)
                .ok_or_else(|| DecodeError::NoFrames("there is no video stream".to_owned()))?;
            for other in (0..count).filter(|n| *n != self.stream) {
                (**(*self.ctx).streams.add(other)).discard = c::AVDiscard::AVDISCARD_ALL;
            }
        }
        Ok(())
    }

    /// The container itself, for who copies other streams of it.
    pub(crate) fn raw(&self) -> *mut c::AVFormatContext {
        self.ctx
    }

    /// The chosen stream itself.
    pub(crate) fn raw_stream(&self) -> *mut c::AVStream {
        // SAFETY: `choose` took the number from this context.
        unsafe { *(*self.ctx).streams.add(self.stream) }
    }

    fn parameters(&self) -> *mut c::AVCodecParameters {
        // SAFETY: a stream has parameters.
        unsafe { (*self.raw_stream()).codecpar }
    }

    /// Size of the coded frames, before rotation.
    pub(crate) fn size(&self) -> (i32, i32) {
        // SAFETY: as above.
        unsafe { ((*self.parameters()).width, (*self.parameters()).height) }
    }

    /// Codec name as FFmpeg calls it.
    pub(crate) fn codec_name(&self) -> String {
        // SAFETY: as above; avcodec_get_name accepts any number.
        static_text(unsafe { c::avcodec_get_name((*self.parameters()).codec_id) })
    }

    /// The codec's set-up bytes.
    pub(crate) fn extradata(&self) -> &[u8] {
        // SAFETY: extradata has extradata_size bytes and lives as long as the stream.
        unsafe {
            let par = &*self.parameters();
            slice(par.extradata, par.extradata_size)
        }
    }

    /// Seconds of one time unit.
    pub(crate) fn time_base(&self) -> f64 {
        // SAFETY: the stream is valid.
        ratio(unsafe { (*self.raw_stream()).time_base })
    }

    /// Average frame rate as the container tells it, 0 where it does not.
    pub(crate) fn frame_rate(&self) -> f64 {
        // SAFETY: the stream is valid.
        ratio(unsafe { (*self.raw_stream()).avg_frame_rate })
    }

    /// Clockwise rotation by the display matrix: 0, 90, 180 or 270 degrees.
    pub(crate) fn rotation(&self) -> u16 {
        let kind = c::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX;
        let mut bytes = 0usize;
        // SAFETY: the stream is valid; a display matrix has nine i32.
        let angle = unsafe {
            let matrix = c::av_stream_get_side_data(self.raw_stream(), kind, &mut bytes);
            if matrix.is_null() || bytes < 36 {
                return 0;
            }
            c::av_display_rotation_get(matrix.cast())
        };
        if angle.is_nan() {
            return 0;
        }
        match (-angle).round().rem_euclid(360.0) as u16 {
            89..=91 => 90,
            179..=181 => 180,
            269..=271 => 270,
            _ => 0,
        }
    }

    /// All packets of the video stream that can hold a frame, in decode order; what follows an
    /// unreadable place is not there.
    pub(crate) fn packets(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let mut idle = 0;
        while let Some(packet) = Packet::new() {
            // SAFETY: both are valid.
            let code = unsafe { c::av_read_frame(self.ctx, packet.0) };
            if code == c::AVERROR(c::EAGAIN) && idle < 1000 {
                idle += 1;
                continue;
            }
            if code < 0 {
                break;
            }
            if packet.stream() == self.stream && !packet.data().is_empty() {
                packets.push(packet);
            }
        }
        packets
    }

    /// All that the stream's decoder is set up from.
    pub(crate) fn codec_setup(&self, reorder: Option<usize>) -> CodecSetup {
        let (codec, extradata) = (self.codec_name(), self.extradata().to_vec());
        // SAFETY: the stream and its parameters are valid.
        let (par, base) = unsafe { (&*self.parameters(), (*self.raw_stream()).time_base) };
        let numbers = [
            par.codec_tag as i32,
            par.format,
            par.width,
            par.height,
            par.bits_per_coded_sample,
            par.color_range as i32,
            par.color_space as i32,
            par.color_primaries as i32,
            par.color_trc as i32,
            par.chroma_location as i32,
            par.field_order as i32,
            base.num,
            base.den,
        ];
        CodecSetup { codec, extradata, numbers, reorder }
    }

    /// The stream's decoder, single threaded; `reorder` overrides the reorder depth where known.
    pub(crate) fn codec(&self, reorder: Option<usize>) -> Result<Codec, DecodeError> {
        // SAFETY: parameters are valid; the table's decoders are static.
        let found = unsafe { c::avcodec_find_decoder((*self.parameters()).codec_id) };
        self.open_codec(found, reorder, |_| {})
    }

    /// The decoder `found`, one of FFmpeg's table for this stream or null, single threaded;
    /// `prepare` sets what is special about it.
    pub(in crate::decode) fn open_codec(
        &self,
        found: *const c::AVCodec,
        reorder: Option<usize>,
        prepare: impl FnOnce(&mut c::AVCodecContext),
    ) -> Result<Codec, DecodeError> {
        if found.is_null() {
            return Err(DecodeError::Unknown(format!("no decoder for {}", self.codec_name())));
        }
        // SAFETY: parameters are valid; the context is freed by `Drop`.
        unsafe {
            let codec = Codec(c::avcodec_alloc_context3(found));
            if codec.0.is_null() {
                return Err(DecodeError::Damaged("out of memory".to_owned()));
            }
            check(c::avcodec_parameters_to_context(codec.0, self.parameters()))?;
            (*codec.0).thread_count = 1;
            (*codec.0).pkt_timebase = (*self.raw_stream()).time_base;
            if let Some(depth) = reorder {
                (*codec.0).has_b_frames = (*codec.0).has_b_frames.max(depth as c_int);
            }
            prepare(&mut *codec.0);
            check(c::avcodec_open2(codec.0, found, ptr::null_mut()))?;
            Ok(codec)
        }
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        // SAFETY: each was allocated by `open` and is freed once; closing leaves a custom
        // AVIOContext alone, and its buffer may have been replaced by FFmpeg.
        unsafe {
            c::avformat_close_input(&mut self.ctx);
            if !self.io.is_null() {
                c::av_freep((&raw mut (*self.io).buffer).cast());
                c::avio_context_free(&mut self.io);
            }
        }
    }
}
