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

/// Decoded frames, or one region of each: packed RGB, 8 bits a channel, rows without padding. Owned
/// and reused by one worker, so that decoding a sample allocates nothing once the buffer has grown.
#[derive(Clone, Debug)]
pub struct Clip {
    size: Size,
    region: Rect,
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
        Self { size, region: Rect::full(size), indices: Vec::new(), data: Vec::new() }
    }

    /// Makes room for the frames `indices` (presentation order, ascending, no repeats) of `size`
    /// pixels each and forgets what was there; the pixels are unspecified until written.
    pub fn reset(&mut self, size: Size, indices: &[u32]) {
        self.reset_region(size, Rect::full(size), indices);
    }

    /// [`Clip::reset`] for `region` alone of each frame of `size` pixels.
    ///
    /// # Panics
    /// When the region does not lie inside the frame.
    pub fn reset_region(&mut self, size: Size, region: Rect, indices: &[u32]) {
        debug_assert!(indices.windows(2).all(|w| w[0] < w[1]), "frame indices must ascend");
        assert!(region.fits(size), "{region:?} in {size}");
        (self.size, self.region) = (size, region);
        self.indices.clear();
        self.indices.extend_from_slice(indices);
        self.data.resize(indices.len() * region.size().area() * 3, 0);
    }

    /// Size of every frame as it was before anything was cut away.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The part of every frame that is held, in pixels of the whole frame.
    pub fn region(&self) -> Rect {
        self.region
    }

    /// Presentation indices of the frames held, ascending.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The region of the `n`-th frame held: `height × width × 3` bytes.
    pub fn nth(&self, n: usize) -> &[u8] {
        let bytes = self.region.size().area() * 3;
        &self.data[n * bytes..(n + 1) * bytes]
    }

    /// The region of the `n`-th frame held, to be written.
    pub fn nth_mut(&mut self, n: usize) -> &mut [u8] {
        let bytes = self.region.size().area() * 3;
        &mut self.data[n * bytes..(n + 1) * bytes]
    }

    /// The region of the frame with presentation index `index`, if it was decoded.
    pub fn frame(&self, index: u32) -> Option<&[u8]> {
        self.indices.binary_search(&index).ok().map(|n| self.nth(n))
    }
}
