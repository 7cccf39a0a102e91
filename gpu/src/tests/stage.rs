//! The stage on a real device; skipped without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tubelet_augment::{HostStage, Stage};
use tubelet_core::layout::BatchLayout;
use tubelet_core::{BatchRef, HostBuf, HostMemory};

use super::data::assert_close;
use super::device::gpu;
use super::plan::{built_in, slot};
use crate::kernels::{DType, PlaneOrder};
use crate::plan::{Input, StagePlan};
use crate::{DeviceStage, PinnedMemory};

/// A slot that counts how often it was given back.
struct Slot {
    layout: BatchLayout,
    memory: HostBuf,
    given_back: Arc<AtomicUsize>,
}

impl Slot {
    fn batch(&self) -> BatchRef<'_> {
        BatchRef::new(&self.layout, self.memory.as_slice(), 3)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.given_back.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn batches_become_the_hosts_tensors_and_slots_come_back() {
    let Some(gpu) = gpu() else { return };
    let recipe = built_in("videomae-tiny", Stage::Pretrain, &[]);
    let input = Input::Planes(PlaneOrder::ChannelFirst);
    let plan = StagePlan::new(&recipe, input, DType::F32).expect("can be done");
    let mut stage = DeviceStage::new(&gpu, plan).expect("a stage");
    let memory = PinnedMemory::new(&gpu);
    let given_back = Arc::new(AtomicUsize::new(0));
    let (layout, heap) = slot(&recipe);
    let want = HostStage::new(&recipe).run(BatchRef::new(&layout, heap.as_slice(), 3));
    let consumer = gpu.context().new_stream().expect("a stream");
    for _ in 0..5 {
        let mut pinned = memory.allocate(layout.bytes).expect("memory");
        pinned.as_mut_slice().copy_from_slice(heap.as_slice());
        let given_back = Arc::clone(&given_back);
        let slot = Slot { layout: layout.clone(), memory: pinned, given_back };
        let tensors = stage.submit(slot, Slot::batch).expect("submits");
        tensors.wait_on(&consumer).expect("orders");
        assert_eq!(tensors.input.buffer().to_vec::<f32>().expect("copies"), want.pixels);
        assert_eq!(tensors.masked.buffer().to_vec::<u32>().expect("copies"), want.masked);
        let targets = tensors.targets.buffer().to_vec::<f32>().expect("copies");
        assert_close(&targets, &want.targets, 1e-5);
        assert_eq!((&tensors.labels, &tensors.samples), (&want.labels, &want.samples));
        tensors.release_after(&consumer).expect("orders");
    }
    let start = Instant::now();
    while given_back.load(Ordering::SeqCst) < 5 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(given_back.load(Ordering::SeqCst), 5, "slots that came back");
    assert_eq!(memory.allocated().1, 0, "slots on the heap");
}

/// Under a simulated driver whose call fails: an error, and the slot comes back all the same.
#[test]
fn failing_stages_give_errors_and_slots_back() {
    let Some(gpu) = gpu() else { return };
    if std::env::var("TUBELET_SIMULATED_FAILURE").unwrap_or_default().is_empty() {
        return;
    }
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[]);
    let input = Input::Planes(PlaneOrder::ChannelFirst);
    let plan = StagePlan::new(&recipe, input, DType::F32).expect("can be done");
    let given_back = Arc::new(AtomicUsize::new(0));
    let (layout, memory) = slot(&recipe);
    match DeviceStage::new(&gpu, plan) {
        Err(error) => assert!(error.to_string().contains("allocate device memory"), "{error}"),
        Ok(mut stage) => {
            let slot = Slot { layout, memory, given_back: Arc::clone(&given_back) };
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
