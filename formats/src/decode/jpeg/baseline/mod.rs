//! A decoder for what nearly every photo is: baseline, one scan, grey or YCbCr in 4:4:4, 4:2:2 or
//! 4:2:0. It reads codes faster than libjpeg-turbo and makes pixels of the wanted region only, the
//! same ones. Whatever is unusual or damaged is left to libjpeg-turbo, which is also the oracle of
//! the tests.

mod color;
mod entropy;
mod header;
mod idct;

use std::ops::Range;

use tubelet_core::{Clip, PixelForm, Rect, Size};

use self::entropy::{Bits, Block, Steps, Table};
use self::header::{Header, Sampling};
use crate::decode::check_size;

/// Side of a block.
const SIDE: usize = 8;

/// Tables and buffers, kept from picture to picture.
#[derive(Default)]
pub(super) struct Baseline {
    dc: [Table; 4],
    ac: [Table; 4],
    segment: Vec<u8>,
    planes: [Plane; 3],
    rows: Rows,
}

/// The wanted part of a component.
#[derive(Default)]
struct Plane {
    /// Blocks of a coding unit along a row and a column.
    blocks: [usize; 2],
    quant: Steps,
    /// One row of coding units: coefficients, and whether a block is flat.
    coefficients: Vec<Block>,
    flat: Vec<bool>,
    /// Blocks of a row, an even number.
    stride: usize,
    /// Samples, `stride` blocks a row.
    samples: Vec<u8>,
    /// Column and row of the first sample, and the component's size.
    origin: [usize; 2],
    size: [usize; 2],
}

/// Rows of chroma on their way to full size.
#[derive(Default)]
struct Rows {
    near: Vec<u8>,
    far: Vec<u8>,
    sums: Vec<u16>,
    chroma: [Vec<u16>; 2],
}

/// The coding units that are needed.
struct Units {
    across: usize,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Units {
    /// Those of the pixels `region`, with what upsampling looks at beside them.
    fn new(size: Size, region: Rect, sampling: Sampling) -> Self {
        let unit = sampling.blocks().map(|n| n * SIDE);
        let margin = |n: usize| if n > SIDE { 2 } else { 0 };
        let range = |from: u32, length: u32, whole: u32, unit: usize| {
            let first = (from as usize).saturating_sub(margin(unit));
            let end = ((from + length) as usize + margin(unit)).min(whole as usize);
            first / unit..end.div_ceil(unit)
        };
        Self {
            across: (size.width as usize).div_ceil(unit[0]),
            columns: range(region.x, region.width, size.width, unit[0]),
            rows: range(region.y, region.height, size.height, unit[1]),
        }
    }

    /// Whether one of the coding units `range`, in coded order, is needed.
    fn any(&self, range: &Range<usize>) -> bool {
        range.end > self.rows.start * self.across + self.columns.start && range.start < self.end()
    }

    /// Coding units until the last needed one is read.
    fn end(&self) -> usize {
        (self.rows.end - 1) * self.across + self.columns.end
    }
}

impl Baseline {
    /// Whether this machine can.
    pub(super) fn available() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2")
    }

    /// Decodes `region` (where it is one; else all) into `clip` as its only frame, its planes where
    /// `planes` says so. `None` where the file is of another form or damaged in what was read.
    pub(super) fn decode(
        &mut self,
        jpeg: &[u8],
        region: Option<Rect>,
        planes: bool,
        clip: &mut Clip,
    ) -> Option<()> {
        let header = Header::read(jpeg)?;
        let size = check_size(header.size.width as usize, header.size.height as usize).ok()?;
        // Narrower chroma is not smoothed by libjpeg.
        if header.sampling.blocks()[0] > 1 && size.width <= super::NARROW {
            return None;
        }
        let region = super::region_of(region, size);
        let units = Units::new(size, region, header.sampling);
        self.prepare(&header, &units)?;
        // SAFETY: the caller asked `available`.
        unsafe { self.read(jpeg, &header, &units)? };
        if planes {
            let yuv = super::yuv(header.sampling.chroma(), size);
            clip.reset_form(size, region, PixelForm::Yuv(yuv), &[0]);
            clip.fill_planes(0, |plane, y, x| self.planes[plane].row(x, y));
            return Some(());
        }
        clip.reset_region(size, region, &[0]);
        let out = clip.nth_mut(0);
        let row_bytes = region.width as usize * 3;
        for (n, row) in out.chunks_exact_mut(row_bytes).enumerate() {
            let y = region.y as usize + n;
            // SAFETY: as above.
            unsafe { self.rows.pixels(&self.planes, header.sampling, region.x as usize, y, row) };
        }
        Some(())
    }

