//! A recipe's whole stage, against the host's.

use tubelet_augment::builtin::{ALL as BUILT_IN, recipe};
use tubelet_augment::erase::{Erase, EraseMode};
use tubelet_augment::stage::Pass;
use tubelet_augment::target::hog::{HogScratch, hog_targets};
use tubelet_augment::target::pixels::pixel_targets;
use tubelet_augment::{HostStage, HostTensors, Recipe, Stage, TargetSpec};
use tubelet_core::layout::{BatchLayout, RowMut};
use tubelet_core::{BatchKey, BatchRef, Draw, Heap, HostBuf, HostMemory, SampleRng, Size};

use super::data::{assert_close, bytes};
use super::device::{Buffer, Device, on_each_device};
use crate::kernels::{DType, PatchOrder, PlaneOrder};
use crate::plan::{BatchAddresses, BatchTensors, ConstantAddresses, Input, PassTensors, StagePlan};

/// Rows that are filled, one fewer than the slot has.
pub(super) const ROWS: u32 = 5;
/// Place of the tests' batches in a run.
pub(super) const KEY: BatchKey = BatchKey { seed: 3, epoch: 1, number: 6, first_row: 0 };

const PLANES: Input = Input::Planes(PlaneOrder::ChannelFirst);
const FRAMES_FIRST: Input = Input::Planes(PlaneOrder::FrameFirst);
const ALL: Input = Input::AllPatches(PatchOrder::ChannelFirst);
const VISIBLE: Input = Input::VisiblePatches(PatchOrder::ChannelFirst);
const MASKED: Input = Input::MaskedPatches(PatchOrder::ChannelFirst);

/// A stage of a built-in recipe.
pub(super) fn built_in(name: &str, stage: Stage, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    recipe(name, &overrides)
        .and_then(|file| file.stage(stage))
        .unwrap_or_else(|e| panic!("{name} {overrides:?}: {e}"))
}

/// A filled slot of `layout`.
pub(super) fn fill(layout: BatchLayout) -> (BatchLayout, HostBuf) {
    let buf = Heap.allocate(layout.bytes).expect("small");
    for row in 0..ROWS as usize {
        // SAFETY: the buffer has the layout's bytes, one row at a time on one thread.
        let mut out = unsafe { RowMut::from_raw(&layout, buf.as_ptr(), row) };
        let mut rng = SampleRng::new(1, 0, row as u64, 0, Draw::Mask);
        for view in 0..layout.views.len() {
            let pixels = out.pixels(view);
            pixels.copy_from_slice(&bytes((60 + row + 7 * view) as u64, pixels.len()));
            if let Some(mask) = out.mask(view) {
                // Each bit is a pass of its own.
                mask.iter_mut().for_each(|m| *m = (rng.next_u32() | rng.next_u32()) as u8);
            }
        }
        if let Some(field) = out.erase().filter(|_| row != 1) {
            let Size { width, height } = layout.views[0].size;
            field[..2].copy_from_slice(&[row as u32, 17]);
            for region in field[2..].chunks_exact_mut(4).skip(row % 2) {
                let (x, y) = (rng.below(width - 4), rng.below(height - 4));
                let (w, h) = (1 + rng.below(width - x), 1 + rng.below(height - y));
                region.copy_from_slice(&[x, y, w, h]);
            }
        }
        out.set_facts(row as u32 + 5, row as u64 + 70);
    }
    (layout, buf)
}

/// A filled slot of `recipe`.
pub(super) fn slot(recipe: &Recipe) -> (BatchLayout, HostBuf) {
    fill(recipe.rows_layout(ROWS + 1))
}

