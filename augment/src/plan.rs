//! Everything random about a row, decided before anything is decoded.
//!
//! [`Recipe::plan`] is pure: the same key and the same media facts give the same plan, whatever
//! the worker, the machine or the fate of other samples. [`Recipe::render`] has no choice left.

use serde::Serialize;
use tubelet_core::{
    Clip, Draw, Mask, MediaInfo, PixelForm, Rect, RowMut, SampleKey, SampleRng, Size,
};

use crate::color::{self, Canvas, ColorOp, ColorScratch};
use crate::crop;
use crate::erase::Erase;
use crate::recipe::{ClipRule, CropRule, Place, Recipe, Region, Resize, ViewSpec};
use crate::resample::Resampler;
use crate::resample::planes::{Cut, Kernel, PlaneResampler};
use crate::temporal;

/// From source pixels to the pixels of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Geometry {
    /// Cut `region` out of the source, then resize it.
    CropThenResize {
        /// In source pixels.
        region: Rect,
    },
    /// Resize the whole source to `resized`, then cut `region` out.
    ResizeThenCrop {
        /// Size of the whole frame after resizing.
        resized: Size,
        /// In pixels of the resized frame.
        region: Rect,
    },
}

impl Geometry {
    /// The same on a smaller encoding, where it enlarges nothing there: see
    /// [`SamplePlan::at_level`].
    fn at_level(self, stored: Size, level: Size, out: Size) -> Option<Self> {
        let covers = |a: Size, b: Size| a.width >= b.width && a.height >= b.height;
        match self {
            Self::CropThenResize { region } => {
                let (x, width) = scaled(region.x, region.width, stored.width, level.width);
                let (y, height) = scaled(region.y, region.height, stored.height, level.height);
                let region = Rect { x, y, width, height };
                covers(region.size(), out).then_some(Self::CropThenResize { region })
            }
            Self::ResizeThenCrop { resized, .. } => covers(level, resized).then_some(self),
        }
    }
}

/// A run of `length` pixels from `start` of `from`, in the nearest whole pixels of `to`.
fn scaled(start: u32, length: u32, from: u32, to: u32) -> (u32, u32) {
    let at = |edge: u32| {
        let (edge, from, to) = (u64::from(edge), u64::from(from.max(1)), u64::from(to));
        ((2 * edge * to + from) / (2 * from)).min(to) as u32
    };
    let first = at(start);
    (first, at(start.saturating_add(length)) - first)
}

/// One view of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ViewPlan {
    /// Presentation indices in clip order; repeats allowed.
    pub frames: Vec<u32>,
    /// Where the pixels come from.
    pub geometry: Geometry,
    /// Size in the slot.
    pub out: Size,
    /// Mirrored left to right.
    pub flip: bool,
    /// Arithmetic of the resize.
    pub resize: Resize,
    /// Colour operations, the same for all frames; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colors: Option<ColorPlan>,
    /// Hidden tokens: row-major over the grid, `true` = hidden; absent where nothing is hidden.
    #[serde(serialize_with = "mask_picture")]
    pub mask: Option<Mask>,
}

impl ViewPlan {
    /// Whether its pixels depend on the cut frame alone: no colours of the whole source.
    pub fn is_cut(&self) -> bool {
        self.colors.as_ref().is_none_or(|colors| colors.place != Place::Source)
    }

    /// What is cut out of a frame of `size` pixels, for [`PlaneResampler`].
    pub fn cut(&self, size: Size) -> Cut {
        let (region, resized, window) = match self.geometry {
            Geometry::CropThenResize { region } => (region, self.out, Rect::full(self.out)),
            Geometry::ResizeThenCrop { resized, region } => (Rect::full(size), resized, region),
        };
        let kernel = self.resize.pillow().map_or(Kernel::TorchBilinear, Kernel::Pillow);
        Cut { region, resized, window, kernel, flip: self.flip }
    }
}

/// Colour operations of a view, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColorPlan {
    /// On the whole source frame or on the view.
    pub place: Place,
    /// What geometric operations need.
    pub canvas: Canvas,
    /// The operations, at least one.
    pub ops: Vec<ColorOp>,
}

