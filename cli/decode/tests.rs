//! Rows made on a device, which stay there or come back: on the simulated one, whose JPEG library has
//! pixels of its own, and on a real one, whose pixels are near the host's.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tubelet_augment::{Stage, builtin};
use tubelet_core::{Heap, HostMemory, Size};
use tubelet_formats::encode::{EncodeOptions, encode_video};
use tubelet_formats::{MediaKind, OpenOptions, open};
use tubelet_gpu::{DeviceStage, DeviceTensor, Gpu, Input, StagePlan, kernels};
use tubelet_loader::{Batch, Cursor, Loader, LoaderConfig, RowMakers};

use super::device::Device;
use super::planner::psnr;
use super::{DeviceMakers, HostMakers, REQUIRE_GPU};

#[path = "../../gpu/src/tests/simulation.rs"]
mod simulation;
#[path = "../../gpu/src/tests/skip.rs"]
mod skip;

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

/// H.264 of several sizes; large enough for every decoder.
fn videos(root: &Path) {
    let folder = root.join("train/waves");
    std::fs::create_dir_all(&folder).expect("a folder");
    for n in 0..4u32 {
        let size = Size::new(320 - 16 * n, 240);
        let byte = |t: u32, i: usize| {
            let (x, y) = (i / 3 % size.width as usize, i / 3 / size.width as usize);
            let wave = ((x + 4 * t as usize) as f64 / 19.0).sin() + (y as f64 / 13.0).cos();
            (128.0 + 50.0 * wave + (i % 3 * 9) as f64) as u8
        };
        let frame = |t| (0..3 * size.area()).map(|i| byte(t, i)).collect();
        let frames: Vec<Vec<u8>> = (0..24).map(frame).collect();
        let options = EncodeOptions { size, crf: Some(20), ..EncodeOptions::default() };
        let video = encode_video(frames.iter().map(Vec::as_slice), &options).expect("encodes");
        std::fs::write(folder.join(format!("{n}.mp4")), video).expect("writes");
    }
}

/// The first batches of `root` with slots of `memory`.
fn batches(root: &Path, makers: Arc<dyn RowMakers>, memory: &dyn HostMemory) -> Vec<Batch> {
    batches_of("mae-tiny", root, makers, memory)
}

fn batches_of(
    recipe: &str,
    root: &Path,
    makers: Arc<dyn RowMakers>,
    memory: &dyn HostMemory,
) -> Vec<Batch> {
    let overrides = ["pretrain.batch_size=3".to_owned()];
    let recipe = builtin::recipe(recipe, &overrides).and_then(|r| r.stage(Stage::Pretrain));
    let shards = open(root, &OpenOptions::default()).expect("opens");
    let config = LoaderConfig { workers: 2, slots: BATCHES, ..LoaderConfig::default() };
    let loader = Loader::new(shards, Arc::new(recipe.expect("valid")), memory, config);
    let loader = loader.and_then(|l| l.with_makers(makers)).expect("a loader");
    let batches = loader.batches(Cursor::default()).expect("starts");
    batches.take(BATCHES).map(|batch| batch.expect("loads")).collect()
}

/// Makers on `device`, to which media of `kind` go; where that is `None`, what decides is still to come.
fn makers(device: &Arc<Device>, kind: Option<MediaKind>, measures: bool) -> Arc<DeviceMakers> {
    let decided = Mutex::new(kind.map(|kind| (kind, true)).into_iter().collect());
    Arc::new(DeviceMakers { device: Arc::clone(device), measures, decided })
}

