//! Gives slots back when the device has copied them.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};
use cudarc::driver::CudaEvent;

use crate::error::GpuError;

/// A slot that the device reads until the event fires.
type Held = (Arc<CudaEvent>, Box<dyn Send>);

/// The thread that waits.
pub(super) struct Release {
    held: Option<Sender<Held>>,
    thread: Option<JoinHandle<()>>,
}

impl Release {
    pub(super) fn start() -> Result<Self, GpuError> {
        // As many are under way as the loader has slots.
        let (send, receive) = unbounded::<Held>();
        let work = move || {
            for (copied, slot) in receive {
                if let Err(error) = copied.synchronize() {
                    tracing::error!("a copy to the device failed: {error}");
                }
                drop(slot);
            }
        };
        let thread = std::thread::Builder::new().name("tubelet-release".to_owned()).spawn(work);
        Ok(Self { held: Some(send), thread: Some(thread.map_err(GpuError::Thread)?) })
    }

    /// Drops `slot` when `copied` has fired.
    pub(super) fn when_fired<S: Send + 'static>(&self, copied: Arc<CudaEvent>, slot: Box<S>) {
        let Some(held) = &self.held else { return };
        if let Err(unsent) = held.send((copied, slot)) {
            // The thread is gone; wait here.
            let (copied, slot) = unsent.into_inner();
            if let Err(error) = copied.synchronize() {
                tracing::error!("a copy to the device failed: {error}");
            }
            drop(slot);
        }
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
