//! Decoded frames and the facts known about a medium before it is decoded.

use serde::{Deserialize, Serialize};

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// A `width` × `height` size.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// The square of side `side`.
    pub const fn square(side: u32) -> Self {
        Self::new(side, side)
    }

    /// The shorter side.
    pub fn short_side(self) -> u32 {
        self.width.min(self.height)
    }

    /// Number of pixels.
    pub const fn area(self) -> usize {
        self.width as usize * self.height as usize
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A rectangle of pixels: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// The rectangle that covers all of `size`.
    pub const fn full(size: Size) -> Self {
        Self { x: 0, y: 0, width: size.width, height: size.height }
    }

    /// Its width and height.
    pub const fn size(self) -> Size {
        Size::new(self.width, self.height)
    }

    /// The smallest rectangle that holds both.
    pub fn union(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x + self.width).max(other.x + other.width);
        let bottom = (self.y + self.height).max(other.y + other.height);
        Self { x, y, width: right - x, height: bottom - y }
    }

    /// Whether `other` lies wholly inside it.
    pub fn holds(self, other: Self) -> bool {
        self.union(other) == self
    }

    /// Whether it lies wholly inside `size`.
    pub fn fits(self, size: Size) -> bool {
        u64::from(self.x) + u64::from(self.width) <= u64::from(size.width)
            && u64::from(self.y) + u64::from(self.height) <= u64::from(size.height)
    }
}

/// What is known about a picture or a video without decoding it: found once by `index`, stored,
/// and enough to plan a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// Size of the decoded frames in pixels, after rotation metadata is applied.
    pub size: Size,
    /// Number of frames that can be shown; 1 for a picture.
    pub frames: u32,
    /// Average frames per second; 0 for a picture.
    pub fps: f64,
    /// Codec name as FFmpeg calls it (`h264`, `vp9`, `mjpeg`, `png` …).
    pub codec: String,
    /// Clockwise rotation in degrees that the container asks for: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Presentation indices of the key frames, ascending; `[0]` for a picture.
    pub keyframes: Vec<u32>,
    /// How the references of a video are spaced, where a conversion has made them regular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spacing: Option<Spacing>,
}

/// Regular spacing of a video's reference frames, as `convert --video train` makes it: a key frame
/// at every multiple of `gop`, and every frame that is a multiple of `stride` can be decoded without
/// those that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spacing {
    /// Distance of reference frames; a divisor of `gop`.
    pub stride: u32,
    /// Distance of key frames.
    pub gop: u32,
}

impl MediaInfo {
    /// The facts of a still picture.
    pub fn picture(size: Size, codec: &str) -> Self {
        let (codec, keyframes) = (codec.to_owned(), vec![0]);
        Self { size, frames: 1, fps: 0.0, codec, rotation: 0, keyframes, spacing: None }
    }

    /// Duration in seconds; 0 where no frame rate is known.
    pub fn seconds(&self) -> f64 {
        if self.fps > 0.0 { f64::from(self.frames) / self.fps } else { 0.0 }
    }
}

/// How the pixels of a clip are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PixelForm {
    /// Packed RGB, 8 bits a channel: `height × width × 3` bytes a frame.
    #[default]
    Rgb,
    /// The codec's planes, 8 bits a sample: luma, then both planes of chroma.
    Yuv(Yuv),
}

/// What planes of luma and chroma are, and how they become RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yuv {
    /// Chroma beside luma.
    pub chroma: Chroma,
    /// How chroma comes to the size of luma.
    pub upsampling: Upsampling,
    /// How the three become RGB.
    pub matrix: YuvMatrix,
}

/// Samples of chroma beside those of luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// None: grey.
    Absent,
    /// 4:4:4.
    Full,
    /// 4:2:2: half the columns, rounded up.
    HalfColumns,
    /// 4:2:0: half the columns and half the rows, rounded up.
    HalfBoth,
}

impl Chroma {
    /// Whether columns and rows are halved.
    pub const fn halved(self) -> [bool; 2] {
        [matches!(self, Self::HalfColumns | Self::HalfBoth), matches!(self, Self::HalfBoth)]
    }
}

/// How halved chroma comes to the size of luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsampling {
    /// Each sample twice: FFmpeg's default converter.
    Repeat,
    /// Three parts of the nearest sample and one of the next: libjpeg.
    Triangle,
}

/// Y′CbCr to R′G′B′; factors in 1/8192.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YuvMatrix {
    /// Level of black.
    pub black: i16,
    /// Factor of luma above black.
    pub luma: i16,
    /// Factors of chroma less 128: red from V, green from U and V, blue from U.
    pub red_v: i16,
    /// See `red_v`.
    pub green_u: i16,
    /// See `red_v`.
    pub green_v: i16,
    /// See `red_v`.
    pub blue_u: i16,
    /// What the exact arithmetic adds on average to red, green and blue, in 1/64 grey level.
    pub bias: [i16; 3],
}

