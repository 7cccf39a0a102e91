//! Who makes the rows changes neither order nor draws nor drops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tubelet_augment::{Recipe, Stage, builtin};
use tubelet_core::{Heap, MediaInfo};
use tubelet_formats::{DecodeError, OpenOptions, ShardReader, open};
use tubelet_loader::maker::HostMaker;
use tubelet_loader::{
    Cursor, HostMakers, Loader, LoaderConfig, LoaderError, Planned, RowMaker, RowMakers, Rows,
    SampleErrorKind,
};

use crate::media;

/// What is special about a maker.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Dawdles, so that samples are done out of order.
    Slow,
    /// Fails at every seventh sample.
    Failing,
    /// Panics at every seventh sample.
    Panicking,
    /// Refuses the data.
    Refusing,
    /// Renders some samples and says then that it cannot.
    Unsure,
    /// The same, and leaves the pixels of all others at a place of its own.
    Leaving,
}

/// Pixels at a place of their own, by the address of their row.
type Left = Arc<Mutex<BTreeMap<usize, Vec<u8>>>>;

#[derive(Debug)]
struct Makers {
    way: Way,
    made: Arc<AtomicU64>,
    left: Left,
}

struct Maker {
    way: Way,
    made: Arc<AtomicU64>,
    left: Left,
    host: HostMaker,
}

impl RowMakers for Makers {
    fn prepare(&self, shards: &dyn ShardReader, _: &Recipe, workers: usize) -> Result<(), String> {
        let what = format!("{} samples, {workers} workers: no", shards.len());
        if self.way == Way::Refusing { Err(what) } else { Ok(()) }
    }

    fn maker(&self) -> Box<dyn RowMaker> {
        let (made, left) = (Arc::clone(&self.made), Arc::clone(&self.left));
        Box::new(Maker { way: self.way, made, left, host: HostMaker::default() })
    }

    fn fetch(&self, pixels: &mut [u8]) -> Result<(), String> {
        let mut left = self.left.lock().expect("no panic");
        let there = left.remove(&(pixels.as_ptr() as usize)).ok_or("nothing was left here")?;
        pixels.copy_from_slice(&there);
        Ok(())
    }
}

impl RowMaker for Maker {
    fn probe(&mut self, encoded: &[u8]) -> Result<MediaInfo, DecodeError> {
        self.host.probe(encoded)
    }

    fn decode(&mut self, recipe: &Recipe, sample: &Planned<'_>) -> Result<(), SampleErrorKind> {
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        match self.way {
            Way::Slow => std::thread::sleep(std::time::Duration::from_micros(number * 7919 % 3000)),
            Way::Failing if number % 7 == 6 => {
                return Err(DecodeError::Hardware("a test".to_owned()).into());
            }
            Way::Panicking if number % 7 == 6 => panic!("a test"),
            _ => {}
        }
        self.host.decode(recipe, sample)
    }

    fn render(
        &mut self,
        recipe: &Recipe,
        sample: &Planned<'_>,
        rows: &mut dyn Rows,
    ) -> Result<(), SampleErrorKind> {
        self.host.render(recipe, sample, rows)?;
        if self.way == Way::Leaving && sample.encoded.len() % 3 > 0 {
            let mut row = rows.row(0);
            let pixels = row.pixels(0);
            let mut left = self.left.lock().expect("no panic");
            left.insert(pixels.as_ptr() as usize, pixels.to_vec());
            pixels.fill(0xAA);
            rows.leave(0);
        }
        if [Way::Unsure, Way::Leaving].contains(&self.way) && sample.encoded.len() % 4 == 1 {
            return Err(SampleErrorKind::Frame(0));
        }
        Ok(())
    }

    fn frames_decoded(&self) -> u64 {
        self.host.frames_decoded()
    }
}

/// Pixels and samples of a batch.
type Seen = (Vec<u8>, Vec<u64>);

/// Six batches, the number of drops, and the causes.
fn run(makers: Arc<dyn RowMakers>) -> Result<(Vec<Seen>, u64, String), LoaderError> {
    let root = media::imagenet(3, 5);
    let set = ["pretrain.batch_size=4".to_owned()];
    let recipe = builtin::recipe("mae-tiny", &set).and_then(|f| f.stage(Stage::Pretrain));
    let shards = open(root.path(), &OpenOptions::default()).expect("opens");
    let on_error = tubelet_loader::OnError::Skip { max_share: 0.5 };
    let config = LoaderConfig { seed: 5, workers: 3, on_error, ..LoaderConfig::default() };
    let loader = Loader::new(shards, Arc::new(recipe.expect("valid")), &Heap, config)?;
    let mut batches = loader.with_makers(makers)?.batches(Cursor::default())?;
    let mut seen = Vec::new();
    for batch in batches.by_ref().take(6) {
        let mut batch = batch?;
        batch.to_host()?;
        let rows = batch.as_ref();
        seen.push((rows.pixels(0).to_vec(), rows.samples().to_vec()));
    }
    let stats = batches.stats();
    let causes = stats.drops.iter().map(|drop| drop.cause.clone()).collect::<Vec<_>>();
    Ok((seen, stats.dropped, causes.join("; ")))
}

fn makers(way: Way) -> Arc<dyn RowMakers> {
    Arc::new(Makers { way, made: Arc::default(), left: Left::default() })
}

#[test]
fn makers_that_dawdle_give_the_hosts_batches() {
    let (host, ..) = run(HostMakers::shared()).expect("loads");
    let (slow, dropped, _) = run(makers(Way::Slow)).expect("loads");
    assert_eq!((slow, dropped), (host, 0));
}

#[test]
fn pixels_that_a_maker_left_elsewhere_come_to_the_slot() {
    let (host, dropped, _) = run(makers(Way::Unsure)).expect("loads");
    let (left, ..) = run(makers(Way::Leaving)).expect("loads");
    assert_eq!(left, host);
    assert!(dropped > 0, "a substitute's pixels are in the slot that the first try left");
}

#[test]
fn samples_that_a_maker_fails_at_are_substituted_and_told() {
    for (way, cause) in [(Way::Failing, "hardware decoder"), (Way::Panicking, "panicked: a test")] {
        let (batches, dropped, causes) = run(makers(way)).expect("goes on");
        assert_eq!(batches.len(), 6);
        assert!(dropped >= 3 && causes.contains(cause), "{dropped}: {causes}");
    }
}

#[test]
fn a_refusal_names_the_reason_before_anything_starts() {
    let error = run(makers(Way::Refusing)).expect_err("refused").to_string();
    assert!(error.contains("15 samples, 3 workers: no"), "{error}");
}
