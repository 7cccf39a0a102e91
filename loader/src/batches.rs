//! The loader: threads, queues and in-order delivery.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased, unbounded};
use tubelet_augment::Recipe;
use tubelet_core::{BatchLayout, HostMemory};
use tubelet_formats::ShardReader;

use crate::error::LoaderError;
use crate::order::{Cursor, Permutation};
use crate::slot::{Batch, Filling, SlotMemory, SlotRows};
use crate::stats::{Counters, Stats, Timer};
use crate::worker::{self, Shared, Ticket};

/// Which samples, in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new random order each epoch, for ever; the incomplete batch at an epoch's end is left out.
    Shuffled,
    /// Every sample once, by number; the last batch may have fewer rows.
    Sequential,
    /// These samples once, in this order, as they are drawn in epoch `epoch` of training; the last
    /// batch may have fewer rows.
    Listed {
        /// Sample numbers.
        samples: Vec<u64>,
        /// Epoch whose draws are used.
        epoch: u32,
    },
}

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
    config: LoaderConfig,
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
        let rows = recipe.batch_size() / config.world;
        let layout = Arc::new(recipe.layout_of(0, rows));
        let slots = (0..config.slots)
            .map(|_| memory.allocate(layout.bytes).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let shared = Shared {
            shards,
            recipe,
            seed: config.seed,
            on_error: config.on_error,
            counters: Counters::default(),
        };
        Ok(Self { shared: Arc::new(shared), config, layout, slots })
    }

    /// The bytes of every batch of this process.
    pub fn layout(&self) -> &BatchLayout {
        &self.layout
    }

    /// Batches of an epoch (of the one pass, where the order ends).
    pub fn batches_per_epoch(&self) -> u64 {
        self.schedule().batches_per_epoch()
    }

    fn schedule(&self) -> Schedule {
        let repeats = u64::from(self.shared.recipe.repeats());
        let (len, epoch) = match &self.config.order {
            Order::Listed { samples, epoch } => (samples.len() as u64, *epoch),
            _ => (self.shared.shards.len() as u64, 0),
        };
        Schedule {
            order: self.config.order.clone(),
            seed: self.config.seed,
            len,
            per_batch: u64::from(self.shared.recipe.batch_size()) / repeats,
            listed_epoch: epoch,
        }
    }

    /// Starts the threads and iterates from `from`, which is [`Cursor::default`] for a new run or a
    /// stored [`Batch::cursor`].
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn batches(self, from: Cursor) -> Result<Batches, LoaderError> {
        let schedule = self.schedule();
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
            let work = move || worker::run(&shared, &tickets);
            threads.push(spawn(&format!("tubelet-worker-{n}"), work)?);
        }
        let dispatcher = Dispatcher {
            shared: Arc::clone(&self.shared),
            layout: Arc::clone(&self.layout),
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
            workers: config.workers,
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
    let (batch, repeats) = (recipe.batch_size(), u32::from(recipe.repeats()));
    if batch % (world * repeats) != 0 {
        return refuse(format!(
            "batch_size {batch} cannot be shared by {world} ranks with {repeats} rows a sample"
        ));
    }
    let samples = shards.len() as u64;
    if samples == 0 {
        return refuse("the data set has no sample".to_owned());
    }
    match &config.order {
        Order::Shuffled if samples < u64::from(batch / repeats) => refuse(format!(
            "the data set has {samples} samples, fewer than the {} of one batch; set a smaller batch_size",
            batch / repeats
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

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoaderError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(LoaderError::Thread)
}

/// Which samples make up which batch: no thread, no memory, only arithmetic.
#[derive(Clone, Debug)]
struct Schedule {
    order: Order,
    seed: u64,
    len: u64,
    /// Samples of a batch over all ranks.
    per_batch: u64,
    listed_epoch: u32,
}

impl Schedule {
    fn batches_per_epoch(&self) -> u64 {
        match self.order {
            Order::Shuffled => self.len / self.per_batch,
            _ => self.len.div_ceil(self.per_batch),
        }
    }

    /// Where the batch at `cursor` starts, how many samples it has, and where the next one starts;
    /// `None` when the order has ended.
    fn batch_at(&self, cursor: Cursor) -> Option<(Cursor, u64, Cursor)> {
        let left = self.len.saturating_sub(cursor.position);
        if let Order::Shuffled = self.order {
            let start = if left < self.per_batch {
                Cursor { epoch: cursor.epoch + 1, position: 0 }
            } else {
                cursor
            };
            let mut after = Cursor { position: start.position + self.per_batch, ..start };
            if self.len - after.position < self.per_batch {
                after = Cursor { epoch: start.epoch + 1, position: 0 };
            }
            return Some((start, self.per_batch, after));
        }
        let count = left.min(self.per_batch);
        let after = Cursor { position: cursor.position + count, ..cursor };
        (count > 0 && cursor.epoch == 0).then_some((cursor, count, after))
    }

    /// Numbers of the samples `from..from + count` of the epoch and the epoch they are drawn in.
    fn samples(&self, epoch: u32, from: u64, count: u64) -> (u32, Vec<u64>) {
        let range = from..from + count;
        match &self.order {
            Order::Shuffled => {
                let order = Permutation::new(self.len, self.seed, epoch);
                (epoch, range.map(|position| order.at(position)).collect())
            }
            Order::Sequential => (epoch, range.collect()),
            Order::Listed { samples, .. } => {
                (self.listed_epoch, samples[range.start as usize..range.end as usize].to_vec())
            }
        }
    }
}

/// The thread that reserves rows: taking a free slot is the back-pressure.
struct Dispatcher {
    shared: Arc<Shared>,
    layout: Arc<BatchLayout>,
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
        let mut cursor = from;
        let mut sequence = 0;
        while let Some((start, count, after)) = self.schedule.batch_at(cursor) {
            let Some(memory) = self.shared.counters.time(Timer::SlotWait, || self.free_slot())
            else {
                return;
            };
            if self.fill(memory, sequence, start, count, after).is_none() {
                return;
            }
            sequence += 1;
            cursor = after;
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
    fn fill(
        &self,
        memory: SlotMemory,
        sequence: u64,
        start: Cursor,
        count: u64,
        after: Cursor,
    ) -> Option<()> {
        // Equal parts of a full batch; of a partial last batch whatever falls into this part.
        let part = self.schedule.per_batch / self.world;
        let first = (self.rank * part).min(count);
        let mine = part.min(count - first);
        let (epoch, samples) = self.schedule.samples(start.epoch, start.position + first, mine);
        let repeats = usize::from(self.shared.recipe.repeats());
        let filling = Arc::new(Filling {
            memory,
            layout: Arc::clone(&self.layout),
            sequence,
            rows: samples.len() * repeats,
            epoch,
            after,
            pending: AtomicUsize::new(samples.len()),
            failure: Mutex::new(None),
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
                Ticket { sample, epoch, rows }
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
    workers: usize,
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
        self.shared.counters.snapshot(self.workers)
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
        let batch = Batch::new(filling, self.free.clone());
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