/// All that is decided about one row: plain data, the same for CPU and GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SamplePlan {
    /// Views of the row.
    pub views: Vec<ViewPlan>,
    /// What is erased in the first view's floats; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erase: Option<Erase>,
}

impl SamplePlan {
    /// Presentation indices of all frames it needs, ascending, no repeats.
    pub fn frames(&self) -> Vec<u32> {
        union_of_frames(std::slice::from_ref(self))
    }

    /// The same plan for a smaller encoding of the picture, of size `level` instead of `stored`;
    /// `None` where that would not do for every view. A region cut out and then resized moves to the
    /// nearest whole pixels of the level and must have at least as many of them in each axis as the
    /// view; a picture resized as a whole must be at least as large in each axis as what it is
    /// resized to. Views whose colours look at the whole source have no such plan: their
    /// operations are in pixels of the source.
    pub fn at_level(&self, stored: Size, level: Size) -> Option<Self> {
        let view = |view: &ViewPlan| -> Option<ViewPlan> {
            let on_source = view.colors.as_ref().is_some_and(|c| c.place == Place::Source);
            let geometry = view.geometry.at_level(stored, level, view.out)?;
            (!on_source).then(|| ViewPlan { geometry, ..view.clone() })
        };
        let views = self.views.iter().map(view).collect::<Option<_>>()?;
        Some(Self { views, erase: self.erase.clone() })
    }
}

