//! Aspect-ratio buckets: which samples are in which, and batches of one bucket each.
//!
//! The order of an epoch is walked position by position; each sample joins the others of its bucket,
//! and a bucket that has enough of them is a batch. So the batches follow from the data set's stored
//! facts, the seed and the epoch alone, and the shapes mix as the samples do.

use std::sync::Arc;

use serde::Serialize;
use tubelet_augment::Recipe;
use tubelet_augment::recipe::Unknown;
use tubelet_core::Size;
use tubelet_formats::ShardReader;

use crate::error::LoaderError;
use crate::order::Cursor;
use crate::schedule::{Order, Planned, Positions, Schedule, samples_per_batch};

/// What became of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketReport {
    /// Size of its frames.
    pub size: Size,
    /// Rows of a batch, over all ranks.
    pub rows: u32,
    /// Samples of an epoch (of the one pass, where the order ends) that belong to it.
    pub samples: u64,
    /// Of them, those whose width and height are not stored.
    pub unknown: u64,
    /// Batches of an epoch.
    pub batches: u64,
    /// Samples that are in none of an epoch's batches, because they do not fill one.
    pub left_out: u64,
}

/// The bucket of every sample of a data set.
#[derive(Debug)]
pub(crate) struct Buckets {
    of: Vec<u8>,
    /// Per sample of an unknown size; ascending.
    unknown: Vec<u64>,
    recipe: Arc<Recipe>,
    count: usize,
}

impl Buckets {
    /// Looks at the stored facts of all samples; `None` where the recipe has no buckets.
    ///
    /// # Errors
    /// When a sample's width and height are not stored and the recipe does not say what then.
    pub(crate) fn new(
        shards: &dyn ShardReader,
        recipe: &Arc<Recipe>,
    ) -> Result<Option<Arc<Self>>, LoaderError> {
        let Some(buckets) = recipe.buckets() else { return Ok(None) };
        let (mut of, mut unknown) = (Vec::with_capacity(shards.len()), Vec::new());
        for n in 0..shards.len() {
            let record = shards.record(n);
            let size = record.info.as_ref().map(|info| info.size);
            let bucket = match size.filter(|size| size.area() > 0) {
                Some(size) => buckets.of(size),
                None if buckets.unknown == Unknown::Squarest => {
                    unknown.push(n as u64);
                    buckets.squarest()
                }
                None => {
                    return Err(LoaderError::Config(format!(
                        "sample {n} ({}): its width and height are not stored, so it has no \
                         aspect-ratio bucket; run `tubelet index` on the data set, or set \
                         {}.buckets.unknown = \"squarest\"",
                        record.name,
                        recipe.stage()
                    )));
                }
            };
            of.push(bucket as u8);
        }
        let (recipe, count) = (Arc::clone(recipe), buckets.shapes.len());
        Ok(Some(Arc::new(Self { of, unknown, recipe, count })))
    }

    /// Buckets as they are given, sample by sample.
    #[cfg(test)]
    pub(crate) fn given(of: Vec<u8>, recipe: &Arc<Recipe>) -> Self {
        let (recipe, count) = (Arc::clone(recipe), recipe.shapes().count());
        Self { of, unknown: Vec::new(), recipe, count }
    }

    /// The bucket of `sample`.
    pub(crate) fn of(&self, sample: u64) -> usize {
        usize::from(self.of[sample as usize])
    }

    /// The first sample from `sample` on, around the end of the data set, of the bucket `bucket`;
    /// `sample` itself where there is none.
    pub(crate) fn next_of(&self, bucket: usize, sample: u64) -> u64 {
        let len = self.of.len() as u64;
        (0..len).map(|step| (sample + step) % len).find(|s| self.of(*s) == bucket).unwrap_or(sample)
    }

    /// Samples that a batch of each bucket has room for.
    fn rooms(&self) -> Vec<u64> {
        self.recipe.shapes().map(samples_per_batch).collect()
    }

    /// Samples of each bucket in an epoch.
    fn counts(&self, schedule: &Schedule) -> Vec<u64> {
        let mut counts = vec![0; self.count];
        let order = match &schedule.order {
            Order::Listed { samples, .. } => Positions::Listed(samples),
            _ => Positions::Own,
        };
        (0..schedule.len).for_each(|at| counts[self.of(order.at(at))] += 1);
        counts
    }