impl YuvMatrix {
    /// JFIF's, full range.
    pub const JPEG: Self = Self {
        black: 0,
        luma: 8192,
        red_v: 11_485,
        green_u: -2819,
        green_v: -5850,
        blue_u: 14_516,
        bias: [0; 3],
    };
}

/// The planes of a frame of a clip, rows without padding.
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    /// Luma of the clip's region.
    pub luma: &'a [u8],
    /// U and V of the clip's region of chroma; empty where there is none.
    pub chroma: [&'a [u8]; 2],
}

/// Decoded frames, or one region of each: packed RGB or planes, rows without padding. Owned and
/// reused by one worker, so that decoding a sample allocates nothing once the buffer has grown.
#[derive(Clone, Debug)]
pub struct Clip {
    size: Size,
    region: Rect,
    form: PixelForm,
    chroma: Rect,
    indices: Vec<u32>,
    data: Vec<u8>,
}

impl Default for Clip {
    fn default() -> Self {
        Self::new()
    }
}

impl Clip {
    /// An empty clip.
    pub const fn new() -> Self {
        let size = Size::new(0, 0);
        let (region, form) = (Rect::full(size), PixelForm::Rgb);
        Self { size, region, form, chroma: region, indices: Vec::new(), data: Vec::new() }
    }

    /// Makes room for the frames `indices` (presentation order, ascending, no repeats) of `size`
    /// pixels each, packed RGB, and forgets what was there; the pixels are unspecified until written.
    pub fn reset(&mut self, size: Size, indices: &[u32]) {
        self.reset_region(size, Rect::full(size), indices);
    }

    /// [`Clip::reset`] for `region` alone of each frame of `size` pixels.
    ///
    /// # Panics
    /// When the region does not lie inside the frame.
    pub fn reset_region(&mut self, size: Size, region: Rect, indices: &[u32]) {
        self.reset_form(size, region, PixelForm::Rgb, indices);
    }

    /// [`Clip::reset_region`] for pixels of another form. Chroma is held with the samples beside the
    /// region that upsampling looks at.
    ///
    /// # Panics
    /// When the region does not lie inside the frame.
    pub fn reset_form(&mut self, size: Size, region: Rect, form: PixelForm, indices: &[u32]) {
        debug_assert!(indices.windows(2).all(|w| w[0] < w[1]), "frame indices must ascend");
        assert!(region.fits(size), "{region:?} in {size}");
        (self.size, self.region, self.form) = (size, region, form);
        self.chroma = match form {
            PixelForm::Rgb => Rect::full(Size::new(0, 0)),
            PixelForm::Yuv(yuv) => yuv.chroma.region(size, region),
        };
        self.indices.clear();
        self.indices.extend_from_slice(indices);
        self.data.resize(indices.len() * self.frame_bytes(), 0);
    }

    fn frame_bytes(&self) -> usize {
        match self.form {
            PixelForm::Rgb => self.region.size().area() * 3,
            PixelForm::Yuv(_) => self.region.size().area() + 2 * self.chroma.size().area(),
        }
    }

    /// Size of every frame as it was before anything was cut away.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The part of every frame that is held, in pixels of the whole frame.
    pub fn region(&self) -> Rect {
        self.region
    }

    /// The part of the chroma planes that is held, in samples of the whole plane; empty for RGB and
    /// grey.
    pub fn chroma_region(&self) -> Rect {
        self.chroma
    }

    /// How the pixels are held.
    pub fn form(&self) -> PixelForm {
        self.form
    }

    /// Presentation indices of the frames held, ascending.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The bytes of the `n`-th frame held: `height × width × 3` of packed RGB, or its planes one
    /// after the other.
    pub fn nth(&self, n: usize) -> &[u8] {
        let bytes = self.frame_bytes();
        &self.data[n * bytes..(n + 1) * bytes]
    }

    /// [`Clip::nth`], to be written.
    pub fn nth_mut(&mut self, n: usize) -> &mut [u8] {
        let bytes = self.frame_bytes();
        &mut self.data[n * bytes..(n + 1) * bytes]
    }

