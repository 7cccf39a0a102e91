//! The loader: threads, queues and in-order delivery.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};
use tubelet_augment::Recipe;
use tubelet_core::{BatchKey, BatchLayout, HostMemory};
use tubelet_formats::ShardReader;

use crate::buckets::{BucketReport, Buckets};
use crate::error::LoaderError;
use crate::maker::{HostMakers, RowMakers};
use crate::order::Cursor;
use crate::schedule::{Order, Planned, Schedule, samples_per_batch};
use crate::slot::{Batch, Filling, SlotMemory, SlotRows};
use crate::stats::{Counters, Stats, Timer};
use crate::worker::{self, Shared, Ticket};

/// What happens when a sample cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnError {
    /// The batch fails with the sample's error.
    Fail,
    /// Another sample takes its place, chosen by (seed, epoch, sample, attempt) alone; it is
    /// recorded in [`Stats::drops`]. An evaluation leaves it out instead. More than `max_share` of
    /// all samples is an error.
    Skip {
        /// Largest share of failed samples, 0 to 1.
        max_share: f64,
    },
}

/// How to load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Seed of every draw.
    pub seed: u64,
    /// Worker threads; each decodes one sample at a time.
    pub workers: usize,
    /// Batches in memory at once, the one in use included; at least 2 keep the workers busy.
    pub slots: usize,
    /// Which part of every batch this process loads: `rank` of `world` equal, consecutive parts.
    pub rank: u32,
    /// Number of processes that share every batch.
    pub world: u32,
    /// Which samples, in which order.
    pub order: Order,
    /// What happens when a sample cannot be used.
    pub on_error: OnError,
}

/// Share of failed samples that [`LoaderConfig::default`] accepts.
pub const DEFAULT_MAX_DROP_SHARE: f64 = 0.1;

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            slots: 3,
            rank: 0,
            world: 1,
            order: Order::Shuffled,
            on_error: OnError::Skip { max_share: DEFAULT_MAX_DROP_SHARE },
        }
    }
}

/// A loader that has its memory and has checked its settings, but started no thread.
pub struct Loader {
    shared: Arc<Shared>,
    makers: Arc<dyn RowMakers>,
    config: LoaderConfig,
    schedule: Schedule,
    layout: Arc<BatchLayout>,
    slots: Vec<SlotMemory>,
}

impl Loader {
    /// Checks the settings and takes all memory from `memory`.
    ///
    /// # Errors
    /// When the settings cannot work (each is named with its value) or memory is short.
    pub fn new(
        shards: Arc<dyn ShardReader>,
        recipe: Arc<Recipe>,
        memory: &dyn HostMemory,
        config: LoaderConfig,
    ) -> Result<Self, LoaderError> {
        check(shards.as_ref(), &recipe, &config)?;
        let buckets = Buckets::new(shards.as_ref(), &recipe)?;
        let schedule = schedule(shards.as_ref(), &recipe, &config, buckets.clone());
        check_buckets(&schedule)?;
        // Slots hold the largest shape, so that no later phase allocates.
        let layout_of = |shape: &Recipe| shape.rows_layout(shape.batch_size() / config.world);
        let bytes = recipe.shapes().map(|shape| layout_of(shape).bytes).max().unwrap_or(0);
        let layout = Arc::new(layout_of(recipe.shape(0, 0)));
        let slots = (0..config.slots)
            .map(|_| memory.allocate(bytes).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let shared = Shared {
            shards,
            recipe,
            buckets,
            seed: config.seed,
            on_error: config.on_error,
            counters: Counters::default(),
        };
        let (shared, makers) = (Arc::new(shared), HostMakers::shared());
        Ok(Self { shared, makers, config, schedule, layout, slots })
    }

    /// The same loader, whose rows are made by `makers` instead of on the host.
    ///
    /// # Errors
    /// When they refuse the data or the recipe.
    pub fn with_makers(mut self, makers: Arc<dyn RowMakers>) -> Result<Self, LoaderError> {
        let (shards, recipe) = (self.shared.shards.as_ref(), self.shared.recipe.as_ref());
        makers.prepare(shards, recipe, self.config.workers).map_err(LoaderError::Config)?;
        self.makers = makers;
        Ok(self)
    }

    /// The bytes of the first batch of this process; of every batch where the recipe has
    /// neither phases nor buckets.
    pub fn layout(&self) -> &BatchLayout {
        &self.layout
    }

    /// Batches of the first epoch (of the one pass, where the order ends); of every epoch where the
    /// recipe has no phases.
    pub fn batches_per_epoch(&self) -> u64 {
        self.schedule.batches_in(0)
    }

    /// Batches of epoch `epoch`.
    pub fn batches_in(&self, epoch: u32) -> u64 {
        self.schedule.batches_in(epoch)
    }

    /// What becomes of each aspect-ratio bucket; empty where the recipe has none.
    pub fn buckets(&self) -> Vec<BucketReport> {
        self.schedule.bucket_reports()
    }

    /// Starts the threads and iterates from `from`, which is [`Cursor::default`] for a new run or a
    /// stored [`Batch::cursor`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn batches(self, from: Cursor) -> Result<Batches, LoaderError> {
        let (schedule, buckets) = (self.schedule.clone(), self.buckets());
        let config = &self.config;
        let (free_tx, free_rx) = unbounded();
        for slot in self.slots {
            let _ = free_tx.send(slot);
        }
        let (ticket_tx, ticket_rx) = bounded(config.workers * 2);
        let (done_tx, done_rx) = unbounded();
        let (stop_tx, stop_rx) = bounded(0);
        let mut threads = Vec::new();
        for n in 0..config.workers {
            let (shared, tickets) = (Arc::clone(&self.shared), ticket_rx.clone());
            let makers = Arc::clone(&self.makers);
            let work = move || worker::run(&shared, makers.as_ref(), &tickets);
            threads.push(spawn(&format!("tubelet-worker-{n}"), work)?);
        }
        let dispatcher = Dispatcher {
            shared: Arc::clone(&self.shared),
            schedule,
            rank: u64::from(config.rank),
            world: u64::from(config.world),
            free: free_rx,
            tickets: ticket_tx,
            done: done_tx,
            stop: stop_rx,
        };
        threads.push(spawn("tubelet-dispatch", move || dispatcher.run(from))?);
        Ok(Batches {
            shared: self.shared,
            makers: self.makers,
            workers: config.workers,
            buckets,
            free: free_tx,
            done: done_rx,
            waiting: BTreeMap::new(),
            next: 0,
            failed: false,
            stop: Some(stop_tx),
            threads: Mutex::new(threads),
        })
    }
}

