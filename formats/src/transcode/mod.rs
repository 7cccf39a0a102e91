//! Media made cheap to decode: what `convert` stores under its `train` profiles.
//!
//! | module | what it does |
//! |---|---|
//! | `picture` | shorter side limited, JPEG with a restart marker at every row of blocks |
//! | `video` | H.264 in MP4 whose every `stride`-th picture is decodable without those between |
//!
//! Encoders run on one thread each and without instructions that round differently, so the bytes
//! depend on the input, the settings and the encoder libraries alone.

mod picture;
mod quality;
#[cfg(feature = "video")]
mod resize;
#[cfg(feature = "video")]
mod video;

use serde::{Deserialize, Serialize};
use tubelet_core::Size;

use crate::error::DecodeError;

pub use picture::{picture_levels, train_picture};
pub use quality::Quality;
#[cfg(feature = "video")]
pub use video::train_video;

/// How pictures are re-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureSettings {
    /// Largest shorter side in pixels; pictures within it are kept bit for bit.
    pub short_side: u32,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
}

impl Default for PictureSettings {
    fn default() -> Self {
        Self { short_side: 512, quality: 90 }
    }
}

/// Further, smaller encodings of pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pyramid {
    /// Their shorter sides in pixels, ascending. A picture has those that are below its own.
    pub sides: Vec<u32>,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
}

/// Size of the encoding of shorter side `side` that a picture of size `stored` has: both sides the
/// nearest whole pixels.
pub fn level_size(stored: Size, side: u32) -> Size {
    limited(stored, side, 1)
}

/// How videos are re-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoSettings {
    /// Largest shorter side in pixels; smaller videos keep their size but for odd sides.
    pub short_side: u32,
    /// Every `stride`-th picture is a reference; those between are not. 1 to 16, a divisor of
    /// [`GOP`].
    pub stride: u32,
    /// Constant rate factor of x264, 0 to 51.
    pub crf: u32,
    /// Spend decoding time on size: CABAC and the in-loop deblocking filter.
    pub small: bool,
    /// Leave the sound out.
    pub drop_audio: bool,
    /// A constant number of frames per second instead of the source's own times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<Rate>,
}

/// Frames per second as a fraction: 30000/1001.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Frames, at least 1.
    pub frames: u32,
    /// In so many seconds, at least 1.
    pub seconds: u32,
}

impl std::str::FromStr for Rate {
    type Err = String;

    /// `25`, `30000/1001` or a decimal number such as `12.5`; at most 1000 a second.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no frame rate: write 25, 12.5 or 30000/1001, at most 1000");
        let (frames, seconds) = match (text.split_once('/'), text.split_once('.')) {
            (Some((frames, seconds)), _) => (frames.parse().ok(), seconds.parse().ok()),
            (None, Some((whole, part))) if part.len() <= 4 => {
                let digits = 10u32.pow(part.len() as u32);
                (format!("{whole}{part}").parse().ok(), Some(digits))
            }
            _ => (text.parse().ok(), Some(1)),
        };
        let (frames, seconds): (u32, u32) = frames.zip(seconds).ok_or_else(wrong)?;
        let rate = Self { frames, seconds };
        if rate.is_usable() { Ok(rate) } else { Err(wrong()) }
    }
}

impl Rate {
    /// Whether it is above zero and at most 1000 frames a second.
    pub fn is_usable(self) -> bool {
        let (frames, seconds) = (u64::from(self.frames), u64::from(self.seconds));
        frames > 0 && seconds > 0 && frames <= 1000 * seconds && frames <= 1 << 20
    }
}

/// Pictures of a closed group: a key picture comes at every 32nd.
pub const GOP: u32 = 32;

impl Default for VideoSettings {
    fn default() -> Self {
        Self { short_side: 256, stride: 4, crf: 23, small: false, drop_audio: false, fps: None }
    }
}

/// A re-encoded medium.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcoded {
    /// The file; `None` where the source is good as it is.
    pub bytes: Option<Vec<u8>>,
    /// How far it is from the source after resizing, where that was asked for.
    pub quality: Option<Quality>,
    /// Frames in it; for pictures and what stays as it is, 0.
    pub frames: u32,
    /// What was lost beside pixels, for the report.
    pub note: Option<String>,
}

/// A medium could not be re-encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The source cannot be decoded.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The encoder failed.
    #[error("cannot encode: {0}")]
    Encode(String),
}

#[cfg(feature = "video")]
impl From<crate::encode::EncodeError> for TranscodeError {
    fn from(error: crate::encode::EncodeError) -> Self {
        Self::Encode(error.0)
    }
}

/// `size` with its shorter side brought down to `limit`, both sides the nearest multiples of `step`;
/// sides that need not shrink lose their rest.
fn limited(size: Size, limit: u32, step: u32) -> Size {
    let short = size.short_side();
    let steps = |side: u32| match short > limit {
        true => {
            let scaled = f64::from(side) * f64::from(limit) / f64::from(short);
            (scaled / f64::from(step)).round() as u32
        }
        false => side / step,
    };
    let whole = |side: u32| (steps(side) * step).max(step);
    Size::new(whole(size.width), whole(size.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited_never_enlarged_and_whole() {
        assert_eq!(limited(Size::new(340, 256), 256, 2), Size::new(340, 256));
        assert_eq!(limited(Size::new(1920, 1080), 256, 2), Size::new(456, 256));
        assert_eq!(limited(Size::new(1080, 1921), 256, 2), Size::new(256, 456));
        assert_eq!(limited(Size::new(101, 75), 256, 2), Size::new(100, 74));
        assert_eq!(limited(Size::new(1, 1), 256, 2), Size::new(2, 2));
        assert_eq!(limited(Size::new(600, 800), 512, 1), Size::new(512, 683));
    }

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| text.parse::<Rate>().map(|r| (r.frames, r.seconds));
        assert_eq!(rate("25"), Ok((25, 1)));
        assert_eq!(rate("30000/1001"), Ok((30_000, 1001)));
        assert_eq!(rate("12.50"), Ok((1250, 100)));
        for wrong in ["0", "-1", "1/0", "x", "1001", "1.2.3", "25fps", "", "1e3", "99999999/1"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
