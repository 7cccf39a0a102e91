//! Rows made on the simulated device, which stay there or come back.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tubelet_augment::{Stage, builtin};
use tubelet_core::{Heap, HostMemory};
use tubelet_formats::{MediaKind, OpenOptions, open};
use tubelet_gpu::{DeviceStage, DeviceTensor, Gpu, Input, StagePlan, kernels};
use tubelet_loader::{Batch, Cursor, Loader, LoaderConfig, RowMakers};

use super::device::Device;
use super::{DeviceMakers, HostMakers};

#[path = "../../gpu/src/tests/simulation.rs"]
mod simulation;

const BATCHES: usize = 4;

/// JPEG files of several sizes and forms.
fn pictures(root: &Path) {
    for n in 0..12u32 {
        let folder = root.join("train").join(format!("n{:08}", n % 3));
        std::fs::create_dir_all(&folder).expect("a folder");
        let pixel = |x, y| image::Rgb([x as u8, y as u8, (x * y + n) as u8]);
        let picture = image::RgbImage::from_fn(60 + 7 * n, 48 + 5 * n, pixel);
        let path = folder.join(format!("{n}.JPEG"));
        if n % 4 == 3 {
            image::DynamicImage::from(picture).to_luma8().save(path).expect("saves");
        } else {
            picture.save(path).expect("saves");
        }
    }
}

/// The first batches of `root` with slots of `memory`.
fn batches(root: &Path, makers: Arc<dyn RowMakers>, memory: &dyn HostMemory) -> Vec<Batch> {
    let overrides = ["pretrain.batch_size=3".to_owned()];
    let recipe = builtin::recipe("mae-tiny", &overrides).and_then(|r| r.stage(Stage::Pretrain));
    let shards = open(root, &OpenOptions::default()).expect("opens");
    let config = LoaderConfig { workers: 2, slots: BATCHES, ..LoaderConfig::default() };
    let loader = Loader::new(shards, Arc::new(recipe.expect("valid")), memory, config);
    let loader = loader.and_then(|l| l.with_makers(makers)).expect("a loader");
    let batches = loader.batches(Cursor::default()).expect("starts");
    batches.take(BATCHES).map(|batch| batch.expect("loads")).collect()
}

fn pixels(mut batch: Batch) -> Vec<u8> {
    batch.to_host().expect("comes");
    batch.as_ref().pixels(0).to_vec()
}

fn input(stage: &mut DeviceStage, batch: Batch) -> Vec<f32> {
    let floats = |tensor: &DeviceTensor| tensor.buffer().to_vec().expect("copies");
    floats(&stage.submit(batch, Batch::as_ref).expect("submits").batch.input)
}

#[test]
fn rows_that_stay_on_the_device_are_those_that_come_back() {
    if std::env::var_os(simulation::SIMULATED).is_none() {
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    pictures(root.path());
    let gpu = Gpu::probe().expect("the simulated one");
    let device = Arc::new(Device::new(gpu.clone()).expect("a device"));
    let makers = || -> Arc<DeviceMakers> {
        let decided = Mutex::new(vec![(MediaKind::Jpeg, true)]);
        Arc::new(DeviceMakers { device: Arc::clone(&device), measures: false, decided })
    };
    let come_back = batches(root.path(), makers(), &Heap);
    let all_elsewhere = |batches: &[Batch]| {
        let of = |batch: &Batch| (0..3).all(|row| batch.as_ref().is_elsewhere(row));
        batches.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(all_elsewhere(&come_back), [false; BATCHES]);
    let come_back: Vec<Vec<u8>> = come_back.into_iter().map(pixels).collect();
    let memory = makers().memory().expect("has places");
    let stay = || batches(root.path(), makers(), memory.as_ref());
    assert_eq!(all_elsewhere(&stay()), [true; BATCHES]);
    assert_eq!(stay().into_iter().map(pixels).collect::<Vec<_>>(), come_back);
    let (on_device, fallen_back) = device.tally.counts();
    assert!(on_device >= 36 && fallen_back == 0, "{:?}", device.tally.first_reason());
    // The simulated library makes pixels of its own: those of the host would be others.
    let host = batches(root.path(), HostMakers::shared(), &Heap);
    assert_ne!(host.into_iter().map(pixels).collect::<Vec<_>>(), come_back);
    // The stage takes both.
    let recipe = builtin::recipe("mae-tiny", &[]).and_then(|r| r.stage(Stage::Pretrain));
    let planes = Input::Planes(kernels::PlaneOrder::ChannelFirst);
    let plan = StagePlan::new(&recipe.expect("valid"), planes, kernels::DType::F32);
    let mut stage = DeviceStage::new(&gpu, plan.expect("can be done")).expect("a stage");
    let come_back = batches(root.path(), makers(), &Heap);
    for (stays, comes) in stay().into_iter().zip(come_back) {
        assert_eq!(input(&mut stage, stays), input(&mut stage, comes));
    }
}

/// The same in a process that finds the simulation where it looks for CUDA.
#[cfg(target_env = "gnu")]
#[test]
fn rows_made_on_the_simulated_device() {
    if std::env::var("TUBELET_REQUIRE_GPU").is_ok() {
        return; // A real device, or the simulation itself.
    }
    let folder = tempfile::tempdir().expect("a folder");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/src/kernels/host");
    simulation::build(&sources, folder.path());
    let ran = simulation::command(folder.path(), "rows_that_stay_on_the_device").output();
    simulation::expect_passed(&ran.expect("runs"), 1);
}
