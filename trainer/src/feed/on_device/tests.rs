use burn::backend::Flex;
use tubelet_augment::{HostStage, Stage};

use super::super::testing::{MadeUp, close, recipe};
use super::*;

/// The tensors of a made-up batch of `recipe`, on the host and by tensor operations.
fn compare<B: Backend>(name: &str, set: &[&str]) {
    let made = MadeUp::new(&recipe(name, Stage::Pretrain, set));
    let batch = made.batch();
    let (host, mut lists) = (HostStage::new(&made.recipe), HostTensors::default());
    host.lists_into(batch, &mut lists);
    assert!(lists.pixels.is_empty() && lists.targets.is_empty());
    let host = host.run(batch);
    assert_eq!((&lists.mask, &lists.masked_count), (&host.mask, &host.masked_count));
    let geometry = made.geometry();
    let tokens = MaskedTokens::from_mask(&host.mask, made.rows, host.tokens).expect("fits");
    let device = Default::default();
    let plan = OnDevice::new(&made.recipe).expect("on the device too");
    let pixels = Bytes::from_bytes_vec(batch.pixels(0).to_vec());
    let view = &made.layout.views[0];
    let on_device = DeviceBatch::<B>::from_bytes(&plan, pixels, view, &lists, &device);
    let pairs = [
        (host.all_patches(&geometry, &device), on_device.all_patches(&geometry, &device)),
        (
            host.visible_patches(&geometry, &tokens, &device),
            on_device.visible_patches(&geometry, &tokens, &device),
        ),
        (host.hidden_targets(&device), on_device.hidden_targets(&device)),
    ];
    for (n, (want, got)) in pairs.into_iter().enumerate() {
        close::<B>(want, got, 2e-5, &format!("{name} {set:?}: {n}"));
    }
}

fn compare_all<B: Backend>() {
    compare::<B>("mae-tiny", &[]);
    for norm in ["raw", "unit", "omnimae", "bootmae"] {
        let set = format!("pretrain.target={{kind=\"pixels\", norm=\"{norm}\"}}");
        compare::<B>("mae-tiny", &[&set]);
    }
    compare::<B>("videomae-tiny", &[]);
    compare::<B>("mae-st-tiny", &[]);
}

#[test]
fn tensor_operations_make_what_the_host_makes() {
    compare_all::<Flex>();
}

#[cfg(feature = "cuda")]
#[test]
fn tensor_operations_on_cuda_make_what_the_host_makes() {
    if super::super::testing::gpu().is_some() {
        compare_all::<burn::backend::Cuda>();
    }
}

#[test]
fn what_is_for_the_host_is_named() {
    let refused =
        |name: &str, set: &str| OnDevice::new(&recipe(name, Stage::Pretrain, &[set])).err();
    assert_eq!(refused("maskfeat-tiny", "pretrain.batch_size=8"), Some("HOG targets"));
    let first = r#"pretrain.target={kind="pixels", norm="mae", order="channel-first"}"#;
    assert_eq!(refused("mae-tiny", first), Some("pixel targets with the channel first"));
    let phases = r#"pretrain.phases=[{from=0, shapes=[{size=32}, {size=64}]}]"#;
    assert_eq!(refused("mae-tiny", phases), Some("several shapes"));
    assert_eq!(refused("mae-tiny", "pretrain.batch_size=8"), None);
}
