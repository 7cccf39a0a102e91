//! The stream of batches does not depend on workers, slots, ranks or the point of resumption.

use std::path::Path;
use std::sync::Arc;

use tubelet_augment::{Stage, builtin};
use tubelet_core::Heap;
use tubelet_formats::{Index, OpenOptions, open};
use tubelet_loader::{Batch, Cursor, Loader, LoaderConfig, Order};

use crate::media;

/// Everything a batch holds, as comparable bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows {
    pixels: Vec<u8>,
    mask: Vec<u8>,
    labels: Vec<u32>,
    samples: Vec<u64>,
}

impl Rows {
    fn of(batch: &Batch) -> Self {
        let batch = batch.as_ref();
        Self {
            pixels: batch.pixels(0).to_vec(),
            mask: batch.mask(0).map(<[u8]>::to_vec).unwrap_or_default(),
            labels: batch.labels().to_vec(),
            samples: batch.samples().to_vec(),
        }
    }

    fn join(parts: &[Self]) -> Self {
        let all = |f: fn(&Self) -> &[u8]| parts.iter().flat_map(|p| f(p).to_vec()).collect();
        Self {
            pixels: all(|p| &p.pixels),
            mask: all(|p| &p.mask),
            labels: parts.iter().flat_map(|p| p.labels.clone()).collect(),
            samples: parts.iter().flat_map(|p| p.samples.clone()).collect(),
        }
    }
}

fn stream(
    root: &Path,
    recipe: &str,
    set: &[&str],
    config: LoaderConfig,
    from: Cursor,
    count: usize,
) -> Vec<(Rows, Cursor)> {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let recipe = builtin::recipe(recipe, &set).and_then(|f| f.stage(Stage::Pretrain));
    let recipe = Arc::new(recipe.expect("valid recipe"));
    let shards = open(root, &OpenOptions::default()).expect("opens");
    let loader = Loader::new(shards, recipe, &Heap, config).expect("valid settings");
    let batches = loader.batches(from).expect("starts");
    batches.take(count).map(|b| b.expect("loads")).map(|b| (Rows::of(&b), b.cursor())).collect()
}

fn workers(workers: usize, slots: usize) -> LoaderConfig {
    LoaderConfig { seed: 5, workers, slots, ..LoaderConfig::default() }
}

#[test]
fn any_number_of_workers_and_slots_gives_the_same_bytes() {
    let root = media::imagenet(3, 5);
    let set = ["pretrain.batch_size=4"];
    let run = |config| stream(root.path(), "mae-tiny", &set, config, Cursor::default(), 8);
    let one = run(workers(1, 1));
    assert_eq!(one, run(workers(2, 3)));
    assert_eq!(one, run(workers(5, 2)));
    // Eight batches of four from fifteen samples: three an epoch, so three epochs are touched.
    assert_eq!(one[7].1.epoch, 2);
    assert_ne!(one[0].0.samples, one[3].0.samples, "epochs have different orders");
}

#[test]
fn a_stream_resumes_in_the_middle_of_an_epoch() {
    let root = media::kinetics(9);
    let set = ["pretrain.batch_size=4"];
    let run = |from, n| stream(root.path(), "videomae-tiny", &set, workers(2, 2), from, n);
    let whole = run(Cursor::default(), 6);
    for cut in 1..6 {
        assert_eq!(whole[cut..], run(whole[cut - 1].1, 6 - cut), "resumed after {cut}");
    }
}

#[test]
fn ranks_together_give_the_same_global_batches() {
    let root = media::kinetics(9);
    let set = ["pretrain.batch_size=8", "pretrain.repeats=2"];
    let run = |rank, world| {
        let config = LoaderConfig { rank, world, ..workers(2, 2) };
        stream(root.path(), "mae-st-tiny", &set, config, Cursor::default(), 4)
    };
    let whole = run(0, 1);
    let ranks: Vec<_> = (0..4).map(|rank| run(rank, 4)).collect();
    for n in 0..4 {
        let parts: Vec<Rows> = ranks.iter().map(|r| r[n].0.clone()).collect();
        assert_eq!(whole[n].0, Rows::join(&parts), "batch {n}");
        assert!(ranks.iter().all(|r| r[n].1 == whole[n].1), "cursor of batch {n}");
    }
}

#[test]
fn repeats_share_a_video_but_not_their_draws() {
    let root = media::kinetics(4);
    let set = ["pretrain.batch_size=8", "pretrain.repeats=4"];
    let batches = stream(root.path(), "mae-st-tiny", &set, workers(1, 2), Cursor::default(), 1);
    let rows = &batches[0].0;
    assert_eq!(rows.samples.chunks(4).map(|c| c[0]).collect::<Vec<_>>().len(), 2);
    assert!(rows.samples.chunks(4).all(|c| c.iter().all(|s| *s == c[0])));
    let masks: Vec<&[u8]> = rows.mask.chunks(rows.mask.len() / 8).collect();
    assert_ne!(masks[0], masks[1]);
    let clips: Vec<&[u8]> = rows.pixels.chunks(rows.pixels.len() / 8).collect();
    assert_ne!(clips[0], clips[1]);
}

#[test]
fn a_sequential_pass_ends_with_what_is_left() {
    let root = media::imagenet(3, 3);
    let config = LoaderConfig { order: Order::Sequential, ..workers(3, 2) };
    let set = ["pretrain.batch_size=4"];
    let batches = stream(root.path(), "mae-tiny", &set, config, Cursor::default(), 99);
    let sizes: Vec<usize> = batches.iter().map(|b| b.0.samples.len()).collect();
    assert_eq!(sizes, [4, 4, 1]);
    let all: Vec<u64> = batches.iter().flat_map(|b| b.0.samples.clone()).collect();
    assert_eq!(all, (0..9).collect::<Vec<_>>());
}

