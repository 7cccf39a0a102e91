//! JPEG to RGB, bit for bit as Pillow's `Image.open(...).convert("RGB")`: accurate integer IDCT,
//! smooth chroma upsampling, CMYK and YCCK by Adobe's inverted convention.
//!
//! The EXIF orientation is **not** applied, because the published image pipelines
//! (torchvision's `ImageFolder` with Pillow) do not apply it.
//!
//! A file that ends early is an error. Files that libjpeg merely warns about (stray bytes before
//! a marker, a damaged segment it can resynchronise after) are decoded, as Pillow does.

use tubelet_core::{Chroma, Clip, MediaInfo, PixelForm, Rect, Size, Upsampling, Yuv, YuvMatrix};

use super::check_size;
use crate::error::DecodeError;

pub use backend::JpegDecoder;

#[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
mod baseline;
#[cfg(feature = "turbojpeg")]
mod slice;
#[cfg(feature = "turbojpeg")]
mod turbo;

#[cfg(feature = "turbojpeg")]
mod backend {
    #[cfg(target_arch = "x86_64")]
    use super::baseline::Baseline;
    use super::slice;
    use super::turbo::{Complaint, Header, Pixels, Turbo, padded};
    use super::*;

    /// Scans after which a progressive file is taken for an attack.
    const MAX_SCANS: u32 = 500;
    /// Columns beside a region that smooth chroma upsampling looks at.
    const MARGIN: u32 = 2;

    /// Decodes JPEG files; keeps its decompressor and buffers from call to call.
    #[derive(Default)]
    pub struct JpegDecoder {
        #[cfg(target_arch = "x86_64")]
        baseline: Option<Box<Baseline>>,
        turbo: Option<Turbo>,
        cmyk: Vec<u8>,
        slice: Vec<u8>,
        planes: Vec<u8>,
    }

    impl JpegDecoder {
        /// A decoder; libjpeg-turbo is set up at the first call.
        pub const fn new() -> Self {
            Self {
                #[cfg(target_arch = "x86_64")]
                baseline: None,
                turbo: None,
                cmyk: Vec::new(),
                slice: Vec::new(),
                planes: Vec::new(),
            }
        }

        /// Media facts from the header.
        ///
        /// # Errors
        /// When the header is damaged.
        pub fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
            let (_, size) = self.header(encoded)?;
            Ok(MediaInfo::picture(size, "mjpeg"))
        }

        /// Size and form of the planes of a whole file, by its header; `None` where its planes are
        /// none that [`Self::decode_planes`] delivers.
        ///
        /// # Errors
        /// When the header is damaged or the file ends early.
        pub fn form(&mut self, encoded: &[u8]) -> Result<Option<(Size, Yuv)>, DecodeError> {
            if !super::has_end(encoded) {
                return Err(truncated());
            }
            let (header, size) = self.header(encoded)?;
            Ok(header.chroma.map(|chroma| (size, super::yuv(chroma, size))))
        }

        /// Decodes the picture into `clip` as its only frame: at least `region`, or all of it. The
        /// pixels are those of a whole decode; damage below the region is not noticed.
        ///
        /// # Errors
        /// When the bytes are damaged or end early.
        pub fn decode(
            &mut self,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            self.decode_by(Way::Best, encoded, region, clip)
        }

        /// As [`Self::decode`], but the planes as they are coded, where they are grey or Y′CbCr in
        /// 4:4:4, 4:2:2 or 4:2:0.
        ///
        /// # Errors
        /// As [`Self::decode`].
        pub fn decode_planes(
            &mut self,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            self.decode_planes_by(Way::Best, encoded, region, clip)
        }

