//! The stage on a real device; skipped without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::result;
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage};
use tubelet_core::layout::BatchLayout;
use tubelet_core::{BatchRef, HostBuf, HostMemory};

use super::data::assert_close;
use super::device::gpu;
use super::plan::{KEY, ROWS, built_in, slot};
use crate::kernels::{DType, PatchOrder, PlaneOrder};
use crate::plan::{Input, StagePlan};
use crate::{DeviceStage, DeviceTensor, DeviceTensors, Gpu, PinnedMemory};

pub(super) const PLANES: Input = Input::Planes(PlaneOrder::ChannelFirst);

/// A slot that counts how often it was given back.
struct Slot {
    layout: BatchLayout,
    memory: HostBuf,
    /// Rows whose pixels are at the slot's place on the device.
    elsewhere: [bool; ROWS as usize],
    given_back: Arc<AtomicUsize>,
}

impl Slot {
    fn batch(&self) -> BatchRef<'_> {
        let batch = BatchRef::new(&self.layout, self.memory.as_slice(), ROWS as usize);
        batch.keyed(KEY).with_elsewhere(&self.elsewhere)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.given_back.fetch_add(1, Ordering::SeqCst);
    }
}

/// A stage and what goes in and out of it.
pub(super) struct Run {
    pub(super) stage: DeviceStage,
    memory: PinnedMemory,
    given_back: Arc<AtomicUsize>,
    submitted: usize,
}

impl Run {
    pub(super) fn new(gpu: &Gpu, recipe: &Recipe, input: Input) -> Self {
        let plan = StagePlan::new(recipe, input, DType::F32).expect("can be done");
        Self {
            stage: DeviceStage::new(gpu, plan).expect("a stage"),
            memory: PinnedMemory::new(gpu),
            given_back: Arc::default(),
            submitted: 0,
        }
    }

    /// A batch of `shape` on its way, and what the host makes of it.
    pub(super) fn submit(
        &mut self,
        host: &HostStage,
        shape: &Recipe,
    ) -> (DeviceTensors, HostTensors) {
        let (layout, heap) = slot(shape);
        let mut memory = self.memory.allocate(layout.bytes).expect("memory");
        memory.as_mut_slice().copy_from_slice(heap.as_slice());
        let given_back = Arc::clone(&self.given_back);
        let slot = Slot { layout, memory, elsewhere: Default::default(), given_back };
        let want = host.run(slot.batch());
        self.submitted += 1;
        (self.stage.submit(slot, Slot::batch).expect("submits"), want)
    }

    /// Every slot comes back, and was page-locked.
    pub(super) fn end(self) {
        let (start, want) = (Instant::now(), self.submitted);
        let given_back = || self.given_back.load(Ordering::SeqCst);
        while given_back() < want && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(given_back(), want, "slots that came back");
        assert_eq!(self.memory.allocated().1, 0, "slots on the heap");
        let copied = || self.stage.copies().read();
        while copied().0 < self.memory.allocated().0 as u64
            && start.elapsed() < Duration::from_secs(10)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(copied().0, self.memory.allocated().0 as u64, "bytes that were counted");
        assert!(copied().1 > 0.0);
    }
}

fn floats(tensor: &DeviceTensor) -> Vec<f32> {
    tensor.buffer().to_vec().expect("copies")
}

/// All but the input.
fn compare(got: &DeviceTensors, want: &HostTensors) {
    let numbers = |tensor: &DeviceTensor| tensor.buffer().to_vec::<u32>().expect("copies");
    let (batch, first) = (&got.batch, &got.batch.first);
    assert_eq!(numbers(&first.visible), want.visible);
    assert_eq!(numbers(&first.masked), want.masked);
    assert_eq!(numbers(&first.masked_count), want.masked_count);
    assert_close(&floats(&first.targets), &want.targets, 1e-5);
    for (pass, want) in batch.passes.iter().zip(&want.passes) {
        assert_eq!(numbers(&pass.masked), want.masked);
        assert_close(&floats(&pass.targets), &want.targets, 1e-5);
    }
    for (view, want) in batch.views.iter().zip(&want.views) {
        assert_eq!(floats(&view.pixels), want.pixels);
    }
    assert_eq!((batch.passes.len(), batch.views.len()), (want.passes.len(), want.views.len()));
    assert_eq!((&got.labels, &got.samples), (&want.labels, &want.samples));
    assert_eq!(got.mixed, want.mixed);
}

#[test]
fn batches_become_the_hosts_tensors_and_slots_come_back() {
    let Some(gpu) = gpu() else { return };
    let halves = r#"pretrain.mask={policy="halves"}"#;
    let views = r#"pretrain.views=[{resize="lanczos", size=32, normalise="none"}]"#;
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[halves, views]);
    let (mut run, host) = (Run::new(&gpu, &recipe, PLANES), HostStage::new(&recipe));
    let consumer = gpu.context().new_stream().expect("a stream");
    for _ in 0..5 {
        let (tensors, want) = run.submit(&host, &recipe);
        tensors.wait_on(&consumer).expect("orders");
        assert_eq!(floats(&tensors.batch.input), want.pixels);
        compare(&tensors, &want);
        tensors.release_after(&consumer).expect("orders");
    }
    run.end();
}

/// Batches are looked at long after the buffers that they came through were used again, or freed for
/// larger ones.
#[test]
fn batches_of_growing_shapes_keep_their_numbers() {
    let Some(gpu) = gpu() else { return };
    let phases = "pretrain.phases=[{from=0, shapes=[{frames=2, size=16}, {frames=4, size=32}]}, \
        {from=2, shapes=[{size=48}, {frames=6, size=32}]}]";
    let picture = r#"pretrain.target={kind="hog-picture"}"#;
    let recipe = built_in("videomae-tiny", Stage::Pretrain, &[phases, picture]);
    let (mut run, host) = (Run::new(&gpu, &recipe, PLANES), HostStage::new(&recipe));
    let shapes = || recipe.shapes().chain(recipe.shapes());
    let results: Vec<_> = shapes().map(|shape| run.submit(&host, shape)).collect();
    for (tensors, want) in &results {
        assert_eq!(floats(&tensors.batch.input), want.pixels);
        compare(tensors, want);
    }
    run.end();
}