/// Frames that `plans` of one sample need together: decoded once, used by all.
pub fn union_of_frames(plans: &[SamplePlan]) -> Vec<u32> {
    let mut all: Vec<u32> =
        plans.iter().flat_map(|p| &p.views).flat_map(|v| v.frames.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The part of the frames that `plans` of one sample look at; `None` for all of it.
pub fn union_of_regions(plans: &[SamplePlan]) -> Option<Rect> {
    let regions = plans.iter().flat_map(|p| &p.views).map(|v| match v.geometry {
        // Colours of the whole frame look at all of it.
        _ if v.colors.as_ref().is_some_and(|c| c.place == Place::Source) => None,
        Geometry::CropThenResize { region } => Some(region),
        Geometry::ResizeThenCrop { .. } => None,
    });
    regions.reduce(|a, b| Some(a?.union(b?))).flatten()
}

/// A sample cannot be planned from its media facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No frame.
    #[error("it has no frame")]
    NoFrame,
    /// No pixel.
    #[error("its frames are {0} pixels")]
    NoPixel(Size),
}

/// Buffers a worker keeps between rows.
#[derive(Default)]
pub struct Scratch {
    resampler: Resampler,
    planes: PlaneResampler,
    resized: Vec<u8>,
    source: Vec<u8>,
    color: ColorScratch,
}

impl Recipe {
    /// Decides everything about the row `key` of a sample with the facts `info`.
    ///
    /// # Errors
    /// When the sample has no frame or no pixel.
    pub fn plan(&self, key: SampleKey, info: &MediaInfo) -> Result<SamplePlan, PlanError> {
        if info.frames == 0 {
            return Err(PlanError::NoFrame);
        }
        if info.size.width == 0 || info.size.height == 0 {
            return Err(PlanError::NoPixel(info.size));
        }
        let (clip_index, crop_index) = match self.stage() {
            crate::recipe::Stage::Eval => {
                (u32::from(key.repeat) / self.crops, u32::from(key.repeat) % self.crops)
            }
            _ => (0, 0),
        };
        let clip_key = if self.share_frames { SampleKey { repeat: 0, ..key } } else { key };
        let frames = self.plan_frames(&mut clip_key.rng(Draw::Frames), info, clip_index);
        let mut views: Vec<ViewPlan> = Vec::new();
        for (n, spec) in self.views().enumerate() {
            let view = plan_view(key, (n, spec), views.first(), info.size, crop_index, &frames);
            views.push(view);
        }
        let erase = self
            .erase()
            .and_then(|spec| spec.draw(self.size(), self.frames(), &mut key.rng(Draw::Erase)));
        Ok(SamplePlan { views, erase })
    }

    fn plan_frames(&self, rng: &mut SampleRng, info: &MediaInfo, clip: u32) -> Vec<u32> {
        let n = info.frames;
        match self.clip {
            None => vec![0],
            Some(ClipRule::Videomae { frames, step, jitter: true }) => {
                temporal::videomae_jittered(n, frames, step, rng)
            }
            Some(ClipRule::Videomae { frames, step, jitter: false }) => {
                self.on_references(temporal::videomae(n, frames, step, rng), step, info)
            }
            Some(ClipRule::VideomaeDense { frames, step }) => {
                self.on_references(temporal::videomae_dense(n, frames, step, rng), step, info)
            }
            Some(ClipRule::Segments { frames }) => temporal::segments(n, frames, rng),
            Some(ClipRule::SegmentsSlowfast { frames }) => {
                temporal::segments_slowfast(n, frames, rng)
            }
            Some(ClipRule::MiddlesSlowfast { frames }) => temporal::middles_slowfast(n, frames),
            Some(ClipRule::Slowfast { frames, step, target_fps }) => {
                let span = temporal::slowfast_span(frames, step, target_fps, info.fps);
                temporal::slowfast(n, frames, span, rng)
            }
            Some(ClipRule::ClipsVideomae { frames, step, clips }) => {
                temporal::videomae_test_clip(n, frames, step, clip, clips)
            }
            Some(ClipRule::ClipsSegments { frames, clips }) => {
                temporal::segments_test_clip(n, frames, clip, clips)
            }
            Some(ClipRule::ClipsSlowfast { frames, step, target_fps, clips, use_offset }) => {
                let span = temporal::slowfast_span(frames, step, target_fps, info.fps);
                temporal::slowfast_test_clip(n, frames, span, [clip, clips], use_offset)
            }
            Some(ClipRule::Uniform { frames }) => temporal::uniform(n, frames),
        }
    }

    /// A clip of a video whose reference frames are evenly spaced, moved less than one spacing towards
    /// the start so that all its frames are references; unchanged where its step is no multiple of
    /// the spacing, its frames are not evenly apart, or the recipe wants exact starts.
    fn on_references(&self, mut frames: Vec<u32>, step: u32, info: &MediaInfo) -> Vec<u32> {
        let spacing = info.spacing.filter(|_| !self.exact_start);
        let Some(stride) = spacing.map(|s| s.stride).filter(|s| *s > 1) else { return frames };
        let late = frames.first().map_or(0, |first| first % stride);
        if step % stride == 0 && frames.iter().all(|frame| frame % stride == late) {
            frames.iter_mut().for_each(|frame| *frame -= late);
        }
        frames
    }

    /// Writes the pixels and the mask of `plan` into `row`; `clip` holds at least its frames and
    /// their regions.
    ///
    /// # Errors
    /// The index of a frame that `clip` lacks.
    ///
    /// # Panics
    /// When `clip` lacks part of a region.
    pub fn render(
        &self,
        plan: &SamplePlan,
        clip: &Clip,
        scratch: &mut Scratch,
        row: &mut RowMut<'_>,
    ) -> Result<(), u32> {
        for (index, view) in plan.views.iter().enumerate() {
            let bytes = view.out.area() * 3;
            for (frame, out) in view.frames.iter().zip(row.pixels(index).chunks_exact_mut(bytes)) {
                let held = clip.position(*frame).ok_or(*frame)?;
                match clip.form() {
                    PixelForm::Rgb => {
                        scratch.draw(view, clip.nth(held), clip.region(), clip.size(), out);
                    }
                    PixelForm::Yuv(_) => scratch.draw_planes(view, clip, held, out),
                }
            }
        }
        write_facts(plan, row);
        Ok(())
    }

    /// Finishes a row whose pixels were made elsewhere, as [`ViewPlan::cut`] says: the colours of its
    /// views, its masks, its boxes.
    ///
    /// # Panics
    /// When a view has colours of the whole source.
    pub fn finish(&self, plan: &SamplePlan, scratch: &mut Scratch, row: &mut RowMut<'_>) {
        for (index, view) in plan.views.iter().enumerate() {
            let Some(colors) = &view.colors else { continue };
            assert_ne!(colors.place, Place::Source, "colours of the source come first");
            for frame in row.pixels(index).chunks_exact_mut(view.out.area() * 3) {
                scratch.color(colors, frame, view.out);
            }
        }
        write_facts(plan, row);
    }
}

/// Masks and boxes of a row.
fn write_facts(plan: &SamplePlan, row: &mut RowMut<'_>) {
    for (index, view) in plan.views.iter().enumerate() {
        if let (Some(out), Some(mask)) = (row.mask(index), &view.mask) {
            mask.write_bytes(out);
        }
    }
    if let Some(field) = row.erase() {
        Erase::store(plan.erase.as_ref(), field);
    }
}

/// View `n` of a row; a view of the first one's region copies what that one drew.
fn plan_view(
    key: SampleKey,
    (n, spec): (usize, &ViewSpec),
    first: Option<&ViewPlan>,
    source: Size,
    crop_index: u32,
    frames: &[u32],
) -> ViewPlan {
    let rng = |purpose| key.view_rng(purpose, n);
    let (geometry, flip, colors) = match (&spec.region, first) {
        (Region::First, Some(first)) => (first.geometry, first.flip, first.colors.clone()),
        (Region::First, None) => {
            (Geometry::CropThenResize { region: Rect::full(source) }, false, None)
        }
        (Region::Own(rule), _) => (
            plan_geometry((rule, spec.size), &mut rng(Draw::Crop), source, crop_index),
            rng(Draw::Flip).coin(spec.flip),
            spec.colors.as_ref().and_then(|colors| {
                let ops = colors.draw(&mut rng(Draw::Color));
                let (place, canvas) = (colors.place, colors.canvas);
                (!ops.is_empty()).then_some(ColorPlan { place, canvas, ops })
            }),
        ),
    };
    ViewPlan {
        frames: frames.to_vec(),
        geometry,
        out: spec.size,
        flip,
        resize: spec.resize,
        colors,
        mask: spec.mask.draw_in(key.epoch, spec.grid, &mut rng(Draw::Mask)),
    }
}

/// A region by `rule` that is to become `out`.
fn plan_geometry(
    (rule, out): (&CropRule, Size),
    rng: &mut SampleRng,
    source: Size,
    crop_index: u32,
) -> Geometry {
    match rule {
        CropRule::RandomResized { scale, ratio, .. } => Geometry::CropThenResize {
            region: crop::random_resized_crop(source, *scale, relative(*ratio, out), rng),
        },
        CropRule::RandomResizedOnce { scale, ratio, .. } => Geometry::CropThenResize {
            region: crop::random_resized_crop_once(source, *scale, relative(*ratio, out), rng),
        },
        CropRule::Largest { place, .. } => {
            Geometry::CropThenResize { region: crop::largest_crop(source, out, *place, rng) }
        }
        CropRule::MultiScale { scales, max_distort, places, .. } => {
            let region = crop::multi_scale_crop(source, out, scales, *max_distort, *places, rng);
            Geometry::CropThenResize { region }
        }
        CropRule::ShortSideJitter { size, min, max, inverse } => {
            let side = crop::jittered_side(*min, *max, *inverse, rng);
            let resized = crop::slowfast_short_side(source, side);
            let region = crop::slowfast_random_crop(resized, *size, rng);
            Geometry::ResizeThenCrop { resized, region }
        }
        CropRule::Random { size, resize } => {
            let resized = crop::short_side_size(source, *resize);
            let region = crop::random_crop(resized, *size, rng);
            Geometry::ResizeThenCrop { resized, region }
        }
        CropRule::Warp { .. } => Geometry::CropThenResize { region: Rect::full(source) },
        CropRule::Center { size, resize } => {
            let resized = crop::short_side_size(source, *resize);
            Geometry::ResizeThenCrop { resized, region: crop::center_crop(resized, *size) }
        }
        CropRule::Along { size, crops } => {
            let resized = crop::short_side_size(source, *size);
            let region = crop::crop_along(resized, *size, crop_index, *crops);
            Geometry::ResizeThenCrop { resized, region }
        }
        CropRule::AlongSlowfast { size, resize, crops } => {
            let resized = crop::slowfast_short_side(source, resize.unwrap_or(*size));
            let region = crop::slowfast_crop_along(resized, *size, crop_index, *crops);
            Geometry::ResizeThenCrop { resized, region }
        }
    }
}

/// Ratios over the aspect of `out` as aspects.
fn relative(ratio: [f64; 2], out: Size) -> [f64; 2] {
    let aspect = f64::from(out.width) / f64::from(out.height);
    ratio.map(|ratio| ratio * aspect)
}

impl Scratch {
    /// One frame of `size` pixels, of which `source` has the part `held`, through the geometry and
    /// the colours of `view`.
    fn draw(&mut self, view: &ViewPlan, source: &[u8], held: Rect, size: Size, out: &mut [u8]) {
        let Some(colors) = &view.colors else {
            return self.draw_geometry(view, source, held, size, out);
        };
        if colors.place == Place::Source {
            assert_eq!(held, Rect::full(size), "all of the frame is needed");
            let mut copy = std::mem::take(&mut self.source);
            copy.clear();
            copy.extend_from_slice(source);
            self.color(colors, &mut copy, size);
            self.draw_geometry(view, &copy, held, size, out);
            self.source = copy;
        } else {
            self.draw_geometry(view, source, held, size, out);
            self.color(colors, out, view.out);
        }
    }

    /// Frame `n` of a clip of planes through the geometry and the colours of `view`.
    fn draw_planes(&mut self, view: &ViewPlan, clip: &Clip, n: usize, out: &mut [u8]) {
        self.planes.resize(clip, n, &view.cut(clip.size()), out);
        if let Some(colors) = &view.colors {
            assert_ne!(colors.place, Place::Source, "colours of the source need RGB");
            self.color(colors, out, view.out);
        }
    }

    fn color(&mut self, colors: &ColorPlan, pixels: &mut [u8], size: Size) {
        for op in &colors.ops {
            color::apply(*op, colors.canvas, pixels, size, &mut self.color);
        }
    }

    fn draw_geometry(
        &mut self,
        view: &ViewPlan,
        source: &[u8],
        held: Rect,
        size: Size,
        out: &mut [u8],
    ) {
        match view.geometry {
            Geometry::CropThenResize { region } => {
                assert!(held.holds(region), "{region:?} of {held:?}");
                let region = Rect { x: region.x - held.x, y: region.y - held.y, ..region };
                self.resize(view.resize, source, held.size(), region, view.out, view.flip, out);
            }
            Geometry::ResizeThenCrop { resized, region } => {
                assert_eq!(held, Rect::full(size), "all of the frame is needed");
                let mut whole = std::mem::take(&mut self.resized);
                whole.resize(resized.area() * 3, 0);
                self.resize(
                    view.resize,
                    source,
                    size,
                    Rect::full(size),
                    resized,
                    false,
                    &mut whole,
                );
                crop::copy_region(&whole, resized, region, view.flip, out);
                self.resized = whole;
            }
        }
    }

    fn resize(
        &mut self,
        resize: Resize,
        source: &[u8],
        size: Size,
        region: Rect,
        to: Size,
        flip: bool,
        out: &mut [u8],
    ) {
        match resize.pillow() {
            Some(filter) => self.resampler.resize(source, size, region, filter, to, flip, out),
            None => self.resampler.resize_torch_bilinear(source, size, region, to, flip, out),
        }
    }
}

/// `#` hidden, `.` visible, one string a time slot, rows separated by spaces: readable in snapshots.
fn mask_picture<S: serde::Serializer>(mask: &Option<Mask>, s: S) -> Result<S::Ok, S::Error> {
    let slots = mask.as_ref().map(|mask| {
        let grid = mask.grid();
        let row = |row: &[bool]| row.iter().map(|m| if *m { '#' } else { '.' }).collect::<String>();
        mask.as_slice()
            .chunks(grid.plane())
            .map(|slot| slot.chunks(grid.w as usize).map(row).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    });
    slots.serialize(s)
}

#[cfg(test)]
mod tests;