/// Refuses settings that cannot work.
fn check(
    shards: &dyn ShardReader,
    recipe: &Recipe,
    config: &LoaderConfig,
) -> Result<(), LoaderError> {
    let refuse = |message: String| Err(LoaderError::Config(message));
    if config.workers == 0 || config.slots == 0 {
        return refuse(format!(
            "workers = {}, slots = {}: both must be at least 1",
            config.workers, config.slots
        ));
    }
    let (rank, world) = (config.rank, config.world);
    if world == 0 || rank >= world {
        return refuse(format!("rank {rank} of world {world}: rank must be below world"));
    }
    for shape in recipe.shapes() {
        check_shape(shape, world).map_err(LoaderError::Config)?;
    }
    let samples = shards.len() as u64;
    if samples == 0 {
        return refuse("the data set has no sample".to_owned());
    }
    let per_batch = recipe.shapes().map(samples_per_batch).max().unwrap_or(1);
    match &config.order {
        // With buckets it depends on what is in each.
        Order::Shuffled if recipe.buckets().is_some() => Ok(()),
        Order::Shuffled if samples < per_batch => refuse(format!(
            "the data set has {samples} samples, fewer than the {per_batch} of one batch; set a smaller batch_size"
        )),
        Order::Listed { samples: list, .. } => match list.iter().find(|s| **s >= samples) {
            Some(bad) => {
                refuse(format!("sample {bad} of a data set of {samples} (numbers start at 0)"))
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The batches of `config.order`.
fn schedule(
    shards: &dyn ShardReader,
    recipe: &Arc<Recipe>,
    config: &LoaderConfig,
    buckets: Option<Arc<Buckets>>,
) -> Schedule {
    let (len, listed_epoch) = match &config.order {
        Order::Listed { samples, epoch } => (samples.len() as u64, *epoch),
        _ => (shards.len() as u64, 0),
    };
    let (order, recipe) = (config.order.clone(), Arc::clone(recipe));
    Schedule { order, seed: config.seed, len, recipe, listed_epoch, buckets }
}

/// Says which buckets give no batch; refuses a data set of which none gives one.
fn check_buckets(schedule: &Schedule) -> Result<(), LoaderError> {
    let reports = schedule.bucket_reports();
    for bucket in reports.iter().filter(|bucket| bucket.left_out > 0) {
        let BucketReport { size, rows, samples, batches, left_out, .. } = bucket;
        let (height, width) = (size.height, size.width);
        if *batches == 0 {
            tracing::warn!(
                "bucket {height}x{width}: its {samples} samples do not fill a batch of {rows} rows \
                 and are never used"
            );
        } else {
            tracing::info!(
                "bucket {height}x{width}: {samples} samples, {left_out} of them left out an epoch"
            );
        }
    }
    if schedule.buckets.is_some() && reports.iter().all(|bucket| bucket.batches == 0) {
        let text: Vec<String> = reports
            .iter()
            .map(|b| {
                format!("{} of {}x{} for {} rows", b.samples, b.size.height, b.size.width, b.rows)
            })
            .collect();
        return Err(LoaderError::Config(format!(
            "no bucket has enough samples for a batch: {}; set a smaller batch_size or token_budget",
            text.join(", ")
        )));
    }
    Ok(())
}

/// Refuses a shape whose batches cannot be shared by `world` ranks.
fn check_shape(shape: &Recipe, world: u32) -> Result<(), String> {
    let (batch, repeats) = (shape.batch_size(), u32::from(shape.repeats()));
    if batch % (world * repeats) != 0 {
        return Err(format!(
            "a batch of {batch} rows cannot be shared by {world} ranks with {repeats} rows a sample: \
             set batch_size, or batch_multiple beside token_budget, to a multiple of {}",
            world * repeats
        ));
    }
    match shape.mix() {
        Some(mix) if world > 1 && (mix.group == 0 || batch / world % mix.group != 0) => {
            Err(format!(
                "the recipe mixes rows with each other and {world} ranks share a batch of {batch}: \
                 set finetune.augment.mix_group to a divisor of {}",
                batch / world
            ))
        }
        _ => Ok(()),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoaderError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(LoaderError::Thread)
}

/// The thread that reserves rows: taking a free slot is the back-pressure.
struct Dispatcher {
    shared: Arc<Shared>,
    schedule: Schedule,
    rank: u64,
    world: u64,
    free: Receiver<SlotMemory>,
    tickets: Sender<Ticket>,
    done: Sender<Arc<Filling>>,
    stop: Receiver<()>,
}

impl Dispatcher {
    fn run(&self, from: Cursor) {
        for (sequence, planned) in (0..).zip(self.schedule.walk(from)) {
            let Some(memory) = self.shared.counters.time(Timer::SlotWait, || self.free_slot())
            else {
                return;
            };
            if self.fill(memory, sequence, &planned).is_none() {
                return;
            }
        }
    }

    /// The next free slot; `None` when the loader is being dropped.
    fn free_slot(&self) -> Option<SlotMemory> {
        select_biased! {
            recv(self.stop) -> _ => None,
            recv(self.free) -> slot => slot.ok(),
        }
    }

    /// Queues this rank's part of one batch; `None` when the loader is being dropped.
    fn fill(&self, memory: SlotMemory, sequence: u64, planned: &Planned) -> Option<()> {
        let Planned { start, count, room, number, after, .. } = *planned;
        let bucket = planned.bucket.as_ref().map(|(bucket, _)| *bucket);
        // Equal parts of a full batch; of a partial last batch whatever falls into this part.
        let part = room / self.world;
        let first = (self.rank * part).min(count);
        let mine = part.min(count - first);
        let epoch = self.schedule.drawn_epoch(start.epoch);
        let samples = self.schedule.samples(planned, first, mine);
        let shape = self.schedule.recipe.shape_of(epoch, number, bucket);
        let repeats = usize::from(shape.repeats());
        let key = BatchKey {
            seed: self.schedule.seed,
            epoch,
            number,
            first_row: (first as usize * repeats) as u32,
        };
        let filling = Arc::new(Filling {
            memory,
            layout: Arc::new(shape.rows_layout(part as u32 * repeats as u32)),
            sequence,
            rows: samples.len() * repeats,
            key,
            bucket,
            after,
            pending: AtomicUsize::new(samples.len()),
            failure: Mutex::new(None),
            elsewhere: (0..samples.len() * repeats).map(|_| AtomicBool::new(false)).collect(),
        });
        if samples.is_empty() {
            return self.done.send(filling).ok();
        }
        let tickets: Vec<Ticket> = samples
            .into_iter()
            .enumerate()
            .map(|(n, sample)| {
                let done = self.done.clone();
                let rows = SlotRows::new(Arc::clone(&filling), n * repeats, repeats, done);
                Ticket { sample, epoch, number, bucket, rows }
            })
            .collect();
        for ticket in tickets {
            select_biased! {
                recv(self.stop) -> _ => return None,
                send(self.tickets, ticket) -> sent => sent.ok()?,
            }
        }
        Some(())
    }
}

/// Full batches, in order. Endless for [`Order::Shuffled`].
pub struct Batches {
    shared: Arc<Shared>,
    makers: Arc<dyn RowMakers>,
    workers: usize,
    buckets: Vec<BucketReport>,
    free: Sender<SlotMemory>,
    done: Receiver<Arc<Filling>>,
    /// Full slots whose turn has not come.
    waiting: BTreeMap<u64, Arc<Filling>>,
    next: u64,
    failed: bool,
    stop: Option<Sender<()>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Batches {
    /// What the loader did so far.
    pub fn stats(&self) -> Stats {
        let stats = self.shared.counters.snapshot(self.workers);
        Stats { buckets: self.buckets.clone(), ..stats }
    }

    /// Waits until batch `self.next` is full; `None` when no more will come.
    fn receive(&mut self) -> Option<Arc<Filling>> {
        loop {
            if let Some(filling) = self.waiting.remove(&self.next) {
                self.next += 1;
                return Some(filling);
            }
            let filling = self.done.recv().ok()?;
            self.waiting.insert(filling.sequence, filling);
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let filling = shared.counters.time(Timer::BatchWait, || self.receive())?;
        let failure = filling.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        let batch = Batch::new(filling, Arc::clone(&self.makers), self.free.clone());
        match failure {
            Some(error) => {
                self.failed = true;
                Some(Err(error))
            }
            None if batch.as_ref().rows() == 0 => self.next(),
            None => Some(Ok(batch)),
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop = None;
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a loader thread panicked");
            }
        }
    }
}
