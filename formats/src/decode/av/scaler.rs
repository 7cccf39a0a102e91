//! FFmpeg's scaler.

use std::os::raw::c_int;
use std::ptr;

use ffmpeg_next::ffi as c;
use tubelet_core::Rect;

use super::super::{ColorConversion, yuv};
use super::frame::color_space;
use super::{Frame, check};
use crate::error::DecodeError;

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
        super::super::check_size(f.width.max(0) as usize, f.height.max(0) as usize)?;
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
