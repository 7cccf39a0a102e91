//! Encoded bytes to frames: one decoder that looks at the first bytes and takes the right codec.
//!
//! | module | what it reads |
//! |---|---|
//! | [`jpeg`] | JPEG, by libjpeg-turbo, bit for bit as Pillow does |
//! | [`image`] | PNG, WebP, BMP, GIF's first frame |
//! | [`video`] | any container and codec FFmpeg knows |
//! | [`hw`] | videos by NVDEC, frames staying on the device |
//! | `packed` | folders of pictures, packed as an AVI |
//!
//! Names are never trusted: a PNG called `.JPEG` is a PNG, a text file called `.jpg` is an error.

#[cfg(feature = "video")]
pub(crate) mod av;
#[cfg(feature = "video")]
pub mod hw;
pub mod image;
pub mod jpeg;
#[cfg(feature = "video")]
pub(crate) mod nal;
mod packed;
#[cfg(feature = "video")]
pub mod video;
#[cfg(feature = "video")]
mod yuv;

use tubelet_core::{Clip, MediaInfo, Size};

use crate::error::DecodeError;
use crate::frames::Packed;
use crate::record::{Decoder, FrameRequest, MediaKind};

/// Largest picture that is decoded, in pixels; a header that asks for more is taken for damage.
pub const MAX_PIXELS: u64 = 1 << 28;

/// How planar YUV becomes RGB. The matrix is the one the stream names, BT.601 where it names
/// none; full-range streams are read as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ColorConversion {
    /// FFmpeg's default converter (`flags=bilinear`): what loaders built on decord or PyAV
    /// deliver; biased low by about one grey level.
    #[default]
    Plain,
    /// Correctly rounded, chroma interpolated
    /// (`bilinear+accurate_rnd+full_chroma_int+full_chroma_inp`).
    Accurate,
}

/// A decoder for everything this build can read, with the default colour conversion.
pub fn decoder() -> Box<dyn Decoder> {
    Box::new(MediaDecoder::new(ColorConversion::default()))
}

/// What the bytes are, by their first bytes; `None` when they are no medium known here.
pub fn sniff(bytes: &[u8]) -> Option<MediaKind> {
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Some(MediaKind::Jpeg)
    } else if image::is_picture(bytes) {
        Some(MediaKind::Image)
    } else if is_container(bytes) {
        Some(MediaKind::Video)
    } else {
        None
    }
}

/// Size of a JPEG or another still picture, from its header.
pub(crate) fn picture_size(encoded: &[u8]) -> Result<Size, DecodeError> {
    match kind_of(encoded)? {
        MediaKind::Jpeg => jpeg::JpegDecoder::new().probe(encoded).map(|info| info.size),
        MediaKind::Image => image::probe(encoded).map(|info| info.size),
        MediaKind::Video => Err(DecodeError::Unknown("a video, not a picture".to_owned())),
    }
}

/// The decoder that [`decoder`] makes: dispatches on [`sniff`].
pub struct MediaDecoder {
    jpeg: jpeg::JpegDecoder,
    /// One frame of a video that is a row of pictures.
    picture: Clip,
    /// Pictures decoded on their own.
    pictures: u64,
    #[cfg(feature = "video")]
    video: video::VideoDecoder,
}

impl MediaDecoder {
    /// A decoder whose videos are converted by `conversion`; pictures do not depend on it.
    pub fn new(conversion: ColorConversion) -> Self {
        #[cfg(not(feature = "video"))]
        let _ = conversion;
        Self {
            jpeg: jpeg::JpegDecoder::new(),
            picture: Clip::new(),
            pictures: 0,
            #[cfg(feature = "video")]
            video: video::VideoDecoder::new(conversion),
        }
    }
}

impl Decoder for MediaDecoder {
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        match kind_of(encoded)? {
            MediaKind::Jpeg => self.jpeg.probe(encoded),
            MediaKind::Image => image::probe(encoded),
            MediaKind::Video => match Packed::open(encoded)? {
                Some(packed) => packed::probe(&packed, &mut self.jpeg),
                None => self.probe_video(encoded),
            },
        }
    }

    fn decode(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        want: &FrameRequest,
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        let kind = kind_of(encoded)?;
        check_request(want)?;
        if kind == MediaKind::Video {
            return match Packed::open(encoded)? {
                Some(packed) => {
                    self.pictures += want.frames.len() as u64;
                    packed::decode(&packed, want, &mut self.jpeg, &mut self.picture, clip)
                }
                None => self.decode_video(encoded, info, want, clip),
            };
        }
        if let Some(&wanted) = want.frames.iter().find(|&&f| f > 0) {
            return Err(DecodeError::MissingFrame { wanted, have: 1 });
        }
        self.pictures += 1;
        match kind {
            MediaKind::Jpeg if want.planes => self.jpeg.decode_planes(encoded, want.region, clip),
            MediaKind::Jpeg => self.jpeg.decode(encoded, want.region, clip),
            _ => image::decode(encoded, clip),
        }
    }

    fn frames_decoded(&self) -> u64 {
        self.pictures + self.of_videos()
    }
}