    /// Batches of an epoch, which are as many in every one.
    pub(crate) fn batches(&self, schedule: &Schedule) -> u64 {
        self.report(schedule).iter().map(|bucket| bucket.batches).sum()
    }

    /// What becomes of each bucket.
    pub(crate) fn report(&self, schedule: &Schedule) -> Vec<BucketReport> {
        let partial = schedule.keeps_partial();
        let counts = self.counts(schedule);
        let one = |(n, shape): (usize, &Recipe)| {
            let (samples, room) = (counts[n], samples_per_batch(shape));
            let full = samples / room;
            let unknown = self.unknown.iter().filter(|s| self.of(**s) == n).count() as u64;
            BucketReport {
                size: shape.size(),
                rows: shape.batch_size(),
                samples,
                unknown,
                batches: if partial { samples.div_ceil(room) } else { full },
                left_out: if partial { 0 } else { samples - full * room },
            }
        };
        self.recipe.shapes().enumerate().map(one).collect()
    }
}

/// Walks the order and gathers samples into batches.
pub(crate) struct Gather<'a> {
    schedule: &'a Schedule,
    buckets: &'a Buckets,
    rooms: Vec<u64>,
    waiting: Vec<Vec<u64>>,
    order: Positions<'a>,
    epoch: u32,
    /// Next position of the order.
    at: u64,
    /// Samples delivered in this epoch.
    delivered: u64,
    /// Batches delivered in this epoch.
    number: u64,
    per_epoch: u64,
}

impl<'a> Gather<'a> {
    /// The batches from `cursor` on: those before it are gathered again and thrown away.
    pub(crate) fn new(schedule: &'a Schedule, buckets: &'a Buckets, cursor: Cursor) -> Self {
        let mut gather = Self {
            schedule,
            buckets,
            rooms: buckets.rooms(),
            waiting: vec![Vec::new(); buckets.count],
            order: schedule.positions(cursor.epoch),
            epoch: cursor.epoch,
            at: 0,
            delivered: 0,
            number: 0,
            per_epoch: buckets.batches(schedule),
        };
        while gather.epoch == cursor.epoch && gather.delivered < cursor.position {
            if gather.next().is_none() {
                break;
            }
        }
        gather
    }

    /// The next batch; `None` when the order has ended.
    pub(crate) fn next(&mut self) -> Option<Planned> {
        if self.per_epoch == 0 || (self.schedule.keeps_partial() && self.epoch > 0) {
            return None;
        }
        if self.number == self.per_epoch {
            if self.schedule.keeps_partial() {
                return None;
            }
            self.start(self.epoch + 1);
        }
        let (bucket, samples) = self.gather()?;
        let start = Cursor { epoch: self.epoch, position: self.delivered };
        let (number, count) = (self.number, samples.len() as u64);
        self.delivered += count;
        self.number += 1;
        let last = self.number == self.per_epoch && !self.schedule.keeps_partial();
        let after = if last {
            Cursor { epoch: self.epoch + 1, position: 0 }
        } else {
            Cursor { epoch: self.epoch, position: self.delivered }
        };
        let room = self.rooms[bucket];
        Some(Planned { start, count, room, number, after, bucket: Some((bucket, samples)) })
    }

    /// Samples of the bucket that is the next to be full; at the order's end of the first bucket that
    /// has any.
    fn gather(&mut self) -> Option<(usize, Vec<u64>)> {
        while self.at < self.schedule.len {
            let sample = self.order.at(self.at);
            self.at += 1;
            let bucket = self.buckets.of(sample);
            self.waiting[bucket].push(sample);
            if self.waiting[bucket].len() as u64 == self.rooms[bucket] {
                return Some((bucket, std::mem::take(&mut self.waiting[bucket])));
            }
        }
        let rest = self.waiting.iter().position(|waiting| !waiting.is_empty())?;
        Some((rest, std::mem::take(&mut self.waiting[rest])))
    }

    fn start(&mut self, epoch: u32) {
        self.order = self.schedule.positions(epoch);
        self.waiting.iter_mut().for_each(Vec::clear);
        (self.epoch, self.at, self.delivered, self.number) = (epoch, 0, 0, 0);
    }
}
