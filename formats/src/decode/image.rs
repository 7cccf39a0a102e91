//! Still pictures other than JPEG, as Pillow's `convert("RGB")` delivers them: alpha is dropped
//! (not blended), grey is repeated, palettes are looked up, 16-bit colour keeps its high byte, 16-bit grey is clipped at 255.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use tubelet_core::{Clip, MediaInfo};

use super::{MAX_PIXELS, check_size};
use crate::error::DecodeError;

/// Media facts from the header.
///
/// # Errors
/// When the header is damaged.
pub fn probe(encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
    let format = format_of(encoded)?;
    let (width, height) = reader(encoded, format).into_dimensions().map_err(damaged)?;
    let size = check_size(width as usize, height as usize)?;
    Ok(MediaInfo::picture(size, codec(format)))
}

/// Decodes the picture (of an animation the first frame) into `clip` as its only frame, RGB.
///
/// # Errors
/// When the bytes are damaged or end early.
pub fn decode(encoded: &[u8], clip: &mut Clip) -> Result<(), DecodeError> {
    let format = format_of(encoded)?;
    let decoder = reader(encoded, format).into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let size = check_size(width as usize, height as usize)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    clip.reset(size, &[0]);
    write_rgb(&picture, clip.nth_mut(0));
    Ok(())
}

/// Whether the bytes begin like a picture that [`decode`] reads.
pub(super) fn is_picture(bytes: &[u8]) -> bool {
    format_of(bytes).is_ok()
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    let webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(ImageFormat::Png)
    } else if webp {
        Ok(ImageFormat::WebP)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Ok(ImageFormat::Gif)
    } else if bytes.starts_with(b"BM") && is_bmp_header(bytes) {
        Ok(ImageFormat::Bmp)
    } else {
        Err(DecodeError::Unknown("no picture format known here".to_owned()))
    }
}

/// Two letters are a weak sign: the header's length field must be one of those that exist.
fn is_bmp_header(bytes: &[u8]) -> bool {
    let length = bytes.get(14..18).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    matches!(length, Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

fn codec(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
        ImageFormat::Gif => "gif",
        _ => "bmp",
    }
}

fn reader(encoded: &[u8], format: ImageFormat) -> ImageReader<Cursor<&[u8]>> {
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    reader
}

fn write_rgb(picture: &DynamicImage, out: &mut [u8]) {
    match picture {
        DynamicImage::ImageRgb8(p) => out.copy_from_slice(p.as_raw()),
        DynamicImage::ImageRgba8(p) => pick(p.as_raw(), 4, [0, 1, 2], out, |v| v),
        DynamicImage::ImageLuma8(p) => pick(p.as_raw(), 1, [0, 0, 0], out, |v| v),
        DynamicImage::ImageLumaA8(p) => pick(p.as_raw(), 2, [0, 0, 0], out, |v| v),
        // Pillow reads 16-bit colour by its high byte and clips 16-bit grey to 255.
        DynamicImage::ImageRgb16(p) => pick(p.as_raw(), 3, [0, 1, 2], out, high_byte),
        DynamicImage::ImageRgba16(p) => pick(p.as_raw(), 4, [0, 1, 2], out, high_byte),
        DynamicImage::ImageLuma16(p) => pick(p.as_raw(), 1, [0, 0, 0], out, |v| v.min(255) as u8),
        DynamicImage::ImageLumaA16(p) => pick(p.as_raw(), 2, [0, 0, 0], out, high_byte),
        other => out.copy_from_slice(other.to_rgb8().as_raw()),
    }
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn pick<T: Copy>(
    from: &[T],
    channels: usize,
    which: [usize; 3],
    out: &mut [u8],
    narrow: impl Fn(T) -> u8,
) {
    for (to, pixel) in out.chunks_exact_mut(3).zip(from.chunks_exact(channels)) {
        for (value, channel) in to.iter_mut().zip(which) {
            *value = narrow(pixel[channel]);
        }
    }
}

fn damaged(error: image::ImageError) -> DecodeError {
    DecodeError::Damaged(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, ImageBuffer, Rgb, RgbaImage};

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn decoded(bytes: &[u8]) -> (MediaInfo, Clip) {
        let mut clip = Clip::new();
        decode(bytes, &mut clip).unwrap();
        (probe(bytes).unwrap(), clip)
    }

    #[test]
    fn alpha_is_dropped_not_blended() {
        let rgba = RgbaImage::from_fn(5, 3, |x, y| image::Rgba([x as u8 * 40, y as u8, 7, 0]));
        let (info, clip) = decoded(&encoded(&rgba.clone().into(), ImageFormat::Png));
        assert_eq!((info.size, info.codec.as_str(), info.frames), (clip.size(), "png", 1));
        let want: Vec<u8> = rgba.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect();
        assert_eq!(clip.nth(0), want);
    }

    #[test]
    fn grey_with_alpha_and_sixteen_bits() {
        let grey = GrayAlphaImage::from_fn(4, 2, |x, _| image::LumaA([x as u8 * 9, 3]));
        let (_, clip) = decoded(&encoded(&grey.into(), ImageFormat::Png));
        assert_eq!(&clip.nth(0)[3..6], [9, 9, 9]);
        let deep =
            ImageBuffer::<Rgb<u16>, Vec<u16>>::from_fn(2, 2, |_, _| Rgb([0x12ff, 0xff00, 0x80]));
        let (_, clip) = decoded(&encoded(&deep.into(), ImageFormat::Png));
        assert_eq!(&clip.nth(0)[..3], [0x12, 0xff, 0]);
        let grey =
            ImageBuffer::<image::Luma<u16>, _>::from_raw(3, 1, vec![100u16, 255, 300]).unwrap();
        let (_, clip) = decoded(&encoded(&grey.into(), ImageFormat::Png));
        assert_eq!(clip.nth(0), [100, 100, 100, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn each_format_round_trips_and_truncation_is_an_error() {
        let rgb = image::RgbImage::from_fn(23, 17, |x, y| Rgb([x as u8 * 11, y as u8 * 15, 90]));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            let bytes = encoded(&rgb.clone().into(), format);
            assert_eq!(decoded(&bytes).1.nth(0), rgb.as_raw().as_slice(), "{format:?}");
            let mut clip = Clip::new();
            for keep in [bytes.len() / 2, bytes.len() / 3, 20] {
                assert!(decode(&bytes[..keep], &mut clip).is_err(), "{format:?} cut to {keep}");
            }
        }
        let gif = encoded(&DynamicImage::from(rgb).to_rgba8().into(), ImageFormat::Gif);
        assert_eq!(probe(&gif).unwrap().codec, "gif");
        assert_eq!(decoded(&gif).1.size(), probe(&gif).unwrap().size);
    }
}
