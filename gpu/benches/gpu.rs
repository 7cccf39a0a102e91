//! How fast the kernels are: bytes that each must at least move, over the time it takes, as a share
//! of what a copy inside the device's memory reaches. Refuses to run without a GPU.
//!
//! `cargo bench -p tubelet-gpu`; `--json` prints one object, `--device` the device alone.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::ExitCode;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result, sys};
use tubelet_augment::erase::EraseMode;
use tubelet_augment::mix::Mix;
use tubelet_augment::normalise::IMAGENET;
use tubelet_augment::resample::Filter;
use tubelet_augment::resample::planes::{Cut, Held, Kernel};
use tubelet_augment::target::hog::HogSpec;
use tubelet_augment::target::pixels::{PatchNorm, PixelOrder};
use tubelet_core::{Chroma, HostMemory, PatchSize, Rect, Size, Upsampling, Yuv, YuvMatrix};
use tubelet_gpu::context::Kernels;
use tubelet_gpu::kernels::{
    Address, Boxes, Change, ColorRow, CropBatch, DType, FloatBatch, IndexLists, Launch, PairMix,
    PatchNormSpec, PatchOrder, Pixels, PlaneLayout, PlaneOrder, Source, TokenList, cells_len,
    color, erase, flags, hog, indices, line_table, mix, patch_norm, patches, picture,
    picture_cells, planes, target_table,
};
use tubelet_gpu::memory::{DeviceBuffer, DeviceMemory};
use tubelet_gpu::{Gpu, GpuError, PinnedMemory};

/// Runs before and while the clock runs.
const WARM_UP: u32 = 3;
const RUNS: u32 = 20;
/// Bytes of the copies that bandwidths are measured with: beyond every cache.
const COPY_BYTES: usize = 1 << 30;
/// VideoMAE's batch: 32 clips of 16 frames; 1408 of 1568 tokens hidden.
const CLIPS: Pixels =
    Pixels { address: Address::NULL, rows: 32, frames: 16, size: Size { width: 224, height: 224 } };
const TUBELET: PatchSize = PatchSize { t: 2, h: 16, w: 16 };
const HIDDEN: u32 = 1408;
/// MaskFeat's batch: 256 pictures, all 196 tokens.
const PICTURES: Pixels = Pixels { rows: 256, frames: 1, ..CLIPS };
const PATCH: PatchSize = PatchSize { t: 1, h: 16, w: 16 };

/// One line of the table.
struct Line {
    name: String,
    bytes: u64,
    seconds: f64,
}

/// The device and what all kernels share.
struct Bench {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    memory: Arc<DeviceMemory>,
    lines: Vec<Line>,
}

