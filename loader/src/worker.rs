//! One worker: reads, plans, decodes, renders and commits, one sample at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use tubelet_augment::plan::{SamplePlan, union_of_frames, union_of_regions};
use tubelet_augment::{Recipe, Stage};
use tubelet_core::layout::NO_LABEL;
use tubelet_core::{SampleId, SampleKey};
use tubelet_formats::{DecodeError, Record, ShardReader};

use crate::batches::OnError;
use crate::buckets::Buckets;
use crate::error::{LoaderError, SampleError, SampleErrorKind};
use crate::maker::{Planned, RowMaker, RowMakers, smaller_level};
use crate::order::substitute;
use crate::slot::SlotRows;
use crate::stats::{Counters, Timer};

/// One sample to be written into its rows.
pub(crate) struct Ticket {
    pub(crate) sample: u64,
    pub(crate) epoch: u32,
    /// Number of its batch in the epoch.
    pub(crate) number: u64,
    /// Its aspect-ratio bucket.
    pub(crate) bucket: Option<usize>,
    pub(crate) rows: SlotRows,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) shards: Arc<dyn ShardReader>,
    pub(crate) recipe: Arc<Recipe>,
    pub(crate) buckets: Option<Arc<Buckets>>,
    pub(crate) seed: u64,
    pub(crate) on_error: OnError,
    pub(crate) counters: Counters,
}

/// Substitutes tried for one sample before the batch fails.
const MAX_SUBSTITUTES: u32 = 32;
/// Samples tried before the share of drops is looked at.
const MIN_SEEN_FOR_LIMIT: u64 = 64;

/// A worker's own buffers.
struct Worker<'a> {
    shared: &'a Shared,
    makers: &'a dyn RowMakers,
    maker: Box<dyn RowMaker>,
    bytes: Vec<u8>,
    level: Vec<u8>,
    plans: Vec<SamplePlan>,
}

/// Works through `tickets` until the dispatcher hangs up.
pub(crate) fn run(shared: &Shared, makers: &dyn RowMakers, tickets: &Receiver<Ticket>) {
    let mut worker = Worker {
        shared,
        makers,
        maker: makers.maker(),
        bytes: Vec::new(),
        level: Vec::new(),
        plans: Vec::new(),
    };
    while let Ok(ticket) = shared.counters.time(Timer::WorkerIdle, || tickets.recv()) {
        worker.serve(ticket);
    }
}