/// The tensors that the plan's launches make of `batch` on `device`.
fn run(device: &Device, plan: &StagePlan, batch: BatchRef<'_>) -> BatchTensors<Buffer> {
    let work = plan.batch(batch).expect("fits");
    let constants = plan.constants();
    let memory = [
        device.copy(&constants.tables),
        device.copy(&constants.target_table),
        device.copy(&constants.chosen),
        device.copy(&constants.window),
        device.copy(&constants.lines),
    ];
    let [tables, target_table, chosen, window, lines] =
        std::array::from_fn(|n| memory[n].address());
    let constants = ConstantAddresses { tables, target_table, chosen, window, lines };
    let slot = device.copy(batch.bytes());
    let room = |shape: &crate::plan::TensorShape| Ok::<_, ()>(device.room::<u8>(shape.bytes()));
    let tensors = plan.tensors(&work).try_map(room).expect("room");
    let scratch = plan.scratch(&work).try_map(room).expect("room");
    let address = |buffer: &Buffer| Ok::<_, ()>(buffer.address());
    let at = BatchAddresses {
        slot: slot.address(),
        tensors: tensors.try_map(address).expect("addresses"),
        scratch: scratch.try_map(address).expect("addresses"),
    };
    let launches = plan.launches(&work, &constants, &at).expect("possible");
    launches.iter().for_each(|launch| device.run(launch));
    // A look at the guards.
    scratch.try_map(|buffer| Ok::<_, ()>(buffer.read::<u8>())).expect("whole");
    tensors
}

/// Runs the plan's launches on `device` and compares every tensor with the host's.
fn check(device: &Device, recipe: &Recipe, input: Input) {
    check_type(device, recipe, input, DType::F32);
}

fn check_type(device: &Device, recipe: &Recipe, input: Input, dtype: DType) {
    let (layout, buf) = slot(recipe);
    let batch = BatchRef::new(&layout, buf.as_slice(), ROWS as usize).keyed(KEY);
    let host = HostStage::new(recipe).run(batch);
    let plan = StagePlan::new(recipe, input, dtype).expect("can be done");
    let got = run(device, &plan, batch);
    assert_eq!(plan.batch(batch).expect("fits").mixed, host.mixed);
    compare_passes(&got, &host);
    for (view, host) in got.views.iter().zip(&host.views) {
        assert_eq!(flags(&view.mask), host.mask);
        compare_floats(&view.pixels, &in_order(&host.pixels, host.frames, input), dtype, true);
    }
    assert_eq!(got.views.len(), host.views.len());
    // Pixels come from a table; what is erased has a logarithm and a cosine.
    let exact = recipe.erase().is_none();
    compare_floats(&got.input, &host_input(&host, recipe, input), dtype, exact);
}

fn flags(mask: &Buffer) -> Vec<bool> {
    mask.read::<u8>().into_iter().map(|m| m == 1).collect()
}

/// Values of type `dtype`; the bits are equal where `exact` and nothing was rounded.
fn compare_floats(got: &Buffer, want: &[f32], dtype: DType, exact: bool) {
    let sixteen = |value: fn(u16) -> f32| got.read::<u16>().into_iter().map(value).collect();
    let (got, tolerance): (Vec<f32>, f32) = match dtype {
        DType::Bf16 => (sixteen(|b| half::bf16::from_bits(b).to_f32()), 4e-2),
        DType::F16 => (sixteen(|b| half::f16::from_bits(b).to_f32()), 4e-3),
        _ => (got.read(), if exact { 0.0 } else { 1e-5 }),
    };
    assert_close(&got, want, tolerance);
}

fn compare_passes(got: &BatchTensors<Buffer>, host: &HostTensors) {
    let pass = |got: &PassTensors<Buffer>, host: &Pass| {
        assert_eq!(flags(&got.mask), host.mask);
        assert_eq!(got.visible.read::<u32>(), host.visible);
        assert_eq!(got.masked.read::<u32>(), host.masked);
        assert_eq!(got.masked_count.read::<u32>(), host.masked_count);
        assert_close(&got.targets.read::<f32>(), &host.targets, 1e-5);
    };
    let first = Pass {
        mask: host.mask.clone(),
        visible: host.visible.clone(),
        masked: host.masked.clone(),
        masked_count: host.masked_count.clone(),
        targets: host.targets.clone(),
        ..Pass::default()
    };
    pass(&got.first, &first);
    assert_eq!(got.passes.len(), host.passes.len());
    got.passes.iter().zip(&host.passes).for_each(|(got, host)| pass(got, host));
}

