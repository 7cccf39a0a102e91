//! The seam between a sample's encoded bytes and its rows.
//!
//! A worker reads and plans; a [`RowMaker`] decodes and renders what the plans say. The one here does
//! it on the host; others may use a device. Order, draws, drops and substitutes are the worker's, so
//! they do not depend on it.

use std::sync::Arc;

use tubelet_augment::plan::{SamplePlan, Scratch};
use tubelet_augment::{Pixels, Recipe};
use tubelet_core::{Clip, HostMemory, MediaInfo, Rect, RowMut, Size};
use tubelet_formats::transcode::level_size;
use tubelet_formats::{
    DecodeError, Decoder, FrameRequest, MediaKind, Record, ShardReader, decoder,
};

use crate::error::SampleErrorKind;

/// A sample that is read and planned.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// Its encoded bytes.
    pub encoded: &'a [u8],
    /// What is known about them.
    pub info: &'a MediaInfo,
    /// One plan a row.
    pub plans: &'a [SamplePlan],
    /// Frames that the plans need together, ascending.
    pub frames: &'a [u32],
    /// The region of them that the plans look at; all of it where absent.
    pub region: Option<Rect>,
}

/// The smallest encoding of a picture that does for all its plans, where the recipe allows it and the
/// data has some ([`ShardReader::read_level`]): shorter side, size, and the plans on it.
pub fn smaller_level(
    shards: &dyn ShardReader,
    recipe: &Recipe,
    record: &Record,
    info: &MediaInfo,
    plans: &[SamplePlan],
) -> Option<(u32, Size, Vec<SamplePlan>)> {
    if !recipe.pyramid() || record.kind == MediaKind::Video {
        return None;
    }
    let sides = shards.level_sides().iter();
    let mut smaller = sides.filter(|side| **side < info.size.short_side());
    smaller.find_map(|side| {
        let size = level_size(info.size, *side);
        let plans = plans.iter().map(|plan| plan.at_level(info.size, size));
        Some((*side, size, plans.collect::<Option<_>>()?))
    })
}

/// The rows that a sample's plans are rendered to.
pub trait Rows {
    /// Row `n`, which belongs to plan `n`.
    fn row(&mut self, n: usize) -> RowMut<'_>;

    /// The pixels of row `n` are not in the row, but where [`RowMakers::fetch`] finds them: the last word
    /// on them, for a maker that knows the slot as memory of its own ([`RowMakers::memory`]).
    fn leave(&mut self, n: usize);
}

/// Makes rows of encoded bytes: one a worker, which drives it: `decode`, then `render` for the same
/// sample. An error drops the sample; after a panic the maker is replaced.
pub trait RowMaker: Send {
    /// Media facts, where the data set stores none.
    ///
    /// # Errors
    /// As [`Decoder::probe`].
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError>;

    /// Decodes what the plans of `sample` look at, and keeps it.
    ///
    /// # Errors
    /// When the bytes cannot be decoded.
    fn decode(&mut self, recipe: &Recipe, sample: &Planned<'_>) -> Result<(), SampleErrorKind>;

    /// Writes pixels, masks and boxes of every row of `sample`, which was decoded last.
    ///
    /// # Errors
    /// When a frame is missing.
    fn render(
        &mut self,
        recipe: &Recipe,
        sample: &Planned<'_>,
        rows: &mut dyn Rows,
    ) -> Result<(), SampleErrorKind>;

    /// Pictures decoded so far, those included that others are made from.
    fn frames_decoded(&self) -> u64;
}

/// Where workers get their [`RowMaker`]s.
pub trait RowMakers: Send + Sync + std::fmt::Debug {
    /// Looks at the data and the recipe, before any thread is started: to measure, or to refuse.
    ///
    /// # Errors
    /// Why rows of this data cannot be made, for people.
    fn prepare(
        &self,
        shards: &dyn ShardReader,
        recipe: &Recipe,
        workers: usize,
    ) -> Result<(), String> {
        let _ = (shards, recipe, workers);
        Ok(())
    }

    /// A maker for one worker, on the worker's thread.
    fn maker(&self) -> Box<dyn RowMaker>;

    /// Memory for slots beside which the makers have a place for pixels ([`Rows::leave`]): for a consumer
    /// that takes them from there. `None` where they write all pixels to the slot.
    fn memory(&self) -> Option<Box<dyn HostMemory>> {
        None
    }

    /// Copies pixels that a maker left elsewhere to where they belong in the slot.
    ///
    /// # Errors
    /// Why that failed, for people.
    fn fetch(&self, pixels: &mut [u8]) -> Result<(), String> {
        Err(format!("{} bytes at no known place", pixels.len()))
    }
}

/// [`HostMaker`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostMakers;

impl HostMakers {
    /// As what a loader takes.
    pub fn shared() -> Arc<dyn RowMakers> {
        Arc::new(Self)
    }
}

impl RowMakers for HostMakers {
    fn maker(&self) -> Box<dyn RowMaker> {
        Box::new(HostMaker::default())
    }
}

/// Decodes and renders on the host.
pub struct HostMaker {
    decoder: Box<dyn Decoder>,
    clip: Clip,
    scratch: Scratch,
}

impl Default for HostMaker {
    fn default() -> Self {
        Self { decoder: decoder(), clip: Clip::new(), scratch: Scratch::default() }
    }
}

impl RowMaker for HostMaker {
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        self.decoder.probe(encoded)
    }

    fn decode(&mut self, recipe: &Recipe, sample: &Planned<'_>) -> Result<(), SampleErrorKind> {
        let planes = recipe.pixels() == Pixels::Fast;
        let want = FrameRequest { frames: sample.frames.to_vec(), region: sample.region, planes };
        Ok(self.decoder.decode(sample.encoded, sample.info, &want, &mut self.clip)?)
    }

    fn render(
        &mut self,
        recipe: &Recipe,
        sample: &Planned<'_>,
        rows: &mut dyn Rows,
    ) -> Result<(), SampleErrorKind> {
        for (n, plan) in sample.plans.iter().enumerate() {
            recipe
                .render(plan, &self.clip, &mut self.scratch, &mut rows.row(n))
                .map_err(SampleErrorKind::Frame)?;
        }
        Ok(())
    }

    fn frames_decoded(&self) -> u64 {
        self.decoder.frames_decoded()
    }
}
