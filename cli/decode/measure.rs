//! Some samples both ways: rates, and how well the pixels agree.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tubelet_augment::Recipe;
use tubelet_augment::plan::{SamplePlan, union_of_frames, union_of_regions};
use tubelet_core::layout::BatchLayout;
use tubelet_core::{Heap, HostBuf, HostMemory, MediaInfo, Rect, RowMut, SampleKey};
use tubelet_formats::{MediaKind, ShardReader};
use tubelet_loader::maker::{HostMaker, smaller_level};
use tubelet_loader::{Planned, RowMaker, Rows};

use super::device::{Device, DeviceMaker};
use super::planner::{Decision, Figures, psnr};

/// Fewest and most samples that are measured.
const SAMPLES: [usize; 2] = [8, 64];
/// How long each way is measured.
const TIME: Duration = Duration::from_millis(500);
/// Records that are looked at for samples of a kind.
const LOOKED_AT: usize = 1024;

/// A sample that is read and planned, on its own.
struct Ready<'a> {
    /// Its shape of the recipe.
    recipe: &'a Recipe,
    encoded: Vec<u8>,
    info: MediaInfo,
    plans: Vec<SamplePlan>,
    frames: Vec<u32>,
    region: Option<Rect>,
}

impl Ready<'_> {
    fn planned(&self) -> Planned<'_> {
        let Self { encoded, info, plans, frames, region, .. } = self;
        Planned { encoded, info, plans, frames, region: *region }
    }
}

/// Memory of one row.
struct OneRow {
    layout: BatchLayout,
    memory: HostBuf,
}

impl OneRow {
    fn new(recipe: &Recipe) -> Result<Self, String> {
        let layout = recipe.rows_layout(1);
        let memory = Heap.allocate(layout.bytes).map_err(|e| e.to_string())?;
        Ok(Self { layout, memory })
    }

    /// The row of another shape.
    fn fit(&mut self, recipe: &Recipe) -> Result<&mut Self, String> {
        let layout = recipe.rows_layout(1);
        if layout.bytes > self.memory.as_slice().len() {
            self.memory = Heap.allocate(layout.bytes).map_err(|e| e.to_string())?;
        }
        self.layout = layout;
        Ok(self)
    }
}

impl Rows for OneRow {
    fn row(&mut self, _: usize) -> RowMut<'_> {
        // SAFETY: the memory has the layout's bytes and is aligned for it, there is one row, and it
        // is borrowed as long as the row is.
        unsafe { RowMut::from_raw(&self.layout, self.memory.as_mut_slice().as_mut_ptr(), 0) }
    }

    fn leave(&mut self, _: usize) {
        debug_assert!(false, "memory on the heap has no place on the device");
    }
}

/// Numbers of some records of `kind`, spread over the data set.
pub(super) fn some_of(shards: &dyn ShardReader, kind: MediaKind, workers: usize) -> Vec<usize> {
    let (len, most) = (shards.len(), (4 * workers).clamp(SAMPLES[0], SAMPLES[1]));
    let step = len.div_ceil(LOOKED_AT).max(1);
    let mut found: Vec<usize> =
        (0..len).step_by(step).filter(|n| shards.record(*n).kind == kind).collect();
    let keep = found.len().div_ceil(most).max(1);
    let mut n = 0;
    found.retain(|_| {
        n += 1;
        (n - 1) % keep == 0
    });
    found
}

/// Measures the records `numbers` of one kind with `workers` threads.
pub(super) fn measure(
    device: &Arc<Device>,
    kind: MediaKind,
    shards: &dyn ShardReader,
    (recipe, numbers): (&Recipe, &[usize]),
    workers: usize,
) -> Decision {
    let mut host = HostMaker::default();
    let ready = |n: &usize| prepare(shards, recipe, *n, &mut host);
    let samples: Vec<Ready<'_>> = numbers.iter().filter_map(ready).collect();
    // What is measured is not counted as the run's.
    let tally = Arc::default();
    let on_device = || DeviceMaker::new(device, vec![kind], &tally);
    let compared = samples.iter().find_map(|s| compare(s, &mut on_device()).transpose());
    let agreement = match compared {
        None => {
            let unread = || "no sample could be read".to_owned();
            let reason = tally.first_reason().unwrap_or_else(unread);
            let count = samples.len();
            return Decision::Unable(format!("the GPU decodes none of {count} samples: {reason}"));
        }
        Some(Err(reason)) => return Decision::Unable(reason),
        Some(Ok(psnr)) => psnr,
    };
    let rate = |make: &(dyn Fn() -> Box<dyn RowMaker> + Sync)| rate(make, &samples, workers);
    let cpu = rate(&|| Box::new(HostMaker::default()));
    let gpu = rate(&|| Box::new(on_device()));
    match (cpu, gpu) {
        (Ok(cpu), Ok(gpu)) => Decision::of(Figures { cpu, gpu, psnr: agreement }),
        (Err(reason), _) | (_, Err(reason)) => Decision::Unable(reason),
    }
}

