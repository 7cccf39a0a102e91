//! Which samples make up which batch: no thread, no memory of pixels, only arithmetic.

use std::sync::Arc;

use tubelet_augment::Recipe;

use crate::buckets::{BucketReport, Buckets, Gather};
use crate::order::{Cursor, Permutation};

/// Which samples, in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new random order each epoch, for ever; the incomplete batch at an epoch's end is left out,
    /// with aspect-ratio buckets that of each bucket.
    Shuffled,
    /// Every sample once, by number; the last batch may have fewer rows, with aspect-ratio buckets
    /// that of each bucket.
    Sequential,
    /// These samples once, in this order, as they are drawn in epoch `epoch` of training; the last
    /// batch may have fewer rows, with aspect-ratio buckets that of each bucket.
    Listed {
        /// Sample numbers.
        samples: Vec<u64>,
        /// Epoch whose draws are used.
        epoch: u32,
    },
}

/// Samples that a batch of `shape` has room for.
pub(crate) fn samples_per_batch(shape: &Recipe) -> u64 {
    u64::from(shape.batch_size()) / u64::from(shape.repeats())
}

/// Which samples make up which batch.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) order: Order,
    pub(crate) seed: u64,
    /// Samples of an epoch.
    pub(crate) len: u64,
    pub(crate) recipe: Arc<Recipe>,
    pub(crate) listed_epoch: u32,
    /// The bucket of every sample of the data set, where the recipe has buckets.
    pub(crate) buckets: Option<Arc<Buckets>>,
}

/// One batch over all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Where its samples start.
    pub(crate) start: Cursor,
    /// Number of its samples.
    pub(crate) count: u64,
    /// Samples that its shape has room for.
    pub(crate) room: u64,
    /// Its number in the epoch.
    pub(crate) number: u64,
    /// Where the next batch starts.
    pub(crate) after: Cursor,
    /// Its bucket and its samples, where the recipe has buckets.
    pub(crate) bucket: Option<(usize, Vec<u64>)>,
}

impl Schedule {
    /// Samples of the batches of an epoch, one full turn of its shapes.
    fn turn(&self, epoch: u32) -> Vec<u64> {
        let epoch = self.drawn_epoch(epoch);
        let shapes = self.recipe.phases().iter().rev().find(|phase| phase.from <= epoch);
        match shapes {
            None => vec![samples_per_batch(&self.recipe)],
            Some(phase) => phase.shapes.iter().map(|shape| samples_per_batch(shape)).collect(),
        }
    }

    /// The epoch whose draws a sample of `epoch` has.
    pub(crate) fn drawn_epoch(&self, epoch: u32) -> u32 {
        if let Order::Listed { .. } = self.order { self.listed_epoch } else { epoch }
    }

    /// Whether batches that are not full are delivered.
    pub(crate) fn keeps_partial(&self) -> bool {
        self.order != Order::Shuffled
    }

    pub(crate) fn batches_in(&self, epoch: u32) -> u64 {
        if let Some(buckets) = &self.buckets {
            return buckets.batches(self);
        }
        let turn = self.turn(epoch);
        let all: u64 = turn.iter().sum();
        let (mut left, mut batches) = (self.len % all, self.len / all * turn.len() as u64);
        for count in turn {
            if left < count {
                let partial = left > 0 && self.keeps_partial();
                return batches + u64::from(partial);
            }
            left -= count;
            batches += 1;
        }
        batches
    }

    /// What becomes of each bucket; empty where the recipe has none.
    pub(crate) fn bucket_reports(&self) -> Vec<BucketReport> {
        self.buckets.as_ref().map(|buckets| buckets.report(self)).unwrap_or_default()
    }

    /// Number of the batch that starts at `cursor`, and its room.
    fn number_at(&self, cursor: Cursor) -> (u64, u64) {
        let turn = self.turn(cursor.epoch);
        let all: u64 = turn.iter().sum();
        let (mut left, mut number) =
            (cursor.position % all, cursor.position / all * turn.len() as u64);
        for count in &turn {
            if left < *count {
                return (number, *count);
            }
            left -= count;
            number += 1;
        }
        (number, turn[0])
    }

    /// The batch at `cursor`; `None` when the order has ended. For recipes without buckets.
    fn batch_at(&self, cursor: Cursor) -> Option<Planned> {
        let (number, room) = self.number_at(cursor);
        let left = self.len.saturating_sub(cursor.position);
        let mut planned =
            Planned { start: cursor, count: room, room, number, after: cursor, bucket: None };
        if let Order::Shuffled = self.order {
            if left < room {
                // Room for a batch of every shape was checked: this goes down once.
                return self.batch_at(Cursor { epoch: cursor.epoch + 1, position: 0 });
            }
            planned.after.position += room;
            if self.len - planned.after.position < self.number_at(planned.after).1 {
                planned.after = Cursor { epoch: cursor.epoch + 1, position: 0 };
            }
            return Some(planned);
        }
        planned.count = left.min(room);
        planned.after.position += planned.count;
        (planned.count > 0 && cursor.epoch == 0).then_some(planned)
    }

    /// The order of an epoch, position by position.
    pub(crate) fn positions(&self, epoch: u32) -> Positions<'_> {
        match &self.order {
            Order::Shuffled => Positions::Random(Permutation::new(self.len, self.seed, epoch)),
            Order::Sequential => Positions::Own,
            Order::Listed { samples, .. } => Positions::Listed(samples),
        }
    }

    /// Of the samples of `planned`, those from number `first` on, `count` of them.
    pub(crate) fn samples(&self, planned: &Planned, first: u64, count: u64) -> Vec<u64> {
        if let Some((_, samples)) = &planned.bucket {
            return samples[first as usize..(first + count) as usize].to_vec();
        }
        let order = self.positions(planned.start.epoch);
        let start = planned.start.position + first;
        (start..start + count).map(|position| order.at(position)).collect()
    }

    /// The batches from `cursor` on, endless for a shuffled order.
    pub(crate) fn walk(&self, cursor: Cursor) -> Walk<'_> {
        let gather = self.buckets.as_ref().map(|buckets| Gather::new(self, buckets, cursor));
        Walk { schedule: self, cursor, gather }
    }
}

/// The samples of an epoch by position.
pub(crate) enum Positions<'a> {
    Random(Permutation),
    Own,
    Listed(&'a [u64]),
}

impl Positions<'_> {
    pub(crate) fn at(&self, position: u64) -> u64 {
        match self {
            Self::Random(order) => order.at(position),
            Self::Own => position,
            Self::Listed(samples) => samples[position as usize],
        }
    }
}

/// Batches in order.
pub(crate) struct Walk<'a> {
    schedule: &'a Schedule,
    cursor: Cursor,
    gather: Option<Gather<'a>>,
}

impl Iterator for Walk<'_> {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if let Some(gather) = &mut self.gather {
            return gather.next();
        }
        let planned = self.schedule.batch_at(self.cursor)?;
        self.cursor = planned.after;
        Some(planned)
    }
}

#[cfg(test)]
mod tests;
