//! JPEG to RGB, bit for bit as Pillow's `Image.open(...).convert("RGB")`: accurate integer IDCT,
//! smooth chroma upsampling, CMYK and YCCK by Adobe's inverted convention.
//!
//! The EXIF orientation is **not** applied, because the published image pipelines
//! (torchvision's `ImageFolder` with Pillow) do not apply it.
//!
//! A file that ends early is an error. Files that libjpeg merely warns about (stray bytes before
//! a marker, a damaged segment it can resynchronise after) are decoded, as Pillow does.

use tubelet_core::{Clip, MediaInfo};

use super::check_size;
use crate::error::DecodeError;

pub use backend::JpegDecoder;

#[cfg(feature = "turbojpeg")]
mod backend {
    use super::*;
    use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat};

    /// Scans after which a progressive file is taken for an attack.
    const MAX_SCANS: u32 = 500;

    /// Decodes JPEG files; keeps its decompressor and buffers from call to call.
    pub struct JpegDecoder {
        turbo: Option<Decompressor>,
        cmyk: Vec<u8>,
    }

    impl Default for JpegDecoder {
        fn default() -> Self {
            Self::new()
        }
    }

    impl JpegDecoder {
        /// A decoder; libjpeg-turbo is set up at the first call.
        pub const fn new() -> Self {
            Self { turbo: None, cmyk: Vec::new() }
        }

        /// Media facts from the header.
        ///
        /// # Errors
        /// When the header is damaged.
        pub fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
            let header = self.header(encoded)?;
            let size = check_size(header.width, header.height)?;
            Ok(MediaInfo::picture(size, "mjpeg"))
        }

        /// Decodes the picture into `clip` as its only frame.
        ///
        /// # Errors
        /// When the bytes are damaged or end early.
        pub fn decode(&mut self, encoded: &[u8], clip: &mut Clip) -> Result<(), DecodeError> {
            let header = self.header(encoded)?;
            let size = check_size(header.width, header.height)?;
            clip.reset(size, &[0]);
            if !matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK) {
                return self.pixels(encoded, &header, PixelFormat::RGB, clip.nth_mut(0));
            }
            let mut cmyk = std::mem::take(&mut self.cmyk);
            cmyk.resize(size.area() * 4, 0);
            let done = self.pixels(encoded, &header, PixelFormat::CMYK, &mut cmyk);
            super::cmyk_to_rgb(&cmyk, clip.nth_mut(0));
            self.cmyk = cmyk;
            done
        }

        fn header(&mut self, encoded: &[u8]) -> Result<DecompressHeader, DecodeError> {
            self.turbo()?.read_header(encoded).map_err(damaged)
        }

        fn pixels(
            &mut self,
            encoded: &[u8],
            header: &DecompressHeader,
            format: PixelFormat,
            pixels: &mut [u8],
        ) -> Result<(), DecodeError> {
            let pitch = header.width * format.size();
            let image = Image { pixels, width: header.width, pitch, height: header.height, format };
            match self.turbo()?.decompress(encoded, image) {
                Ok(()) => Ok(()),
                Err(error) if is_warning(&error) && super::has_end(encoded) => {
                    tracing::debug!("JPEG decoded with a warning: {error}");
                    Ok(())
                }
                Err(error) if super::has_end(encoded) => Err(damaged(error)),
                Err(_) => Err(DecodeError::Damaged("the JPEG file is truncated".to_owned())),
            }
        }

        fn turbo(&mut self) -> Result<&mut Decompressor, DecodeError> {
            if self.turbo.is_none() {
                let mut turbo = Decompressor::new().map_err(damaged)?;
                turbo.set_scan_limit(MAX_SCANS).map_err(damaged)?;
                self.turbo = Some(turbo);
            }
            self.turbo.as_mut().ok_or_else(|| DecodeError::Damaged("no JPEG decoder".to_owned()))
        }
    }

    /// libjpeg's warnings, after which the picture is whole or resynchronised; everything else
    /// stops the decoder. The list is the message table's `JWRN_` entries (jerror.h).
    fn is_warning(error: &turbojpeg::Error) -> bool {
        const WARNINGS: [&str; 5] = [
            "Corrupt JPEG data",
            "Inconsistent progression sequence",
            "Invalid SOS parameters",
            "Unknown Adobe color transform code",
            "Warning: unknown JFIF",
        ];
        let text = match error {
            turbojpeg::Error::TurboJpegError(text) => text,
            _ => return false,
        };
        WARNINGS.iter().any(|known| text.contains(known))
    }

    fn damaged(error: turbojpeg::Error) -> DecodeError {
        DecodeError::Damaged(error.to_string())
    }
}

#[cfg(not(feature = "turbojpeg"))]
mod backend {
    use super::*;
    use image::ImageDecoder;

    /// Decodes JPEG files with a decoder in plain Rust: pixels may differ by a grey level or two.
    #[derive(Default)]
    pub struct JpegDecoder;

    impl JpegDecoder {
        /// A decoder.
        pub const fn new() -> Self {
            Self
        }

        /// Media facts from the header.
        ///
        /// # Errors
        /// When the header is damaged.
        pub fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
            let (width, height) = open(encoded)?.dimensions();
            Ok(MediaInfo::picture(check_size(width as usize, height as usize)?, "mjpeg"))
        }