    /// Makes tables and room.
    fn prepare(&mut self, header: &Header<'_>, units: &Units) -> Option<()> {
        let most = header.sampling.blocks();
        for (n, component) in header.components.iter().enumerate() {
            self.dc[component.dc & 3].prepare((*header.dc.get(component.dc)?)?, true)?;
            self.ac[component.ac & 3].prepare((*header.ac.get(component.ac)?)?, false)?;
            let plane = &mut self.planes[n];
            plane.blocks = if n == 0 { most } else { [1, 1] };
            let quant = (*header.quants.get(component.quant)?)?;
            plane.quant.set(quant);
            plane.stride = (units.columns.len() * plane.blocks[0]).next_multiple_of(2);
            let [across, down] = plane.blocks;
            plane.coefficients.clear();
            plane.coefficients.resize(plane.stride * down, [0; 64]);
            plane.flat.clear();
            plane.flat.resize(plane.stride * down, true);
            let bytes = plane.stride * SIDE * units.rows.len() * down * SIDE;
            plane.samples.resize(bytes + color::PADDING, 0);
            plane.origin = [units.columns.start * across * SIDE, units.rows.start * down * SIDE];
            plane.size = [
                (header.size.width as usize * across).div_ceil(most[0]),
                (header.size.height as usize * down).div_ceil(most[1]),
            ];
        }
        Some(())
    }

    /// Reads the entropy-coded bytes up to the last needed coding unit and makes the planes' samples.
    #[target_feature(enable = "avx2,bmi2")]
    fn read(&mut self, jpeg: &[u8], header: &Header<'_>, units: &Units) -> Option<()> {
        let interval = if header.interval == 0 { usize::MAX } else { header.interval };
        let (mut at, mut first, mut restarts) = (header.scan, 0usize, 0u8);
        loop {
            let range = first..first.saturating_add(interval).min(units.end());
            let marker = if units.any(&range) {
                let marker = entropy::unstuffed(jpeg, &mut at, &mut self.segment)?;
                self.segment(header, units, range.clone())?;
                marker
            } else {
                super::next_marker(jpeg, &mut at)?
            };
            first = range.end;
            if first >= units.end() {
                return Some(());
            }
            if marker != 0xd0 + restarts % 8 {
                return None;
            }
            restarts = restarts.wrapping_add(1);
        }
    }

    /// Reads the coding units `range`, which are those of one segment.
    #[target_feature(enable = "avx2,bmi2")]
    fn segment(&mut self, header: &Header<'_>, units: &Units, range: Range<usize>) -> Option<()> {
        let mut bits = Bits::new(&self.segment);
        let mut first = [0i32; 3];
        let tables: [[&Table; 2]; 3] = std::array::from_fn(|n| {
            let c = header.components.get(n).copied().unwrap_or_default();
            [&self.dc[c.dc & 3], &self.ac[c.ac & 3]]
        });
        let planes = &mut self.planes[..header.components.len()];
        let (mut row, mut column) = (range.start / units.across, range.start % units.across);
        for _ in range {
            let needed = units.rows.contains(&row) && units.columns.contains(&column);
            let place = column.wrapping_sub(units.columns.start);
            for ((plane, tables), first) in planes.iter_mut().zip(&tables).zip(&mut first) {
                let [across, down] = plane.blocks;
                for n in 0..across * down {
                    if !needed {
                        *first += bits.skip(*tables)?;
                        continue;
                    }
                    let at = n / across * plane.stride + place * across + n % across;
                    let block = &mut plane.coefficients[at];
                    let (difference, more) = bits.block(*tables, &plane.quant, block)?;
                    *first += difference;
                    block[0] = (*first as i16).wrapping_mul(plane.quant.first());
                    plane.flat[at] = !more;
                }
            }
            column += 1;
            if needed && column == units.columns.end {
                planes.iter_mut().for_each(|plane| plane.transform(row - units.rows.start));
            }
            if column == units.across {
                (row, column) = (row + 1, 0);
                if bits.is_overrun() {
                    return None;
                }
            }
        }
        (!bits.is_overrun()).then_some(())
    }
}

