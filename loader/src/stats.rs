//! Where the time goes: every stage and every queue counts its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::buckets::BucketReport;

/// Something that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Read,
    Probe,
    Plan,
    Decode,
    Render,
    /// A worker has nothing to do.
    WorkerIdle,
    /// The dispatcher waits for a free slot: the consumer is the limit.
    SlotWait,
    /// The consumer waits for a batch: the workers are the limit.
    BatchWait,
}

const TIMERS: usize = 8;

/// Counters shared by all threads of a loader.
#[derive(Default)]
pub(crate) struct Counters {
    nanos: [AtomicU64; TIMERS],
    pub(crate) samples: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) wanted: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) levels: AtomicU64,
    pub(crate) spaced: AtomicU64,
    pub(crate) by_references: AtomicU64,
    pub(crate) dropped: AtomicU64,
    drops: Mutex<BTreeMap<u64, Drop>>,
}

impl Counters {
    /// Runs `work` on `timer`'s account.
    pub(crate) fn time<T>(&self, timer: Timer, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(timer, start.elapsed());
        result
    }

    pub(crate) fn add(&self, timer: Timer, time: Duration) {
        self.nanos[timer as usize].fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn record_drop(&self, sample: u64, name: &str, cause: String) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.entry(sample).and_modify(|d| d.times += 1).or_insert_with(|| Drop {
            sample,
            name: name.to_owned(),
            cause,
            times: 1,
        });
    }

    pub(crate) fn snapshot(&self, workers: usize) -> Stats {
        let seconds =
            |timer: Timer| self.nanos[timer as usize].load(Ordering::Relaxed) as f64 * 1e-9;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            workers,
            samples: load(&self.samples),
            rows: load(&self.rows),
            bytes: load(&self.bytes),
            wanted_frames: load(&self.wanted),
            decoded_frames: load(&self.frames),
            level_samples: load(&self.levels),
            spaced_samples: load(&self.spaced),
            reference_samples: load(&self.by_references),
            read_s: seconds(Timer::Read),
            probe_s: seconds(Timer::Probe),
            plan_s: seconds(Timer::Plan),
            decode_s: seconds(Timer::Decode),
            render_s: seconds(Timer::Render),
            worker_idle_s: seconds(Timer::WorkerIdle),
            slot_wait_s: seconds(Timer::SlotWait),
            batch_wait_s: seconds(Timer::BatchWait),
            dropped: load(&self.dropped),
            drops: self
                .drops
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .cloned()
                .collect(),
            buckets: Vec::new(),
        }
    }
}

/// A sample that could not be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drop {
    /// Its number.
    pub sample: u64,
    /// Its name.
    pub name: String,
    /// Why, at its first failure.
    pub cause: String,
    /// How often it was tried in vain.
    pub times: u64,
}

/// What a loader did so far. Stage times are summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Worker threads.
    pub workers: usize,
    /// Samples decoded.
    pub samples: u64,
    /// Rows written.
    pub rows: u64,
    /// Encoded bytes read.
    pub bytes: u64,
    /// Frames that rows are made from, once a sample.
    pub wanted_frames: u64,
    /// Pictures that were decoded for them, those included that others lean on.
    pub decoded_frames: u64,
    /// Samples that a smaller encoding of a pyramid was decoded of.
    pub level_samples: u64,
    /// Samples of videos whose references are regularly spaced, as conversion for training makes them.
    pub spaced_samples: u64,
    /// Of these, the samples that wanted frames at that spacing only: decoded of references alone. The
    /// others, and videos of other kinds, are decoded with every frame that a wanted one leans on.
    pub reference_samples: u64,
    /// Reading encoded bytes.
    pub read_s: f64,
    /// Finding media facts that no index held.
    pub probe_s: f64,
    /// Drawing plans.
    pub plan_s: f64,
    /// Decoding.
    pub decode_s: f64,
    /// Cropping, resizing, masking.
    pub render_s: f64,
    /// Workers without work.
    pub worker_idle_s: f64,
    /// Waiting for the consumer to give slots back.
    pub slot_wait_s: f64,
    /// The consumer waiting for a batch.
    pub batch_wait_s: f64,
    /// Failures, substitutes included.
    pub dropped: u64,
    /// Samples that failed, once each.
    pub drops: Vec<Drop>,
    /// What becomes of each aspect-ratio bucket; empty where the recipe has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<BucketReport>,
}

impl Stats {
    /// Pictures decoded for each wanted frame: 1 where nothing was decoded for others to lean on; absent
    /// where nothing was decoded.
    pub fn decoded_per_wanted(&self) -> Option<f64> {
        (self.wanted_frames > 0).then(|| self.decoded_frames as f64 / self.wanted_frames as f64)
    }

    /// Share of the samples that the regular spacing of references served; absent where no video has
    /// such.
    pub fn by_references(&self) -> Option<f64> {
        (self.spaced_samples > 0).then(|| self.reference_samples as f64 / self.samples as f64)
    }

    /// Stages of a worker with their seconds.
    pub fn stages(&self) -> [(&'static str, f64); 5] {
        [
            ("read", self.read_s),
            ("probe", self.probe_s),
            ("plan", self.plan_s),
            ("decode", self.decode_s),
            ("render", self.render_s),
        ]
    }

    /// What limits the flow: the consumer when the workers mostly wait for it, else the stage that
    /// takes the workers' time.
    pub fn limiting_stage(&self) -> &'static str {
        let busy: f64 = self.stages().iter().map(|(_, s)| s).sum();
        if self.worker_idle_s > busy {
            return "consumer";
        }
        self.stages()
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map_or("none", |(name, _)| name)
    }
}
