//! The arithmetic of batches whose shape changes, by epoch and by bucket.

use tubelet_augment::builtin;

use super::*;

/// 3 epochs of one shape, then a turn of three shapes.
const PHASES: &str = "pretrain.phases=[{from=0, shapes=[{batch_size=12}]}, \
    {from=3, shapes=[{size=48, batch_size=20}, {size=32, batch_size=8}, {batch_size=5}]}]";

fn schedule(len: u64, order: Order) -> Schedule {
    let file = builtin::recipe("mae-tiny", &[PHASES.to_owned()]).expect("valid");
    let recipe = Arc::new(file.stage(tubelet_augment::Stage::Pretrain).expect("checked"));
    Schedule { order, seed: 1, len, recipe, listed_epoch: 4, buckets: None }
}

/// Every epoch is walked without gap or overlap, every batch has its shape's size, and starting at
/// any batch's cursor gives the same rest.
#[test]
fn epochs_are_walked_shape_by_shape() {
    for len in [20u64, 33, 40, 66, 100, 101] {
        let schedule = schedule(len, Order::Shuffled);
        let (mut cursor, mut batches) = (Cursor::default(), Vec::new());
        while cursor.epoch < 6 {
            let planned = schedule.batch_at(cursor).expect("endless");
            cursor = planned.after;
            batches.push(planned);
        }
        for epoch in 0..6 {
            let own: Vec<_> = batches.iter().filter(|b| b.start.epoch == epoch).collect();
            assert_eq!(own.len() as u64, schedule.batches_in(epoch), "{len} {epoch}");
            let mut position = 0;
            for (n, batch) in own.iter().enumerate() {
                let shape = schedule.recipe.shape(epoch, n as u64);
                assert_eq!(batch.number, n as u64);
                assert_eq!(batch.start.position, position);
                assert_eq!(batch.count, samples_per_batch(shape));
                position += batch.count;
            }
            assert!(position <= len && !own.is_empty());
        }
        for pair in batches.windows(2) {
            assert_eq!(schedule.batch_at(pair[0].after).as_ref(), Some(&pair[1]));
        }
    }
}

#[test]
fn a_list_ends_with_what_is_left() {
    let order = Order::Listed { samples: (0..30).collect(), epoch: 4 };
    let schedule = schedule(30, order);
    let mut cursor = Cursor::default();
    let mut counts = Vec::new();
    while let Some(planned) = schedule.batch_at(cursor) {
        counts.push(planned.count);
        cursor = planned.after;
    }
    assert_eq!(counts, [20, 8, 2]);
    assert_eq!(schedule.batches_in(0), 3);
}

/// Buckets of 4, 2 and 2 rows.
const BUCKETS: &str = "pretrain.buckets={shapes=[[32, 32], [32, 48], [32, 64]]}";

/// A data set whose sample n is in bucket n² mod 7 mod 3.
fn bucketed(len: u64, order: Order) -> Schedule {
    let set = [BUCKETS, "pretrain.token_budget=64"].map(str::to_owned);
    let file = builtin::recipe("mae-tiny", &set).expect("valid");
    let recipe = Arc::new(file.stage(tubelet_augment::Stage::Pretrain).expect("checked"));
    let rows: Vec<u32> = recipe.shapes().map(Recipe::batch_size).collect();
    assert_eq!(rows, [4, 2, 2]);
    let of = (0..100).map(|n: u64| (n * n % 7 % 3) as u8).collect();
    let buckets = Some(Arc::new(Buckets::given(of, &recipe)));
    Schedule { order, seed: 1, len, recipe, listed_epoch: 4, buckets }
}

/// Every batch is full and of one bucket, no sample comes twice, as many are left out as is reported,
/// and any batch's cursor gives the same rest.
#[test]
fn batches_are_of_one_bucket() {
    for len in [20u64, 33, 100] {
        let schedule = bucketed(len, Order::Shuffled);
        let batches: Vec<Planned> =
            schedule.walk(Cursor::default()).take_while(|b| b.start.epoch < 3).collect();
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let own: Vec<_> = batches.iter().filter(|b| b.start.epoch == epoch).collect();
            assert_eq!(own.len() as u64, schedule.batches_in(epoch));
            let mut seen = Vec::new();
            for (n, batch) in own.iter().enumerate() {
                let (bucket, samples) = batch.bucket.as_ref().expect("has one");
                assert_eq!((batch.number, batch.start.position), (n as u64, seen.len() as u64));
                assert_eq!(samples.len() as u64, batch.room);
                assert!(samples.iter().all(|s| s * s % 7 % 3 == *bucket as u64));
                seen.extend(samples.clone());
            }
            orders.push(seen.clone());
            seen.sort_unstable();
            seen.dedup();
            let reports = schedule.bucket_reports();
            let left_out: u64 = reports.iter().map(|b| b.left_out).sum();
            assert_eq!(seen.len() as u64 + left_out, len);
            assert_eq!(reports.iter().map(|b| b.samples).sum::<u64>(), len);
        }
        assert_ne!(orders[0], orders[1]);
        for (n, batch) in batches.iter().enumerate() {
            let rest: Vec<Planned> =
                schedule.walk(batch.after).take(batches.len() - n - 1).collect();
            assert_eq!(rest, batches[n + 1..], "{len}, after batch {n}");
        }
    }
}

/// A list gives each of its samples once; of each bucket the last batch may be smaller.
#[test]
fn a_list_keeps_what_does_not_fill_a_batch() {
    let samples: Vec<u64> = (0..48).rev().collect();
    let schedule = bucketed(48, Order::Listed { samples: samples.clone(), epoch: 4 });
    let batches: Vec<Planned> = schedule.walk(Cursor::default()).collect();
    assert_eq!(batches.len() as u64, schedule.batches_in(0));
    let mut seen: Vec<u64> =
        batches.iter().flat_map(|b| b.bucket.clone().expect("has one").1).collect();
    let partial = batches.iter().filter(|b| b.count < b.room).count();
    assert!((1..=3).contains(&partial), "{partial}");
    seen.sort_unstable();
    assert_eq!(seen, (0..48).collect::<Vec<_>>());
    let third = batches[2].after;
    assert_eq!(schedule.walk(third).collect::<Vec<_>>(), batches[3..]);
}

/// A stand-in has the bucket of what it stands in for.
#[test]
fn substitutes_stay_in_their_bucket() {
    let schedule = bucketed(100, Order::Shuffled);
    let buckets = schedule.buckets.as_ref().expect("has some");
    for sample in 0..100 {
        for bucket in 0..3 {
            assert_eq!(buckets.of(buckets.next_of(bucket, sample)), bucket);
        }
        assert_eq!(buckets.next_of(buckets.of(sample), sample), sample);
    }
}