/// Shapes that change by epoch and batch: any number of workers and ranks, and any point of
/// resumption, give the same stream.
#[test]
fn phases_are_the_same_for_workers_ranks_and_resumption() {
    let root = media::imagenet(2, 12);
    let set = [
        "pretrain.batch_size=8",
        "pretrain.phases=[{from=0, shapes=[{size=64}]}, \
         {from=1, shapes=[{size=32, batch_size=12}, {size=48, batch_size=4}]}]",
    ];
    let run = |workers: usize, rank, world, from, count| {
        let config = LoaderConfig { rank, world, ..self::workers(workers, 3) };
        stream(root.path(), "mae-tiny", &set, config, from, count)
    };
    let whole = run(1, 0, 1, Cursor::default(), 9);
    let sizes: Vec<usize> = whole.iter().map(|(rows, _)| rows.pixels.len() / 3).collect();
    let (first, large, small) = (8 * 64 * 64, 12 * 32 * 32, 4 * 48 * 48);
    assert_eq!(sizes[..3], [first; 3]);
    assert_eq!(sizes[3..5], [large, small]);
    assert_eq!(whole, run(4, 0, 1, Cursor::default(), 9));
    for (n, (_, cursor)) in whole.iter().enumerate().take(8) {
        assert_eq!(whole[n + 1..], run(2, 0, 1, *cursor, 8 - n));
    }
    let halves = [0, 1].map(|rank| run(2, rank, 2, Cursor::default(), 9));
    for (n, (rows, _)) in whole.iter().enumerate() {
        assert_eq!(*rows, Rows::join(&[halves[0][n].0.clone(), halves[1][n].0.clone()]));
    }
}

/// The tallest and the widest pictures of [`media::imagenet`] have aspects of 1.2 and 2.4.
const BUCKETS: &str = "pretrain.buckets={shapes=[[64, 80], [56, 104], [64, 64]]}";

/// Batches of one aspect each: any number of workers and ranks, and any point of resumption, give the
/// same stream, in which every sample of a batch has its shape.
#[test]
fn buckets_are_the_same_for_workers_ranks_and_resumption() {
    let root = media::imagenet(2, 12);
    let shards = open(root.path(), &OpenOptions::default()).expect("opens");
    let index = Index::build(shards.as_ref(), 1, &|_, _| {});
    index.write(&Index::default_path(root.path(), "train")).expect("writes");
    let set = [BUCKETS, "pretrain.token_budget=364", "pretrain.batch_multiple=2"];
    let run = |workers: usize, rank, world, from, count| {
        let config = LoaderConfig { rank, world, ..self::workers(workers, 3) };
        stream(root.path(), "mae-tiny", &set, config, from, count)
    };
    let whole = run(1, 0, 1, Cursor::default(), 12);
    let shapes: Vec<(usize, usize)> =
        whole.iter().map(|(rows, _)| (rows.samples.len(), rows.mask.len())).collect();
    // 364 tokens are 4 rows of 8x10 tokens, and 4 of 7x13; none is near to a square.
    assert!(shapes.contains(&(4, 320)) && shapes.contains(&(4, 364)), "{shapes:?}");
    for (rows, _) in &whole {
        let wide = |sample: &u64| {
            let (class, n) = (sample / 12, name_order(sample % 12));
            (90.0 + 7.0 * n as f64) / (70.0 + 5.0 * class as f64) > (1.25f64 * 104.0 / 56.0).sqrt()
        };
        assert!(rows.samples.iter().all(|s| wide(s) == (rows.mask.len() == 364)), "{rows:?}");
    }
    assert_eq!(whole, run(4, 0, 1, Cursor::default(), 12));
    for (n, (_, cursor)) in whole.iter().enumerate().take(11) {
        assert_eq!(whole[n + 1..], run(2, 0, 1, *cursor, 11 - n), "after batch {n}");
    }
    let halves = [0, 1].map(|rank| run(2, rank, 2, Cursor::default(), 12));
    for (n, (rows, _)) in whole.iter().enumerate() {
        assert_eq!(*rows, Rows::join(&[halves[0][n].0.clone(), halves[1][n].0.clone()]));
    }
}

/// Which picture of a class the `n`-th by name is: 0, 1, 10, 11, 2 and so on.
fn name_order(n: u64) -> u64 {
    match n {
        0 | 1 => n,
        2 | 3 => n + 8,
        _ => n - 2,
    }
}

/// Without stored sizes a recipe with buckets is refused, or puts all samples where it says.
#[test]
fn unknown_sizes_are_refused_or_counted() {
    let root = media::imagenet(2, 4);
    let load = |unknown: &str| {
        let buckets = BUCKETS.replace("]]}", &format!("]], unknown=\"{unknown}\"}}"));
        let set = [buckets, "pretrain.batch_size=4".to_owned()];
        let recipe = builtin::recipe("mae-tiny", &set).and_then(|f| f.stage(Stage::Pretrain));
        let shards = open(root.path(), &OpenOptions::default()).expect("opens");
        let recipe = Arc::new(recipe.expect("valid"));
        Loader::new(shards, recipe, &Heap, workers(1, 2)).map_err(|e| e.to_string())
    };
    let error = load("refuse").err().expect("refused");
    assert!(error.contains("sample 0") && error.contains("tubelet index"), "{error}");
    let loader = load("squarest").expect("valid");
    let counts = loader.buckets().iter().map(|b| (b.samples, b.unknown)).collect::<Vec<_>>();
    assert_eq!((counts, loader.batches_per_epoch()), (vec![(0, 0), (0, 0), (8, 8)], 2));
}