/// Planes `[rows, 3, frames, …]` in the input's order of axes.
fn in_order(planes: &[f32], frames: usize, input: Input) -> Vec<f32> {
    if input != FRAMES_FIRST {
        return planes.to_vec();
    }
    let area = planes.len() / ROWS as usize / 3 / frames;
    let plane = |n: usize| {
        let (row, frame, c) = (n / (3 * frames), n / 3 % frames, n % 3);
        &planes[((row * 3 + c) * frames + frame) * area..][..area]
    };
    (0..planes.len() / area).flat_map(plane).copied().collect()
}

/// The input in the form `input`, from the host's planes.
fn host_input(host: &HostTensors, recipe: &Recipe, input: Input) -> Vec<f32> {
    let patch = recipe.patch();
    let all: Vec<u32> = (0..host.rows).flat_map(|_| 0..host.tokens as u32).collect();
    let tokens = match input {
        Input::Planes(_) => return in_order(&host.pixels, host.frames, input),
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
    on_each_device(|device| {
        for (name, input) in [
            ("videomae-tiny", PLANES),
            ("mae-tiny", ALL),
            ("mae-st-tiny", VISIBLE),
            ("maskfeat-tiny", MASKED),
            ("videomae-tiny", FRAMES_FIRST),
        ] {
            check(device, &built_in(name, Stage::Pretrain, &[]), input);
        }
        check(device, &built_in("mae-tiny", Stage::Finetune, &[]), PLANES);
        check(device, &built_in("mae-tiny", Stage::Eval, &[]), ALL);
    });
}

#[test]
fn every_target_is_the_hosts() {
    let sets = [
        r#"{kind="pixels", norm="raw", order="channel-first"}"#,
        r#"{kind="pixels", norm="mae", order="channel-first"}"#,
        r#"{kind="hog", cell=4, window=16}"#,
        r#"{kind="hog-picture"}"#,
        r#"{kind="teacher"}"#,
    ];
    on_each_device(|device| {
        for set in sets {
            let set = format!("pretrain.target={set}");
            check(device, &built_in("mae-tiny", Stage::Pretrain, &[&set]), PLANES);
        }
        let set = r#"pretrain.target={kind="hog-picture"}"#;
        check(device, &built_in("videomae-tiny", Stage::Pretrain, &[set]), VISIBLE);
    });
}

#[test]
fn every_pass_of_a_mask_has_lists_and_targets() {
    let fold = r#"pretrain.mask={policy="multi-fold", ratio=0.75, folds=3}"#;
    let halves = r#"pretrain.mask={policy="halves"}"#;
    let picture = r#"pretrain.target={kind="hog-picture"}"#;
    let hog = r#"pretrain.target={kind="hog", cell=8}"#;
    on_each_device(|device| {
        for set in [vec![fold], vec![halves], vec![halves, picture], vec![halves, hog]] {
            check(device, &built_in("mae-tiny", Stage::Pretrain, &set), PLANES);
        }
    });
}

const VIEWS: &str = r#"pretrain.views=[
    {resize="lanczos", size=32, normalise="none"},
    {resize="bicubic", size=20, normalise="dalle"},
    {resize="bicubic", mask=true, count=2, flip=0.5,
     crop={rule="random-resized", size=24, scale=[0.1, 0.4]}}]"#;

#[test]
fn further_views_have_their_own_normalisation_mask_and_size() {
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[VIEWS]);
    assert_eq!(recipe.views().count(), 5);
    on_each_device(|device| {
        check(device, &recipe, VISIBLE);
        check(device, &recipe, FRAMES_FIRST);
        check_type(device, &recipe, PLANES, DType::Bf16);
    });
}

#[test]
fn views_may_have_a_type_of_their_own() {
    let recipe = built_in("mae-tiny", Stage::Pretrain, &[VIEWS]);
    let plan = StagePlan::new(&recipe, ALL, DType::F16).expect("can be done");
    assert!(plan.clone().with_view_dtype(DType::U32).is_err());
    let plan = plan.with_view_dtype(DType::F32).expect("a float");
    let (layout, buf) = slot(&recipe);
    let batch = BatchRef::new(&layout, buf.as_slice(), ROWS as usize);
    let host = HostStage::new(&recipe).run(batch);
    on_each_device(|device| {
        let got = run(device, &plan, batch);
        compare_floats(&got.views[0].pixels, &host.views[0].pixels, DType::F32, true);
        compare_floats(&got.input, &host_input(&host, &recipe, ALL), DType::F16, false);
    });
}

