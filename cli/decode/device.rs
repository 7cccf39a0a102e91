//! Rows made on the device: JPEG by nvJPEG, videos by NVDEC, cut by a kernel, straight to the slot's place
//! there ([`twin`]), or copied to the slot where it has none.
//!
//! What the device does not decode goes to the processor, one sample at a time, and is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tubelet_augment::Recipe;
use tubelet_augment::plan::{Scratch, ViewPlan};
use tubelet_augment::resample::planes::Held;
use tubelet_core::{Chroma, HostMemory, MediaInfo, Rect, Yuv};
use tubelet_formats::decode::hw::{CudaQueue, DeviceFrame, HwVideoDecoder};
use tubelet_formats::decode::jpeg;
use tubelet_formats::{DecodeError, MediaKind, sniff};
use tubelet_gpu::kernels::{Address, CropBatch, PlaneLayout};
use tubelet_gpu::memory::DeviceBuffer;
use tubelet_gpu::{Cropper, Gpu, JpegPlanes, JpegService, Kernels, Nv12Clip, PinnedMemory, twin};
use tubelet_loader::maker::HostMaker;
use tubelet_loader::{Planned, RowMaker, Rows, SampleErrorKind};

/// What all makers share.
pub(crate) struct Device {
    gpu: Gpu,
    kernels: Arc<Kernels>,
    /// Or why there is none.
    jpeg: Result<JpegService, String>,
    pub(crate) tally: Arc<Tally>,
}

/// How many samples were decoded where.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    device: AtomicU64,
    fallen_back: AtomicU64,
    first_reason: Mutex<Option<String>>,
}

impl Tally {
    fn fell_back(&self, reason: String) {
        tracing::debug!("decoded on the processor instead: {reason}");
        self.fallen_back.fetch_add(1, Ordering::Relaxed);
        self.reason().get_or_insert(reason);
    }

