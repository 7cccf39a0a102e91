//! Round trips of shards, and damage.

use proptest::prelude::*;
use tubelet_core::{SampleId, Size};

use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::encode::encode_jpeg;
use crate::store::StoreOptions;

impl Shard {
    fn is_mapped(&self) -> bool {
        matches!(&self.source, Source::Local(map) if map.get().is_some())
    }
}

/// Name, label and bytes.
type Sample = (String, Option<u32>, Vec<u8>);

/// Samples in memory: names and labels of any kind.
struct Memory(Vec<Sample>);

impl ShardReader for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> Record {
        let (name, label, bytes) = &self.0[index];
        Record {
            id: SampleId(index as u64),
            label: *label,
            kind: MediaKind::Jpeg,
            info: None,
            name: name.clone(),
            span: Span::Range { shard: 0, bytes: 0..bytes.len() as u64 },
        }
    }

    fn read<'a>(&'a self, record: &Record, _: &'a mut Vec<u8>) -> Result<&'a [u8], FormatError> {
        Ok(&self.0[record.id.0 as usize].2)
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}

fn jpeg(seed: u32) -> Vec<u8> {
    let size = Size::new(1 + seed % 90, 1 + seed / 7 % 60);
    let pixels: Vec<u8> = (0..size.area() as u32 * 3).map(|n| (n ^ seed) as u8).collect();
    encode_jpeg(&pixels, size, 95).expect("encodes")
}

fn contents() -> impl Strategy<Value = Vec<Sample>> {
    let name = "[a-z/ \\-ä日\u{1F600}\"]{0,40}";
    let sample = (name, proptest::option::of(0..1u32 << 31), 0..5000u32);
    let sample = sample.prop_map(|(name, label, seed)| (name, label, jpeg(seed)));
    proptest::collection::vec(sample, 1..20)
}

/// The shard of these samples, in a folder of its own.
fn shard(contents: &[Sample]) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("folder");
    let reader = Memory(contents.to_vec());
    let options = ConvertOptions::default();
    let report = convert(&reader, "memory", root.path(), &options, &|_, _| ()).expect("converts");
    assert_eq!((report.written, report.broken.len()), (contents.len(), 0));
    let path = shard_files(root.path(), "train").expect("a shard").remove(0);
    (root, path)
}

/// Everything that can be read of a shard; the first error otherwise.
fn read_all(path: &Path) -> Result<Vec<Sample>, FormatError> {
    let reader = ParquetReader::open(path, "train")?;
    let mut buf = Vec::new();
    let sample = |n| {
        let record = reader.record(n);
        let bytes = reader.read(&record, &mut buf)?.to_vec();
        Ok((record.name, record.label, bytes))
    };
    (0..reader.len()).map(sample).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read(contents in contents()) {
        let (_root, path) = shard(&contents);
        prop_assert_eq!(read_all(&path).expect("whole"), contents);
    }

    #[test]
    fn a_cut_shard_is_an_error_that_names_it(contents in contents(), share in 0.0..1.0f64) {
        let (_root, path) = shard(&contents);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..(bytes.len() as f64 * share) as usize]).expect("written");
        let error = read_all(&path).expect_err("cut").to_string();
        prop_assert!(error.contains(".parquet"), "{}", error);
    }

    /// A flipped bit gives samples, or an error that names the file; where it is in a payload or in
    /// what is told about one, `verify` finds it.
    #[test]
    fn flipped_bits_are_errors_or_found(contents in contents(), at in any::<prop::sample::Index>()) {
        let (root, path) = shard(&contents);
        let mut bytes = std::fs::read(&path).expect("read");
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bytes).expect("written");
        if let Err(error) = read_all(&path) {
            prop_assert!(error.to_string().contains(".parquet"), "{}", error);
        }
        let report = crate::verify::verify(root.path(), 1, false, &StoreOptions::default(), &|_, _| ()).expect("verifies");
        prop_assert!(!report.problems.is_empty(), "bit {} of {}", bit, bytes.len() * 8);
    }
}