        /// The same in a given way, for comparisons: the samples are equal.
        ///
        /// # Errors
        /// As [`Self::decode`].
        pub fn decode_planes_by(
            &mut self,
            way: Way,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            if self.decode_fast(way, encoded, region, true, clip)? {
                return Ok(());
            }
            let (header, size) = self.header(encoded)?;
            let Some(chroma) = header.chroma else {
                return self.decode_by_turbo(encoded, region, clip);
            };
            let mut planes = std::mem::take(&mut self.planes);
            let done = self.turbo()?.planes(encoded, chroma, size, &mut planes);
            self.judged(encoded, done)?;
            let region = super::region_of(region, size);
            let form = PixelForm::Yuv(super::yuv(chroma, size));
            clip.reset_form(size, region, form, &[0]);
            let sizes = padded(chroma, size);
            let (luma, rest) = planes.split_at(sizes[0].area());
            let (u, v) = rest.split_at(sizes[1].area());
            let whole = [luma, u, v];
            clip.fill_planes(0, |n, y, x| &whole[n][y * sizes[n].width as usize + x..]);
            self.planes = planes;
            Ok(())
        }

        /// The same in a given way, for comparisons: the pixels are equal.
        ///
        /// # Errors
        /// As [`Self::decode`].
        pub fn decode_by(
            &mut self,
            way: Way,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            match self.decode_fast(way, encoded, region, false, clip)? {
                true => Ok(()),
                false => self.decode_by_turbo(encoded, region, clip),
            }
        }