        /// Decodes the picture into `clip` as its only frame.
        ///
        /// # Errors
        /// When the bytes are damaged or end early.
        pub fn decode(&mut self, encoded: &[u8], clip: &mut Clip) -> Result<(), DecodeError> {
            if !super::has_end(encoded) {
                return Err(DecodeError::Damaged("the JPEG file is truncated".to_owned()));
            }
            let decoder = open(encoded)?;
            let (width, height) = decoder.dimensions();
            let size = check_size(width as usize, height as usize)?;
            let picture = image::DynamicImage::from_decoder(decoder).map_err(damaged)?;
            clip.reset(size, &[0]);
            clip.nth_mut(0).copy_from_slice(picture.to_rgb8().as_raw());
            Ok(())
        }
    }

    fn open(
        encoded: &[u8],
    ) -> Result<image::codecs::jpeg::JpegDecoder<std::io::Cursor<&[u8]>>, DecodeError> {
        image::codecs::jpeg::JpegDecoder::new(std::io::Cursor::new(encoded)).map_err(damaged)
    }

    fn damaged(error: image::ImageError) -> DecodeError {
        DecodeError::Damaged(error.to_string())
    }
}

/// Adobe's inverted CMYK to RGB with Pillow's rounding (`ImagingConvert`, cmyk2rgb).
#[cfg(feature = "turbojpeg")]
fn cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (to, from) in rgb.chunks_exact_mut(3).zip(cmyk.chunks_exact(4)) {
        let key = u32::from(from[3]);
        for (value, ink) in to.iter_mut().zip(from) {
            let product = (255 - u32::from(*ink)) * key + 128;
            *value = (key - (((product >> 8) + product) >> 8)) as u8;
        }
    }
}

/// Whether the file has its end marker: walks the segments, so that a thumbnail's end marker in
/// an APP segment does not count.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            0xd9 => return true,
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else { return false };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
    false
}

/// Finds the next marker at or after `at` (skipping entropy-coded bytes, stuffed zeros and fill
/// bytes) and moves `at` behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        *at += rest.iter().position(|&b| b == 0xff)? + 1;
        match bytes.get(*at)? {
            0x00 => *at += 1,
            0xff => {}
            &marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn picture() -> Vec<u8> {
        let rgb: Vec<u8> = (0..64 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let mut out = std::io::Cursor::new(Vec::new());
        image::codecs::jpeg::JpegEncoder::new(&mut out)
            .encode(&rgb, 64, 48, image::ExtendedColorType::Rgb8)
            .unwrap();
        out.into_inner()
    }

    #[test]
    fn size_and_truncation() {
        let bytes = picture();
        let mut decoder = JpegDecoder::new();
        let info = decoder.probe(&bytes).unwrap();
        assert_eq!((info.size.width, info.size.height, info.codec.as_str()), (64, 48, "mjpeg"));
        let mut clip = Clip::new();
        decoder.decode(&bytes, &mut clip).unwrap();
        for keep in [bytes.len() - 1, bytes.len() - 2, bytes.len() / 2, 700, 100, 4] {
            let cut = decoder.decode(&bytes[..keep], &mut clip);
            assert!(matches!(cut, Err(DecodeError::Damaged(_))), "cut to {keep}: {cut:?}");
        }
        decoder.decode(&bytes, &mut clip).unwrap();
    }

    #[cfg(feature = "turbojpeg")]
    #[test]
    fn stray_bytes_before_a_marker_are_a_warning_only() {
        let mut bytes = picture();
        let end = bytes.len() - 2;
        bytes.splice(end..end, [1, 2, 3, 4, 5]);
        let mut clip = Clip::new();
        JpegDecoder::new().decode(&bytes, &mut clip).unwrap();
    }

    /// Values by Pillow: `Image.frombytes("CMYK", ...).convert("RGB")` of the inverted bytes.
    #[cfg(feature = "turbojpeg")]
    #[test]
    fn cmyk_follows_pillow() {
        let stored = [255, 255, 255, 255, 0, 0, 0, 0, 200, 100, 50, 255, 200, 100, 50, 128];
        let mut rgb = [0; 12];
        cmyk_to_rgb(&stored, &mut rgb);
        assert_eq!(rgb, [255, 255, 255, 0, 0, 0, 200, 100, 50, 100, 50, 25]);
    }

    /// Checksums of Pillow's output, where they and the photos are.
    #[cfg(feature = "turbojpeg")]
    #[test]
    fn reference_checksums() {
        use sha2::{Digest, Sha256};
        let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let golden = std::fs::read_to_string(shared.join("golden/jpeg_decode.json"));
        let Ok(golden) = golden else { return };
        let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        for want in golden["files"].as_array().unwrap() {
            let name = want["file"].as_str().unwrap();
            let photos = walkdir::WalkDir::new(shared.join("data/imagenet-sample")).into_iter();
            let photo = photos.flatten().find(|e| e.file_name() == name).unwrap();
            let mut clip = Clip::new();
            let bytes = std::fs::read(photo.path()).unwrap();
            JpegDecoder::new().decode(&bytes, &mut clip).unwrap();
            let sha: String =
                Sha256::digest(clip.nth(0)).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(want["rgb_sha256"], sha, "{name}");
        }
    }
}
