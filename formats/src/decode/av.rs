//! The checked layer over FFmpeg's C interface: owned handles, results instead of codes. Nothing
//! above this file and [`crate::encode`] sees a pointer.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::Once;

use ffmpeg_next::ffi as c;
use tubelet_core::{Rect, Size};

use super::ColorConversion;
use super::yuv::{self, Matrix, Planes};
use crate::error::DecodeError;

/// Silences FFmpeg's own log, once a process.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    // SAFETY: setting the log level is thread safe.
    ONCE.call_once(|| unsafe { c::av_log_set_level(c::AV_LOG_QUIET) });
}

/// FFmpeg's words for an error code.
pub(crate) fn message(code: c_int) -> String {
    let mut text = [0; 128];
    // SAFETY: the buffer has the length given; the result is terminated.
    unsafe {
        c::av_strerror(code, text.as_mut_ptr(), text.len());
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

/// FFmpeg's static strings.
fn static_text(text: *const std::os::raw::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and FFmpeg's tables are terminated and live for ever.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

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
    pub(super) fn open_codec(
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

/// An encoded frame.
pub(crate) struct Packet(*mut c::AVPacket);

impl Packet {
    fn new() -> Option<Self> {
        // SAFETY: allocation only.
        let raw = unsafe { c::av_packet_alloc() };
        (!raw.is_null()).then_some(Self(raw))
    }

    fn stream(&self) -> usize {
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

    fn flags(&self) -> c_int {
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
    codec: String,
    extradata: Vec<u8>,
    /// The other parameters that reach a decoder, and the time base.
    numbers: [i32; 13],
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
pub(crate) struct Codec(*mut c::AVCodecContext);

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

/// A decoded frame.
pub(crate) struct Frame(*mut c::AVFrame);

// SAFETY: frames are plain reference-counted buffers without thread affinity; one owner here.
unsafe impl Send for Frame {}

impl Frame {
    /// An empty frame.
    pub(crate) fn new() -> Result<Self, DecodeError> {
        // SAFETY: allocation only.
        let raw = unsafe { c::av_frame_alloc() };
        if raw.is_null() {
            return Err(DecodeError::Damaged("out of memory".to_owned()));
        }
        Ok(Self(raw))
    }

    /// The frame itself.
    pub(crate) fn get(&self) -> &c::AVFrame {
        // SAFETY: owned and valid.
        unsafe { &*self.0 }
    }

    /// Presentation time.
    pub(crate) fn pts(&self) -> Option<i64> {
        time(self.get().pts)
    }

    /// FFmpeg's best guess of the presentation time.
    pub(crate) fn best_effort(&self) -> Option<i64> {
        time(self.get().best_effort_timestamp)
    }

    /// Whether it is a key frame.
    pub(crate) fn is_key(&self) -> bool {
        self.get().key_frame != 0
    }

    /// Whether the decoder concealed damage in it.
    pub(crate) fn is_damaged(&self) -> bool {
        self.get().flags & c::AV_FRAME_FLAG_CORRUPT != 0 || self.get().decode_error_flags != 0
    }

    /// Size in pixels.
    pub(crate) fn size(&self) -> Size {
        Size::new(self.get().width.max(0) as u32, self.get().height.max(0) as u32)
    }

    /// The planes where they are what [`yuv`] converts as FFmpeg's default converter does: 8-bit
    /// 4:2:0 with an even number of rows.
    pub(super) fn planes(&self) -> Option<Planes<'_>> {
        let f = self.get();
        let is_420 = f.format == c::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int
            || f.format == c::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int;
        let stride = [f.linesize[0], f.linesize[1], f.linesize[2]];
        if !is_420 || f.height % 2 != 0 || f.height <= 0 || stride.iter().any(|s| *s <= 0) {
            return None;
        }
        let stride = stride.map(|s| s as usize);
        let plane = |n: usize| {
            let (columns, rows) = match n {
                0 => (f.width as usize, f.height as usize),
                _ => ((f.width as usize).div_ceil(2), f.height as usize / 2),
            };
            // SAFETY: a plane of a decoded frame has `rows` rows, `stride` bytes apart, each of at
            // least `columns` bytes.
            unsafe { std::slice::from_raw_parts(f.data[n], (rows - 1) * stride[n] + columns) }
        };
        Some(Planes { data: [plane(0), plane(1), plane(2)], stride })
    }

    /// The matrix that the frame names, BT.601 where it names none.
    pub(super) fn matrix(&self) -> Matrix {
        let f = self.get();
        let full_range = f.color_range == c::AVColorRange::AVCOL_RANGE_JPEG
            || f.format == c::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int;
        // SAFETY: the table is static and has four numbers for every colour space.
        let inverse = unsafe {
            let table = c::sws_getCoefficients(color_space(f));
            [*table, *table.add(1), *table.add(2), *table.add(3)]
        };
        Matrix::new(inverse, full_range)
    }

    /// Name of the pixel format.
    pub(crate) fn format_name(&self) -> String {
        // SAFETY: a decoded frame's format is one of the enumeration.
        unsafe {
            let format = std::mem::transmute::<c_int, c::AVPixelFormat>(self.get().format);
            static_text(c::av_get_pix_fmt_name(format))
        }
    }

    /// The planes one after the other without padding, as FFmpeg's rawvideo writes them.
    pub(crate) fn native_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        let f = self.get();
        // SAFETY: format, planes and strides belong together; the buffer has the size asked for.
        unsafe {
            let format = std::mem::transmute::<c_int, c::AVPixelFormat>(f.format);
            let bytes = check(c::av_image_get_buffer_size(format, f.width, f.height, 1))?;
            let mut out = vec![0u8; bytes as usize];
            check(c::av_image_copy_to_buffer(
                out.as_mut_ptr(),
                bytes,
                f.data.as_ptr().cast(),
                f.linesize.as_ptr(),
                format,
                f.width,
                f.height,
                1,
            ))?;
            Ok(out)
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: owned; freed once.
        unsafe { c::av_frame_free(&mut self.0) }
    }
}

/// Converts frames to packed RGB; set up again when format, size or colour space change.
pub(crate) struct Scaler {
    conversion: ColorConversion,
    ctx: *mut c::SwsContext,
    key: Option<(c_int, c_int, c_int, u32, u32)>,
    rgb: Frame,
}

// SAFETY: the context has no thread affinity and one owner.
unsafe impl Send for Scaler {}

impl Scaler {
    /// A converter.
    pub(crate) fn new(conversion: ColorConversion) -> Result<Self, DecodeError> {
        Ok(Self { conversion, ctx: ptr::null_mut(), key: None, rgb: Frame::new()? })
    }

    /// Packed RGB of `region` of `frame` into `out`, `width * height * 3` bytes; the region's left
    /// edge is even.
    pub(crate) fn convert(
        &mut self,
        frame: &Frame,
        region: Rect,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        if !region.fits(frame.size()) || out.len() != region.size().area() * 3 {
            return Err(DecodeError::Damaged("a frame of another size".to_owned()));
        }
        match frame.planes() {
            Some(planes) if self.conversion == ColorConversion::Plain => {
                yuv::to_rgb(&planes, region, &frame.matrix(), out);
                Ok(())
            }
            _ => self.convert_by_ffmpeg(frame, region, out),
        }
    }

    /// [`Scaler::convert`] by FFmpeg's converter, whatever the frame is.
    pub(crate) fn convert_by_ffmpeg(
        &mut self,
        frame: &Frame,
        region: Rect,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        self.set_up(frame)?;
        let (from, to) = (frame.get(), self.rgb.get());
        let row = region.width as usize * 3;
        // SAFETY: the context was made for this frame's format and size; the RGB frame has
        // `height` rows of `linesize` >= `row` bytes.
        unsafe {
            check(c::sws_scale(
                self.ctx,
                from.data.as_ptr().cast(),
                from.linesize.as_ptr(),
                0,
                from.height,
                to.data.as_ptr(),
                to.linesize.as_ptr(),
            ))?;
            for (y, line) in out.chunks_exact_mut(row).enumerate() {
                let y = (region.y as usize + y) as isize;
                let start = to.data[0].offset(y * to.linesize[0] as isize);
                let start = start.add(region.x as usize * 3);
                line.copy_from_slice(std::slice::from_raw_parts(start, row));
            }
        }
        Ok(())
    }

    fn set_up(&mut self, frame: &Frame) -> Result<(), DecodeError> {
        let f = frame.get();
        let key = (f.width, f.height, f.format, f.colorspace as u32, f.color_range as u32);
        if self.key == Some(key) {
            return Ok(());
        }
        self.key = None;
        super::check_size(f.width.max(0) as usize, f.height.max(0) as usize)?;
        // SAFETY: freeing accepts null; the new context and buffer are owned by self.
        unsafe {
            c::sws_freeContext(self.ctx);
            self.ctx = c::sws_alloc_context();
            if self.ctx.is_null() {
                return Err(DecodeError::Damaged("out of memory".to_owned()));
            }
            self.set_options(f);
            check(c::sws_init_context(self.ctx, ptr::null_mut(), ptr::null_mut()))?;
            self.set_colour(f);
            c::av_frame_unref(self.rgb.0);
            (*self.rgb.0).width = f.width;
            (*self.rgb.0).height = f.height;
            (*self.rgb.0).format = c::AVPixelFormat::AV_PIX_FMT_RGB24 as c_int;
            check(c::av_frame_get_buffer(self.rgb.0, 64))?;
        }
        self.key = Some(key);
        Ok(())
    }

    /// What FFmpeg's scale filter sets; chroma of 4:2:0 lies at MPEG-2's place by default.
    fn set_options(&mut self, f: &c::AVFrame) {
        let plain = c::SWS_BILINEAR;
        let flags = match self.conversion {
            ColorConversion::Plain => plain,
            ColorConversion::Accurate => {
                plain | c::SWS_ACCURATE_RND | c::SWS_FULL_CHR_H_INT | c::SWS_FULL_CHR_H_INP
            }
        };
        let is_420 = f.format == c::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
        let options = [
            (c"srcw", f.width),
            (c"srch", f.height),
            (c"src_format", f.format),
            (c"dstw", f.width),
            (c"dsth", f.height),
            (c"dst_format", c::AVPixelFormat::AV_PIX_FMT_RGB24 as c_int),
            (c"sws_flags", flags as c_int),
            (c"src_v_chr_pos", if is_420 { 128 } else { -513 }),
        ];
        for (name, value) in options {
            // SAFETY: the context was allocated with its class; names are terminated.
            unsafe { c::av_opt_set_int(self.ctx.cast(), name.as_ptr(), i64::from(value), 0) };
        }
    }

    fn set_colour(&mut self, f: &c::AVFrame) {
        let (mut inverse, mut table) = (ptr::null_mut(), ptr::null_mut());
        let (mut from, mut to, mut light, mut contrast, mut colour) = (0, 0, 0, 0, 0);
        // SAFETY: all out-pointers are valid; the coefficient tables are static.
        unsafe {
            let known = c::sws_getColorspaceDetails(
                self.ctx,
                &mut inverse,
                &mut from,
                &mut table,
                &mut to,
                &mut light,
                &mut contrast,
                &mut colour,
            );
            if known < 0 {
                return;
            }
            match f.color_range {
                c::AVColorRange::AVCOL_RANGE_JPEG => from = 1,
                c::AVColorRange::AVCOL_RANGE_MPEG => from = 0,
                _ => {}
            }
            let matrix = c::sws_getCoefficients(color_space(f));
            c::sws_setColorspaceDetails(self.ctx, matrix, from, table, to, light, contrast, colour);
        }
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: owned; null is accepted.
        unsafe { c::sws_freeContext(self.ctx) }
    }
}

/// The frame's colour space as swscale numbers it; BT.601 where it names none.
fn color_space(f: &c::AVFrame) -> c_int {
    match f.colorspace as c_int {
        n @ (1..=7 | 9 | 10) => n,
        _ => 5,
    }
}

fn check(code: c_int) -> Result<c_int, DecodeError> {
    if code < 0 { Err(DecodeError::Damaged(message(code))) } else { Ok(code) }
}

fn time(value: i64) -> Option<i64> {
    (value != c::AV_NOPTS_VALUE).then_some(value)
}

fn ratio(value: c::AVRational) -> f64 {
    if value.num > 0 && value.den > 0 { f64::from(value.num) / f64::from(value.den) } else { 0.0 }
}

/// # Safety
/// `data` must be null or valid for `len` bytes during `'a`.
unsafe fn slice<'a>(data: *const u8, len: c_int) -> &'a [u8] {
    if data.is_null() || len <= 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len as usize) }
}
