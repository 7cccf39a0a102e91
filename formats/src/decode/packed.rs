//! Videos that are rows of pictures (see [`crate::frames`]): each frame by the picture decoders.

use tubelet_core::{Clip, MediaInfo, Rect};

use super::jpeg::JpegDecoder;
use super::{image, kind_of};
use crate::error::DecodeError;
use crate::frames::Packed;
use crate::record::{FrameRequest, MediaKind};

/// Media facts: size and codec of the first picture.
pub(super) fn probe(packed: &Packed<'_>, jpeg: &mut JpegDecoder) -> Result<MediaInfo, DecodeError> {
    if packed.len() == 0 {
        return Err(DecodeError::NoFrames("an AVI of frames".to_owned()));
    }
    let first = packed.frame(0)?;
    let picture = match kind_of(first)? {
        MediaKind::Jpeg => jpeg.probe(first)?,
        _ => image::probe(first)?,
    };
    let (frames, fps) = (packed.len(), f64::from(packed.fps));
    Ok(MediaInfo { frames, fps, keyframes: (0..frames).collect(), ..picture })
}

/// Decodes the wanted frames; `picture` holds one at a time.
pub(super) fn decode(
    packed: &Packed<'_>,
    want: &FrameRequest,
    jpeg: &mut JpegDecoder,
    picture: &mut Clip,
    clip: &mut Clip,
) -> Result<(), DecodeError> {
    match decode_region(packed, want, want.region, jpeg, picture, clip)? {
        true => Ok(()),
        // JPEGs of unlike sampling round a region differently: then whole frames.
        false => decode_region(packed, want, None, jpeg, picture, clip).map(|_| ()),
    }
}

/// Whether all frames came with the same region.
fn decode_region(
    packed: &Packed<'_>,
    want: &FrameRequest,
    region: Option<Rect>,
    jpeg: &mut JpegDecoder,
    picture: &mut Clip,
    clip: &mut Clip,
) -> Result<bool, DecodeError> {
    for (n, &index) in want.frames.iter().enumerate() {
        let encoded = packed.frame(index)?;
        let place = |e: DecodeError| match e {
            DecodeError::Damaged(what) => DecodeError::Damaged(format!("frame {index}: {what}")),
            other => other,
        };
        match kind_of(encoded)? {
            MediaKind::Jpeg => jpeg.decode(encoded, region, picture).map_err(place)?,
            _ => image::decode(encoded, picture).map_err(place)?,
        }
        if n == 0 {
            clip.reset_region(picture.size(), picture.region(), &want.frames);
        }
        if picture.size() != clip.size() {
            let what = format!("frame {index} has {}, others {}", picture.size(), clip.size());
            return Err(DecodeError::Damaged(what));
        }
        if picture.region() != clip.region() {
            return Ok(false);
        }
        clip.nth_mut(n).copy_from_slice(picture.nth(0));
    }
    Ok(true)
}
