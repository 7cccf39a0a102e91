//! Makes media: small data sets for tests and demonstrations. Deterministic for one encoder build.

use std::os::raw::c_int;
use std::ptr;

use ffmpeg_next::ffi as c;
use tubelet_core::Size;

use crate::decode::av::init;
use crate::mux::{Muxer, check, text};

/// Media could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode: {0}")]
pub struct EncodeError(pub(crate) String);

/// How a video is encoded.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// FFmpeg's name of the encoder: `libx264`, `libx265`, `libvpx-vp9`, `libsvtav1`,
    /// `libaom-av1`, `mpeg4`.
    pub codec: String,
    /// FFmpeg's name of the container: `mp4`, `webm`, `matroska`, `avi`.
    pub container: String,
    /// Size of the frames; both sides even.
    pub size: Size,
    /// Frames per second.
    pub fps: u32,
    /// Largest distance of key frames.
    pub gop: u32,
    /// B-frames in a row.
    pub b_frames: u32,
    /// Constant quality, where the encoder has it.
    pub crf: Option<u32>,
    /// Further options of the encoder, by name.
    pub extra: Vec<(String, String)>,
    /// Clockwise rotation written as metadata: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Presentation times in units of 1/fps, one a frame, ascending; evenly spaced where empty.
    pub times: Vec<i64>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            codec: "libx264".to_owned(),
            container: "mp4".to_owned(),
            size: Size::new(64, 64),
            fps: 25,
            gop: 12,
            b_frames: 2,
            crf: Some(23),
            extra: Vec::new(),
            rotation: 0,
            times: Vec::new(),
        }
    }
}

/// A JPEG file of packed RGB pixels, 4:2:0, quality 1 to 100.
///
/// # Errors
/// When `rgb` does not have `size` pixels.
pub fn encode_jpeg(rgb: &[u8], size: Size, quality: u8) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    let (w, h) = (size.width, size.height);
    if rgb.len() != size.area() * 3 {
        return Err(EncodeError(format!("{} bytes are no RGB picture of {size}", rgb.len())));
    }
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality)
        .encode(rgb, w, h, image::ExtendedColorType::Rgb8)
        .map_err(|e| EncodeError(e.to_string()))?;
    Ok(out)
}

/// A video file of packed RGB frames.
///
/// # Errors
/// When the encoder or container is not there, or a frame does not have the options' size.
pub fn encode_video<'a>(
    frames: impl Iterator<Item = &'a [u8]>,
    options: &EncodeOptions,
) -> Result<Vec<u8>, EncodeError> {
    let mut video = VideoEncoder::new(options)?;
    for (n, frame) in frames.enumerate() {
        let time = options.times.get(n).copied().unwrap_or(n as i64);
        video.push(frame, time)?;
    }
    video.finish()
}

/// Encodes frame by frame into memory.
struct VideoEncoder {
    mux: Muxer,
    codec: *mut c::AVCodecContext,
    frame: *mut c::AVFrame,
    packet: *mut c::AVPacket,
    sws: *mut c::SwsContext,
    size: Size,
    /// A frame's pixels and [`PADDING`].
    rgb: Vec<u8>,
}

/// Bytes that the colour converter may read past the last pixel.
const PADDING: usize = 64;

impl VideoEncoder {
    fn new(o: &EncodeOptions) -> Result<Self, EncodeError> {
        init();
        // SAFETY: `Drop` frees what was allocated, null or not; pointers given are valid.
        unsafe {
            let mut video = Self {
                mux: Muxer::new(&o.container)?,
                codec: ptr::null_mut(),
                frame: c::av_frame_alloc(),
                packet: c::av_packet_alloc(),
                sws: ptr::null_mut(),
                size: o.size,
                rgb: vec![0; o.size.area() * 3 + PADDING],
            };
            video.open_codec(o)?;
            video.open_frame()?;
            video.open_file(o)?;
            Ok(video)
        }
    }

    fn open_codec(&mut self, o: &EncodeOptions) -> Result<(), EncodeError> {
        // SAFETY: the codec was found, the context allocated; strings are terminated.
        unsafe {
            let found = c::avcodec_find_encoder_by_name(text(&o.codec)?.as_ptr());
            if found.is_null() {
                return Err(EncodeError(format!("there is no encoder {}", o.codec)));
            }
            self.codec = c::avcodec_alloc_context3(found);
            let codec = &mut *self.codec;
            (codec.width, codec.height) = (o.size.width as c_int, o.size.height as c_int);
            codec.pix_fmt = c::AVPixelFormat::AV_PIX_FMT_YUV420P;
            codec.time_base = c::AVRational { num: 1, den: o.fps as c_int };
            codec.framerate = c::AVRational { num: o.fps as c_int, den: 1 };
            codec.gop_size = o.gop as c_int;
            codec.max_b_frames = o.b_frames as c_int;
            codec.thread_count = 1;
            codec.flags |= c::AV_CODEC_FLAG_BITEXACT as c_int;
            if self.mux.wants_global_header() {
                codec.flags |= c::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            }
            let mut settings = ptr::null_mut();
            let quiet = (o.codec == "libx265").then(|| {
                ("x265-params".to_owned(), "log-level=none:pools=none:frame-threads=1".to_owned())
            });
            // Equal bytes on every machine: see `VideoSettings::x264`.
            let plain = (o.codec == "libx264").then(|| ("mbtree".to_owned(), "0".to_owned()));
            let crf = o.crf.map(|crf| ("crf".to_owned(), crf.to_string()));
            for (key, value) in quiet.iter().chain(&plain).chain(&crf).chain(&o.extra) {
                c::av_dict_set(&mut settings, text(key)?.as_ptr(), text(value)?.as_ptr(), 0);
            }
            let code = c::avcodec_open2(self.codec, found, &mut settings);
            c::av_dict_free(&mut settings);
            check(code)
        }
    }