/// A device on the simulation, `None` elsewhere; in which call it fails.
fn simulated() -> Option<(Gpu, Arc<Device>, String)> {
    std::env::var_os(simulation::SIMULATED)?;
    let gpu = Gpu::probe().expect("the simulated one");
    let device = Arc::new(Device::new(gpu.clone()).expect("a device"));
    let failure = std::env::var("TUBELET_SIMULATED_FAILURE").unwrap_or_default();
    Some((gpu, device, failure))
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
fn simulated_rows_that_stay_on_the_device_are_those_that_come_back() {
    let Some((gpu, device, failure)) = simulated() else { return };
    if !failure.is_empty() {
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    pictures(root.path());
    let jpeg = || makers(&device, Some(MediaKind::Jpeg), false);
    let come_back = batches(root.path(), jpeg(), &Heap);
    let all_elsewhere = |batches: &[Batch]| {
        let of = |batch: &Batch| (0..3).all(|row| batch.as_ref().is_elsewhere(row));
        batches.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(all_elsewhere(&come_back), [false; BATCHES]);
    let come_back: Vec<Vec<u8>> = come_back.into_iter().map(pixels).collect();
    let memory = jpeg().memory().expect("has places");
    let stay = || batches(root.path(), jpeg(), memory.as_ref());
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
    let come_back = batches(root.path(), jpeg(), &Heap);
    for (stays, comes) in stay().into_iter().zip(come_back) {
        assert_eq!(input(&mut stage, stays), input(&mut stage, comes));
    }
}

/// By name the GPU decodes what it can; measured, pixels that are not the host's keep it from it. Either
/// way nothing of what was measured is counted.
#[test]
fn simulated_decisions_are_by_name_or_by_pixels() {
    let Some((_, device, failure)) = simulated() else { return };
    let root = tempfile::tempdir().expect("a folder");
    pictures(root.path());
    let host = batches(root.path(), HostMakers::shared(), &Heap);
    let host: Vec<Vec<u8>> = host.into_iter().map(pixels).collect();
    for measures in [true, false] {
        let undecided = makers(&device, None, measures);
        let memory = undecided.memory().expect("has places");
        let before = device.tally.counts();
        let made = batches(root.path(), undecided.clone(), memory.as_ref());
        let made: Vec<Vec<u8>> = made.into_iter().map(pixels).collect();
        let (on_device, fallen_back) = device.tally.counts();
        let decided = undecided.decided().clone();
        if measures {
            assert_eq!(decided, [(MediaKind::Jpeg, false)]);
            assert_eq!((on_device, fallen_back), before);
            assert!(made == host, "on the host");
        } else if failure.is_empty() {
            assert_eq!(decided, [(MediaKind::Jpeg, true)]);
            assert!(made != host && on_device >= 12 && fallen_back == 0);
        } else {
            // Cutting fails, and the host makes the rows.
            assert!(made == host && on_device == 0 && fallen_back >= 12);
            let reason = device.tally.first_reason().expect("is kept");
            assert!(reason.contains("start a kernel"), "{reason}");
        }
    }
}

/// The same in a process that finds the simulation where it looks for CUDA.
#[cfg(target_env = "gnu")]
#[test]
fn rows_made_on_the_simulated_device() {
    if std::env::var(REQUIRE_GPU).is_ok() {
        return; // A real device, or the simulation itself.
    }
    let folder = tempfile::tempdir().expect("a folder");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/src/kernels/host");
    simulation::build(&sources, folder.path());
    for failure in ["", "cuLaunchKernel"] {
        let mut command = simulation::command(folder.path(), "decode::tests::simulated");
        command.env("TUBELET_SIMULATED_FAILURE", failure);
        simulation::expect_passed(&command.output().expect("runs"), 2);
    }
}

/// NVDEC's videos are the host's; nvJPEG's pictures agree to 45 dB.
#[test]
fn rows_made_on_a_device_are_near_the_hosts() {
    if std::env::var_os(simulation::SIMULATED).is_some() {
        return;
    }
    for (recipe, kind, least) in
        [("videomae-tiny", MediaKind::Video, f64::INFINITY), ("mae-tiny", MediaKind::Jpeg, 45.0)]
    {
        let root = tempfile::tempdir().expect("a folder");
        if kind == MediaKind::Video {
            videos(root.path())
        } else {
            pictures(root.path())
        }
        let here = batches_of(recipe, root.path(), HostMakers::shared(), &Heap);
        assert_eq!(here.len(), BATCHES);
        let Some(gpu) = skip::or_skip("GPU", REQUIRE_GPU, Gpu::probe()) else { continue };
        let device = Arc::new(Device::new(gpu).expect("a device"));
        let makers = makers(&device, Some(kind), false);
        let memory = makers.memory().expect("has places");
        let there = batches_of(recipe, root.path(), makers, memory.as_ref());
        for (there, here) in there.into_iter().zip(here) {
            let agreement = psnr(&pixels(there), &pixels(here));
            assert!(agreement >= least, "{recipe}: {agreement} dB");
        }
        let reason = device.tally.first_reason();
        assert!(device.tally.counts().1 == 0, "{recipe}: {reason:?}");
    }
}
