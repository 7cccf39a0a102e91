//! Slots: the memory of a batch while it is filled and while it is used.
//!
//! The only `unsafe` of this crate is here: several workers write disjoint rows of one buffer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use tubelet_core::{BatchKey, BatchLayout, BatchRef, HostBuf, RowMut};

use crate::error::LoaderError;
use crate::maker::{RowMakers, Rows};
use crate::order::Cursor;

/// Memory of one batch, reused for ever.
pub(crate) type SlotMemory = Arc<HostBuf>;

/// A batch while its rows are being written.
pub(crate) struct Filling {
    pub(crate) memory: SlotMemory,
    pub(crate) layout: Arc<BatchLayout>,
    /// Number of the batch in the order of delivery, from 0.
    pub(crate) sequence: u64,
    pub(crate) rows: usize,
    pub(crate) key: BatchKey,
    pub(crate) bucket: Option<usize>,
    pub(crate) after: Cursor,
    /// Row groups not yet committed or dropped.
    pub(crate) pending: AtomicUsize,
    pub(crate) failure: Mutex<Option<LoaderError>>,
    /// Rows whose pixels the maker left elsewhere.
    pub(crate) elsewhere: Box<[AtomicBool]>,
}

/// The exclusive right to write the rows of one sample in one slot. Dropped without
/// [`SlotRows::commit`], the rows have failed and so has their batch.
pub(crate) struct SlotRows {
    filling: Arc<Filling>,
    first: usize,
    count: usize,
    done: Sender<Arc<Filling>>,
    failure: Option<LoaderError>,
}

impl SlotRows {
    /// Rows `first..first + count` of `filling`, to be reported to `done` when they were the last.
    ///
    /// The caller hands out every row once: the dispatcher cuts a slot into consecutive groups.
    pub(crate) fn new(
        filling: Arc<Filling>,
        first: usize,
        count: usize,
        done: Sender<Arc<Filling>>,
    ) -> Self {
        let end = first + count;
        assert!(end <= filling.layout.batch_size as usize, "row {end} of the slot");
        Self { filling, first, count, done, failure: Some(LoaderError::Ended) }
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The `n`-th of these rows.
    pub(crate) fn row(&mut self, n: usize) -> RowMut<'_> {
        assert!(n < self.count, "row {n} of {}", self.count);
        // SAFETY: the slot's buffer has at least the layout's bytes and lives as long as `filling`.
        // This value is the only one for its rows (see `new`), `&mut self` makes the access
        // exclusive, and no `Batch` reads the buffer before every group was dropped.
        unsafe {
            RowMut::from_raw(&self.filling.layout, self.filling.memory.as_ptr(), self.first + n)
        }
    }

    /// What an earlier attempt left elsewhere does not count.
    pub(crate) fn start_over(&mut self) {
        let rows = &self.filling.elsewhere[self.first..self.first + self.count];
        rows.iter().for_each(|row| row.store(false, Ordering::Relaxed));
    }

    /// The rows are written.
    pub(crate) fn commit(mut self) {
        self.failure = None;
    }

    /// The rows cannot be written.
    pub(crate) fn fail(mut self, error: LoaderError) {
        self.failure = Some(error);
    }
}

impl Rows for SlotRows {
    fn row(&mut self, n: usize) -> RowMut<'_> {
        SlotRows::row(self, n)
    }

    fn leave(&mut self, n: usize) {
        assert!(n < self.count, "row {n} of {}", self.count);
        self.filling.elsewhere[self.first + n].store(true, Ordering::Relaxed);
    }
}

impl Drop for SlotRows {
    fn drop(&mut self) {
        if let Some(error) = self.failure.take() {
            let mut failure = self.filling.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(error);
        }
        // AcqRel: the thread that sees the last group also sees what the others wrote.
        if self.filling.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            // A loader that is shutting down no longer listens; the slot is dropped then.
            let _ = self.done.send(Arc::clone(&self.filling));
        }
    }
}

/// A full batch. It owns its slot; dropping it is what lets the loader go on.
pub struct Batch {
    filling: Arc<Filling>,
    /// Rows whose pixels are not in the slot.
    elsewhere: Box<[bool]>,
    makers: Arc<dyn RowMakers>,
    free: Sender<SlotMemory>,
}

impl Batch {
    pub(crate) fn new(
        filling: Arc<Filling>,
        makers: Arc<dyn RowMakers>,
        free: Sender<SlotMemory>,
    ) -> Self {
        debug_assert_eq!(filling.pending.load(Ordering::Acquire), 0);
        let elsewhere = filling.elsewhere.iter().map(|row| row.load(Ordering::Relaxed)).collect();
        Self { filling, elsewhere, makers, free }
    }

    /// Its rows. Pixels that a maker left elsewhere ([`Rows::leave`]) can be read after
    /// [`Self::to_host`].
    pub fn as_ref(&self) -> BatchRef<'_> {
        let Filling { layout, memory, rows, key, .. } = self.filling.as_ref();
        let batch = BatchRef::new(layout, memory.as_slice(), *rows).keyed(*key);
        batch.with_elsewhere(&self.elsewhere)
    }

    /// Brings pixels that a maker left elsewhere to the slot.
    ///
    /// # Errors
    /// When the maker's device fails.
    pub fn to_host(&mut self) -> Result<(), LoaderError> {
        let Filling { layout, memory, .. } = self.filling.as_ref();
        for row in (0..self.elsewhere.len()).filter(|row| self.elsewhere[*row]) {
            // SAFETY: the slot's buffer has at least the layout's bytes and lives as long as `filling`.
            // All groups of rows were dropped, this batch has the slot for itself, and `&mut self` means
            // that nobody looks at its rows.
            let mut row = unsafe { RowMut::from_raw(layout, memory.as_ptr(), row) };
            for view in 0..layout.views.len() {
                self.makers.fetch(row.pixels(view)).map_err(LoaderError::Fetch)?;
            }
        }
        self.elsewhere.fill(false);
        Ok(())
    }

    /// Epoch its samples belong to.
    pub fn epoch(&self) -> u32 {
        self.filling.key.epoch
    }

    /// Its aspect-ratio bucket, where the recipe has any.
    pub fn bucket(&self) -> Option<usize> {
        self.filling.bucket
    }

    /// Where to go on after this batch.
    pub fn cursor(&self) -> Cursor {
        self.filling.after
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Without a listener the loader is gone and the memory is freed with it.
        let _ = self.free.send(Arc::clone(&self.filling.memory));
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("key", &self.filling.key)
            .field("rows", &self.filling.rows)
            .field("cursor", &self.filling.after)
            .finish()
    }
}
