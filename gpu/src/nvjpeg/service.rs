//! One decoder for many threads: what waits is decoded together.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tubelet_core::{Rect, Size, Yuv};

use super::{JpegDecoder, JpegPlanes, JpegRequest};
use crate::context::Gpu;
use crate::error::GpuError;

/// Most files of one batch.
pub const MAX_BATCH: usize = 64;

/// A file that a thread waits for.
struct Job {
    encoded: Vec<u8>,
    size: Size,
    yuv: Yuv,
    region: Option<Rect>,
    answer: Sender<Result<JpegPlanes, GpuError>>,
}

/// A thread that decodes the files of others in batches: as many at once as came while the batch
/// before was decoded. A file's planes do not depend on its batch.
pub struct JpegService {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    has_engines: bool,
}

impl JpegService {
    /// Starts it, with a stream of its own.
    ///
    /// # Errors
    /// As [`JpegDecoder::new`], or when the thread cannot be started.
    pub fn start(gpu: &Gpu) -> Result<Self, GpuError> {
        let stream = gpu.context().new_stream().map_err(GpuError::driver("make a stream"))?;
        let decoder = JpegDecoder::new(gpu, &stream)?;
        let has_engines = decoder.has_engines();
        let (jobs, queue) = unbounded();
        let thread = std::thread::Builder::new()
            .name("tubelet-nvjpeg".to_owned())
            .spawn(move || serve(decoder, &queue))
            .map_err(GpuError::Thread)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), has_engines })
    }

    /// Whether the device has JPEG engines.
    pub fn has_engines(&self) -> bool {
        self.has_engines
    }

    /// The planes of a whole file with this header, at least of `region`; waits for them. They may be
    /// read on any stream of the device, and must not be dropped before that is done.
    ///
    /// # Errors
    /// When the device does not decode it, or fails.
    pub fn decode(
        &self,
        encoded: &[u8],
        size: Size,
        yuv: Yuv,
        region: Option<Rect>,
    ) -> Result<JpegPlanes, GpuError> {
        let ended = || GpuError::Nvjpeg { doing: "decode", answer: "its thread has ended" };
        let (answer, planes) = bounded(1);
        let job = Job { encoded: encoded.to_vec(), size, yuv, region, answer };
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).map_err(|_| ended())?;
        planes.recv().map_err(|_| ended())?
    }
}

impl Drop for JpegService {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of nvJPEG panicked");
        }
    }
}

fn serve(mut decoder: JpegDecoder, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let jobs: Vec<Job> =
            std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH - 1)).collect();
        let requests: Vec<_> = jobs.iter().map(Job::request).collect();
        match decoder.decode(&requests) {
            // Who no longer waits is gone.
            Ok(planes) => jobs.iter().zip(planes).for_each(|(job, p)| drop(job.answer.send(p))),
            Err(error) => {
                tracing::warn!("a batch of JPEG files failed on the device: {error}");
                let answer = "the device failed";
                for job in &jobs {
                    drop(job.answer.send(Err(GpuError::Nvjpeg { doing: "decode", answer })));
                }
            }
        }
    }
}

impl Job {
    fn request(&self) -> JpegRequest<'_> {
        let Self { size, yuv, region, .. } = *self;
        JpegRequest { encoded: &self.encoded, size, yuv, region }
    }
}