impl Worker<'_> {
    /// Fills the ticket's rows, with a substitute where the policy allows it.
    fn serve(&mut self, ticket: Ticket) {
        let Ticket { sample, epoch, number, bucket, mut rows } = ticket;
        let recipe = self.shared.recipe.shape_of(epoch, number, bucket);
        let mut current = sample;
        for attempt in 0..=MAX_SUBSTITUTES {
            let Err(error) = self.attempt(recipe, (current, epoch, attempt), &mut rows) else {
                self.shared.counters.rows.fetch_add(rows.count() as u64, Ordering::Relaxed);
                return rows.commit();
            };
            self.shared.counters.record_drop(current, &error.name, error.kind.to_string());
            tracing::debug!("{error}");
            match self.after_failure(error, attempt) {
                Err(error) => return rows.fail(error),
                Ok(()) if recipe.stage() == Stage::Eval => {
                    blank(&mut rows, sample);
                    return rows.commit();
                }
                Ok(()) => {
                    let len = self.shared.shards.len() as u64;
                    current = substitute(len, self.shared.seed, epoch, sample, attempt);
                    if let (Some(buckets), Some(bucket)) = (&self.shared.buckets, bucket) {
                        current = buckets.next_of(bucket, current);
                    }
                }
            }
        }
    }

    /// Whether the policy lets the loader go on after `error`.
    fn after_failure(&self, error: SampleError, attempt: u32) -> Result<(), LoaderError> {
        let OnError::Skip { max_share } = self.shared.on_error else {
            return Err(error.into());
        };
        let counters = &self.shared.counters;
        let dropped = counters.dropped.load(Ordering::Relaxed);
        let seen = counters.samples.load(Ordering::Relaxed) + dropped;
        let over = seen >= MIN_SEEN_FOR_LIMIT && dropped as f64 > max_share * seen as f64;
        if over || attempt == MAX_SUBSTITUTES {
            let limit = max_share * 100.0;
            return Err(LoaderError::TooManyDrops {
                dropped,
                seen,
                limit,
                last: error.to_string(),
            });
        }
        Ok(())
    }

    fn attempt(
        &mut self,
        recipe: &Recipe,
        (sample, epoch, attempt): (u64, u32, u32),
        rows: &mut SlotRows,
    ) -> Result<(), SampleError> {
        let record = self.shared.shards.record(sample as usize);
        let turn = AssertUnwindSafe(|| self.turn(recipe, &record, (epoch, attempt), rows));
        let result = catch_unwind(turn).unwrap_or_else(|panic| {
            self.maker = self.makers.maker();
            Err(SampleErrorKind::Panic(panic_text(panic.as_ref())))
        });
        let sample = SampleId(sample);
        result.map_err(|kind| SampleError { sample, name: record.name.clone(), attempt, kind })
    }

    /// One worker's turn: read, facts, plan, decode, render.
    fn turn(
        &mut self,
        recipe: &Recipe,
        record: &Record,
        (epoch, attempt): (u32, u32),
        rows: &mut SlotRows,
    ) -> Result<(), SampleErrorKind> {
        let Shared { shards, seed, counters, .. } = self.shared;
        let mut bytes = counters.time(Timer::Read, || shards.read(record, &mut self.bytes))?;
        let probed;
        let mut info = match &record.info {
            Some(info) => info.as_ref(),
            None => {
                probed = counters.time(Timer::Probe, || self.maker.probe(bytes))?;
                &probed
            }
        };

        self.plans.clear();
        for repeat in 0..rows.count() as u16 {
            // A substitute that is also in the epoch itself must not repeat its draws.
            let repeat = repeat | u16::from(attempt > 0) << 15;
            let key = SampleKey { seed: *seed, epoch, sample: record.id, repeat };
            self.plans.push(counters.time(Timer::Plan, || recipe.plan(key, info))?);
        }
        let level;
        if let Some((side, size, plans)) =
            smaller_level(shards.as_ref(), recipe, record, info, &self.plans)
            && let Some(small) =
                counters.time(Timer::Read, || shards.read_level(record, side, &mut self.level))?
        {
            level = self.maker.probe(small)?;
            if level.size != size {
                let what = format!("its level {side} has {} pixels, not {size}", level.size);
                return Err(DecodeError::Damaged(what).into());
            }
            (bytes, info, self.plans) = (small, &level, plans);
            counters.levels.fetch_add(1, Ordering::Relaxed);
        }
        let (frames, region) = (union_of_frames(&self.plans), union_of_regions(&self.plans));
        let (encoded, plans) = (bytes, self.plans.as_slice());
        let sample = Planned { encoded, info, plans, frames: &frames, region };

        let maker = &mut self.maker;
        let before = maker.frames_decoded();
        counters.time(Timer::Decode, || maker.decode(recipe, &sample))?;
        let decoded = maker.frames_decoded() - before;

        rows.start_over();
        counters.time(Timer::Render, || maker.render(recipe, &sample, rows))?;
        for n in 0..rows.count() {
            rows.row(n).set_facts(record.label.unwrap_or(NO_LABEL), record.id.0);
        }

        if let Some(spacing) = info.spacing {
            counters.spaced.fetch_add(1, Ordering::Relaxed);
            let served = frames.iter().all(|frame| frame % spacing.stride.max(1) == 0);
            counters.by_references.fetch_add(u64::from(served), Ordering::Relaxed);
        }
        counters.samples.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        counters.wanted.fetch_add(frames.len() as u64, Ordering::Relaxed);
        counters.frames.fetch_add(decoded, Ordering::Relaxed);
        Ok(())
    }
}

/// Rows of an evaluation whose sample failed: black and without a label, so that nothing scores them.
fn blank(rows: &mut SlotRows, sample: u64) {
    rows.start_over();
    for n in 0..rows.count() {
        let mut row = rows.row(n);
        for view in 0..row.layout().views.len() {
            row.pixels(view).fill(0);
        }
        row.set_facts(NO_LABEL, sample);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
