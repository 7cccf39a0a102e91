//! Batches into a consumer's memory; skipped without a device.

use tubelet_augment::{HostStage, Stage};

use super::data::assert_close;
use super::device::gpu;
use super::plan::built_in;
use super::stage::{PLANES, Run};
use crate::memory::{DeviceBuffer, DeviceMemory};
use crate::{HandOver, Places};

/// The consumer's memory is used again and again; the next batch is on its way meanwhile.
#[test]
fn batches_arrive_in_a_consumers_memory() {
    let Some(gpu) = gpu() else { return };
    let fails = std::env::var("TUBELET_SIMULATED_FAILURE").is_ok_and(|f| f == "cuMemcpyDtoDAsync");
    let recipe = built_in("videomae-tiny", Stage::Pretrain, &[]);
    let (mut run, host) = (Run::new(&gpu, &recipe, PLANES), HostStage::new(&recipe));
    let mut hand_over = HandOver::new(&gpu).expect("a stream");
    let consumer = gpu.context().new_stream().expect("a stream");
    let memory = DeviceMemory::new(&consumer).expect("a pool");
    let mut next = Some(run.submit(&host, &recipe));
    let (_, want) = next.as_ref().expect("submitted");
    let room = |len: usize| DeviceBuffer::from_slice(&memory, &vec![-7f32; len]).expect("memory");
    let (input, targets) = (room(want.pixels.len()), room(want.targets.len()));
    for n in 0..6 {
        let Some((tensors, want)) = next.take() else { break };
        if n < 5 {
            next = Some(run.submit(&host, &recipe));
        }
        // Every second time the consumer does not want the targets.
        let wanted = n % 2 == 0;
        let places = Places { input: input.address(), targets: wanted.then(|| targets.address()) };
        // SAFETY: both are as large as the tensors; reading them below waited for all earlier work.
        let handed = unsafe { hand_over.copy(tensors, places) };
        if fails {
            let error = handed.expect_err("fails").to_string();
            assert!(error.contains("hand a batch over"), "{error}");
            continue;
        }
        handed.expect("hands over");
        // Of the consumer's own stream, which nobody told to wait.
        assert_eq!(input.to_vec::<f32>().expect("copies"), want.pixels, "batch {n}");
        if wanted {
            assert_close(&targets.to_vec::<f32>().expect("copies"), &want.targets, 1e-5);
        }
    }
    assert_eq!(hand_over.seconds() > 0.0, !fails);
    drop(next);
    run.end();
}