/// Every byte of a small footer, changed in turn: the Parquet library must not take the process down.
#[test]
fn no_byte_of_a_footer_panics() {
    let samples: Vec<_> = (0..2).map(|n| (format!("{n}.jpg"), Some(n), jpeg(n))).collect();
    let (_root, path) = shard(&samples);
    let bytes = std::fs::read(&path).expect("read");
    let tail = bytes.len().saturating_sub(6000);
    for place in (tail..bytes.len()).step_by(3) {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= mask;
            std::fs::write(&path, &damaged).expect("written");
            if let Err(error) = read_all(&path) {
                assert!(error.to_string().contains(".parquet"), "{error}");
            }
        }
    }
}

/// Many shards: what they hold is stored, used while they stay the same, and made again when not.
#[test]
fn many_shards_are_looked_into_once() {
    let sample = |n: u32| (format!("c{}/{n}.jpg", n % 3), Some(n % 3), jpeg(n));
    let samples: Vec<Sample> = (0..40).map(sample).collect();
    let root = tempfile::tempdir().expect("folder");
    let options = ConvertOptions { shard_size: 1, ..ConvertOptions::default() };
    convert(&Memory(samples.clone()), "memory", root.path(), &options, &|_, _| ()).expect("done");
    let stored = root.path().join(".tubelet/rows-train.bin");
    assert!(!stored.is_file());
    let all = || read_all(root.path());
    assert_eq!(all().expect("first time"), samples);
    assert!(stored.is_file());
    let facts = |reader: &ParquetReader| -> Vec<_> {
        let of = |n| (reader.record(n).info, reader.stored_hash(n), reader.record(n).span);
        (0..reader.len()).map(of).collect()
    };
    let second = ParquetReader::open(root.path(), "train").expect("second time");
    assert!(second.shards.iter().all(|s| !s.is_mapped()), "a shard was opened");
    let files = shard_files(root.path(), "train").expect("shards");
    let (fresh, _) = ParquetReader::look_into(&files).expect("fresh");
    assert_eq!(facts(&second), facts(&fresh));
    assert_eq!(all().expect("second time"), samples);
    let record = second.record(3);
    second.read(&record, &mut Vec::new()).expect("read");
    assert!(second.shards[3].is_mapped() && second.shards[3].file.get().is_none());

    // A shard that is replaced, one that goes away, a stored file that is damaged.
    let aside = root.path().join("aside");
    let other = tempfile::tempdir().expect("folder");
    let changed = vec![("changed.jpg".to_owned(), None, jpeg(99))];
    convert(&Memory(changed.clone()), "memory", other.path(), &options, &|_, _| ()).expect("done");
    let new = shard_files(other.path(), "train").expect("one").remove(0);
    std::fs::copy(&new, &files[7]).expect("copied");
    let mut wanted = samples;
    wanted[7] = changed[0].clone();
    assert_eq!(all().expect("one is new"), wanted);
    std::fs::rename(&files[0], &aside).expect("moved");
    let gap = all().expect_err("one is gone").to_string();
    assert!(gap.contains("1 of the 40") && gap.contains("train-00000-of-00040.parquet"), "{gap}");
    std::fs::rename(&aside, root.path().join("train-x.parquet")).expect("moved");
    let listed = all().expect_err("the manifest has another name for it").to_string();
    assert!(listed.contains("train-00000-of-00040.parquet"), "{listed}");
    std::fs::rename(root.path().join("train-x.parquet"), &files[0]).expect("moved");
    assert_eq!(all().expect("it is back"), wanted);
    let mut bytes = std::fs::read(&stored).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&stored, &bytes).expect("written");
    assert_eq!(all().expect("made again"), wanted);
    // Known by size and time, but no shard any more: an error that names it, when it is read.
    std::fs::remove_file(&files[9]).expect("removed");
    let gone = second.read(&second.record(9), &mut Vec::new()).expect_err("gone").to_string();
    assert!(gone.contains("train-00009-of-00040.parquet"), "{gone}");
}

fn flat(size: Size, grey: u8) -> Vec<u8> {
    encode_jpeg(&vec![grey; size.area() * 3], size, 95).expect("encodes")
}

