use burn::backend::Flex;
use tubelet_augment::{HostStage, Stage, builtin};
use tubelet_core::{BatchRef, Heap, HostMemory, RowMut, SampleId, SampleKey};

use super::*;

/// The tensors of a made-up batch of `recipe`, on the host and by tensor operations.
fn compare(name: &str, set: &[&str]) {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let file = builtin::recipe(name, &set).expect("built in");
    let recipe = file.stage(Stage::Pretrain).expect("checked");
    let (rows, layout) = (3, recipe.layout_of(0, 3));
    let memory = Heap.allocate(layout.bytes).expect("small");
    for n in 0..rows {
        // SAFETY: the buffer has the layout's bytes, and one row is written at a time.
        let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), n) };
        for (i, byte) in row.pixels(0).iter_mut().enumerate() {
            let wave = ((i / 3) as f64 * 0.031 + n as f64).sin() * 90.0 + (i % 3 * 20) as f64;
            *byte = (110.0 + wave) as u8 ^ (i * 7 % 5) as u8;
        }
        let key = SampleKey { seed: 1, epoch: 0, sample: SampleId(n as u64), repeat: 0 };
        let rng = &mut key.view_rng(tubelet_core::Draw::Mask, 0);
        let mask = recipe.mask().draw(recipe.grid(), rng).expect("a mask");
        mask.write_bytes(row.mask(0).expect("a mask"));
    }
    let batch = BatchRef::new(&layout, memory.as_slice(), rows);
    let (host, mut lists) = (HostStage::new(&recipe), HostTensors::default());
    host.lists_into(batch, &mut lists);
    assert!(lists.pixels.is_empty() && lists.targets.is_empty());
    let host = host.run(batch);
    assert_eq!((&lists.mask, &lists.masked_count), (&host.mask, &host.masked_count));
    let (view, patch) = (&layout.views[0], recipe.patch());
    let geometry = Geometry {
        input: [view.frames, view.size.height, view.size.width].map(|n| n as usize),
        patch: [patch.t, patch.h, patch.w].map(|n| n as usize),
        patch_3d: true,
    };
    let tokens = MaskedTokens::from_mask(&host.mask, rows, host.tokens).expect("fits");
    let device = Default::default();
    let plan = OnDevice::new(&recipe, false).expect("on the device too");
    let pixels = Bytes::from_bytes_vec(batch.pixels(0).to_vec());
    let on_device = DeviceBatch::<Flex>::from_bytes(&plan, pixels, view, &lists, &device);
    let pairs = [
        (host.all_patches(&geometry, &device), on_device.all_patches(&geometry, &device)),
        (
            host.visible_patches(&geometry, &tokens, &device),
            on_device.visible_patches(&geometry, &tokens, &device),
        ),
        (host.hidden_targets(&device), on_device.hidden_targets(&device)),
    ];
    for (n, (want, got)) in pairs.into_iter().enumerate() {
        assert_eq!(want.dims(), got.dims(), "{name} {set:?}: {n}");
        let [want, got] = [want, got].map(|t: Tensor<Flex, 2>| t.into_data().to_vec::<f32>());
        let (want, got) = (want.expect("f32"), got.expect("f32"));
        assert!(!want.is_empty(), "{name}: {n}");
        let far = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 2e-5, "{name} {set:?}: {far} in {n}");
    }
}

#[test]
fn tensor_operations_make_what_the_host_makes() {
    compare("mae-tiny", &[]);
    for norm in ["raw", "unit", "omnimae", "bootmae"] {
        compare("mae-tiny", &[&format!("pretrain.target={{kind=\"pixels\", norm=\"{norm}\"}}")]);
    }
    compare("videomae-tiny", &[]);
    compare("mae-st-tiny", &[]);
}

#[test]
fn what_is_for_the_host_is_named() {
    let refused = |name: &str, set: &str| {
        let file = builtin::recipe(name, &[set.to_owned()]).expect("built in");
        OnDevice::new(&file.stage(Stage::Pretrain).expect("checked"), true).err()
    };
    assert_eq!(refused("maskfeat-tiny", "pretrain.batch_size=8"), Some("HOG targets"));
    let first = r#"pretrain.target={kind="pixels", norm="mae", order="channel-first"}"#;
    assert_eq!(refused("mae-tiny", first), Some("pixel targets with the channel first"));
    let phases = r#"pretrain.phases=[{from=0, shapes=[{size=32}, {size=64}]}]"#;
    assert_eq!(refused("mae-tiny", phases), Some("several shapes"));
    assert_eq!(refused("mae-tiny", "pretrain.batch_size=8"), None);
}
