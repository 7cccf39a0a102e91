//! A shorter JPEG with only the rows that are wanted, where restart markers stand between rows: the
//! entropy-coded bytes outside need not be looked at.

/// A JPEG file cut down to some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// First row of the picture that it holds.
    pub(super) top: usize,
    /// Rows it holds.
    pub(super) rows: usize,
}

/// Rows above and below the wanted ones that smooth chroma upsampling looks at.
const MARGIN: usize = 2;

/// Writes into `out` a JPEG that has the rows `from..to` of `jpeg`, a few more where restart markers
/// ask for it. `None` where the file's markers do not stand between rows (or its form is not
/// baseline with one scan), or where nothing would be saved.
pub(super) fn rows(jpeg: &[u8], from: usize, to: usize, out: &mut Vec<u8>) -> Option<Slice> {
    let layout = Layout::read(jpeg)?;
    let band = layout.band_rows?;
    let first = from.saturating_sub(MARGIN) / band;
    let last = (to + MARGIN).min(layout.height).div_ceil(band);
    let bands = layout.height.div_ceil(band);
    if first == 0 && last == bands {
        return None;
    }
    let intervals = first * layout.intervals_a_band..last * layout.intervals_a_band;
    let (top, bottom) = (first * band, (last * band).min(layout.height));
    out.clear();
    out.extend_from_slice(&jpeg[..layout.scan]);
    let rows = u16::try_from(bottom - top).ok()?;
    out[layout.height_at..layout.height_at + 2].copy_from_slice(&rows.to_be_bytes());
    copy_intervals(&jpeg[layout.scan..], intervals, last == bands, out)?;
    out.extend_from_slice(&[0xff, 0xd9]);
    Some(Slice { top, rows: bottom - top })
}

/// Copies the entropy-coded `intervals` with their markers numbered from 0. `None` when the file
/// has fewer, or its markers are out of order.
fn copy_intervals(
    scan: &[u8],
    intervals: std::ops::Range<usize>,
    to_the_end: bool,
    out: &mut Vec<u8>,
) -> Option<()> {
    let (mut at, mut number) = (0, 0);
    let mut start = if intervals.start == 0 { Some(0) } else { None };
    loop {
        at += memchr::memchr(0xff, &scan[at..])? + 1;
        let marker = *scan.get(at)?;
        let is_restart = (0xd0..=0xd7).contains(&marker);
        if is_restart && usize::from(marker - 0xd0) != number % 8 {
            return None;
        }
        if !is_restart && matches!(marker, 0x00 | 0xff) {
            continue;
        }
        // A marker ends interval `number`.
        if let Some(start) = start {
            out.extend_from_slice(&scan[start..at - 1]);
        }
        number += 1;
        if number == intervals.end || !is_restart {
            let is_end = marker == 0xd9 || !to_the_end;
            return (number == intervals.end && is_end).then_some(());
        }
        if start.is_some() {
            out.extend_from_slice(&[0xff, 0xd0 + ((number - 1 - intervals.start) % 8) as u8]);
        }
        start = (number >= intervals.start).then_some(at + 1);
    }
}

/// Where things stand in a baseline file with one scan.
struct Layout {
    height: usize,
    /// Position of the two bytes of the height.
    height_at: usize,
    /// Position of the entropy-coded bytes.
    scan: usize,
    /// Rows between places where a restart marker and a row of coding units begin together.
    band_rows: Option<usize>,
    intervals_a_band: usize,
}

impl Layout {
    fn read(jpeg: &[u8]) -> Option<Self> {
        let (mut at, mut frame, mut interval) = (2, None, 0);
        loop {
            let head = jpeg.get(at..at + 4)?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let body = jpeg.get(at + 4..at + 2 + length)?;
            match (head[0], head[1]) {
                (0xff, 0xc0 | 0xc1) => frame = Some((at + 5, Frame::read(body)?)),
                (0xff, 0xc2..=0xcf) if !matches!(head[1], 0xc4 | 0xc8 | 0xcc) => return None,
                (0xff, 0xdd) => {
                    interval = usize::from(u16::from_be_bytes([body[0], *body.get(1)?]))
                }
                (0xff, 0xda) => {
                    let (height_at, frame) = frame?;
                    let scan = at + 2 + length;
                    return (usize::from(*body.first()?) == frame.components)
                        .then(|| Self::new(&frame, height_at, scan, interval));
                }
                (0xff, _) => {}
                _ => return None,
            }
            at += 2 + length;
        }
    }

    fn new(frame: &Frame, height_at: usize, scan: usize, interval: usize) -> Self {
        let a_row = frame.width.div_ceil(frame.unit[0]);
        let (band_rows, intervals_a_band) = match interval {
            0 => (None, 1),
            n if n % a_row == 0 => (Some(n / a_row * frame.unit[1]), 1),
            n if a_row % n == 0 => (Some(frame.unit[1]), a_row / n),
            _ => (None, 1),
        };
        Self { height: frame.height, height_at, scan, band_rows, intervals_a_band }
    }
}

/// The frame header.
struct Frame {
    height: usize,
    width: usize,
    components: usize,
    /// Columns and rows of a coding unit.
    unit: [usize; 2],
}

impl Frame {
    fn read(body: &[u8]) -> Option<Self> {
        let number =
            |at: usize| Some(usize::from(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?])));
        let components = usize::from(*body.get(5)?);
        let sampling = || (0..components).map(|n| body.get(7 + 3 * n).copied());
        let most =
            |shift: u8| sampling().map(|s| s.map(|s| usize::from(s >> shift & 15))).max().flatten();
        let unit = match components {
            1 => [8, 8],
            _ => [8 * most(4)?, 8 * most(0)?],
        };
        let (height, width) = (number(1)?, number(3)?);
        (height > 0 && width > 0 && unit[0] > 0 && unit[1] > 0).then_some(Self {
            height,
            width,
            components,
            unit,
        })
    }
}
