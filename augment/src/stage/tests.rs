//! Views, erasing and mixing in the float stage.

use tubelet_core::{BatchLayout, Heap, HostBuf, HostMemory, Rect, RowMut};

use super::*;
use crate::builtin;
use crate::recipe::Stage;

fn recipe(stage: Stage, set: &[&str]) -> Recipe {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let file = builtin::recipe("mae-tiny", &set).unwrap_or_else(|e| panic!("{e}"));
    file.stage(stage).unwrap_or_else(|e| panic!("{e}"))
}

/// `rows` rows of noise; row r has label r and loses a box where `erased`.
fn batch(recipe: &Recipe, rows: u32, erased: bool) -> (BatchLayout, HostBuf) {
    let layout = recipe.layout_of(0, rows);
    let memory = Heap.allocate(layout.bytes).expect("small");
    for n in 0..rows as usize {
        // SAFETY: the buffer has the layout's bytes; one row at a time on one thread.
        let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), n) };
        for view in 0..layout.views.len() {
            let pixels = row.pixels(view).iter_mut().enumerate();
            pixels.for_each(|(i, byte)| *byte = ((i + n * 97) * 31 % 253) as u8);
        }
        row.set_facts(n as u32, n as u64);
        if let Some(field) = row.erase() {
            let boxes = vec![Rect { x: 1, y: 2, width: 9, height: 7 }];
            let erase = Erase { noise: n as u64, boxes };
            Erase::store(erased.then_some(&erase), field);
        }
    }
    (layout, memory)
}

const KEY: BatchKey = BatchKey { seed: 1, epoch: 0, number: 4, first_row: 0 };

#[test]
fn every_view_has_its_own_normalisation() {
    let views = r#"pretrain.views=[{resize="lanczos", size=32, normalise="none"},
        {resize="bicubic", size=16, normalise="dalle"}]"#;
    let recipe = recipe(Stage::Pretrain, &[views]);
    let (layout, memory) = batch(&recipe, 2, false);
    let batch = BatchRef::new(&layout, memory.as_slice(), 2);
    let out = HostStage::new(&recipe).run(batch);
    assert_eq!(out.views.iter().map(|v| v.width).collect::<Vec<_>>(), [32, 16]);
    let byte = f32::from(batch.pixels(1)[0]);
    assert_eq!(out.views[0].pixels[0], byte / 255.0);
    let byte = f32::from(batch.pixels(2)[0]);
    assert!((out.views[1].pixels[0] - (0.8 * byte / 255.0 + 0.1)).abs() < 1e-6);
    let second = out.slice(1..2);
    assert_eq!(second.views[1].pixels[..], out.views[1].pixels[3 * 16 * 16..]);
}