#[test]
fn rows_are_erased_and_mixed_in_every_form_of_the_input() {
    let erase = |mode| format!(r#"erase={{probability=1.0, count=3, mode="{mode}"}}"#);
    let mixes = [
        r#"mixup=0.8, cutmix=1.0, mode="elem""#.to_owned(),
        r#"mixup=0.8, mix_group=2, smoothing=0.1"#.to_owned(),
        r#"cutmix=1.0, mode="pair""#.to_owned(),
        erase("const"),
        erase("rand"),
        format!("{}, mixup=0.4, cutmix=0.4", erase("pixel")),
    ];
    let batch_size = "finetune.batch_size=6";
    on_each_device(|device| {
        for (n, augment) in mixes.iter().enumerate() {
            let augment = format!("finetune.augment={{{augment}}}");
            let of = |name| built_in(name, Stage::Finetune, &[batch_size, &augment]);
            check(device, &of("mae-tiny"), [PLANES, ALL, FRAMES_FIRST][n % 3]);
            check(device, &of("videomae-tiny"), [FRAMES_FIRST, PLANES, ALL][n % 3]);
            let dtype = [DType::Bf16, DType::F16][n % 2];
            check_type(device, &of("mae-tiny"), [ALL, PLANES][n / 3], dtype);
        }
    });
}

#[test]
fn targets_of_erased_rows_are_made_of_their_floats() {
    let pixels = r#"pretrain.target={kind="pixels", norm="videomae", order="channel-first"}"#;
    let hog = r#"pretrain.target={kind="hog", cell=4}"#;
    let mode = EraseMode::Pixel;
    on_each_device(|device| {
        for (set, input, dtype) in [
            (pixels, PLANES, DType::F32),
            (pixels, FRAMES_FIRST, DType::F32),
            (hog, PLANES, DType::Bf16),
            (hog, VISIBLE, DType::F32),
        ] {
            let recipe = built_in("videomae-tiny", Stage::Pretrain, &[set]);
            let (layout, buf) = fill(recipe.rows_layout(ROWS + 1).with_erase(2));
            let batch = BatchRef::new(&layout, buf.as_slice(), ROWS as usize);
            let mut host = HostStage::new(&recipe).run(batch);
            erase_host(&mut host, &recipe, batch, mode);
            let plan = StagePlan::new(&recipe, input, dtype).expect("can be done").erasing(mode);
            let got = run(device, &plan, batch);
            compare_passes(&got, &host);
            compare_floats(&got.input, &host_input(&host, &recipe, input), dtype, false);
        }
    });
}

/// Erases the host's pixels and makes the targets anew.
fn erase_host(host: &mut HostTensors, recipe: &Recipe, batch: BatchRef<'_>, mode: EraseMode) {
    let fields = batch.erase().expect("has fields");
    let (words, width) = (fields.len() / host.rows, host.max_masked * host.target_dim);
    let (frames, size, patch) = (host.frames as u32, recipe.size(), recipe.patch());
    for (row, pixels) in host.pixels.chunks_exact_mut(3 * host.frames * size.area()).enumerate() {
        Erase::load(&fields[row * words..][..words]).apply(mode, pixels, host.frames, size);
        let count = host.masked_count[row] as usize;
        let tokens = &host.masked[row * host.max_masked..][..count];
        let out = &mut host.targets[row * width..][..count * host.target_dim];
        match recipe.target() {
            TargetSpec::Pixels(spec) => {
                let (normalise, choice) = (recipe.normalise(), spec.frames);
                pixel_targets(
                    spec.norm, pixels, frames, size, patch, &normalise, choice, tokens, out,
                );
                spec.order.arrange(out, host.target_dim, &mut Vec::new());
            }
            TargetSpec::Hog(spec) => {
                let scratch = &mut HogScratch::default();
                hog_targets(&spec, pixels, frames, size, patch, tokens, out, scratch);
            }
            TargetSpec::None | TargetSpec::HogPicture => {}
        }
    }
}

#[test]
fn one_plan_does_every_shape_of_a_recipe() {
    let phases = "pretrain.phases=[{from=0, shapes=[{frames=4, size=32}]}, \
        {from=2, shapes=[{size=48}, {frames=6}, {frames=2, size=16}]}]";
    let slowfast = r#"pretrain.target={kind="pixels", norm="mae", frames="mae-st"}"#;
    let buckets = "pretrain.buckets={shapes=[[32, 64], [64, 32], [48, 48]]}";
    let recipes = [
        built_in("videomae-tiny", Stage::Pretrain, &[phases, slowfast]),
        built_in("mae-tiny", Stage::Pretrain, &[buckets]),
    ];
    on_each_device(|device| {
        for recipe in &recipes {
            let (stage, plan) =
                (HostStage::new(recipe), StagePlan::new(recipe, PLANES, DType::F32));
            let plan = plan.expect("can be done");
            for shape in recipe.shapes() {
                let (layout, buf) = slot(shape);
                let batch = BatchRef::new(&layout, buf.as_slice(), ROWS as usize);
                let host = stage.run(batch);
                let got = run(device, &plan, batch);
                compare_passes(&got, &host);
                compare_floats(&got.input, &host.pixels, DType::F32, true);
            }
        }
    });
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let video = built_in("videomae-tiny", Stage::Pretrain, &[]);
    let image = built_in("mae-tiny", Stage::Pretrain, &[]);
    let refuse = |recipe: &Recipe, batch: BatchRef<'_>| {
        let plan = StagePlan::new(recipe, VISIBLE, DType::F32).expect("can be done");
        plan.batch(batch).expect_err("refused").to_string()
    };
    let (layout, buf) = slot(&image);
    let batch = BatchRef::new(&layout, buf.as_slice(), 2);
    assert!(refuse(&video, batch).contains("frames of a row: 1"));
    let empty = BatchRef::new(&layout, buf.as_slice(), 0);
    assert!(refuse(&image, empty).contains("rows of a batch: 0"));
    let views = built_in("mae-tiny", Stage::Pretrain, &[VIEWS]);
    assert!(refuse(&views, batch).contains("views of a row: 1"));
    let (layout, buf) = slot(&built_in("mae-tiny", Stage::Finetune, &[]));
    let batch = BatchRef::new(&layout, buf.as_slice(), 2);
    assert!(refuse(&image, batch).contains("without a mask"));
}

