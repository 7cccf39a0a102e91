//! Pictures for training: limited in size, JPEG with a restart marker before every row of blocks,
//! so that a crop need not entropy-decode the rows outside it.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use tubelet_core::{Clip, Size};

use super::{PictureSettings, Pyramid, Quality, TranscodeError, Transcoded};
use super::{level_size, limited};
use crate::record::{Decoder, FrameRequest};

/// Re-encodes a picture whose shorter side is larger than the limit; others are good as they are.
/// `decoder` turns it into pixels; `measure` asks for the distance from the resized source.
///
/// # Errors
/// When the picture cannot be decoded or the encoder fails.
pub fn train_picture(
    encoded: &[u8],
    decoder: &mut dyn Decoder,
    settings: &PictureSettings,
    measure: bool,
) -> Result<Transcoded, TranscodeError> {
    let info = decoder.probe(encoded)?;
    if info.size.short_side() <= settings.short_side {
        return Ok(Transcoded { bytes: None, quality: None, frames: 0, note: None });
    }
    let (want, mut clip) =
        (FrameRequest { frames: vec![0], region: None, planes: false }, Clip::new());
    decoder.decode(encoded, &info, &want, &mut clip)?;
    let size = limited(info.size, settings.short_side, 1);
    let pixels = resized(clip.nth(0), info.size, size)?;
    let bytes = jpeg_with_restarts(&pixels, size, settings.quality)?;
    let mut quality = None;
    if measure {
        let info = decoder.probe(&bytes)?;
        decoder.decode(&bytes, &info, &want, &mut clip)?;
        let mut measured = Quality::default();
        measured.compare_rgb(&pixels, clip.nth(0), size.width as usize);
        quality = Some(measured);
    }
    Ok(Transcoded { bytes: Some(bytes), quality, frames: 0, note: None })
}

/// The smaller encodings of a picture, one for each side of `pyramid`; `None` for sides that are not
/// below the shorter side of `stored`, the size under which the picture itself is kept. All are made
/// from the pixels of `encoded`.
///
/// # Errors
/// When the picture cannot be decoded or the encoder fails.
pub fn picture_levels(
    encoded: &[u8],
    decoder: &mut dyn Decoder,
    stored: Size,
    pyramid: &Pyramid,
) -> Result<Vec<Option<Vec<u8>>>, TranscodeError> {
    if pyramid.sides.iter().all(|side| *side >= stored.short_side()) {
        return Ok(vec![None; pyramid.sides.len()]);
    }
    let info = decoder.probe(encoded)?;
    let (want, mut clip) =
        (FrameRequest { frames: vec![0], region: None, planes: false }, Clip::new());
    decoder.decode(encoded, &info, &want, &mut clip)?;
    let level = |side: &u32| {
        if *side >= stored.short_side() {
            return Ok(None);
        }
        let size = level_size(stored, *side);
        let pixels = resized(clip.nth(0), info.size, size)?;
        jpeg_with_restarts(&pixels, size, pyramid.quality).map(Some)
    };
    pyramid.sides.iter().map(level).collect()
}

/// Packed RGB resized as Pillow's bicubic filter (a = -0.5, widened when shrinking) does.
fn resized(rgb: &[u8], from: Size, to: Size) -> Result<Vec<u8>, TranscodeError> {
    let failed = |e: &dyn std::fmt::Display| TranscodeError::Encode(e.to_string());
    let source =
        ImageRef::new(from.width, from.height, rgb, PixelType::U8x3).map_err(|e| failed(&e))?;
    let mut target = Image::new(to.width, to.height, PixelType::U8x3);
    let bicubic = ResizeAlg::Convolution(FilterType::CatmullRom);
    let options = ResizeOptions::new().resize_alg(bicubic);
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))?;
    Ok(target.into_vec())
}