    /// The planes of the `n`-th frame held.
    ///
    /// # Panics
    /// Where the clip holds packed RGB.
    pub fn planes(&self, n: usize) -> Planes<'_> {
        assert_ne!(self.form, PixelForm::Rgb, "a clip of planes");
        let (luma, chroma) = self.nth(n).split_at(self.region.size().area());
        let (u, v) = chroma.split_at(self.chroma.size().area());
        Planes { luma, chroma: [u, v] }
    }

    /// [`Clip::planes`], to be written: luma, U, V.
    pub fn planes_mut(&mut self, n: usize) -> [&mut [u8]; 3] {
        assert_ne!(self.form, PixelForm::Rgb, "a clip of planes");
        let (luma, chroma) = (self.region.size().area(), self.chroma.size().area());
        let (luma, rest) = self.nth_mut(n).split_at_mut(luma);
        let (u, v) = rest.split_at_mut(chroma);
        [luma, u, v]
    }

    /// Fills the planes of the `n`-th frame held. `row(plane, y, x)` lends the samples of row `y` of a
    /// whole plane (0 luma, 1 U, 2 V) from column `x` on.
    ///
    /// # Panics
    /// Where the clip holds packed RGB, or what is lent is too short.
    pub fn fill_planes<'a>(&mut self, n: usize, row: impl Fn(usize, usize, usize) -> &'a [u8]) {
        let regions = [self.region, self.chroma, self.chroma];
        for (plane, (region, out)) in regions.into_iter().zip(self.planes_mut(n)).enumerate() {
            let (x, width) = (region.x as usize, region.width as usize);
            for (y, to) in (region.y as usize..).zip(out.chunks_exact_mut(width.max(1))) {
                to.copy_from_slice(&row(plane, y, x)[..width]);
            }
        }
    }

    /// Where the frame with presentation index `index` is held, if it was decoded.
    pub fn position(&self, index: u32) -> Option<usize> {
        self.indices.binary_search(&index).ok()
    }

    /// The bytes of the frame with presentation index `index`, if it was decoded.
    pub fn frame(&self, index: u32) -> Option<&[u8]> {
        self.position(index).map(|n| self.nth(n))
    }
}

impl Chroma {
    /// Size of a chroma plane of a frame of `size` pixels.
    pub const fn size(self, size: Size) -> Size {
        let [columns, rows] = self.halved();
        match self {
            Self::Absent => Size::new(0, 0),
            _ => Size::new(
                if columns { size.width.div_ceil(2) } else { size.width },
                if rows { size.height.div_ceil(2) } else { size.height },
            ),
        }
    }

    /// The samples of a chroma plane that the pixels `region` of a frame of `size` are made of, with
    /// one more on each side where it is halved and there is one.
    pub fn region(self, size: Size, region: Rect) -> Rect {
        let (plane, [columns, rows]) = (self.size(size), self.halved());
        let axis = |from: u32, length: u32, halved: bool, whole: u32| {
            if !halved || length == 0 {
                return (from.min(whole), length.min(whole));
            }
            let first = (from / 2).saturating_sub(1);
            (first, ((from + length - 1) / 2 + 2).min(whole) - first)
        };
        let (x, width) = axis(region.x, region.width, columns, plane.width);
        let (y, height) = axis(region.y, region.height, rows, plane.height);
        Rect { x, y, width, height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chroma_has_a_sample_more_on_each_side() {
        let size = Size::new(21, 15);
        let region = |chroma: Chroma, x, y, width, height| {
            let r = chroma.region(size, Rect { x, y, width, height });
            [r.x, r.y, r.width, r.height]
        };
        assert_eq!(region(Chroma::HalfBoth, 4, 5, 6, 4), [1, 1, 5, 5]);
        assert_eq!(region(Chroma::HalfBoth, 0, 0, 21, 15), [0, 0, 11, 8]);
        assert_eq!(region(Chroma::HalfColumns, 20, 14, 1, 1), [9, 14, 2, 1]);
        assert_eq!(region(Chroma::Full, 3, 4, 5, 6), [3, 4, 5, 6]);
        assert_eq!(region(Chroma::Absent, 3, 4, 5, 6)[2..], [0, 0]);
    }

    #[test]
    fn planes_lie_one_after_the_other() {
        let (mut clip, size) = (Clip::new(), Size::new(6, 5));
        let yuv = Yuv {
            chroma: Chroma::HalfBoth,
            upsampling: Upsampling::Triangle,
            matrix: YuvMatrix::JPEG,
        };
        clip.reset_form(
            size,
            Rect { x: 2, y: 2, width: 2, height: 2 },
            PixelForm::Yuv(yuv),
            &[3, 7],
        );
        for (value, plane) in (1..).zip(clip.planes_mut(1)) {
            plane.fill(value);
        }
        assert_eq!(
            clip.frame(7),
            Some(&[1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3][..])
        );
        assert_eq!(clip.planes(1).chroma[1], [3; 9]);
    }
}
