//! Just enough of H.264's byte stream to tell where decoding can start.

/// Whether decoding can start at this H.264 packet and every frame shown after it is right: it
/// holds an IDR slice, or a recovery point that takes no further frames.
pub(crate) fn is_clean_start(extradata: &[u8], packet: &[u8]) -> bool {
    let found = |unit: &[u8]| match unit.first().map(|b| b & 0x1f) {
        Some(5) => true,
        Some(6) => recovery_frames(&unit[1..]) == Some(0),
        _ => false,
    };
    match length_size(extradata) {
        Some(size) => LengthPrefixed { rest: packet, size }.any(found),
        None => StartCodes { rest: packet }.any(found),
    }
}

/// Whether the picture of this H.264 packet is kept for others to refer to: `nal_ref_idc` of its
/// slices; `None` when there is no slice in it.
#[cfg(test)]
pub(crate) fn is_reference(extradata: &[u8], packet: &[u8]) -> Option<bool> {
    let slice =
        |unit: &[u8]| unit.first().filter(|b| matches!(*b & 0x1f, 1..=5)).map(|b| b >> 5 & 3 != 0);
    match length_size(extradata) {
        Some(size) => LengthPrefixed { rest: packet, size }.find_map(slice),
        None => StartCodes { rest: packet }.find_map(slice),
    }
}

/// Bytes of a unit's length in MP4's form; `None` for the form with start codes.
fn length_size(extradata: &[u8]) -> Option<usize> {
    (extradata.first() == Some(&1)).then(|| extradata.get(4).map_or(4, |b| (b & 3) as usize + 1))
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
        assert_eq!(
            [exp_golomb(&[0x80]), exp_golomb(&[0x40]), exp_golomb(&[0])],
            [Some(0), Some(1), None]
        );
    }
}