/// Every picture has the levels below its own size, under all formats; verify looks at them.
#[cfg(feature = "turbojpeg")]
#[test]
fn pyramids_hold_what_is_smaller_than_the_picture() {
    use crate::convert::Format;
    use crate::transcode::{Pyramid, level_size};
    let sizes = [Size::new(90, 70), Size::new(40, 33), Size::new(16, 300), Size::new(32, 64)];
    let names = |n: usize| format!("c{}/{n}.jpg", n % 2);
    let sample = |(n, size): (usize, &Size)| (names(n), Some(n as u32), flat(*size, 50 * n as u8));
    let samples: Vec<Sample> = sizes.iter().enumerate().map(sample).collect();
    let root = tempfile::tempdir().expect("folder");
    let pyramid = Some(Pyramid { sides: vec![16, 32, 64], quality: 80 });
    let made = |format, name: &str| {
        let out = root.path().join(name);
        std::fs::create_dir_all(&out).expect("folder");
        let options = ConvertOptions { format, pyramid: pyramid.clone(), ..Default::default() };
        let reader = Memory(samples.clone());
        convert(&reader, "memory", &out, &options, &|_, _| ()).expect("converts");
        out
    };
    let out = made(Format::Parquet, "parquet");
    let reader = ParquetReader::open(&out, "train").expect("opens");
    assert_eq!(reader.level_sides(), [16, 32, 64]);
    let (mut buf, mut decoder) = (Vec::new(), crate::decoder());
    for (n, size) in sizes.iter().enumerate() {
        let record = reader.record(n);
        assert_eq!(reader.read(&record, &mut buf).expect("read"), samples[n].2);
        for side in [16, 32, 64, 128] {
            let level = reader.read_level(&record, side, &mut buf).expect("read");
            let there = side < size.short_side() && side != 128;
            assert_eq!(level.is_some(), there, "{size}, {side}");
            let Some(level) = level else { continue };
            let info = decoder.probe(level).expect("a picture");
            assert_eq!(info.size, level_size(*size, side));
            let mut clip = tubelet_core::Clip::new();
            let want = crate::FrameRequest { frames: vec![0], region: None, planes: false };
            decoder.decode(level, &info, &want, &mut clip).expect("decodes");
            assert!(clip.nth(0).iter().all(|v| v.abs_diff(50 * n as u8) < 3), "{size}, {side}");
        }
    }
    let report = crate::verify::verify(&out, 1, true, &StoreOptions::default(), &|_, _| ())
        .expect("verifies");
    assert_eq!((report.rows, report.problems), (4, vec![]));

    let out = made(Format::Webdataset, "tar");
    let count = |field: Option<&str>| {
        let field = field.map(str::to_owned);
        let options = crate::OpenOptions { field, ..Default::default() };
        crate::open(&out, &options).expect("opens").len()
    };
    assert_eq!((count(None), count(Some("px16.jpg")), count(Some("px32.jpg"))), (4, 3, 2));
    let out = made(Format::Folder, "folder");
    for (split, count) in [("train", 4), ("train-px16", 3), ("train-px64", 1)] {
        let options = crate::OpenOptions { split: split.to_owned(), ..Default::default() };
        assert_eq!(crate::open(&out, &options).expect("opens").len(), count, "{split}");
    }
}

#[test]
fn pyramids_that_cannot_be_are_refused() {
    use crate::convert::Images;
    use crate::transcode::{PictureSettings, Pyramid};
    let train = Images::Train(PictureSettings { short_side: 64, quality: 90 });
    let cases: [(&[u32], u8, Images, &str); 5] = [
        (&[], 90, Images::Keep, "at least 1, ascending"),
        (&[32, 32], 90, Images::Keep, "ascending"),
        (&[0, 32], 90, Images::Keep, "at least 1"),
        (&[32], 0, Images::Keep, "use 1 to 100"),
        (&[32, 64], 90, train, "levels are smaller"),
    ];
    for (sides, quality, images, says) in cases {
        let root = tempfile::tempdir().expect("folder");
        let pyramid = Some(Pyramid { sides: sides.to_vec(), quality });
        let options = ConvertOptions { pyramid, images, ..Default::default() };
        let reader = Memory(vec![("a".to_owned(), None, jpeg(1))]);
        let error = convert(&reader, "memory", root.path(), &options, &|_, _| ());
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
}