#[cfg(feature = "video")]
impl MediaDecoder {
    fn of_videos(&self) -> u64 {
        self.video.frames_decoded()
    }

    fn probe_video(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        self.video.probe(encoded)
    }

    fn decode_video(
        &mut self,
        encoded: &[u8],
        info: &MediaInfo,
        want: &FrameRequest,
        clip: &mut Clip,
    ) -> Result<(), DecodeError> {
        self.video.decode(encoded, info, want, clip)
    }
}

#[cfg(not(feature = "video"))]
impl MediaDecoder {
    fn of_videos(&self) -> u64 {
        0
    }

    fn probe_video(&mut self, _: &[u8]) -> Result<MediaInfo, DecodeError> {
        Err(DecodeError::Unknown("a video; this build has none (feature `video`)".to_owned()))
    }

    fn decode_video(
        &mut self,
        encoded: &[u8],
        _: &MediaInfo,
        _: &FrameRequest,
        _: &mut Clip,
    ) -> Result<(), DecodeError> {
        self.probe_video(encoded).map(|_| ())
    }
}

/// Refuses sizes of zero and beyond [`MAX_PIXELS`].
fn check_size(width: usize, height: usize) -> Result<Size, DecodeError> {
    let pixels = (width as u64).saturating_mul(height as u64);
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(w), Ok(h)) if pixels > 0 && pixels <= MAX_PIXELS => Ok(Size::new(w, h)),
        _ => Err(DecodeError::Damaged(format!("a size of {width}x{height} pixels"))),
    }
}

fn kind_of(encoded: &[u8]) -> Result<MediaKind, DecodeError> {
    if encoded.is_empty() {
        return Err(DecodeError::Empty);
    }
    sniff(encoded).ok_or_else(|| DecodeError::Unknown(first_bytes(encoded)))
}

fn check_request(want: &FrameRequest) -> Result<(), DecodeError> {
    if want.frames.is_empty() || want.frames.windows(2).any(|w| w[0] >= w[1]) {
        return Err(DecodeError::Damaged("frames asked for must ascend, one at least".to_owned()));
    }
    Ok(())
}

/// The first bytes, for people: text where it is text, else hexadecimal.
fn first_bytes(encoded: &[u8]) -> String {
    let head = &encoded[..encoded.len().min(16)];
    if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        return format!("it begins with {:?}", String::from_utf8_lossy(head));
    }
    let hex: Vec<String> = head.iter().map(|b| format!("{b:02x}")).collect();
    format!("it begins with bytes {}", hex.join(" "))
}

fn is_container(bytes: &[u8]) -> bool {
    let at =
        |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|b| b.starts_with(magic));
    let boxed: [&[u8]; 6] = [b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"];
    let still: [&[u8]; 4] = [b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1"];
    let transport = at(0, &[0x47]) && (bytes.len() < 189 || at(188, &[0x47])) && bytes.len() >= 188;
    (boxed.iter().any(|magic| at(4, magic)) && !still.iter().any(|magic| at(4, magic)))
        || at(0, &[0x1a, 0x45, 0xdf, 0xa3])
        || (at(0, b"RIFF") && at(8, b"AVI "))
        || at(0, b"FLV\x01")
        || at(0, &[0, 0, 1, 0xba])
        || at(0, &[0, 0, 1, 0xb3])
        || at(0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11])
        || at(0, b"OggS")
        || transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_decide_not_names() {
        assert_eq!(sniff(b"\xff\xd8\xff\xe0"), Some(MediaKind::Jpeg));
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n...."), Some(MediaKind::Image));
        assert_eq!(sniff(b"\0\0\0\x20ftypisom"), Some(MediaKind::Video));
        assert_eq!(sniff(b"\0\0\0\x20ftypavif"), None);
        assert_eq!(sniff(b"\x1a\x45\xdf\xa3...."), Some(MediaKind::Video));
        assert_eq!(sniff(b"RIFF\0\0\0\0AVI LIST"), Some(MediaKind::Video));
        assert_eq!(sniff(b"RIFF\0\0\0\0WEBPVP8 "), Some(MediaKind::Image));
        assert_eq!(sniff(b"not a picture"), None);
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn broken_bytes_are_errors() {
        let mut decoder = decoder();
        assert_eq!(decoder.probe(b""), Err(DecodeError::Empty));
        assert!(matches!(decoder.probe(b"a text file"), Err(DecodeError::Unknown(_))));
        for magic in [&b"\xff\xd8\xff\xe0"[..], b"\x89PNG\r\n\x1a\n", b"\0\0\0\x20ftypisom"] {
            assert!(decoder.probe(magic).is_err(), "{magic:?}");
        }
    }

    #[test]
    fn requests_must_ascend() {
        let want =
            |frames: &[u32]| FrameRequest { frames: frames.to_vec(), region: None, planes: false };
        assert!(check_request(&want(&[])).is_err());
        assert!(check_request(&want(&[2, 2])).is_err());
        assert!(check_request(&want(&[0, 3])).is_ok());
    }
}
