//! Huffman codes to coefficients.
//!
//! One look into a table gives run, size and, where its bits are among those looked at, the
//! coefficient itself: short codes of small coefficients are most of a photo.

/// Bits of a look.
const LOOK: u32 = 11;
/// Bits that code and coefficient take together.
const TOTAL: u32 = 31;
/// An entry ends the block.
const END: u32 = 1 << 5;
/// An entry has its coefficient.
const READY: u32 = 1 << 6;

/// Most bits of a coefficient in pictures of 8 bits; two codes with theirs are then at most 52 bits.
const MOST_AC: u8 = 10;
/// Most bits of a difference of first coefficients.
const MOST_DC: u8 = 11;

/// Zigzag position to position in the block; runs past the end fall on the last, as in libjpeg.
#[rustfmt::skip]
const NATURAL: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// By zigzag position: place in the block and quantisation step.
pub(super) struct Steps(pub(super) [(u16, i16); 80]);

impl Default for Steps {
    fn default() -> Self {
        Self(NATURAL.map(|place| (u16::from(place), 1)))
    }
}

impl Steps {
    /// Sets the steps, in zigzag order; the last one again for runs past the end.
    pub(super) fn set(&mut self, quant: &[u8]) {
        let last = quant.last().copied().unwrap_or(1);
        for (n, (_, step)) in self.0.iter_mut().enumerate() {
            *step = i16::from(quant.get(n).copied().unwrap_or(last));
        }
    }

    /// The step of the first coefficient.
    pub(super) fn first(&self) -> i16 {
        self.0[0].1
    }
}

/// A block of coefficients times their quantisation steps, row by row.
pub(super) type Block = [i16; 64];

/// A Huffman table.
///
/// An entry has, from the lowest bit: 5 bits [`TOTAL`], [`END`], [`READY`], a bit that is 0, 4 bits
/// run, 4 bits size, 16 bits coefficient. An entry of 0 stands for codes longer than [`LOOK`].
#[derive(Clone)]
pub(super) struct Table {
    source: Vec<u8>,
    entries: Box<[u32; 1 << LOOK]>,
    /// Beyond the last code of each length, left-aligned in 16 bits.
    ends: [u32; 17],
    /// Number of the first symbol of a length, less the code of it.
    offsets: [i32; 17],
}

impl Default for Table {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            entries: Box::new([0; 1 << LOOK]),
            ends: [0; 17],
            offsets: [0; 17],
        }
    }
}

impl Table {
    /// Makes the table of `source`: 16 numbers of codes, then the symbols. For differences of first
    /// coefficients (`dc`) a symbol is a size, and there is no end of a block. `None` where the codes
    /// do not fit their lengths or a size is impossible.
    pub(super) fn prepare(&mut self, source: &[u8], dc: bool) -> Option<()> {
        if self.source == source {
            return Some(());
        }
        self.source.clear();
        self.entries.fill(0);
        let (counts, symbols) = source.split_at_checked(16)?;
        let most = if dc { MOST_DC } else { MOST_AC };
        if symbols.iter().any(|s| if dc { *s } else { *s & 15 } > most) {
            return None;
        }
        let (mut code, mut first) = (0u32, 0);
        for (length, count) in (1..).zip(counts) {
            let of_length = symbols.get(first..first + usize::from(*count))?;
            self.offsets[length as usize] = first as i32 - code as i32;
            for symbol in of_length {
                if code >= 1 << length {
                    return None;
                }
                if length <= LOOK {
                    self.fill(code, length, entry_of(*symbol, length, dc));
                }
                code += 1;
            }
            self.ends[length as usize] = code << (16 - length);
            first += of_length.len();
            code <<= 1;
        }
        self.source.extend_from_slice(source);
        Some(())
    }

    /// All looks that begin with `code`.
    fn fill(&mut self, code: u32, length: u32, entry: u32) {
        let (rest, size) = (LOOK - length, entry >> 12);
        for low in 0..1u32 << rest {
            let bits = low >> rest.saturating_sub(size);
            let ready = READY | (extended(bits, size) as u32) << 16;
            let whole = entry & END == 0 && size <= rest;
            self.entries[(code << rest | low) as usize] = entry | if whole { ready } else { 0 };
        }
    }

    /// The entry of a code longer than [`LOOK`], of the 16 bits that begin with it.
    #[cold]
    fn long(&self, bits: u32, dc: bool) -> Option<u32> {
        let length = (LOOK + 1..=16).find(|length| bits < self.ends[*length as usize])?;
        let number = self.offsets[length as usize] + (bits >> (16 - length)) as i32;
        let symbol = self.source.get(16 + usize::try_from(number).ok()?)?;
        Some(entry_of(*symbol, length, dc))
    }
}