/// A baseline JPEG file, 4:2:0, of packed RGB.
#[cfg(feature = "turbojpeg")]
fn jpeg_with_restarts(rgb: &[u8], size: Size, quality: u8) -> Result<Vec<u8>, TranscodeError> {
    use std::os::raw::c_int;
    use turbojpeg::raw as t;

    struct Handle(t::tjhandle);
    impl Drop for Handle {
        fn drop(&mut self) {
            // SAFETY: made by tj3Init, destroyed once; null is accepted.
            unsafe { t::tj3Destroy(self.0) }
        }
    }
    assert_eq!(rgb.len(), size.area() * 3, "a picture of another size");
    // SAFETY: the handle is checked; the pixels have width * height * 3 bytes; the library
    // allocates the output, which is copied and freed.
    unsafe {
        let handle = Handle(t::tj3Init(t::TJINIT_TJINIT_COMPRESS as c_int));
        let failed = || {
            let text = std::ffi::CStr::from_ptr(t::tj3GetErrorStr(handle.0));
            TranscodeError::Encode(text.to_string_lossy().into_owned())
        };
        if handle.0.is_null() {
            return Err(failed());
        }
        let parameters = [
            (t::TJPARAM_TJPARAM_QUALITY, c_int::from(quality)),
            (t::TJPARAM_TJPARAM_SUBSAMP, t::TJSAMP_TJSAMP_420 as c_int),
            (t::TJPARAM_TJPARAM_OPTIMIZE, 1),
            (t::TJPARAM_TJPARAM_RESTARTROWS, 1),
        ];
        for (name, value) in parameters {
            if t::tj3Set(handle.0, name as c_int, value) != 0 {
                return Err(failed());
            }
        }
        let (mut data, mut length) = (std::ptr::null_mut(), 0);
        let (width, height) = (size.width as c_int, size.height as c_int);
        let format = t::TJPF_TJPF_RGB as c_int;
        let code = t::tj3Compress8(
            handle.0,
            rgb.as_ptr(),
            width,
            0,
            height,
            format,
            &mut data,
            &mut length,
        );
        let result = match code {
            0 => Ok(std::slice::from_raw_parts(data, length as usize).to_vec()),
            _ => Err(failed()),
        };
        t::tj3Free(data.cast());
        result
    }
}

/// Without libjpeg-turbo there is no encoder that writes restart markers.
#[cfg(not(feature = "turbojpeg"))]
fn jpeg_with_restarts(_: &[u8], _: Size, _: u8) -> Result<Vec<u8>, TranscodeError> {
    Err(TranscodeError::Encode("this build has no JPEG encoder (feature `turbojpeg`)".to_owned()))
}

#[cfg(all(test, feature = "turbojpeg", feature = "video"))]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::decode::decoder;
    use crate::encode::encode_jpeg;

    fn photo(size: Size) -> Vec<u8> {
        let (w, h) = (size.width, size.height);
        let wave = |x: u32, y: u32, k: u32| {
            let phase = f64::from(x) * 0.031 + f64::from(y) * 0.047 + f64::from(k);
            (128.0 + 90.0 * phase.sin()) as u8
        };
        let at = |n: u32, k: u32| wave(n % w, n / w, k);
        let rgb: Vec<u8> = (0..w * h).flat_map(|n| (0..3).map(move |k| at(n, k))).collect();
        encode_jpeg(&rgb, size, 95).unwrap()
    }

    #[test]
    fn large_pictures_shrink_and_small_ones_stay() {
        let settings = PictureSettings { short_side: 64, quality: 90 };
        let small = train_picture(&photo(Size::new(80, 64)), decoder().as_mut(), &settings, true);
        assert_eq!(small.unwrap().bytes, None);
        let large = photo(Size::new(200, 150));
        let done = train_picture(&large, decoder().as_mut(), &settings, true).unwrap();
        let bytes = done.bytes.unwrap();
        assert_eq!(decoder().probe(&bytes).unwrap().size, Size::new(85, 64));
        let quality = done.quality.unwrap();
        assert!(quality.psnr().unwrap() > 28.0 && quality.ssim().unwrap() > 0.9, "{quality:?}");
        let again = train_picture(&large, decoder().as_mut(), &settings, false).unwrap();
        assert_eq!(again.bytes.unwrap(), bytes);
    }

    /// 85 × 64 pixels in 4:2:0 are 6 × 4 blocks of 16 pixels: the interval is 6, and three markers
    /// part the four rows.
    #[test]
    fn every_row_of_blocks_restarts() {
        let settings = PictureSettings { short_side: 64, quality: 90 };
        let large = photo(Size::new(200, 150));
        let done = train_picture(&large, decoder().as_mut(), &settings, false).unwrap();
        let bytes = done.bytes.unwrap();
        let interval = bytes.windows(6).find(|w| w.starts_with(&[0xff, 0xdd])).unwrap();
        assert_eq!(interval[2..], [0, 4, 0, 6]);
        let markers = bytes.windows(2).filter(|w| w[0] == 0xff && (0xd0..0xd8).contains(&w[1]));
        assert_eq!(markers.count(), 3);
    }
}