impl Plane {
    /// Turns the coefficients of a row of coding units into samples, and forgets them.
    #[target_feature(enable = "avx2")]
    fn transform(&mut self, row: usize) {
        let width = self.stride * SIDE;
        for down in 0..self.blocks[1] {
            let top = (row * self.blocks[1] + down) * SIDE * width;
            for pair in 0..self.stride / 2 {
                let at = down * self.stride + 2 * pair;
                let samples = &mut self.samples[top + pair * 2 * SIDE..];
                if let ([true, true], [a, b]) =
                    (&self.flat[at..at + 2], &self.coefficients[at..at + 2])
                {
                    let values = [idct::flat(a[0]), idct::flat(b[0])];
                    for line in samples.chunks_mut(width).take(SIDE) {
                        line[..SIDE].fill(values[0]);
                        line[SIDE..2 * SIDE].fill(values[1]);
                    }
                } else if let [a, b] = &self.coefficients[at..at + 2] {
                    idct::two_blocks([a, b], samples, width);
                }
            }
        }
        self.coefficients.fill([0; 64]);
        self.flat.fill(true);
    }

    /// The samples of row `y` from column `x` on.
    fn row(&self, x: usize, y: usize) -> &[u8] {
        &self.samples[(y - self.origin[1]) * self.stride * SIDE + x - self.origin[0]..]
    }

    /// `count` samples of row `y` from column `first` on, those outside the component replaced by
    /// the nearest inside.
    fn clamped(&self, first: isize, count: usize, y: usize, out: &mut Vec<u8>) {
        let end = first + count as isize;
        let inside = first.max(0) as usize..(end as usize).min(self.size[0]);
        let row = self.row(inside.start, y);
        out.clear();
        if first < 0 {
            out.push(row[0]);
        }
        out.extend_from_slice(&row[..inside.len()]);
        out.resize(count, row[inside.len() - 1]);
    }
}

impl Rows {
    /// The pixels of row `y` from column `x` on.
    #[target_feature(enable = "avx2")]
    fn pixels(
        &mut self,
        planes: &[Plane; 3],
        sampling: Sampling,
        x: usize,
        y: usize,
        row: &mut [u8],
    ) {
        let luma = planes[0].row(x, y);
        match sampling {
            Sampling::Grey => {
                for (pixel, value) in row.chunks_exact_mut(3).zip(luma) {
                    pixel.fill(*value);
                }
            }
            Sampling::Full => color::rgb_row(luma, planes[1].row(x, y), planes[2].row(x, y), row),
            Sampling::Columns | Sampling::Both => {
                let width = row.len() / 3;
                let columns = x / 2..(x + width - 1) / 2 + 1;
                for (n, plane) in planes[1..].iter().enumerate() {
                    self.widened(plane, n, sampling == Sampling::Both, columns.clone(), y);
                }
                let [blue, red] = &self.chroma;
                let [blue, red] = [blue, red].map(|of| &bytemuck::cast_slice(of)[x % 2..]);
                color::rgb_row(luma, blue, red, row);
            }
        }
    }

    /// The chroma columns of the picture's row `y`, at twice the width.
    #[target_feature(enable = "avx2")]
    fn widened(&mut self, plane: &Plane, n: usize, down: bool, columns: Range<usize>, y: usize) {
        let (first, count) = (columns.start as isize - 1, columns.len() + 2);
        let out = &mut self.chroma[n];
        out.resize(columns.len() + color::PADDING, 0);
        self.sums.resize(count, 0);
        if down {
            let near = y / 2;
            let far = if y % 2 == 0 { near.saturating_sub(1) } else { near + 1 };
            plane.clamped(first, count, near, &mut self.near);
            plane.clamped(first, count, far.min(plane.size[1] - 1), &mut self.far);
            color::blended(&self.near, &self.far, &mut self.sums);
            color::doubled::<4>(&self.sums, &mut out[..columns.len()]);
        } else {
            plane.clamped(first, count, y, &mut self.near);
            for (sum, sample) in self.sums.iter_mut().zip(&self.near) {
                *sum = u16::from(*sample);
            }
            color::doubled::<1>(&self.sums, &mut out[..columns.len()]);
        }
    }
}
