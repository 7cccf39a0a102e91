//! Is a file as long as it says itself? Told by its structure, without decoding.

use crate::decode::jpeg::has_end;
use crate::decode::sniff;
use crate::record::MediaKind;

/// Why `bytes` are not all of a file; `None` where nothing says so.
pub(crate) fn cut_off(bytes: &[u8]) -> Option<String> {
    let promised = match sniff(bytes)? {
        MediaKind::Jpeg => return jpeg(bytes),
        MediaKind::Image if bytes.starts_with(b"\x89PNG") => return png(bytes),
        MediaKind::Image if bytes.starts_with(b"RIFF") => riff(bytes),
        MediaKind::Image => None,
        MediaKind::Video if bytes.starts_with(b"RIFF") => riff(bytes),
        MediaKind::Video if bytes.starts_with(&EBML) => matroska(bytes),
        MediaKind::Video => mp4(bytes),
    }?;
    let have = bytes.len() as u64;
    (promised > have).then(|| format!("cut off: {have} bytes of {promised}"))
}

fn jpeg(bytes: &[u8]) -> Option<String> {
    let whole = bytes.ends_with(&[0xff, 0xd9]) || has_end(bytes);
    (!whole).then(|| "cut off: the picture has no end marker".to_owned())
}

fn png(bytes: &[u8]) -> Option<String> {
    let mut at = 8usize;
    loop {
        let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return Some("cut off: the picture has no end".to_owned());
        };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if &head[4..] == b"IEND" {
            return None;
        }
        at = at.checked_add(12)?.checked_add(length)?;
    }
}

/// AVI and WebP. A size that writers leave open when they cannot go back tells nothing.
fn riff(bytes: &[u8]) -> Option<u64> {
    let size = bytes.get(4..8)?;
    let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
    // A byte of padding may be left out.
    (size < u32::MAX - 8).then(|| u64::from(size & !1) + 8)
}

/// How Matroska and WebM begin.
const EBML: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];
/// Their one element behind the head.
const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];

fn matroska(bytes: &[u8]) -> Option<u64> {
    let (head, digits) = ebml_size(bytes.get(4..)?)?;
    let at = (4 + digits as u64).checked_add(head)?;
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let (size, digits) = ebml_size(rest.strip_prefix(&SEGMENT)?)?;
    at.checked_add(4 + digits as u64)?.checked_add(size)
}

/// A size of EBML and how many bytes it takes; `None` where it is left open.
fn ebml_size(bytes: &[u8]) -> Option<(u64, usize)> {
    let digits = bytes.first()?.leading_zeros() as usize + 1;
    let value = bytes.get(..digits).filter(|_| digits <= 8)?;
    let value = value.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let mask = (1u64 << (7 * digits)) - 1;
    (value & mask != mask).then_some((value & mask, digits))
}

/// The end of the last of the boxes that begin here.
fn mp4(bytes: &[u8]) -> Option<u64> {
    let mut at = 0u64;
    loop {
        let rest = bytes.get(usize::try_from(at).ok()?..)?;
        let head = rest.first_chunk::<8>()?;
        let short = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let size = match short {
            0 => return None,
            1 => u64::from_be_bytes(*rest.get(8..)?.first_chunk()?),
            2..8 => return None,
            size => u64::from(size),
        };
        let end = at.checked_add(size)?;
        let known =
            [b"ftyp", b"moov", b"mdat", b"moof", b"free"].iter().any(|b| head[4..] == b[..]);
        if !known || end > bytes.len() as u64 {
            return known.then_some(end);
        }
        at = end;
    }
}

#[cfg(all(test, feature = "video"))]
mod tests {
    use super::*;
    use crate::encode::{EncodeOptions, encode_jpeg, encode_video};
    use tubelet_core::Size;

    #[test]
    fn a_cut_jpeg_is_told_and_trailing_bytes_are_not() {
        let size = Size::new(40, 30);
        let whole = encode_jpeg(&vec![90; size.area() * 3], size, 90).expect("encodes");
        assert_eq!(cut_off(&whole), None);
        assert_eq!(cut_off(&[&whole[..], b"\0\0trailer"].concat()), None);
        for end in [whole.len() / 2, whole.len() - 1, whole.len() - 2, 30] {
            assert!(cut_off(&whole[..end]).is_some(), "{end} of {}", whole.len());
        }
    }

    #[test]
    fn a_cut_png_and_a_cut_video_are_told() {
        let mut png = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::new(9, 7);
        picture.write_to(&mut png, image::ImageFormat::Png).expect("encodes");
        let png = png.into_inner();
        let size = Size::new(64, 48);
        let frames = vec![vec![80u8; size.area() * 3]; 12];
        let options = EncodeOptions { size, ..EncodeOptions::default() };
        let mp4 = encode_video(frames.iter().map(Vec::as_slice), &options).expect("encodes");
        for whole in [png, mp4] {
            assert_eq!(cut_off(&whole), None);
            assert!(cut_off(&whole[..whole.len() - 5]).is_some(), "{:?}", &whole[..8]);
        }
    }

    #[test]
    fn sizes_of_matroska_and_riff_are_read() {
        let webm = [&EBML[..], &[0x82, 1, 2], &SEGMENT, &[0x85, 1, 2, 3, 4, 5]].concat();
        assert_eq!(matroska(&webm), Some(webm.len() as u64));
        assert_eq!(matroska(&[&EBML[..], &[0x80], &SEGMENT, &[0xff]].concat()), None);
        assert_eq!(riff(b"RIFF\x06\0\0\0AVI LIST"), Some(14));
        assert_eq!(riff(b"RIFF\xff\xff\xff\xffAVI "), None);
        for cut in 0..webm.len() {
            let _ = (matroska(&webm[..cut]), mp4(&webm[..cut]), riff(&webm[..cut]));
        }
    }
}
