//! Batches through the device stage: on a GPU with Burn's CUDA back end, and on the simulated driver of
//! `gpu/src/kernels/host`, from which the processor's back end fetches them.

use std::path::Path;

use burn::backend::{Autodiff, Flex};
use tubelet_augment::{HostStage, Stage};
use tubelet_gpu::{DeviceStage, HandOver};

use super::super::testing::{MadeUp, close, gpu, recipe};
use super::*;
use crate::device::{Sees, stage_plan};
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

/// The same once more in a process that finds the simulation where it looks for CUDA.
#[cfg(target_env = "gnu")]
#[test]
fn adopted_batches_are_the_hosts_on_the_simulated_driver() {
    if std::env::var("TUBELET_REQUIRE_GPU").is_ok() {
        return; // A real device, or the simulation itself.
    }
    let folder = tempfile::tempdir().expect("a folder");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu/src/kernels/host");
    simulation::build(&sources, folder.path());
    let ran = simulation::command(folder.path(), "adopted_batches_are_the_hosts").output();
    simulation::expect_passed(&ran.expect("runs"), 2);
}