/// Reads and plans a record; `None` where that fails: it is the loader's to tell.
fn prepare<'a>(
    shards: &dyn ShardReader,
    recipe: &'a Recipe,
    number: usize,
    host: &mut HostMaker,
) -> Option<Ready<'a>> {
    let record = shards.record(number);
    let mut buffer = Vec::new();
    let encoded = shards.read(&record, &mut buffer).ok()?.to_vec();
    let info = match &record.info {
        Some(info) => info.as_ref().clone(),
        None => host.probe(&encoded).ok()?,
    };
    let recipe = recipe.shape_for(0, 0, info.size);
    let key = SampleKey { seed: 0, epoch: 0, sample: record.id, repeat: 0 };
    let (mut encoded, mut info) = (encoded, info);
    let mut plans = vec![recipe.plan(key, &info).ok()?];
    // What the loader would read: a smaller encoding of the picture where that does.
    if let Some((side, size, smaller)) = smaller_level(shards, recipe, &record, &info, &plans)
        && let Some(level) = shards.read_level(&record, side, &mut buffer).ok()?
    {
        encoded = level.to_vec();
        info = host.probe(&encoded).ok().filter(|level| level.size == size)?;
        plans = smaller;
    }
    let (frames, region) = (union_of_frames(&plans), union_of_regions(&plans));
    Some(Ready { recipe, encoded, info, plans, frames, region })
}

/// Agreement of a sample's pixels on both ways; `None` where the device does not decode it.
fn compare(sample: &Ready<'_>, device: &mut DeviceMaker) -> Result<Option<f64>, String> {
    let (recipe, planned) = (sample.recipe, sample.planned());
    let mut rows = [OneRow::new(recipe)?, OneRow::new(recipe)?];
    let mut host = HostMaker::default();
    let [here, there] = &mut rows;
    let made = host.decode(recipe, &planned).and_then(|()| host.render(recipe, &planned, here));
    if made.is_err() || device.decode(recipe, &planned).is_err() {
        return Ok(None);
    }
    device.render(recipe, &planned, there).map_err(|e| e.to_string())?;
    if !device.rendered_there() {
        return Ok(None);
    }
    let pixels = |row: &mut OneRow| -> Vec<u8> {
        let views = row.layout.views.len();
        let mut row = row.row(0);
        (0..views).flat_map(|view| row.pixels(view).to_vec()).collect()
    };
    Ok(Some(psnr(&pixels(here), &pixels(there))))
}

/// Samples a second by `workers` threads together, each warm: it has made one before.
fn rate(
    make: &(dyn Fn() -> Box<dyn RowMaker> + Sync),
    samples: &[Ready<'_>],
    workers: usize,
) -> Result<f64, String> {
    let workers = workers.clamp(1, samples.len().max(1));
    let rows: Result<Vec<OneRow>, String> =
        samples.iter().take(workers).map(|sample| OneRow::new(sample.recipe)).collect();
    let barrier = Barrier::new(workers);
    let work = |n: usize, mut row: OneRow| -> f64 {
        let mut maker = make();
        let mut run = |sample: &Ready<'_>| {
            let (recipe, planned) = (sample.recipe, sample.planned());
            let make = || -> Result<(), String> {
                let row = row.fit(recipe)?;
                let made = maker.decode(recipe, &planned);
                made.and_then(|()| maker.render(recipe, &planned, row)).map_err(|e| e.to_string())
            };
            // A sample that fails costs its time here, too; its error, or panic, is the loader's to
            // tell.
            let _ = catch_unwind(AssertUnwindSafe(make));
        };
        run(&samples[n]);
        barrier.wait();
        let (start, mut count) = (Instant::now(), 0);
        for sample in samples.iter().cycle().skip(n) {
            run(sample);
            count += 1;
            if start.elapsed() >= TIME {
                break;
            }
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    };
    let (work, rows) = (&work, rows?);
    std::thread::scope(|scope| {
        let start = |(n, row)| scope.spawn(move || work(n, row));
        let threads: Vec<_> = rows.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a thread panicked".to_owned())).sum()
    })
}