        /// Whether our own decoder did it.
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "it has none"))]
        fn decode_fast(
            &mut self,
            way: Way,
            encoded: &[u8],
            region: Option<Rect>,
            planes: bool,
            clip: &mut Clip,
        ) -> Result<bool, DecodeError> {
            if !encoded.ends_with(&[0xff, 0xd9]) && !super::has_end(encoded) {
                return Err(truncated());
            }
            #[cfg(target_arch = "x86_64")]
            if way == Way::Best && Baseline::available() {
                let baseline = self.baseline.get_or_insert_default();
                return Ok(baseline.decode(encoded, region, planes, clip).is_some());
            }
            Ok(false)
        }

        fn decode_by_turbo(
            &mut self,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            let (header, size) = self.header(encoded)?;
            let wanted = super::region_of(region, size);
            match header.unit {
                Some(unit) if wanted != Rect::full(size) && !header.is_cmyk => {
                    let region = widened(wanted, unit[0], size);
                    clip.reset_region(size, region, &[0]);
                    self.decode_region(encoded, &header, region, clip.nth_mut(0))
                }
                _ => {
                    clip.reset(size, &[0]);
                    self.decode_whole(encoded, &header, clip.nth_mut(0))
                }
            }
        }

        fn decode_whole(
            &mut self,
            encoded: &[u8],
            header: &Header,
            out: &mut [u8],
        ) -> Result<(), DecodeError> {
            if !header.is_cmyk {
                return self.pixels(encoded, header, None, Pixels::Rgb, out);
            }
            let mut cmyk = std::mem::take(&mut self.cmyk);
            cmyk.resize(header.width * header.height * Pixels::Cmyk.bytes(), 0);
            let done = self.pixels(encoded, header, None, Pixels::Cmyk, &mut cmyk);
            super::cmyk_to_rgb(&cmyk, out);
            self.cmyk = cmyk;
            done
        }

        fn decode_region(
            &mut self,
            encoded: &[u8],
            header: &Header,
            region: Rect,
            out: &mut [u8],
        ) -> Result<(), DecodeError> {
            let mut shorter = std::mem::take(&mut self.slice);
            let (from, to) = (region.y as usize, (region.y + region.height) as usize);
            let done = match slice::rows(encoded, from, to, &mut shorter) {
                Some(cut) => {
                    let inside = Rect { y: region.y - cut.top as u32, ..region };
                    let read = self.header(&shorter);
                    read.and_then(|(header, _)| {
                        self.pixels(&shorter, &header, Some(inside), Pixels::Rgb, out)
                    })
                }
                None => self.pixels(encoded, header, Some(region), Pixels::Rgb, out),
            };
            self.slice = shorter;
            done
        }

        fn header(&mut self, encoded: &[u8]) -> Result<(Header, Size), DecodeError> {
            let header = self.turbo()?.header(encoded).map_err(|complaint| {
                self.turbo = None;
                damaged(complaint)
            })?;
            Ok((header, check_size(header.width, header.height)?))
        }

        fn pixels(
            &mut self,
            encoded: &[u8],
            header: &Header,
            region: Option<Rect>,
            pixels: Pixels,
            out: &mut [u8],
        ) -> Result<(), DecodeError> {
            let done = self.turbo()?.decode(encoded, header, region, pixels, out);
            self.judged(encoded, done)
        }

        /// What is an error and what a warning.
        fn judged(
            &mut self,
            encoded: &[u8],
            done: Result<(), Complaint>,
        ) -> Result<(), DecodeError> {
            if done.is_err() {
                // A decompressor that stopped half-way keeps state that a later picture of another
                // shape trips over (libjpeg-turbo 3.1).
                self.turbo = None;
            }
            match done {
                Ok(()) => Ok(()),
                Err(complaint) if complaint.is_warning && super::has_end(encoded) => {
                    tracing::debug!("JPEG decoded with a warning: {}", complaint.text);
                    Ok(())
                }
                Err(complaint) if super::has_end(encoded) => Err(damaged(complaint)),
                Err(_) => Err(truncated()),
            }
        }

        fn turbo(&mut self) -> Result<&mut Turbo, DecodeError> {
            if self.turbo.is_none() {
                self.turbo = Some(Turbo::new(MAX_SCANS).map_err(damaged)?);
            }
            self.turbo.as_mut().ok_or_else(|| DecodeError::Damaged("no JPEG decoder".to_owned()))
        }
    }

    /// `wanted` with the columns its smooth upsampling looks at, from a coding unit's left edge on.
    fn widened(wanted: Rect, unit: u32, size: Size) -> Rect {
        let x = wanted.x.saturating_sub(MARGIN) / unit * unit;
        let right = (wanted.x + wanted.width + MARGIN).min(size.width);
        Rect { x, width: right - x, ..wanted }
    }

    fn truncated() -> DecodeError {
        DecodeError::Damaged("the JPEG file is truncated".to_owned())
    }

    fn damaged(complaint: Complaint) -> DecodeError {
        DecodeError::Damaged(complaint.text)
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

        /// The form of the planes: this decoder has none.
        ///
        /// # Errors
        /// Never.
        pub fn form(&mut self, _: &[u8]) -> Result<Option<(Size, Yuv)>, DecodeError> {
            Ok(None)
        }

        /// Decodes the picture into `clip` as its only frame, whatever the region.
        ///
        /// # Errors
        /// When the bytes are damaged or end early.
        pub fn decode(
            &mut self,
            encoded: &[u8],
            _: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
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

        /// As [`Self::decode`]: this decoder has no planes.
        ///
        /// # Errors
        /// As [`Self::decode`].
        pub fn decode_planes(
            &mut self,
            encoded: &[u8],
            region: Option<Rect>,
            clip: &mut Clip,
        ) -> Result<(), DecodeError> {
            self.decode(encoded, region, clip)
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

/// Which decoder is asked.
#[cfg(feature = "turbojpeg")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The fastest that can.
    Best,
    /// libjpeg-turbo, which can decode every file.
    Turbo,
}

/// Widest picture whose narrower chroma libjpeg does not smooth.
#[cfg(feature = "turbojpeg")]
const NARROW: u32 = 4;

/// What the planes of a picture of `size` are.
#[cfg(feature = "turbojpeg")]
fn yuv(chroma: Chroma, size: Size) -> Yuv {
    let smooth = size.width > NARROW;
    let upsampling = if smooth { Upsampling::Triangle } else { Upsampling::Repeat };
    Yuv { chroma, upsampling, matrix: YuvMatrix::JPEG }
}

/// `region` where it is one of a picture of `size`, else all of it.
#[cfg(feature = "turbojpeg")]
fn region_of(region: Option<Rect>, size: Size) -> Rect {
    let usable = |r: &Rect| r.fits(size) && r.width > 0 && r.height > 0;
    region.filter(usable).unwrap_or(Rect::full(size))
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
pub(crate) fn has_end(bytes: &[u8]) -> bool {
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
        *at += memchr::memchr(0xff, rest)? + 1;
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
mod tests;