fn main() -> ExitCode {
    let json = std::env::args().any(|a| a == "--json");
    let gpu = match Gpu::probe() {
        Ok(gpu) => gpu,
        Err(reason) => {
            eprintln!("bench gpu: {reason}");
            return ExitCode::from(2);
        }
    };
    if std::env::args().any(|a| a == "--device") {
        println!("{}, compute capability {}", gpu.name(), gpu.capability());
        return ExitCode::SUCCESS;
    }
    match run(&gpu) {
        Ok((copy, lines)) if json => print_json(&gpu, &copy, &lines),
        Ok((copy, lines)) => print_table(&gpu, &copy, &lines),
        Err(error) => {
            eprintln!("bench gpu: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The copy inside the device, and everything else.
fn run(gpu: &Gpu) -> Result<(Line, Vec<Line>), GpuError> {
    let stream = gpu.context().new_stream().map_err(driver("make a stream"))?;
    let memory = DeviceMemory::new(&stream)?;
    let mut bench = Bench { kernels: Kernels::load(gpu)?, stream, memory, lines: Vec::new() };
    let copy = bench.copy_inside()?;
    bench.copy_in(gpu)?;
    bench.lists()?;
    bench.inputs()?;
    bench.targets()?;
    bench.floats()?;
    bench.crops()?;
    Ok((copy, bench.lines))
}

fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> GpuError {
    move |source| GpuError::Driver { doing, source }
}

impl Bench {
    /// Seconds that one run of `work` takes on the device.
    fn time(&self, mut work: impl FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
        for _ in 0..WARM_UP {
            work()?;
        }
        let start = self.mark()?;
        for _ in 0..RUNS {
            work()?;
        }
        let end = self.mark()?;
        let ms = start.elapsed_ms(&end).map_err(driver("read a clock"))?;
        Ok(f64::from(ms) / 1e3 / f64::from(RUNS))
    }

    fn mark(&self) -> Result<CudaEvent, GpuError> {
        let flags = sys::CUevent_flags_enum::CU_EVENT_DEFAULT;
        self.stream.record_event(Some(flags)).map_err(driver("record an event"))
    }

    fn room(&self, bytes: u64) -> Result<DeviceBuffer, GpuError> {
        DeviceBuffer::new(&self.memory, bytes as usize)
    }

    /// `len` numbers that look random, the same in every run.
    fn noise<T: bytemuck::NoUninit>(
        &self,
        len: u64,
        make: impl Fn(u64) -> T,
    ) -> Result<DeviceBuffer, GpuError> {
        // The finaliser of SplitMix64.
        let mix = |i: u64| {
            let z = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i >> 30))
                .wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11
        };
        let values: Vec<T> = (0..len).map(|i| make(mix(i + 1))).collect();
        DeviceBuffer::from_slice(&self.memory, &values)
    }

    /// Bytes read and written by a copy from device memory to device memory.
    fn copy_inside(&self) -> Result<Line, GpuError> {
        let (a, b) = (self.room(COPY_BYTES as u64)?, self.room(COPY_BYTES as u64)?);
        let seconds = self.time(|| {
            // SAFETY: both buffers have the bytes and live until the clock was read.
            unsafe {
                let (to, from) = (a.address().0, b.address().0);
                result::memcpy_dtod_async(to, from, COPY_BYTES, self.stream.cu_stream())
            }
            .map_err(driver("copy"))
        })?;
        Ok(Line {
            name: "copy inside the device".to_owned(),
            bytes: 2 * COPY_BYTES as u64,
            seconds,
        })
    }

    /// The copy of page-locked bytes to the device.
    fn copy_in(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        let bytes = CLIPS.bytes();
        let there = self.room(bytes)?;
        let Ok(slot) = PinnedMemory::new(gpu).allocate(bytes as usize) else { return Ok(()) };
        let seconds = self.time(|| {
            // SAFETY: as above.
            unsafe {
                let to = there.address().0;
                result::memcpy_htod_async(to, slot.as_slice(), self.stream.cu_stream())
            }
            .map_err(driver("copy"))
        })?;
        self.lines.push(Line { name: "copy to the device".to_owned(), bytes, seconds });
        Ok(())
    }

    fn kernel(&mut self, name: &str, launch: &Launch) -> Result<(), GpuError> {
        let seconds = self.time(|| {
            // SAFETY: the callers keep the buffers of the launch until this returns, and the clock
            // is read after the last run.
            unsafe { self.kernels.run(launch, &self.stream) }
        })?;
        self.lines.push(Line { name: name.to_owned(), bytes: launch.traffic, seconds });
        Ok(())
    }

    /// Masks to flags and lists; small, so that what starting a kernel takes shows.
    fn lists(&mut self) -> Result<(), GpuError> {
        let (rows, tokens) = (4096, 1568);
        let mask: Vec<u8> =
            (0..rows).flat_map(|_| (0..tokens).map(|n| u8::from(n < HIDDEN))).collect();
        let mask = DeviceBuffer::from_slice(&self.memory, &mask)?;
        let room = |each: u32| self.room(u64::from(rows) * u64::from(each) * 4);
        let (visible, masked, counts) = (room(tokens - HIDDEN)?, room(HIDDEN)?, room(1)?);
        let out = room(tokens)?;
        let lists = IndexLists {
            visible: visible.address(),
            masked: masked.address(),
            masked_count: counts.address(),
            max_visible: tokens - HIDDEN,
            max_masked: HIDDEN,
        };
        let launch = indices(mask.address(), rows, tokens, 0, &lists)?;
        self.kernel(&format!("indices, {rows} rows"), &launch)?;
        let launch = flags(mask.address(), rows, tokens, 0, out.address())?;
        self.kernel(&format!("flags, {rows} rows"), &launch)
    }

    /// Decoded frames of 340 x 256 to 224 x 224: NV12, and planes with chroma in full.
    fn crops(&mut self) -> Result<(), GpuError> {
        let (size, frames) = (Size::new(340, 256), u64::from(CLIPS.rows * CLIPS.frames));
        let pitch = 512u32;
        let plane = u64::from(pitch) * u64::from(size.height);
        let source = self.noise(3 * plane * frames, |r| r as u8)?;
        let out = self.room(frames * CLIPS.size.area() as u64 * 3)?;
        let region = Rect { x: 40, y: 20, width: 240, height: 220 };
        let window = Rect::full(CLIPS.size);
        for (name, chroma) in [("NV12", Chroma::HalfBoth), ("4:4:4", Chroma::Full)] {
            let yuv = Yuv { chroma, upsampling: Upsampling::Repeat, matrix: YuvMatrix::JPEG };
            let whole = Rect::full(chroma.size(size));
            let held = Held { size, region: Rect::full(size), chroma: whole, yuv };
            let interleaved = chroma == Chroma::HalfBoth;
            let layout = PlaneLayout { luma_pitch: pitch, chroma_pitch: pitch, interleaved };
            for (how, kernel) in [
                ("bilinear", Kernel::Pillow(Filter::Bilinear)),
                ("bicubic", Kernel::Pillow(Filter::Bicubic)),
            ] {
                let cut = Cut { region, resized: CLIPS.size, window, kernel, flip: true };
                let mut batch = CropBatch::new();
                let geometry = batch.planes(&held, layout, &cut)?;
                for n in 0..frames {
                    let luma = source.address().0 + n * 3 * plane;
                    let next = if interleaved { luma + plane + 1 } else { luma + 2 * plane };
                    let planes = [luma, luma + plane, next].map(Address);
                    let to = out.address().0 + n * CLIPS.size.area() as u64 * 3;
                    batch.frame(geometry, planes, Address(to));
                }
                let tables = DeviceBuffer::from_slice(&self.memory, &batch.bytes())?;
                let launch = batch.launch(tables.address())?;
                self.kernel(&format!("crop_resize {name} {how}"), &launch)?;
            }
        }
        Ok(())
    }

    /// Bytes to planes and patches.
    fn inputs(&mut self) -> Result<(), GpuError> {
        let table = DeviceBuffer::from_slice(&self.memory, &IMAGENET.table())?;
        let bytes = self.noise(CLIPS.bytes(), |r| r as u8)?;
        let out = self.room(CLIPS.bytes() * 4)?;
        let pixels = Pixels { address: bytes.address(), ..CLIPS };
        let (source, to) = (Source::Bytes { table: table.address() }, out.address());
        let list = self.tokens(CLIPS.rows, HIDDEN)?;
        for (name, dtype) in [("f32", DType::F32), ("bf16", DType::Bf16), ("f16", DType::F16)] {
            for order in [PlaneOrder::ChannelFirst, PlaneOrder::FrameFirst] {
                let launch = planes(&pixels, source, order, dtype, to)?;
                self.kernel(&format!("planes {name} {order:?}"), &launch)?;
            }
            for order in [PatchOrder::ChannelFirst, PatchOrder::ChannelLast] {
                let list = Some(&list.tokens);
                let launch = patches(&pixels, source, TUBELET, list, order, dtype, to)?;
                self.kernel(&format!("patches {name} {order:?}"), &launch)?;
            }
        }
        Ok(())
    }

    /// Targets.
    fn targets(&mut self) -> Result<(), GpuError> {
        let table = DeviceBuffer::from_slice(&self.memory, &IMAGENET.table())?;
        let bytes = self.noise(CLIPS.bytes(), |r| r as u8)?;
        let out = self.room(CLIPS.bytes() * 4)?;
        let chosen = DeviceBuffer::from_slice(&self.memory, &(0..16u32).collect::<Vec<_>>())?;
        let list = self.tokens(CLIPS.rows, HIDDEN)?;
        let pixels = Pixels { address: bytes.address(), ..CLIPS };
        for norm in [PatchNorm::Raw, PatchNorm::Mae, PatchNorm::Videomae] {
            let values = DeviceBuffer::from_slice(&self.memory, &target_table(norm, &IMAGENET))?;
            let spec = PatchNormSpec {
                norm,
                patch: TUBELET,
                chosen: chosen.address(),
                per_slot: 2,
                order: PixelOrder::ChannelLast,
                normalise: IMAGENET,
            };
            let source = Source::Bytes { table: values.address() };
            let launch = patch_norm(&spec, &pixels, source, &list.tokens, out.address())?;
            self.kernel(&format!("patch_norm {norm:?}"), &launch)?;
        }
        let list = self.tokens(PICTURES.rows, 196)?;
        let floats = self.noise(PICTURES.bytes(), |r| (r % 4096) as f32 / 1024.0 - 2.0)?;
        let pixels = Pixels { address: bytes.address(), ..PICTURES };
        for (name, source) in [
            ("bytes", Source::Bytes { table: table.address() }),
            ("floats", Source::Floats(floats.address())),
        ] {
            let spec = HogSpec::new(9, 8);
            let to = out.address();
            let launch = hog(&spec, &pixels, source, Address::NULL, PATCH, &list.tokens, to)?;
            self.kernel(&format!("hog {name}, 256 pictures"), &launch)?;
        }
        let frames = u64::from(PICTURES.rows) * cells_len(PICTURES.size) as u64;
        let (cells, lines) = (self.room(frames * 4)?, line_table());
        let lines = DeviceBuffer::from_slice(&self.memory, &lines)?;
        let source = Source::Bytes { table: table.address() };
        let launch = picture_cells(&pixels, source, cells.address())?;
        self.kernel("picture_cells, 256 pictures", &launch)?;
        let (cells, lines, to) = (cells.address(), lines.address(), out.address());
        let launch = picture(&pixels, cells, lines, PATCH, &list.tokens, to)?;
        self.kernel("picture, 256 pictures", &launch)
    }

    /// Changes of a batch in floats.
    fn floats(&mut self) -> Result<(), GpuError> {
        let out = self.room(CLIPS.bytes() * 4)?;
        let half = Rect { x: 30, y: 30, width: 158, height: 158 };
        // Each row's noise and its one box.
        let field = |r: u32| [r, 0, half.x, half.y, half.width, half.height];
        let fields: Vec<u32> = (0..CLIPS.rows).flat_map(field).collect();
        let fields_there = DeviceBuffer::from_slice(&self.memory, &fields)?;
        let boxes = Boxes::of(&fields, CLIPS.rows as usize, CLIPS.size)?;
        let changes = [Change::Brightness(1.2), Change::Contrast(0.8), Change::Saturation(1.1)];
        let rows = vec![ColorRow::new(&changes)?; CLIPS.rows as usize];
        let rows_there = DeviceBuffer::from_slice(&self.memory, &rows)?;
        for (name, dtype) in [("f32", DType::F32), ("bf16", DType::Bf16), ("f16", DType::F16)] {
            let Pixels { rows, frames, size, .. } = CLIPS;
            let batch = FloatBatch { address: out.address(), dtype, rows, frames, size };
            let cut = Mix::Cutmix { region: half, lambda: 0.5 };
            for (what, way) in [("mixup", Mix::Mixup(0.4)), ("cutmix", cut)] {
                let mixes = vec![way; rows as usize];
                let pairs: Vec<PairMix> = PairMix::of_group(0..rows as usize, &mixes).collect();
                for launch in mix(&batch, &pairs)? {
                    self.kernel(&format!("{what} {name}"), &launch)?;
                }
            }
            if let Some(boxes) = &boxes {
                let (order, fields) = (PlaneOrder::ChannelFirst, fields_there.address());
                let launch = erase(&batch, order, EraseMode::Pixel, boxes, fields)?;
                self.kernel(&format!("erase {name}"), &launch)?;
            }
            let launch = color(&batch, rows_there.address(), &IMAGENET)?;
            self.kernel(&format!("color {name}"), &launch)?;
        }
        Ok(())
    }

    /// The first `count` tokens of each row.
    fn tokens(&self, rows: u32, count: u32) -> Result<List, GpuError> {
        let numbers: Vec<u32> = (0..rows).flat_map(|_| 0..count).collect();
        let address = DeviceBuffer::from_slice(&self.memory, &numbers)?;
        let counts = DeviceBuffer::from_slice(&self.memory, &vec![count; rows as usize])?;
        let tokens = TokenList { address: address.address(), count, counts: counts.address() };
        Ok(List { tokens, _memory: [address, counts] })
    }
}

/// A list and its memory.
struct List {
    tokens: TokenList,
    _memory: [DeviceBuffer; 2],
}

fn rate(line: &Line) -> f64 {
    line.bytes as f64 / line.seconds
}

fn print_table(gpu: &Gpu, copy: &Line, lines: &[Line]) {
    println!("{}, compute capability {}", gpu.name(), gpu.capability());
    println!("{:<28} {:>9} {:>10} {:>9} {:>7}", "", "MB", "µs", "GB/s", "share");
    for line in std::iter::once(copy).chain(lines) {
        println!(
            "{:<28} {:>9.1} {:>10.1} {:>9.1} {:>6.1}%",
            line.name,
            line.bytes as f64 / 1e6,
            line.seconds * 1e6,
            rate(line) / 1e9,
            100.0 * rate(line) / rate(copy)
        );
    }
}

fn print_json(gpu: &Gpu, copy: &Line, lines: &[Line]) {
    let items: Vec<String> = std::iter::once(copy)
        .chain(lines)
        .map(|l| {
            let share = rate(l) / rate(copy);
            format!(
                "{{\"name\":{:?},\"bytes\":{},\"seconds\":{:e},\"share\":{share:.4}}}",
                l.name, l.bytes, l.seconds
            )
        })
        .collect();
    println!(
        "{{\"device\":{:?},\"capability\":{},\"lines\":[{}]}}",
        gpu.name(),
        gpu.capability(),
        items.join(",")
    );
}
