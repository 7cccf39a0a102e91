//! Decoded frames to 4:2:0 frames of another size, turned as the container asks.

use std::os::raw::c_int;
use std::ptr;

use ffmpeg_next::ffi as c;
use tubelet_core::Size;

use super::TranscodeError;
use crate::decode::av::Frame;
use crate::mux::check;

/// How the source's values are to be understood, carried over to the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) full_range: bool,
    pub(super) space: c::AVColorSpace,
    pub(super) primaries: c::AVColorPrimaries,
    pub(super) transfer: c::AVColorTransferCharacteristic,
}

impl Colour {
    /// That of `frame`; RGB frames become BT.601 of limited range.
    pub(super) fn of(frame: &c::AVFrame) -> Self {
        let jpeg = c::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int
            ..=c::AVPixelFormat::AV_PIX_FMT_YUVJ444P as c_int;
        let full =
            frame.color_range == c::AVColorRange::AVCOL_RANGE_JPEG || jpeg.contains(&frame.format);
        let rgb = is_rgb(frame.format);
        Self {
            full_range: full && !rgb,
            space: match rgb {
                true => c::AVColorSpace::AVCOL_SPC_SMPTE170M,
                false => frame.colorspace,
            },
            primaries: frame.color_primaries,
            transfer: frame.color_trc,
        }
    }
}

/// Converts frames of one size and format.
pub(super) struct Resizer {
    ctx: *mut c::SwsContext,
    key: (c_int, c_int, c_int),
    colour: Colour,
    scaled: Picture,
    turned: Option<Picture>,
    rotation: u16,
}

impl Resizer {
    /// A converter for frames like `frame` to `size` (after rotation), both sides even.
    pub(super) fn new(frame: &Frame, rotation: u16, size: Size) -> Result<Self, TranscodeError> {
        let f = frame.get();
        let across = matches!(rotation, 90 | 270);
        let flat = if across { Size::new(size.height, size.width) } else { size };
        let colour = Colour::of(f);
        let scaled = Picture::new(flat)?;
        let turned = if rotation == 0 { None } else { Some(Picture::new(size)?) };
        // SAFETY: allocation only; `Drop` frees it.
        let ctx = unsafe { c::sws_alloc_context() };
        let key = (f.width, f.height, f.format);
        let resizer = Self { ctx, key, colour, scaled, turned, rotation };
        if ctx.is_null() {
            return Err(TranscodeError::Encode("out of memory".to_owned()));
        }
        resizer.set_up(flat)?;
        Ok(resizer)
    }

    pub(super) fn colour(&self) -> Colour {
        self.colour
    }

    /// The planes of `frame`, resized and turned; valid until the next call.
    pub(super) fn convert(&mut self, frame: &Frame) -> Result<&mut Picture, TranscodeError> {
        let f = frame.get();
        if (f.width, f.height, f.format) != self.key || Colour::of(f) != self.colour {
            let what = "frames change their size or format on the way".to_owned();
            return Err(TranscodeError::Encode(what));
        }
        // SAFETY: the context was made for this size and format; the target is writable after
        // the first call and has the planes of 4:2:0.
        unsafe {
            check(c::av_frame_make_writable(self.scaled.0))?;
            let to = &*self.scaled.0;
            check(c::sws_scale(
                self.ctx,
                f.data.as_ptr().cast(),
                f.linesize.as_ptr(),
                0,
                f.height,
                to.data.as_ptr(),
                to.linesize.as_ptr(),
            ))?;
        }
        match &mut self.turned {
            None => Ok(&mut self.scaled),
            Some(turned) => {
                turned.turn_from(&self.scaled, self.rotation)?;
                Ok(turned)
            }
        }
    }

    fn set_up(&self, to: Size) -> Result<(), TranscodeError> {
        let flags = c::SWS_BICUBIC | c::SWS_ACCURATE_RND | c::SWS_BITEXACT;
        let range = i64::from(self.colour.full_range);
        let options = [
            (c"srcw", i64::from(self.key.0)),
            (c"srch", i64::from(self.key.1)),
            (c"src_format", i64::from(self.key.2)),
            (c"dstw", i64::from(to.width)),
            (c"dsth", i64::from(to.height)),
            (c"dst_format", c::AVPixelFormat::AV_PIX_FMT_YUV420P as i64),
            (c"sws_flags", i64::from(flags)),
            (c"src_range", range),
            (c"dst_range", range),
        ];
        // SAFETY: the context was allocated with its class; names are terminated.
        unsafe {
            for (name, value) in options {
                check(c::av_opt_set_int(self.ctx.cast(), name.as_ptr(), value, 0))?;
            }
            check(c::sws_init_context(self.ctx, ptr::null_mut(), ptr::null_mut()))?;
        }
        Ok(())
    }
}