/// Run, size and length of a code for `symbol`.
fn entry_of(symbol: u8, length: u32, dc: bool) -> u32 {
    let (run, size) = if dc { (0, symbol) } else { (symbol >> 4, symbol & 15) };
    let ends = !dc && size == 0 && run != 15;
    let size = u32::from(size);
    (length + size) | if ends { END } else { 0 } | u32::from(run) << 8 | size << 12
}

/// The number that `size` bits stand for: a leading 0 stands for a negative one.
#[inline(always)]
fn extended(bits: u32, size: u32) -> i32 {
    let is_negative = size > 0 && bits >> (size - 1) == 0;
    bits as i32 - if is_negative { (1 << size) - 1 } else { 0 }
}

/// Copies entropy-coded bytes without their stuffing up to the next marker, which is returned and `at`
/// moved behind, as by [`next_marker`](super::super::next_marker).
pub(super) fn unstuffed(jpeg: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Option<u8> {
    out.clear();
    loop {
        let rest = jpeg.get(*at..)?;
        let length = memchr::memchr(0xff, rest)?;
        out.extend_from_slice(&rest[..length]);
        *at += length;
        // Fill bytes before a marker, too.
        while *jpeg.get(*at)? == 0xff {
            *at += 1;
        }
        let marker = jpeg[*at];
        *at += 1;
        if marker != 0 {
            return Some(marker);
        }
        out.push(0xff);
    }
}

/// Entropy-coded bits, without stuffing.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, left-aligned.
    bits: u64,
    /// How many of them count.
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, bits: 0, count: 0 }
    }

    /// Whether more bits were taken than there are.
    pub(super) fn is_overrun(&self) -> bool {
        self.at * 8 - self.count as usize > self.bytes.len() * 8
    }

    /// Makes at least 56 bits ready; beyond the end they are 0.
    #[inline(always)]
    fn refill(&mut self) {
        let next = match self.bytes.get(self.at..self.at + 8) {
            Some(bytes) => u64::from_be_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
            ]),
            None => self.last_bytes(),
        };
        self.bits |= next >> self.count;
        self.at += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    #[cold]
    fn last_bytes(&self) -> u64 {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        rest.iter().zip(0..).fold(0, |word, (byte, n)| word | u64::from(*byte) << (56 - 8 * n))
    }

    #[inline(always)]
    fn take(&mut self, count: u32) {
        self.bits <<= count;
        self.count -= count;
    }

    /// The entry of the next code.
    #[inline(always)]
    fn look(&self, table: &Table, dc: bool) -> Option<u32> {
        match table.entries[(self.bits >> (64 - LOOK)) as usize] {
            0 => table.long((self.bits >> 48) as u32, dc),
            entry => Some(entry),
        }
    }

    /// Takes an entry's bits; its coefficient.
    #[inline(always)]
    fn value(&mut self, entry: u32) -> i32 {
        let total = entry & TOTAL;
        let value = if entry & READY != 0 {
            entry as i32 >> 16
        } else {
            let size = entry >> 12 & 15;
            extended((self.bits << (total - size) >> 1 >> (63 - size)) as u32, size)
        };
        self.take(total);
        value
    }

    /// Reads a block: its first coefficient's difference, and the others times their steps into
    /// `block`, which is 0 before. Returns the difference and whether others may not be 0. `None` for
    /// an impossible code.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        [dc, ac]: [&Table; 2],
        steps: &Steps,
        block: &mut Block,
    ) -> Option<(i32, bool)> {
        self.refill();
        let entry = self.look(dc, true)?;
        let difference = self.value(entry);
        let mut k = 1;
        while k < 64 {
            self.refill();
            for _ in 0..2 {
                let mut entry = ac.entries[(self.bits >> (64 - LOOK)) as usize];
                if entry & READY == 0 {
                    entry = self.look(ac, false)?;
                    if entry & END != 0 {
                        self.take(entry & TOTAL);
                        return Some((difference, k > 1));
                    }
                }
                let value = self.value(entry);
                k += (entry >> 8 & 15) as usize;
                let (place, step) = steps.0[k];
                block[usize::from(place & 63)] = (value as i16).wrapping_mul(step);
                k += 1;
                if k >= 64 {
                    break;
                }
            }
        }
        Some((difference, true))
    }

    /// Reads over a block; its first coefficient's difference.
    #[inline(always)]
    pub(super) fn skip(&mut self, [dc, ac]: [&Table; 2]) -> Option<i32> {
        self.refill();
        let entry = self.look(dc, true)?;
        let difference = self.value(entry);
        let mut k = 1;
        while k < 64 {
            self.refill();
            for _ in 0..2 {
                let entry = self.look(ac, false)?;
                self.take(entry & TOTAL);
                if entry & END != 0 {
                    return Some(difference);
                }
                k += (entry >> 8 & 15) as usize + 1;
                if k >= 64 {
                    break;
                }
            }
        }
        Some(difference)
    }
}
