//! Batches through the device stage: on a GPU with Burn's CUDA back end, and on the simulated driver of
//! `gpu/src/kernels/host`, from which the processor's back end fetches them.

use std::path::Path;
use std::sync::Arc;

use burn::backend::{Autodiff, Flex};
use tubelet_augment::{HostStage, Stage};
use tubelet_core::{Heap, HostMemory, Size};
use tubelet_formats::encode::encode_jpeg;
use tubelet_formats::{OpenOptions, open};
use tubelet_gpu::{DeviceStage, HandOver, PinnedMemory};
use tubelet_loader::{Cursor, Loader, LoaderConfig};

use super::super::backend::stage_plan;
use super::super::testing::{MadeUp, close, gpu, recipe};
use super::super::{Fed, Feed, Floats};
use super::*;
use crate::device::Sees;
use crate::params::Precision;
use simulation::SIMULATED;

#[path = "../../../../gpu/src/tests/simulation.rs"]
mod simulation;

/// A made-up batch by the host and by the stage.
fn compare<B: TrainBackend>(stage: Stage, name: &str, set: &[&str], sees: Sees) {
    let Some(gpu) = gpu() else { return };
    let made = MadeUp::new(&recipe(name, stage, set));
    let (host, device) = (HostStage::new(&made.recipe), B::Device::default());
    let want = host.run(made.batch());
    let mut hand_over = HandOver::new(&gpu).expect("a stream");
    for (precision, most) in [(Precision::F32, 2e-5), (Precision::Bf16, 2e-2)] {
        let what = format!("{name} {set:?} {precision:?}");
        let plan = stage_plan(&made.recipe, sees, precision).expect("can be done");
        let mut stage = DeviceStage::new(&gpu, plan).expect("a stage");
        let made = MadeUp::new(&made.recipe);
        let geometry = made.geometry();
        let tensors = stage.submit(made, MadeUp::batch).expect("submits");
        let mut lists = HostTensors { targets: Vec::new(), pixels: Vec::new(), ..want.clone() };
        lists.mixed.clone_from(&tensors.mixed);
        assert_eq!(lists.mixed, want.mixed, "{what}");
        let got = Adopted::<B>::new(&mut hand_over, tensors, &lists, &device).expect("adopts");
        let tokens = MaskedTokens::from_mask(&want.mask, want.rows, want.tokens);
        let (want_input, input): (Tensor<B, 2>, _) = match (sees, &tokens) {
            (Sees::Visible, Ok(tokens)) => (
                want.visible_patches(&geometry, tokens, &device),
                got.visible_patches(&geometry, tokens, &device),
            ),
            _ => (want.all_patches(&geometry, &device), got.all_patches(&geometry, &device)),
        };
        close::<B>(want_input, input, most, &what);
        if want.target_dim > 0 {
            let wanted: Tensor<B, 2> = want.hidden_targets(&device);
            close::<B>(wanted, got.hidden_targets(&device), 2e-5, &what);
        }
    }
}

fn compare_all<B: TrainBackend>() {
    let pretrain = |name, set: &[&str], sees| compare::<B>(Stage::Pretrain, name, set, sees);
    pretrain("videomae-tiny", &[], Sees::Visible);
    pretrain("mae-st-tiny", &[], Sees::Visible);
    let first = r#"pretrain.target={kind="pixels", norm="mae", order="channel-first"}"#;
    pretrain("mae-tiny", &[first], Sees::Visible);
    // Rows that hide different numbers of tokens.
    pretrain("maskfeat-tiny", &[], Sees::All);
    let augment = r#"finetune.augment={mixup=0.8, cutmix=1.0, mode="elem", smoothing=0.1}"#;
    let set = ["finetune.batch_size=4", augment];
    compare::<B>(Stage::Finetune, "mae-tiny", &set, Sees::All);
}

#[test]
fn adopted_batches_are_the_hosts() {
    if std::env::var_os(SIMULATED).is_some() {
        compare_all::<Autodiff<Flex>>();
    }
    #[cfg(feature = "cuda")]
    if std::env::var_os(SIMULATED).is_none() {
        compare_all::<Autodiff<burn::backend::Cuda>>();
    }
}

/// Batches of a loader that go through a feed and the stage, one of them made on the host as well.
#[test]
fn adopted_batches_are_the_hosts_from_a_feed() {
    let simulated = std::env::var_os(SIMULATED).is_some();
    let Some(gpu) = gpu().filter(|_| simulated || cfg!(feature = "cuda")) else { return };
    let root = tempfile::tempdir().expect("a folder");
    for n in 0..8u8 {
        let size = Size::new(64, 48);
        let pixels: Vec<u8> = (0..3 * size.area()).map(|i| (i * 7 % 251) as u8 ^ n).collect();
        let file = encode_jpeg(&pixels, size, 90).expect("encodes");
        std::fs::write(root.path().join(format!("{n}.jpg")), file).expect("writes");
    }
    let recipe = Arc::new(recipe("mae-tiny", Stage::Pretrain, &["pretrain.batch_size=4"]));
    let feed = |floats: Floats, memory: &dyn HostMemory| {
        let shards = open(root.path(), &OpenOptions::default()).expect("opens");
        let config = LoaderConfig { workers: 2, ..LoaderConfig::default() };
        let loader = Loader::new(shards, Arc::clone(&recipe), memory, config).expect("a loader");
        let batches = loader.batches(Cursor::default()).expect("starts");
        Feed::new(batches, &recipe, floats, |number| number == 1).expect("a thread")
    };
    let mut host = feed(Floats::Host, &Heap);
    let plan = stage_plan(&recipe, Sees::Visible, Precision::F32).expect("can be done");
    let stage = DeviceStage::new(&gpu, plan).expect("a stage");
    let mut device = feed(Floats::Stage(Box::new(stage)), &PinnedMemory::new(&gpu));
    for number in 0..4 {
        let want = host.next_batch().expect("loads").expect("endless");
        let mut got = device.next_batch().expect("loads").expect("endless");
        assert_eq!(got.cursor, want.cursor);
        let Fed::Stage(made) = std::mem::replace(&mut got.floats, Fed::Taken) else {
            panic!("batch {number} is not of the stage");
        };
        let targets: Vec<f32> = made.batch.first.targets.buffer().to_vec().expect("copies");
        let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-5;
        assert_eq!(targets.len(), want.tensors.targets.len());
        assert!(!targets.iter().zip(&want.tensors.targets).any(far), "batch {number}");
        assert_eq!(got.tensors.visible, want.tensors.visible);
        if number == 1 {
            assert_eq!(got.tensors.pixels, want.tensors.pixels, "is shown");
        }
        device.give_back(got);
        host.give_back(want);
    }
}

/// The same once more in a process that finds the simulation where it looks for CUDA.
#[cfg(target_env = "gnu")]
#[test]
fn adopted_batches_are_the_hosts_on_the_simulated_driver() {
    if std::env::var(tubelet_gpu::REQUIRE_GPU).is_ok() {
        return; // A real device, or the simulation itself.
    }
    let folder = tempfile::tempdir().expect("a folder");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu/src/kernels/host");
    simulation::build(&sources, folder.path());
    let ran = simulation::command(folder.path(), "adopted_batches_are_the_hosts").output();
    simulation::expect_passed(&ran.expect("runs"), 3);
}
