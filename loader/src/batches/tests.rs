//! The arithmetic of batches whose shape changes.

use tubelet_augment::builtin;

use super::*;

/// 3 epochs of one shape, then a turn of three shapes.
const PHASES: &str = "pretrain.phases=[{from=0, shapes=[{batch_size=12}]}, \
    {from=3, shapes=[{size=48, batch_size=20}, {size=32, batch_size=8}, {batch_size=5}]}]";

fn schedule(len: u64, order: Order) -> Schedule {
    let file = builtin::recipe("mae-tiny", &[PHASES.to_owned()]).expect("valid");
    let recipe = Arc::new(file.stage(tubelet_augment::Stage::Pretrain).expect("checked"));
    Schedule { order, seed: 1, len, recipe, listed_epoch: 4 }
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
            batches.push(planned);
            cursor = planned.after;
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
            assert_eq!(schedule.batch_at(pair[0].after), Some(pair[1]));
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
