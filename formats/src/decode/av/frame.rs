//! Decoded frames.

use std::os::raw::c_int;

use ffmpeg_next::ffi as c;
use tubelet_core::Size;

use super::super::yuv::{Matrix, Planes};
use super::{check, static_text, time};
use crate::error::DecodeError;

/// A decoded frame.
pub(crate) struct Frame(pub(super) *mut c::AVFrame);

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

    /// The planes where they are what [`crate::decode::yuv`] converts as FFmpeg's default converter does: 8-bit
    /// 4:2:0 with an even number of rows.
    pub(in crate::decode) fn planes(&self) -> Option<Planes<'_>> {
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
    pub(in crate::decode) fn matrix(&self) -> Matrix {
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

/// The frame's colour space as swscale numbers it; BT.601 where it names none.
pub(super) fn color_space(f: &c::AVFrame) -> c_int {
    match f.colorspace as c_int {
        n @ (1..=7 | 9 | 10) => n,
        _ => 5,
    }
}