    /// Samples decoded on the device, and on the processor although the device was asked.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.device.load(Ordering::Relaxed), self.fallen_back.load(Ordering::Relaxed))
    }

    /// Why the first one was decoded on the processor.
    pub(crate) fn first_reason(&self) -> Option<String> {
        self.reason().clone()
    }

    fn reason(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.first_reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device {
    /// Loads the kernels on `gpu`, and nvJPEG where it is.
    pub(crate) fn new(gpu: Gpu) -> Result<Self, tubelet_gpu::GpuError> {
        let kernels = Arc::new(Kernels::load(&gpu)?);
        let jpeg = JpegService::start(&gpu).map_err(|e| e.to_string());
        Ok(Self { gpu, kernels, jpeg, tally: Arc::default() })
    }

    /// Memory for slots with a place on the device each.
    pub(crate) fn memory(&self) -> Box<dyn HostMemory> {
        match PinnedMemory::new(&self.gpu).with_twins(&self.gpu) {
            Ok(memory) => Box::new(memory),
            Err(error) => {
                tracing::warn!("rows made on the device come back to the slot: {error}");
                Box::new(PinnedMemory::new(&self.gpu))
            }
        }
    }

    /// Whether it decodes media of this kind at all, or why not.
    pub(crate) fn able(&self, kind: MediaKind) -> Result<(), String> {
        match kind {
            MediaKind::Jpeg => self.jpeg.as_ref().map(|_| ()).map_err(Clone::clone),
            MediaKind::Video => {
                let cropper = Cropper::new(&self.gpu, &self.kernels).map_err(|e| e.to_string())?;
                video_decoder(&cropper).map(|_| ()).map_err(|e| e.to_string())
            }
            MediaKind::Image => Err("PNG, WebP, BMP and GIF are for the processor".to_owned()),
        }
    }
}

/// NVDEC on the cropper's own stream.
fn video_decoder(cropper: &Cropper) -> Result<HwVideoDecoder, DecodeError> {
    let (context, stream) = cropper.handles();
    // SAFETY: both are live, and whoever keeps the decoder keeps the cropper longer (`DeviceMaker`
    // has its fields in that order).
    unsafe { HwVideoDecoder::new(CudaQueue { context, stream }) }
}

/// Decoded frames on the device.
enum Frames {
    Jpeg(JpegPlanes),
    Video(Nv12Clip, Yuv),
}

impl Frames {
    fn held(&self) -> Held {
        match self {
            Self::Jpeg(planes) => planes.held,
            Self::Video(clip, yuv) => {
                let size = clip.size();
                let chroma = Rect::full(Chroma::HalfBoth.size(size));
                Held { size, region: Rect::full(size), chroma, yuv: *yuv }
            }
        }
    }

    fn layout(&self) -> PlaneLayout {
        match self {
            Self::Jpeg(planes) => planes.layout,
            Self::Video(clip, _) => clip.layout(),
        }
    }

    fn planes(&self, slot: usize) -> [Address; 3] {
        match self {
            Self::Jpeg(planes) => planes.planes,
            Self::Video(clip, _) => clip.planes(slot),
        }
    }
}

/// Makes rows on the device where it may and can, else on the host.
pub(crate) struct DeviceMaker {
    device: Arc<Device>,
    tally: Arc<Tally>,
    /// Kinds of media that go to the device.
    kinds: Vec<MediaKind>,
    host: HostMaker,
    headers: jpeg::JpegDecoder,
    // Before the cropper, whose stream it uses: fields are dropped in this order.
    videos: Option<HwVideoDecoder>,
    cropper: Option<Cropper>,
    /// Of the sample that was decoded last, where that was on the device.
    frames: Option<Frames>,
    batch: CropBatch,
    scratch: Scratch,
    pictures: u64,
    rendered_there: bool,
}

impl DeviceMaker {
    /// A maker whose samples are counted by `tally`.
    pub(crate) fn new(device: &Arc<Device>, kinds: Vec<MediaKind>, tally: &Arc<Tally>) -> Self {
        Self {
            device: Arc::clone(device),
            tally: Arc::clone(tally),
            kinds,
            host: HostMaker::default(),
            headers: jpeg::JpegDecoder::new(),
            videos: None,
            cropper: None,
            frames: None,
            batch: CropBatch::new(),
            scratch: Scratch::default(),
            pictures: 0,
            rendered_there: false,
        }
    }

    /// Whether the rows that were rendered last were made on the device.
    pub(crate) fn rendered_there(&self) -> bool {
        self.rendered_there
    }

    fn cropper(&mut self) -> Result<&Cropper, String> {
        if self.cropper.is_none() {
            let made = Cropper::new(&self.device.gpu, &self.device.kernels);
            self.cropper = Some(made.map_err(|e| e.to_string())?);
        }
        self.cropper.as_ref().ok_or_else(|| "no stream".to_owned())
    }

    /// Decodes the sample on the device, or says why not.
    fn decode_there(&mut self, kind: MediaKind, sample: &Planned<'_>) -> Result<Frames, String> {
        let views = sample.plans.iter().flat_map(|plan| &plan.views);
        if !views.clone().all(|view| view.is_cut()) {
            return Err("colours of the whole source frame".to_owned());
        }
        match kind {
            MediaKind::Jpeg => self.decode_jpeg(sample),
            _ => self.decode_video(sample),
        }
    }

    fn decode_jpeg(&mut self, sample: &Planned<'_>) -> Result<Frames, String> {
        let service = self.device.jpeg.as_ref().map_err(Clone::clone)?;
        let form = self.headers.form(sample.encoded).map_err(|e| e.to_string())?;
        let (size, yuv) =
            form.ok_or("a JPEG file that is not grey or Y'CbCr in 4:4:4, 4:2:2 or 4:2:0")?;
        if size != sample.info.size {
            return Err(format!("a picture of {size} where {} is promised", sample.info.size));
        }
        if sample.frames.iter().any(|frame| *frame > 0) {
            return Err("a second frame of a picture".to_owned());
        }
        let planes = service.decode(sample.encoded, size, yuv, sample.region);
        self.pictures += 1;
        Ok(Frames::Jpeg(planes.map_err(|e| e.to_string())?))
    }

    fn decode_video(&mut self, sample: &Planned<'_>) -> Result<Frames, String> {
        if sample.info.codec == "mjpeg" {
            return Err("a video of JPEG pictures".to_owned());
        }
        let memory = Arc::clone(self.cropper()?.memory());
        if self.videos.is_none() {
            self.videos = Some(video_decoder(self.cropper()?).map_err(|e| e.to_string())?);
        }
        let decoder = self.videos.as_mut().ok_or("no decoder")?;
        let clip = Nv12Clip::new(&memory, sample.info.size, sample.frames.len());
        let (mut clip, mut coded) = (clip.map_err(|e| e.to_string())?, None);
        let mut keep = |frame: &DeviceFrame| {
            if coded.replace(frame.yuv).is_some_and(|yuv| yuv != frame.yuv) {
                return Err(DecodeError::Hardware("colours change within the clip".to_owned()));
            }
            // SAFETY: the decoder lends planes as large as the clip's size, ready on this stream.
            unsafe { clip.store(frame.slot, frame.planes.map(Address), frame.pitch) }
                .map_err(|e| DecodeError::Hardware(e.to_string()))
        };
        let before = decoder.frames_decoded();
        let done = decoder.decode(sample.encoded, sample.info, sample.frames, &mut keep);
        self.pictures += decoder.frames_decoded() - before;
        done.map_err(|e| e.to_string())?;
        Ok(Frames::Video(clip, coded.ok_or("no frame came out")?))
    }

    /// Cuts all views of all rows in one launch, and writes them to the rows with all that is not pixels.
    fn cut(
        &mut self,
        recipe: &Recipe,
        sample: &Planned<'_>,
        frames: &Frames,
        rows: &mut dyn Rows,
    ) -> Result<(), String> {
        let bytes_of = |view: &ViewPlan| view.frames.len() * view.out.area() * 3;
        let views = || sample.plans.iter().flat_map(|plan| &plan.views);
        let memory = Arc::clone(self.cropper()?.memory());
        // All views of all rows have a place beside the slot, or none. Colours are changed on the host.
        let mut outs = Vec::new();
        if views().all(|view| view.colors.is_none()) {
            for (n, plan) in sample.plans.iter().enumerate() {
                let mut row = rows.row(n);
                outs.extend((0..plan.views.len()).map_while(|view| twin::place(row.pixels(view))));
            }
        }
        let pixels = if outs.len() == views().count() {
            None
        } else {
            let pixels = DeviceBuffer::new(&memory, views().map(bytes_of).sum());
            let pixels = pixels.map_err(|e| e.to_string())?;
            let mut end = pixels.address().0;
            let start = |view| {
                end += bytes_of(view) as u64;
                Address(end - bytes_of(view) as u64)
            };
            outs = views().map(start).collect();
            Some(pixels)
        };
        let stays = pixels.is_none();
        let (held, layout) = (frames.held(), frames.layout());
        self.batch.clear();
        for (view, start) in views().zip(outs) {
            let mut out = start.0;
            let geometry = self.batch.planes(&held, layout, &view.cut(held.size));
            let geometry = geometry.map_err(|e| e.to_string())?;
            for frame in &view.frames {
                let slot = sample.frames.binary_search(frame);
                let slot = slot.map_err(|_| format!("frame {frame} was not asked for"))?;
                self.batch.frame(geometry, frames.planes(slot), Address(out));
                out += view.out.area() as u64 * 3;
            }
        }
        let cropper = self.cropper.as_ref().ok_or("no stream")?;
        // SAFETY: the frames are held until this returns, complete (both decoders waited), and the
        // outputs lie one after the other inside `pixels`, which has room for all, or at the rows' own
        // places, which live as long as the slot.
        let cut = unsafe { cropper.start(&self.batch, pixels) }.map_err(|e| e.to_string())?;
        if stays {
            cut.finish().map_err(|e| e.to_string())?;
            for (n, plan) in sample.plans.iter().enumerate() {
                recipe.finish(plan, &mut self.scratch, &mut rows.row(n));
                rows.leave(n);
            }
            return Ok(());
        }
        let mut offset = 0;
        for (n, plan) in sample.plans.iter().enumerate() {
            let mut row = rows.row(n);
            for (index, view) in plan.views.iter().enumerate() {
                cut.fetch(offset, row.pixels(index)).map_err(|e| e.to_string())?;
                offset += bytes_of(view);
            }
            recipe.finish(plan, &mut self.scratch, &mut row);
        }
        Ok(())
    }
}

impl RowMaker for DeviceMaker {
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        self.host.probe(encoded)
    }

    fn decode(&mut self, recipe: &Recipe, sample: &Planned<'_>) -> Result<(), SampleErrorKind> {
        self.frames = None;
        let kind = sniff(sample.encoded).filter(|kind| self.kinds.contains(kind));
        let Some(kind) = kind else { return self.host.decode(recipe, sample) };
        match self.decode_there(kind, sample) {
            Ok(frames) => {
                self.frames = Some(frames);
                Ok(())
            }
            Err(reason) => {
                self.tally.fell_back(reason);
                self.host.decode(recipe, sample)
            }
        }
    }

    fn render(
        &mut self,
        recipe: &Recipe,
        sample: &Planned<'_>,
        rows: &mut dyn Rows,
    ) -> Result<(), SampleErrorKind> {
        self.rendered_there = false;
        let Some(frames) = self.frames.take() else {
            return self.host.render(recipe, sample, rows);
        };
        match self.cut(recipe, sample, &frames, rows) {
            Ok(()) => {
                self.rendered_there = true;
                self.tally.device.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(reason) => {
                self.tally.fell_back(reason);
                self.host.decode(recipe, sample)?;
                self.host.render(recipe, sample, rows)
            }
        }
    }

    fn frames_decoded(&self) -> u64 {
        self.pictures + self.host.frames_decoded()
    }
}
