//! A recipe's whole stage, against the host's.

use tubelet_augment::builtin::recipe;
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage};
use tubelet_core::layout::{BatchLayout, RowMut};
use tubelet_core::{BatchRef, Draw, Heap, HostBuf, HostMemory, SampleRng};

use super::data::{assert_close, bytes};
use super::device::{Device, on_each_device};
use crate::kernels::{DType, PatchOrder, PlaneOrder};
use crate::plan::{BatchAddresses, ConstantAddresses, Input, StagePlan};

/// Rows that are filled, one fewer than the slot has.
const ROWS: u32 = 3;

/// A stage of a built-in recipe.
pub(super) fn built_in(name: &str, stage: Stage, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    recipe(name, &overrides).and_then(|file| file.stage(stage)).expect("a built-in recipe")
}

/// A filled slot of `recipe`.
pub(super) fn slot(recipe: &Recipe) -> (BatchLayout, HostBuf) {
    let layout = recipe.layout_of(0, ROWS + 1);
    let buf = Heap.allocate(layout.bytes).expect("small");
    for row in 0..ROWS as usize {
        // SAFETY: the buffer has the layout's bytes, one row at a time on one thread.
        let mut out = unsafe { RowMut::from_raw(&layout, buf.as_ptr(), row) };
        let pixels = out.pixels(0);
        pixels.copy_from_slice(&bytes(60 + row as u64, pixels.len()));
        let mut rng = SampleRng::new(1, 0, row as u64, 0, Draw::Mask);
        if let Some(mask) = out.mask(0) {
            // The bits above the first are further passes, not this one.
            mask.iter_mut().for_each(|m| *m = u8::from(rng.coin(0.6)) | 6);
        }
        out.set_facts(row as u32 + 5, row as u64 + 70);
    }
    (layout, buf)
}

/// Runs the plan's launches on `device` and compares every tensor.
fn check(device: &Device, recipe: &Recipe, input: Input) {
    let (layout, buf) = slot(recipe);
    let batch = BatchRef::new(&layout, buf.as_slice(), ROWS as usize);
    let host = HostStage::new(recipe).run(batch);
    let plan = StagePlan::new(recipe, input, DType::F32).expect("can be done");
    let shape = plan.shape(batch).expect("fits");
    assert_eq!((shape.max_visible, shape.max_masked), (host.max_visible, host.max_masked));
    let constants = plan.constants();
    let memory = [
        device.copy(&constants.table),
        device.copy(&constants.target_table),
        device.copy(&constants.window),
    ];
    let chosen = device.copy(&constants.chosen);
    let constants = ConstantAddresses {
        table: memory[0].address(),
        target_table: memory[1].address(),
        window: memory[2].address(),
        chosen: chosen.address(),
    };
    let slot = device.copy(batch.bytes());
    let floats = device.room::<f32>(plan.input_shape(&shape).iter().product());
    let targets = device.room::<f32>(host.targets.len());
    let visible = device.room::<u32>(host.visible.len());
    let masked = device.room::<u32>(host.masked.len());
    let masked_count = device.room::<u32>(host.masked_count.len());
    let at = BatchAddresses {
        slot: slot.address(),
        input: floats.address(),
        visible: visible.address(),
        masked: masked.address(),
        masked_count: masked_count.address(),
        targets: targets.address(),
    };
    let launches = plan.launches(&shape, &constants, &at).expect("possible");
    launches.iter().for_each(|launch| device.run(launch));
    assert_eq!(visible.read::<u32>(), host.visible);
    assert_eq!(masked.read::<u32>(), host.masked);
    assert_eq!(masked_count.read::<u32>(), host.masked_count);
    assert_close(&targets.read::<f32>(), &host.targets, 1e-5);
    assert_eq!(floats.read::<f32>(), host_input(&host, recipe, input), "{input:?}");
}

/// The input in the form `input`, from the host's planes.
fn host_input(host: &HostTensors, recipe: &Recipe, input: Input) -> Vec<f32> {
    let patch = recipe.patch();
    let all: Vec<u32> = (0..host.rows).flat_map(|_| 0..host.tokens as u32).collect();
    let tokens = match input {
        Input::Planes(_) => return host.pixels.clone(),
        Input::AllPatches(_) => &all,
        Input::VisiblePatches(_) => &host.visible,
        Input::MaskedPatches(_) => &host.masked,
    };
    let count = tokens.len() / host.rows;
    let (columns, plane) = (host.width / patch.w as usize, host.width * host.height);
    let cells = columns * (host.height / patch.h as usize);
    let mut out = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let (slot, cell) = (*token as usize / cells, *token as usize % cells);
        for c in 0..3 {
            for t in 0..patch.t as usize {
                for y in 0..patch.h as usize {
                    let frame = ((i / count) * 3 + c) * host.frames + slot * patch.t as usize + t;
                    let line = cell / columns * patch.h as usize + y;
                    let left = cell % columns * patch.w as usize;
                    let start = frame * plane + line * host.width + left;
                    out.extend_from_slice(&host.pixels[start..start + patch.w as usize]);
                }
            }
        }
    }
    out
}

#[test]
fn a_recipes_stage_makes_the_hosts_tensors() {
    let order = PatchOrder::ChannelFirst;
    let inputs = [
        Input::Planes(PlaneOrder::ChannelFirst),
        Input::AllPatches(order),
        Input::VisiblePatches(order),
        Input::MaskedPatches(order),
    ];
    let recipes = [
        built_in("videomae-tiny", Stage::Pretrain, &[]),
        built_in("mae-tiny", Stage::Pretrain, &[]),
        built_in("mae-st-tiny", Stage::Pretrain, &[]),
        built_in("maskfeat-tiny", Stage::Pretrain, &[]),
    ];
    on_each_device(|device| {
        for (n, recipe) in recipes.iter().enumerate() {
            check(device, recipe, inputs[n]);
        }
        let finetune = built_in("mae-tiny", Stage::Finetune, &[]);
        check(device, &finetune, inputs[0]);
    });
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let video = built_in("videomae-tiny", Stage::Pretrain, &[]);
    let finetune = built_in("mae-tiny", Stage::Finetune, &[]);
    let visible = Input::VisiblePatches(PatchOrder::ChannelFirst);
    let (layout, buf) = slot(&finetune);
    let batch = BatchRef::new(&layout, buf.as_slice(), 2);
    let refuse = |recipe: &Recipe, batch: BatchRef<'_>| {
        let plan = StagePlan::new(recipe, visible, DType::F32).expect("can be done");
        plan.shape(batch).expect_err("refused").to_string()
    };
    assert!(refuse(&video, batch).contains("frames of a row: 1"));
    assert!(refuse(&finetune, batch).contains("without a mask"));
    let empty = BatchRef::new(&layout, buf.as_slice(), 0);
    assert!(refuse(&finetune, empty).contains("rows of a batch: 0"));
}

#[test]
fn recipes_that_the_device_cannot_do_yet_are_refused() {
    let refuse = |recipe: &Recipe| {
        let plan = StagePlan::new(recipe, Input::Planes(PlaneOrder::ChannelFirst), DType::F32);
        plan.map(drop).expect_err("refused").to_string()
    };
    let mixed = ["finetune.augment={mixup=0.8}"];
    assert!(refuse(&built_in("mae-tiny", Stage::Finetune, &mixed)).contains("mixup or CutMix: 1"));
    let views = ["pretrain.views=[{size=32, resize=\"bicubic\"}]"];
    let views = built_in("mae-tiny", Stage::Pretrain, &views);
    assert!(refuse(&views).contains("further views of a row: 1"));
}
