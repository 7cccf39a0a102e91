//! Round trips of shards, and damage.

use proptest::prelude::*;
use tubelet_core::{SampleId, Size};

use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::encode::encode_jpeg;
use crate::store::StoreOptions;

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
