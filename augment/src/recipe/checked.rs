//! One stage of a recipe after the check.

use tubelet_core::layout::ViewShape;
use tubelet_core::{BatchLayout, PatchGrid, PatchSize, Size};

use super::{Buckets, ClipRule, Media, Phase, Pixels, Stage, TargetSpec, ViewSpec};
use crate::erase::EraseSpec;
use crate::mix::MixSpec;
use crate::normalise::Normalise;
use crate::policy::MaskPolicy;

/// One stage, checked: what a batch holds and how it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    pub(super) name: String,
    pub(super) stage: Stage,
    pub(super) media: Media,
    pub(super) patch: PatchSize,
    pub(super) batch_size: u32,
    pub(super) repeats: u16,
    pub(crate) clip: Option<ClipRule>,
    /// The rows of a sample have the same frames.
    pub(crate) share_frames: bool,
    /// Clips start where they are drawn, not at the reference before.
    pub(crate) exact_start: bool,
    /// Crops of a frame in evaluation.
    pub(crate) crops: u32,
    pub(super) first: ViewSpec,
    pub(super) others: Vec<ViewSpec>,
    pub(super) target: TargetSpec,
    pub(super) erase: Option<EraseSpec>,
    pub(super) mix: Option<MixSpec>,
    pub(super) pyramid: bool,
    pub(super) phases: Vec<Phase>,
    pub(super) pixels: Pixels,
    pub(super) buckets: Option<Buckets>,
}

impl Recipe {
    /// Name of the recipe it comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Pictures or videos.
    pub fn media(&self) -> Media {
        self.media
    }

    /// Extent of a token.
    pub fn patch(&self) -> PatchSize {
        self.patch
    }

    /// Views of a row, the first one first.
    pub fn views(&self) -> impl Iterator<Item = &ViewSpec> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Tokens of a row's first view.
    pub fn grid(&self) -> PatchGrid {
        self.first.grid
    }

    /// Mean and standard deviation of the first view.
    pub fn normalise(&self) -> Normalise {
        self.first.normalise
    }

    /// How rows are erased.
    pub fn erase(&self) -> Option<&EraseSpec> {
        self.erase.as_ref()
    }

    /// How rows are mixed.
    pub fn mix(&self) -> Option<&MixSpec> {
        self.mix.as_ref()
    }

    /// Whether pictures may be taken from smaller encodings.
    pub fn pyramid(&self) -> bool {
        self.pyramid
    }

    /// Rows of a batch.
    pub fn batch_size(&self) -> u32 {
        self.batch_size
    }

    /// Rows one decoded sample gives: repeated augmentation, or clips × crops of an evaluation.
    pub fn repeats(&self) -> u16 {
        self.repeats
    }

    /// Frames of a row; 1 for pictures.
    pub fn frames(&self) -> u32 {
        self.clip.map_or(1, ClipRule::frames)
    }

    /// Size of every frame of the first view.
    pub fn size(&self) -> Size {
        self.first.size
    }

    /// Which tokens of the first view are hidden.
    pub fn mask(&self) -> &MaskPolicy {
        &self.first.mask
    }

    /// Arithmetic of the pixels.
    pub fn pixels(&self) -> Pixels {
        self.pixels
    }

    /// What is predicted.
    pub fn target(&self) -> TargetSpec {
        self.target
    }

    /// The phases, by their first epoch; empty where all batches have one shape. Every other
    /// number of a recipe with phases is that of its first shape.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// The buckets; absent where the shape does not follow from the samples. Every other number of
    /// a recipe with buckets is that of its first one.
    pub fn buckets(&self) -> Option<&Buckets> {
        self.buckets.as_ref()
    }

    /// The recipe of a batch of bucket `bucket`, or of batch `number` of `epoch` where it is of none.
    ///
    /// # Panics
    /// When there is no such bucket.
    pub fn shape_of(&self, epoch: u32, number: u64, bucket: Option<usize>) -> &Self {
        match (&self.buckets, bucket) {
            (Some(buckets), Some(n)) => &buckets.shapes[n],
            _ => self.shape(epoch, number),
        }
    }

    /// The recipe of a sample of `size` in batch `number` of `epoch`.
    pub fn shape_for(&self, epoch: u32, number: u64, size: Size) -> &Self {
        let bucket = self.buckets.as_ref().map(|buckets| buckets.of(size));
        self.shape_of(epoch, number, bucket)
    }

    /// The recipe of batch `number` (from 0) of `epoch`: itself where it has no phases.
    pub fn shape(&self, epoch: u32, number: u64) -> &Self {
        let phase = self.phases.iter().rev().find(|phase| phase.from <= epoch);
        phase.map_or(self, |phase| &phase.shapes[(number % phase.shapes.len() as u64) as usize])
    }

    /// Every shape a batch may have; itself alone where it has neither phases nor buckets.
    pub fn shapes(&self) -> impl Iterator<Item = &Self> {
        let own = (self.phases.is_empty() && self.buckets.is_none()).then_some(self);
        let phases = self.phases.iter().flat_map(|phase| &phase.shapes);
        let buckets = self.buckets.iter().flat_map(|buckets| &buckets.shapes);
        own.into_iter().chain(phases.chain(buckets).map(AsRef::as_ref))
    }

    /// The bytes of the first batch of `epoch`.
    pub fn layout(&self, epoch: u32) -> BatchLayout {
        let shape = self.shape(epoch, 0);
        shape.layout_of(epoch, shape.batch_size)
    }

    /// The bytes of `rows` rows of the first batch's shape in `epoch`: one rank's part of it.
    pub fn layout_of(&self, epoch: u32, rows: u32) -> BatchLayout {
        self.shape(epoch, 0).rows_layout(rows)
    }

    /// The bytes of `rows` rows of this shape.
    pub fn rows_layout(&self, rows: u32) -> BatchLayout {
        let shape = |view: &ViewSpec| ViewShape {
            frames: self.frames(),
            size: view.size,
            grid: view.grid,
            masked: !matches!(view.mask, MaskPolicy::None),
        };
        let shapes: Vec<ViewShape> = self.views().map(shape).collect();
        let boxes = self.erase.map_or(0, |erase| erase.count);
        BatchLayout::new(rows, &shapes).with_erase(boxes)
    }
}