#[test]
fn rows_are_erased_and_mixed_on_the_way() {
    let Some(gpu) = gpu() else { return };
    let augment = r#"finetune.augment={erase={probability=1.0, count=2, mode="pixel"},
        mixup=0.8, cutmix=1.0, mode="elem", smoothing=0.1}"#;
    let recipe = built_in("mae-tiny", Stage::Finetune, &["finetune.batch_size=6", augment]);
    let host = HostStage::new(&recipe);
    // In planes of its own, and in the input itself.
    for input in [Input::AllPatches(PatchOrder::ChannelFirst), PLANES] {
        let mut run = Run::new(&gpu, &recipe, input);
        let results: Vec<_> = (0..4).map(|_| run.submit(&host, &recipe)).collect();
        for (tensors, want) in &results {
            let got = floats(&tensors.batch.input);
            if input == PLANES {
                assert_close(&got, &want.pixels, 1e-5);
            }
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
            assert!((sum(&got) - sum(&want.pixels)).abs() < 1e-2, "{input:?}");
            compare(tensors, want);
        }
        run.end();
    }
}

/// Rows that were made on the device go from their places to the batch; the slot has other bytes.
#[test]
fn rows_at_their_place_on_the_device_are_the_batchs() {
    let Some(gpu) = gpu() else { return };
    let views = r#"pretrain.views=[{resize="lanczos", size=32, normalise="none"}]"#;
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[views]);
    let (mut run, host) = (Run::new(&gpu, &recipe, PLANES), HostStage::new(&recipe));
    let memory = PinnedMemory::new(&gpu).with_twins(&gpu).expect("a stream");
    let made = |elsewhere: [bool; ROWS as usize]| {
        let (layout, heap) = slot(&recipe);
        let mut memory = memory.allocate(layout.bytes).expect("memory");
        memory.as_mut_slice().copy_from_slice(heap.as_slice());
        for row in (0..ROWS as usize).filter(|row| elsewhere[*row]) {
            for view in &layout.views {
                let start = view.pixels.offset + row * view.pixels.row_bytes;
                let pixels = &mut memory.as_mut_slice()[start..][..view.pixels.row_bytes];
                move_to_its_place(&gpu, pixels);
            }
        }
        Slot { layout, memory, elsewhere, given_back: Arc::default() }
    };
    let patterns = [[false, true, true, false, true], [true, false, true, true, false]];
    for elsewhere in patterns.into_iter().chain([[true; 5], [false; 5]]) {
        let (layout, heap) = slot(&recipe);
        let want = host.run(BatchRef::new(&layout, heap.as_slice(), ROWS as usize).keyed(KEY));
        let tensors = run.stage.submit(made(elsewhere), Slot::batch).expect("submits");
        assert_eq!(floats(&tensors.batch.input), want.pixels, "{elsewhere:?}");
        compare(&tensors, &want);
    }
    // Of a slot without a place.
    let (layout, memory) = slot(&recipe);
    let slot = Slot { layout, memory, elsewhere: [true; 5], given_back: Arc::default() };
    let error = run.stage.submit(slot, Slot::batch).expect_err("nowhere").to_string();
    assert!(error.contains("place of a slot"), "{error}");
    run.stage.finish().expect("the batches before are whole");
}

/// Leaves other bytes in the slot.
fn move_to_its_place(gpu: &Gpu, pixels: &mut [u8]) {
    let place = crate::twin::place(pixels).expect("has a place");
    let stream = gpu.context().new_stream().expect("a stream");
    // SAFETY: the place has as many bytes, which are borrowed until the copy is done.
    let copied = unsafe { result::memcpy_htod_async(place.0, pixels, stream.cu_stream()) };
    stream.synchronize().expect("copies");
    copied.expect("copies");
    pixels.fill(0xAA);
}

/// Under a simulated driver whose call fails: an error, and the slot comes back all the same.
#[test]
fn failing_stages_give_errors_and_slots_back() {
    let Some(gpu) = gpu() else { return };
    if std::env::var("TUBELET_SIMULATED_FAILURE").unwrap_or_default().is_empty() {
        return;
    }
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[]);
    let plan = StagePlan::new(&recipe, PLANES, DType::F32).expect("can be done");
    let given_back = Arc::new(AtomicUsize::new(0));
    let (layout, memory) = slot(&recipe);
    match DeviceStage::new(&gpu, plan) {
        Err(error) => assert!(error.to_string().contains("allocate device memory"), "{error}"),
        Ok(mut stage) => {
            let (elsewhere, back) = (Default::default(), Arc::clone(&given_back));
            let slot = Slot { layout, memory, elsewhere, given_back: back };
            let error = stage.submit(slot, Slot::batch).expect_err("fails").to_string();
            assert!(error.contains("start a kernel") || error.contains("order streams"), "{error}");
            drop(stage);
            assert_eq!(given_back.load(Ordering::SeqCst), 1, "slots that came back");
        }
    }
}

#[test]
fn a_missing_gpu_is_explained() {
    if let Err(reason) = crate::Gpu::probe() {
        assert!(!reason.to_string().is_empty());
    }
    let error = crate::Gpu::open(9999).expect_err("no such device");
    let text = error.to_string();
    assert!(text.contains("9999") || text.contains("driver"), "{text}");
}