impl Drop for Resizer {
    fn drop(&mut self) {
        // SAFETY: owned; null is accepted.
        unsafe { c::sws_freeContext(self.ctx) }
    }
}

/// A 4:2:0 frame of our own.
pub(super) struct Picture(*mut c::AVFrame);

impl Picture {
    fn new(size: Size) -> Result<Self, TranscodeError> {
        // SAFETY: the frame gets buffers for its size; `Drop` frees it.
        unsafe {
            let picture = Self(c::av_frame_alloc());
            if picture.0.is_null() {
                return Err(TranscodeError::Encode("out of memory".to_owned()));
            }
            (*picture.0).width = size.width as c_int;
            (*picture.0).height = size.height as c_int;
            (*picture.0).format = c::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
            check(c::av_frame_get_buffer(picture.0, 0))?;
            Ok(picture)
        }
    }

    /// The frame itself, whose times and type may be set.
    pub(super) fn raw(&self) -> *mut c::AVFrame {
        self.0
    }

    /// A second handle to the same pixels: who writes to the first then gets pixels of its own.
    pub(super) fn share(&self) -> Result<Self, TranscodeError> {
        // SAFETY: the frame is valid and its buffers counted.
        let copy = Self(unsafe { c::av_frame_clone(self.0) });
        match copy.0.is_null() {
            true => Err(TranscodeError::Encode("out of memory".to_owned())),
            false => Ok(copy),
        }
    }

    /// The brightness plane without padding.
    pub(super) fn luma(&self) -> Vec<u8> {
        self.plane(0).concat()
    }

    /// The rows of a plane.
    fn plane(&self, n: usize) -> Vec<&[u8]> {
        let (width, height) = self.plane_size(n);
        // SAFETY: a plane has `height` rows of `linesize` bytes, `width` of them pixels.
        unsafe {
            let (data, line) = ((*self.0).data[n], (*self.0).linesize[n] as isize);
            (0..height)
                .map(|y| std::slice::from_raw_parts(data.offset(y as isize * line), width))
                .collect()
        }
    }

    fn plane_size(&self, n: usize) -> (usize, usize) {
        // SAFETY: the frame is valid.
        let (w, h) = unsafe { ((*self.0).width as usize, (*self.0).height as usize) };
        if n == 0 { (w, h) } else { (w / 2, h / 2) }
    }

    /// Becomes `from` turned clockwise by `rotation` degrees.
    fn turn_from(&mut self, from: &Self, rotation: u16) -> Result<(), TranscodeError> {
        // SAFETY: the frame is ours.
        unsafe { check(c::av_frame_make_writable(self.0))? };
        for n in 0..3 {
            let (rows, (w, h)) = (from.plane(n), from.plane_size(n));
            let (width, height) = self.plane_size(n);
            // SAFETY: the plane has `height` rows of `linesize` bytes and is writable; `from` is
            // another frame.
            let (data, line) = unsafe { ((*self.0).data[n], (*self.0).linesize[n] as isize) };
            for y in 0..height {
                // SAFETY: as above.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(data.offset(y as isize * line), width)
                };
                for (x, value) in row.iter_mut().enumerate() {
                    *value = match rotation {
                        90 => rows[h - 1 - x][y],
                        180 => rows[h - 1 - y][w - 1 - x],
                        270 => rows[x][w - 1 - y],
                        _ => rows[y][x],
                    };
                }
            }
        }
        Ok(())
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: owned; freed once.
        unsafe { c::av_frame_free(&mut self.0) }
    }
}

fn is_rgb(format: c_int) -> bool {
    // SAFETY: a decoded frame's format is one of the enumeration; descriptors are static.
    unsafe {
        let format = std::mem::transmute::<c_int, c::AVPixelFormat>(format);
        let descriptor = c::av_pix_fmt_desc_get(format);
        let flags = u64::from(c::AV_PIX_FMT_FLAG_RGB as u32 | c::AV_PIX_FMT_FLAG_PAL as u32);
        !descriptor.is_null() && (*descriptor).flags & flags != 0
    }
}