    /// # Safety
    /// The codec must be open.
    unsafe fn open_frame(&mut self) -> Result<(), EncodeError> {
        let (w, h) = (self.size.width as c_int, self.size.height as c_int);
        let yuv = c::AVPixelFormat::AV_PIX_FMT_YUV420P;
        // SAFETY: the frame was allocated and gets its own buffers.
        unsafe {
            (*self.frame).width = w;
            (*self.frame).height = h;
            (*self.frame).format = yuv as c_int;
            check(c::av_frame_get_buffer(self.frame, 0))?;
            let flags = (c::SWS_BILINEAR | c::SWS_ACCURATE_RND) as c_int;
            let rgb = c::AVPixelFormat::AV_PIX_FMT_RGB24;
            let none = ptr::null_mut();
            self.sws =
                c::sws_getContext(w, h, rgb, w, h, yuv, flags, none, none.cast(), ptr::null());
        }
        if self.sws.is_null() { Err(EncodeError("no colour converter".to_owned())) } else { Ok(()) }
    }

    /// # Safety
    /// Codec and muxer must be there.
    unsafe fn open_file(&mut self, o: &EncodeOptions) -> Result<(), EncodeError> {
        // SAFETY: the muxer owns the stream and the buffer opened here.
        unsafe {
            let stream = self.mux.add_stream()?;
            check(c::avcodec_parameters_from_context((*stream).codecpar, self.codec))?;
            (*stream).time_base = (*self.codec).time_base;
            (*stream).avg_frame_rate = (*self.codec).framerate;
            if o.rotation != 0 {
                let kind = c::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX;
                let matrix = c::av_stream_new_side_data(stream, kind, 36);
                if !matrix.is_null() {
                    c::av_display_rotation_set(matrix.cast(), f64::from(o.rotation));
                }
            }
            self.mux.start()
        }
    }

    fn push(&mut self, rgb: &[u8], time: i64) -> Result<(), EncodeError> {
        if rgb.len() != self.size.area() * 3 {
            return Err(EncodeError(format!("{} bytes are no frame of {}", rgb.len(), self.size)));
        }
        self.rgb[..rgb.len()].copy_from_slice(rgb);
        // SAFETY: the pixels were just checked; the frame is made writable before it is written.
        unsafe {
            check(c::av_frame_make_writable(self.frame))?;
            let stride = [self.size.width as c_int * 3, 0, 0, 0];
            let planes = [self.rgb.as_ptr(), ptr::null(), ptr::null(), ptr::null()];
            check(c::sws_scale(
                self.sws,
                planes.as_ptr(),
                stride.as_ptr(),
                0,
                self.size.height as c_int,
                (*self.frame).data.as_ptr(),
                (*self.frame).linesize.as_ptr(),
            ))?;
            (*self.frame).pts = time;
            check(c::avcodec_send_frame(self.codec, self.frame))?;
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<(), EncodeError> {
        // SAFETY: all handles are open.
        unsafe {
            while c::avcodec_receive_packet(self.codec, self.packet) == 0 {
                let stream = self.mux.stream(0);
                (*self.packet).stream_index = 0;
                if (*self.packet).duration == 0 {
                    (*self.packet).duration = 1;
                }
                let (from, to) = ((*self.codec).time_base, (*stream).time_base);
                c::av_packet_rescale_ts(self.packet, from, to);
                self.mux.write(self.packet)?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, EncodeError> {
        // SAFETY: null ends the stream.
        unsafe { check(c::avcodec_send_frame(self.codec, ptr::null()))? };
        self.drain()?;
        self.mux.finish()
    }
}

impl Drop for VideoEncoder {
    fn drop(&mut self) {
        // SAFETY: each is owned and freed once; the functions accept null.
        unsafe {
            c::avcodec_free_context(&mut self.codec);
            c::av_frame_free(&mut self.frame);
            c::av_packet_free(&mut self.packet);
            c::sws_freeContext(self.sws);
        }
    }
}