#[test]
fn every_built_in_recipe_has_a_device_stage() {
    let mut stages = 0;
    for (name, _) in BUILT_IN {
        let file = recipe(name, &[]).unwrap_or_else(|e| panic!("{e}"));
        for stage in [Stage::Pretrain, Stage::Finetune, Stage::Eval] {
            // Some are for pre-training alone.
            let Ok(recipe) = file.stage(stage) else { continue };
            stages += 1;
            let masked = recipe.layout(0).views[0].mask.is_some();
            for input in [PLANES, FRAMES_FIRST, ALL].into_iter().chain(masked.then_some(VISIBLE)) {
                let plan = StagePlan::new(&recipe, input, DType::Bf16);
                plan.unwrap_or_else(|e| panic!("{name} {stage:?} {input:?}: {e}"));
            }
        }
    }
    assert!(stages > 12, "{stages}");
}

#[test]
fn recipes_that_no_kernel_can_do_are_refused_before_the_first_batch() {
    let refuse = |set: &[&str], input, dtype| {
        let recipe = built_in("mae-tiny", Stage::Pretrain, set);
        StagePlan::new(&recipe, input, dtype).map(drop).expect_err("refused").to_string()
    };
    let bins = refuse(&["pretrain.target={kind=\"hog\", bins=300}"], PLANES, DType::F32);
    assert!(bins.contains("HOG bins: 300"), "{bins}");
    assert!(refuse(&[], PLANES, DType::U8).contains("U8"));
}
