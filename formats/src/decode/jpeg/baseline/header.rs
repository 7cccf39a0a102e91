//! The segments before the entropy-coded bytes.

use tubelet_core::{Chroma, Size};

/// Chroma rows and columns to luma ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    /// One component.
    Grey,
    /// 4:4:4.
    Full,
    /// 4:2:2: half the columns.
    Columns,
    /// 4:2:0: half the columns and rows.
    Both,
}

impl Sampling {
    /// Luma blocks of a coding unit along a row and a column.
    pub(super) fn blocks(self) -> [usize; 2] {
        match self {
            Self::Grey | Self::Full => [1, 1],
            Self::Columns => [2, 1],
            Self::Both => [2, 2],
        }
    }

    /// The same as a clip says it.
    pub(super) fn chroma(self) -> Chroma {
        match self {
            Self::Grey => Chroma::Absent,
            Self::Full => Chroma::Full,
            Self::Columns => Chroma::HalfColumns,
            Self::Both => Chroma::HalfBoth,
        }
    }
}

/// A component: which tables it uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    pub(super) quant: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What is said before the entropy-coded bytes of a baseline file with one scan.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) size: Size,
    pub(super) sampling: Sampling,
    /// One or three.
    pub(super) components: Vec<Component>,
    /// Quantisation steps in zigzag order.
    pub(super) quants: [Option<&'a [u8]>; 4],
    /// Lengths and symbols of the Huffman codes.
    pub(super) dc: [Option<&'a [u8]>; 4],
    pub(super) ac: [Option<&'a [u8]>; 4],
    /// Coding units between restart markers; 0 where there are none.
    pub(super) interval: usize,
    /// Position of the entropy-coded bytes.
    pub(super) scan: usize,
}

/// The frame header: component numbers, sampling factors, quantisation tables.
struct Frame {
    size: Size,
    components: Vec<(u8, [u8; 2], usize)>,
}

impl<'a> Header<'a> {
    /// Reads the segments. `None` where the file is of another form, or damaged: libjpeg-turbo then
    /// decodes it or tells what is wrong.
    pub(super) fn read(jpeg: &'a [u8]) -> Option<Self> {
        let mut header = Self {
            size: Size::new(0, 0),
            sampling: Sampling::Grey,
            components: Vec::new(),
            quants: [None; 4],
            dc: [None; 4],
            ac: [None; 4],
            interval: 0,
            scan: 0,
        };
        let (mut at, mut frame, mut jfif, mut adobe) = (2, None, false, None);
        loop {
            let head = jpeg.get(at..at + 4)?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let body = jpeg.get(at + 4..at + 2 + length)?;
            match (head[0], head[1]) {
                (0xff, 0xc0 | 0xc1) if frame.is_none() => frame = Some(Frame::read(body)?),
                (0xff, 0xc4) => header.huffman(body)?,
                (0xff, 0xdb) => header.quantisation(body)?,
                (0xff, 0xdd) => {
                    let bytes = body.get(..2)?;
                    header.interval = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                }
                (0xff, 0xe0) => jfif |= body.len() >= 12 && body.starts_with(b"JFIF\0"),
                (0xff, 0xee) if body.starts_with(b"Adobe") => adobe = body.get(11).copied(),
                (0xff, 0xda) => {
                    header.scan = at + 2 + length;
                    header.finish(&frame?, body, jfif, adobe)?;
                    return Some(header);
                }
                (0xff, 0xe1..=0xef | 0xfe) => {}
                _ => return None,
            }
            at += 2 + length;
        }
    }

    fn huffman(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&kind, rest)) = body.split_first() {
            let symbols: usize = rest.get(..16)?.iter().map(|n| usize::from(*n)).sum();
            let table = rest.get(..16 + symbols)?;
            match (kind >> 4, usize::from(kind & 15)) {
                (0, n) => *self.dc.get_mut(n)? = Some(table),
                (1, n) => *self.ac.get_mut(n)? = Some(table),
                _ => return None,
            }
            body = &rest[table.len()..];
        }
        Some(())
    }

    fn quantisation(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&number, rest)) = body.split_first() {
            // Steps of 16 bits (a number of 16 and more) are left to libjpeg-turbo.
            *self.quants.get_mut(usize::from(number))? = Some(rest.get(..64)?);
            body = &rest[64..];
        }
        Some(())
    }

    /// Joins the frame with the scan's header.
    fn finish(&mut self, frame: &Frame, scan: &[u8], jfif: bool, adobe: Option<u8>) -> Option<()> {
        let count = frame.components.len();
        let (chosen, spectrum) = scan.get(1..)?.split_at_checked(2 * count)?;
        if usize::from(scan[0]) != count || spectrum != [0, 63, 0] {
            return None;
        }
        for ((id, _, quant), choice) in frame.components.iter().zip(chosen.chunks_exact(2)) {
            if choice[0] != *id {
                return None;
            }
            let (dc, ac) = (usize::from(choice[1] >> 4), usize::from(choice[1] & 15));
            self.components.push(Component { quant: *quant, dc, ac });
        }
        let factors: Vec<[u8; 2]> = frame.components.iter().map(|c| c.1).collect();
        self.sampling = match factors.as_slice() {
            [_] => Sampling::Grey,
            [luma, [1, 1], [1, 1]] => match luma {
                [1, 1] => Sampling::Full,
                [2, 1] => Sampling::Columns,
                [2, 2] => Sampling::Both,
                _ => return None,
            },
            _ => return None,
        };
        // The colour space by libjpeg's rules; only YCbCr and grey are decoded here.
        let ids: Vec<u8> = frame.components.iter().map(|c| c.0).collect();
        let ycc = jfif || adobe == Some(1) || (adobe.is_none() && ids == [1, 2, 3]);
        self.size = frame.size;
        (count == 1 || ycc).then_some(())
    }
}

impl Frame {
    fn read(body: &[u8]) -> Option<Self> {
        let (head, components) = body.split_at_checked(6)?;
        let number = |at: usize| u32::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let size = Size::new(number(3), number(1));
        let components = components.chunks_exact(3);
        let components: Vec<_> =
            components.map(|c| (c[0], [c[1] >> 4, c[1] & 15], usize::from(c[2]))).collect();
        let fits = head[0] == 8 && size.height > 0 && size.width > 0;
        (fits && components.len() == usize::from(head[5])).then_some(Self { size, components })
    }
}