#[test]
fn erased_boxes_come_from_the_row_alone() {
    let recipe =
        recipe(Stage::Finetune, &[r#"finetune.augment.erase={probability=1.0, mode="pixel"}"#]);
    let stage = HostStage::new(&recipe);
    let run = |rows: u32, erased: bool| {
        let (layout, memory) = batch(&recipe, rows, erased);
        stage.run(BatchRef::new(&layout, memory.as_slice(), rows as usize)).pixels
    };
    let (plain, all, one) = (run(3, false), run(3, true), run(1, true));
    let changed = plain.iter().zip(&all).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 3 * 3 * 9 * 7);
    assert_eq!(all[..one.len()], one[..]);
}

#[test]
fn groups_are_mixed_alike_on_any_number_of_ranks() {
    let set = ["finetune.augment={mixup=0.8, cutmix=1.0, mix_group=4, smoothing=0.1}"];
    let recipe = recipe(Stage::Finetune, &set);
    let stage = HostStage::new(&recipe);
    let (layout, memory) = batch(&recipe, 8, false);
    let whole = BatchRef::new(&layout, memory.as_slice(), 8);
    let mixed = stage.run(whole.keyed(KEY));
    let mut halves = stage.floats(whole);
    stage.mix(&mut halves, 0..4, KEY);
    stage.mix(&mut halves, 4..8, BatchKey { first_row: 4, ..KEY });
    assert_eq!(mixed, halves);
    let targets = mixed.mixed.as_ref().expect("mixed");
    assert_eq!(targets.partners, [3, 2, 1, 0, 7, 6, 5, 4]);
    assert_ne!(targets.lambda[0], targets.lambda[4]);
    assert_eq!(stage.run(whole).mixed, None);
    assert_ne!(mixed, stage.run(whole.keyed(BatchKey { number: 5, ..KEY })));
}

#[test]
fn ragged_rows_are_padded_and_counted() {
    // Two rows of four tokens; bit 1 is a further pass.
    let bytes = [1, 0, 3, 0, 2, 2, 0, 1];
    let mut out = HostTensors { rows: 2, tokens: 4, ..HostTensors::default() };
    out.set_mask(Some(&bytes), 1);
    assert_eq!((out.masked_count.as_slice(), out.max_masked), ([2, 1].as_slice(), 2));
    assert_eq!(out.masked, [0, 2, 3, 3]);
    assert_eq!((out.visible.as_slice(), out.max_visible), ([1, 3, 3, 0, 1, 2].as_slice(), 3));
    let pass = &out.passes[0];
    assert_eq!(
        (pass.masked.as_slice(), pass.masked_count.as_slice()),
        ([2, 2, 0, 1].as_slice(), [1, 2].as_slice())
    );
    assert_eq!(pass.visible, [0, 1, 3, 2, 3, 3]);
}

#[test]
fn a_row_without_a_masked_token_counts_zero() {
    let mut out = HostTensors { rows: 2, tokens: 2, ..HostTensors::default() };
    out.set_mask(Some(&[0, 0, 0, 1]), 0);
    assert_eq!(
        (out.masked.as_slice(), out.masked_count.as_slice()),
        ([0, 1].as_slice(), [0, 1].as_slice())
    );
    assert!(out.passes.is_empty());
}

/// Where the numbers of `tensors` lie.
fn places(tensors: &HostTensors) -> [*const f32; 4] {
    let view = tensors.views.first().map_or(std::ptr::null(), |view| view.pixels.as_ptr());
    let pass = tensors.passes.first().map_or(std::ptr::null(), |pass| pass.targets.as_ptr());
    [tensors.pixels.as_ptr(), tensors.targets.as_ptr(), view, pass]
}

#[test]
fn memory_is_used_again_and_nothing_is_left_in_it() {
    let sets: [&[&str]; 5] = [
        &[r#"pretrain.target={kind="hog-picture"}"#],
        &[r#"pretrain.target={kind="pixels", norm="raw", order="channel-first"}"#],
        &[r#"pretrain.views=[{resize="lanczos", size=32, normalise="none"}]"#],
        &[r#"pretrain.target={kind="hog", cell=2}"#],
        &[r#"pretrain.mask={policy="halves"}"#],
    ];
    let mut out = HostTensors::default();
    for set in sets.iter().chain(sets.iter().rev()) {
        let recipe = recipe(Stage::Pretrain, set);
        let stage = HostStage::new(&recipe);
        for (rows, seed) in [(3, 1), (3, 2), (1, 3)] {
            let (layout, mut memory) = batch(&recipe, rows, false);
            let field = layout.views[0].mask.expect("masked");
            let bytes = &mut memory.as_mut_slice()[field.offset..];
            // Rows that differ in how many tokens are hidden.
            for (i, byte) in bytes[..field.row_bytes * rows as usize].iter_mut().enumerate() {
                let row = i / field.row_bytes;
                *byte = u8::from((i * seed + row) % (row + 2) == 0) + 2 * u8::from(i % 5 < 2);
            }
            let batch = BatchRef::new(&layout, memory.as_slice(), rows as usize);
            stage.run_into(batch, &mut out);
            let before = places(&out);
            stage.run_into(batch, &mut out);
            assert_eq!(places(&out), before);
            assert_eq!(out, stage.run(batch));
        }
    }
}

#[test]
fn targets_are_of_the_rows_pixels() {
    let run = |target: &str| {
        let recipe = recipe(Stage::Pretrain, &[&format!("pretrain.target={target}")]);
        let (layout, mut memory) = batch(&recipe, 2, false);
        let field = layout.views[0].mask.expect("masked");
        memory.as_mut_slice()[field.offset..][..2 * field.row_bytes].fill(0);
        memory.as_mut_slice()[field.offset + field.row_bytes + 9] = 1;
        HostStage::new(&recipe).run(BatchRef::new(&layout, memory.as_slice(), 2))
    };
    // Token 9 of row 1: row 1, column 1 of patches of 8 × 8 in 64 × 64 pixels.
    let raw = run(r#"{kind="pixels", norm="raw", order="channel-first"}"#);
    assert_eq!((raw.masked_count.as_slice(), raw.targets.len()), ([0, 1].as_slice(), 2 * 192));
    let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
    for (i, value) in raw.targets[192..].iter().enumerate() {
        let (c, y, x) = (i / 64, i / 8 % 8, i % 8);
        let pixel = raw.pixels[((3 + c) * 64 + 8 + y) * 64 + 8 + x];
        assert!(close(*value, pixel), "{i}: {value} for {pixel}");
    }
    assert!(raw.targets[..192].iter().all(|v| *v == 0.0));
    let unit = run(r#"{kind="pixels", norm="unit"}"#);
    let pixel = unit.pixels[(3 * 64 + 8) * 64 + 8] * 0.229 + 0.485;
    assert!(close(unit.targets[192], pixel), "{} for {pixel}", unit.targets[192]);
    let drawn = run(r#"{kind="hog-picture"}"#);
    assert!(drawn.targets[64..].iter().any(|v| *v > 0.0));
}
