//! Broken input: named, counted, replaced as the policy says, never silent and never a hang.

use std::path::Path;
use std::sync::Arc;

use tubelet_augment::{Stage, builtin};
use tubelet_core::Heap;
use tubelet_formats::{OpenOptions, open};
use tubelet_loader::{Batches, Cursor, Loader, LoaderConfig, LoaderError, OnError, Order};

use crate::media;

fn batches(root: &Path, on_error: OnError, stage: Stage) -> Batches {
    let set = ["pretrain.batch_size=4", "eval.batch_size=4"].map(str::to_owned);
    let recipe = builtin::recipe("mae-tiny", &set).and_then(|f| f.stage(stage));
    let shards = open(root, &OpenOptions::default()).expect("opens");
    let order = if stage == Stage::Eval { Order::Sequential } else { Order::Shuffled };
    let config = LoaderConfig { seed: 1, workers: 2, order, on_error, ..LoaderConfig::default() };
    Loader::new(shards, Arc::new(recipe.expect("valid")), &Heap, config)
        .and_then(|l| l.batches(Cursor::default()))
        .expect("starts")
}

/// Twelve good pictures and an empty, a truncated and a mislabelled one.
fn broken_set() -> tempfile::TempDir {
    let root = media::imagenet(3, 4);
    let folder = root.path().join("train/n00000001");
    media::write(&folder.join("empty.JPEG"), b"");
    let whole = media::jpeg(tubelet_core::Size::new(100, 80), 1);
    media::write(&folder.join("half.JPEG"), &whole[..whole.len() / 2]);
    media::write(&folder.join("text.JPEG"), b"this is not a picture at all");
    root
}

#[test]
fn broken_pictures_are_replaced_and_reported() {
    let root = broken_set();
    let mut stream = batches(root.path(), OnError::Skip { max_share: 0.9 }, Stage::Pretrain);
    for _ in 0..9 {
        let batch = stream.next().expect("endless").expect("substitutes exist");
        assert_eq!(batch.as_ref().rows(), 4);
    }
    let stats = stream.stats();
    let mut names: Vec<&str> =
        stats.drops.iter().filter_map(|d| d.name.rsplit('/').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["empty.JPEG", "half.JPEG", "text.JPEG"]);
    assert!(stats.drops.iter().all(|d| !d.cause.is_empty()));
}

#[test]
fn the_fail_policy_stops_with_the_name() {
    let root = broken_set();
    let error = batches(root.path(), OnError::Fail, Stage::Pretrain)
        .take(9)
        .find_map(Result::err)
        .expect("a broken picture comes within three epochs");
    let text = error.to_string();
    assert!(matches!(error, LoaderError::Sample(_)), "{text}");
    assert!(text.contains(".JPEG"), "{text}");
}

#[test]
fn too_many_drops_stop_the_loader() {
    let root = media::imagenet(1, 6);
    for n in 0..60 {
        media::write(&root.path().join(format!("train/n00000000/bad{n}.JPEG")), b"no");
    }
    let error = batches(root.path(), OnError::Skip { max_share: 0.1 }, Stage::Pretrain)
        .take(100)
        .find_map(Result::err)
        .expect("ten in eleven are broken");
    assert!(matches!(error, LoaderError::TooManyDrops { .. }), "{error}");
}

#[test]
fn an_evaluation_leaves_broken_samples_out() {
    let root = broken_set();
    let mut stream = batches(root.path(), OnError::Skip { max_share: 0.9 }, Stage::Eval);
    let labels: Vec<u32> =
        stream.by_ref().flat_map(|b| b.expect("goes on").as_ref().labels().to_vec()).collect();
    assert_eq!(labels.len(), 15);
    assert_eq!(labels.iter().filter(|l| **l == tubelet_core::layout::NO_LABEL).count(), 3);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let root = media::imagenet(1, 2);
    let recipe = builtin::recipe("mae-tiny", &[]).and_then(|f| f.stage(Stage::Pretrain));
    let recipe = Arc::new(recipe.expect("valid"));
    let shards = open(root.path(), &OpenOptions::default()).expect("opens");
    let start = |config| Loader::new(Arc::clone(&shards), Arc::clone(&recipe), &Heap, config).err();
    let too_small = start(LoaderConfig::default()).expect("2 samples, 32 rows").to_string();
    assert!(too_small.contains("2 samples"), "{too_small}");
    let rank = LoaderConfig { rank: 4, world: 4, ..LoaderConfig::default() };
    assert!(start(rank).expect("rank").to_string().contains("rank 4"));
    let world = LoaderConfig { world: 5, ..LoaderConfig::default() };
    assert!(start(world).expect("world").to_string().contains("5 ranks"));
}

/// Dropping a stream early, with batches still held, ends all threads.
#[test]
fn a_stream_can_be_dropped_at_any_time() {
    let root = media::imagenet(2, 4);
    for taken in 0..3 {
        let mut stream = batches(root.path(), OnError::Fail, Stage::Pretrain);
        let held: Vec<_> = stream.by_ref().take(taken).collect();
        drop(stream);
        assert!(held.iter().all(|b| b.as_ref().is_ok_and(|b| b.as_ref().rows() == 4)));
    }
}
