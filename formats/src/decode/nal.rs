//! Just enough of the byte streams of H.264, HEVC and MPEG-4 part 2 to tell where decoding can start
//! and which pictures no other picture needs.

/// Whether decoding can start at this H.264 packet and every frame shown after it is right: it
/// holds an IDR slice, or a recovery point that takes no further frames.
pub(crate) fn is_clean_start(extradata: &[u8], packet: &[u8]) -> bool {
    let found = |unit: &[u8]| match unit.first().map(|b| b & 0x1f) {
        Some(5) => true,
        Some(6) => recovery_frames(&unit[1..]) == Some(0),
        _ => false,
    };
    units(length_size(extradata, 4), packet).any(found)
}

/// Tells which packets hold pictures that no other picture is predicted from: leaving those out
/// changes no pixel of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposable {
    /// Nothing may be left out.
    Never,
    /// `nal_ref_idc` is 0 in every slice (H.264, 7.4.1).
    H264 {
        /// Bytes of a unit's length; `None` for start codes.
        length: Option<usize>,
    },
    /// Every slice is of a sub-layer non-reference type and belongs to the highest temporal
    /// sub-layer in the stream (HEVC, 7.4.2.2).
    Hevc {
        /// Bytes of a unit's length; `None` for start codes.
        length: Option<usize>,
        /// That sub-layer.
        top: u8,
    },
    /// The one picture of the packet is a B-VOP (MPEG-4 part 2, 6.3.5).
    Mpeg4,
}

impl Disposable {
    /// For the stream `packets` of `codec`, FFmpeg's name.
    pub(super) fn new<'a>(
        codec: &str,
        extradata: &[u8],
        packets: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        match codec {
            "h264" => Self::H264 { length: length_size(extradata, 4) },
            "hevc" => {
                let length = length_size(extradata, 21);
                let layers = packets.flat_map(|p| units(length, p)).filter_map(hevc_slice);
                Self::Hevc { length, top: layers.map(|(_, layer)| layer).max().unwrap_or(0) }
            }
            "mpeg4" => Self::Mpeg4,
            _ => Self::Never,
        }
    }

    /// Whether `packet` may be left out.
    pub(super) fn is(self, packet: &[u8]) -> bool {
        match self {
            Self::Never => false,
            Self::H264 { length } => {
                let slices = units(length, packet).filter_map(|u| u.first());
                all_of_some(slices.filter(|b| (1..=5).contains(&(*b & 0x1f))), |b| b & 0x60 == 0)
            }
            Self::Hevc { length, top } => {
                let slices = units(length, packet).filter_map(hevc_slice);
                all_of_some(slices, |(kind, layer)| kind < 16 && kind % 2 == 0 && layer == top)
            }
            Self::Mpeg4 => {
                let pictures = units(None, packet).filter(|u| u.first() == Some(&0xb6));
                let mut kinds = pictures.map(|u| u.get(1).map(|b| b >> 6));
                kinds.next() == Some(Some(2)) && kinds.next().is_none()
            }
        }
    }
}

/// Whether there is one and all are.
fn all_of_some<T>(mut items: impl Iterator<Item = T>, test: impl Fn(T) -> bool) -> bool {
    items.next().is_some_and(&test) && items.all(test)
}

/// Type and temporal sub-layer of an HEVC slice; `None` for other units.
fn hevc_slice(unit: &[u8]) -> Option<(u8, u8)> {
    let (kind, layer) = (unit.first()? >> 1 & 0x3f, (unit.get(1)? & 7).saturating_sub(1));
    (kind < 32).then_some((kind, layer))
}

/// The units of a packet: with lengths of `length` bytes, or between start codes.
fn units(length: Option<usize>, packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (lengths, codes) = match length {
        Some(size) => (Some(LengthPrefixed { rest: packet, size }), None),
        None => (None, Some(StartCodes { rest: packet })),
    };
    lengths.into_iter().flatten().chain(codes.into_iter().flatten())
}

/// Whether the picture of this H.264 packet is kept for others to refer to: `nal_ref_idc` of its
/// slices; `None` when there is no slice in it.
#[cfg(test)]
pub(crate) fn is_reference(extradata: &[u8], packet: &[u8]) -> Option<bool> {
    let slice =
        |unit: &[u8]| unit.first().filter(|b| matches!(*b & 0x1f, 1..=5)).map(|b| b >> 5 & 3 != 0);
    units(length_size(extradata, 4), packet).find_map(slice)
}

