//! Batches to the u8 slot and to floats, by number of workers. Elements are rows.

#[path = "../tests/media.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod media;

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tubelet_augment::builtin;
use tubelet_loader::{
    Batches, Cursor, Heap, HostStage, HostTensors, Loader, LoaderConfig, OpenOptions, Stage, open,
};

fn batches(criterion: &mut Criterion) {
    let root = media::imagenet(4, 16);
    let shards = open(root.path(), &OpenOptions::default()).expect("a data set");
    let set = ["pretrain.batch_size=16".to_owned()];
    let file = builtin::recipe("mae-tiny", &set).expect("a recipe");
    let recipe = Arc::new(file.stage(Stage::Pretrain).expect("a stage"));
    let stage = HostStage::new(&recipe);
    let mut group = criterion.benchmark_group("loader");
    group.throughput(Throughput::Elements(16 * 16)).sample_size(20);
    for workers in [1, 2] {
        for floats in [false, true] {
            let config = LoaderConfig { workers, ..LoaderConfig::default() };
            let start = || {
                let (shards, recipe) = (Arc::clone(&shards), Arc::clone(&recipe));
                let loader = Loader::new(shards, recipe, &Heap, config.clone()).expect("a loader");
                loader.batches(Cursor::default()).expect("batches")
            };
            let name = format!("{workers} workers, {}", if floats { "floats" } else { "u8" });
            let mut tensors = HostTensors::default();
            group.bench_function(name, |bencher| {
                let run = |batches: Batches| {
                    for batch in batches.take(16) {
                        let batch = batch.expect("a batch");
                        if floats {
                            stage.run_into(batch.as_ref(), &mut tensors);
                        }
                    }
                };
                bencher.iter_batched(start, run, BatchSize::PerIteration);
            });
        }
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
