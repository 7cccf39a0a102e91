//! Gives slots back when the device has copied them, and adds up how long that took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use cudarc::driver::CudaEvent;

use crate::error::GpuError;

/// Copies of slots to the device so far.
#[derive(Debug, Default)]
pub struct CopyClock {
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl CopyClock {
    /// Bytes copied from the host, and the seconds that the device was copying them.
    pub fn read(&self) -> (u64, f64) {
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        (self.bytes.load(Ordering::Relaxed), nanoseconds as f64 / 1e9)
    }

    /// Counts a copy that has ended.
    fn add(&self, copy: &Copied) {
        if let Ok(ms) = copy.start.elapsed_ms(&copy.crossed) {
            self.bytes.fetch_add(copy.bytes, Ordering::Relaxed);
            self.nanoseconds.fetch_add((f64::from(ms) * 1e6) as u64, Ordering::Relaxed);
        }
    }
}

/// A copy on its way: events before it, behind what comes from the host, and behind all of it.
pub(super) struct Copied {
    pub(super) start: CudaEvent,
    pub(super) crossed: CudaEvent,
    pub(super) end: Arc<CudaEvent>,
    /// From the host.
    pub(super) bytes: u64,
}

/// A slot that the device reads until the copy has ended.
type Held = (Copied, Box<dyn Send>);

/// The thread that waits.
pub(super) struct Release {
    held: Option<Sender<Held>>,
    clock: Arc<CopyClock>,
    thread: Option<JoinHandle<()>>,
}

impl Release {
    pub(super) fn start() -> Result<Self, GpuError> {
        // As many are under way as the loader has slots.
        let (send, receive) = unbounded::<Held>();
        let clock = Arc::new(CopyClock::default());
        let counted = Arc::clone(&clock);
        let work = move || {
            for (copied, slot) in receive {
                wait(&copied);
                drop(slot);
                counted.add(&copied);
            }
        };
        let thread = std::thread::Builder::new().name("tubelet-release".to_owned()).spawn(work);
        Ok(Self { held: Some(send), clock, thread: Some(thread.map_err(GpuError::Thread)?) })
    }

    /// The sum of all copies.
    pub(super) fn clock(&self) -> &Arc<CopyClock> {
        &self.clock
    }

    /// Drops `slot` when its copy has ended.
    pub(super) fn when_copied<S: Send + 'static>(&self, copied: Copied, slot: Box<S>) {
        let Some(held) = &self.held else { return };
        if let Err(unsent) = held.send((copied, slot)) {
            // The thread is gone; wait here.
            let (copied, slot) = unsent.into_inner();
            wait(&copied);
            drop(slot);
        }
    }
}

fn wait(copied: &Copied) {
    if let Err(error) = copied.end.synchronize() {
        tracing::error!("a copy to the device failed: {error}");
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.held = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that gives slots back panicked");
        }
    }
}