/// Bytes of a unit's length in MP4's form, told at `at`; `None` for the form with start codes.
fn length_size(extradata: &[u8], at: usize) -> Option<usize> {
    (extradata.first() == Some(&1)).then(|| extradata.get(at).map_or(4, |b| (b & 3) as usize + 1))
}

struct LengthPrefixed<'a> {
    rest: &'a [u8],
    size: usize,
}

impl<'a> Iterator for LengthPrefixed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.get(..self.size)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let unit = self.rest.get(self.size..)?.get(..length)?;
        self.rest = &self.rest[self.size + length..];
        Some(unit)
    }
}

struct StartCodes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for StartCodes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let code = |bytes: &[u8]| bytes.windows(3).position(|w| w == [0, 0, 1]);
        let start = code(self.rest)? + 3;
        self.rest = &self.rest[start..];
        let end = code(self.rest).unwrap_or(self.rest.len());
        Some(&self.rest[..end])
    }
}

/// `recovery_frame_cnt` of a recovery point message among supplemental messages (H.264, D.1.8).
fn recovery_frames(mut sei: &[u8]) -> Option<u32> {
    let number = |sei: &mut &[u8]| {
        let mut sum = 0;
        loop {
            let (&byte, rest) = sei.split_first()?;
            *sei = rest;
            sum += usize::from(byte);
            if byte != 255 {
                return Some(sum);
            }
        }
    };
    loop {
        let kind = number(&mut sei)?;
        let size = number(&mut sei)?;
        let body = sei.get(..size)?;
        if kind == 6 {
            return exp_golomb(body);
        }
        sei = &sei[size..];
    }
}

/// The first unsigned Exp-Golomb number.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let head = bytes.iter().take(4).fold(0u32, |n, b| n << 8 | u32::from(*b));
    let head = head << (8 * 4usize.saturating_sub(bytes.len()));
    let zeros = head.leading_zeros();
    if zeros > 15 {
        return None;
    }
    Some((head >> (31 - 2 * zeros)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idr_and_recovery_points() {
        let avcc = [1, 100, 0, 30, 0xff];
        assert!(is_clean_start(&avcc, &[0, 0, 0, 2, 0x65, 0x88]));
        assert!(!is_clean_start(&avcc, &[0, 0, 0, 2, 0x41, 0x88]));
        assert!(is_clean_start(&avcc, &[0, 0, 0, 4, 6, 6, 1, 0x80, 0, 0, 0, 2, 0x41, 0x9a]));
        assert!(!is_clean_start(&avcc, &[0, 0, 0, 4, 6, 6, 1, 0x30, 0, 0, 0, 2, 0x41, 0x9a]));
        assert!(is_clean_start(&[], &[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 1]));
        assert!(!is_clean_start(&[], &[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x41, 1]));
        assert!(!is_clean_start(&avcc, &[255, 255, 255, 255, 1]));
        let h264 = Disposable::new("h264", &avcc, [].into_iter());
        let packet = |head: u8| [0, 0, 0, 2, 6, 5, 0, 0, 0, 2, head, 0x88];
        assert!(h264.is(&packet(0x01)) && !h264.is(&packet(0x41)) && !h264.is(&packet(0x65)));
        assert!(!h264.is(&[0, 0, 0, 2, 6, 5]) && !h264.is(&[0, 0, 0, 9, 1]));
        let slices: [&[u8]; 2] = [&[0, 0, 1, 0x02, 1, 9], &[0, 0, 1, 0x00, 2, 9]];
        let hevc = Disposable::new("hevc", &[], slices.into_iter());
        assert!(hevc.is(slices[1]) && !hevc.is(slices[0]) && !hevc.is(&[0, 0, 1, 0x00, 1, 9]));
        let mpeg4 = Disposable::new("mpeg4", &[], [].into_iter());
        assert!(mpeg4.is(&[0, 0, 1, 0xb6, 0x90]) && !mpeg4.is(&[0, 0, 1, 0xb6, 0x50]));
        assert!(!mpeg4.is(&[0, 0, 1, 0xb6, 0x90, 0, 0, 1, 0xb6, 0x90]));
        assert_eq!(
            [exp_golomb(&[0x80]), exp_golomb(&[0x40]), exp_golomb(&[0])],
            [Some(0), Some(1), None]
        );
    }
}
