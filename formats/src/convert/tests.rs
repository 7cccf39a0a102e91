//! Conversions of small folders: what is checked on the way and what comes back.

use std::path::Path;

use tempfile::TempDir;
use tubelet_core::Size;

use super::*;
use crate::encode::encode_jpeg;
use crate::verify::{VerifyReport, verify};
use crate::{OpenOptions, open};

fn jpeg(seed: u32) -> Vec<u8> {
    let size = Size::new(40, 30);
    let pixels: Vec<u8> = (0..size.area() as u32 * 3).map(|n| (n * 3 + seed * 40) as u8).collect();
    encode_jpeg(&pixels, size, 90).expect("encodes")
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("in a folder")).expect("folder");
    std::fs::write(path, bytes).expect("written");
}

/// Nine pictures of three classes.
fn pictures() -> TempDir {
    let root = tempfile::tempdir().expect("folder");
    for n in 0..9 {
        let class = ["x/y", "b", "a"][n % 3].replace('/', "_");
        write(&root.path().join(format!("train/{class}/{n}.jpg")), jpeg(n as u32));
    }
    root
}

#[track_caller]
fn done(data: &Path, out: &Path, options: &ConvertOptions) -> ConvertReport {
    let reader = open(data, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let report = convert(reader.as_ref(), "test", out, options, &|_, _| ());
    report.unwrap_or_else(|e| panic!("{e}"))
}

fn of_format(format: Format) -> ConvertOptions {
    ConvertOptions { format, shard_size: 2000, ..ConvertOptions::default() }
}

#[track_caller]
fn verified(out: &Path) -> VerifyReport {
    verify(out, 1, true, &StoreOptions::default(), &|_, _| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Flips bits in the middle of `needle`, which the file holds.
#[track_caller]
fn damage(file: &Path, needle: &[u8]) {
    let mut bytes = std::fs::read(file).expect("read");
    let at = bytes.windows(needle.len()).position(|w| w == needle).expect("in it");
    bytes[at + needle.len() / 2] ^= 0x10;
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn flipped_bits_of_a_shard_are_not_converted_on() {
    let (root, work) = (pictures(), tempfile::tempdir().expect("folder"));
    for (format, file) in [(Format::Parquet, "parquet"), (Format::Webdataset, "tar")] {
        let (first, second) = (work.path().join(file), work.path().join(format!("{file}-again")));
        let options = ConvertOptions { format, ..ConvertOptions::default() };
        assert_eq!(done(root.path(), &first, &options).written, 9);
        damage(&first.join(format!("train-00000-of-00001.{file}")), &jpeg(4));
        let report = done(&first, &second, &ConvertOptions::default());
        assert_eq!((report.written, report.broken.len()), (8, 1), "{file}");
        let why = &report.broken[0].why;
        assert!(why.contains("hash") && why.contains("stored"), "{why}");
    }
}

#[test]
fn every_format_is_verified() {
    let root = pictures();
    for format in [Format::Parquet, Format::Webdataset, Format::Folder] {
        let work = tempfile::tempdir().expect("folder");
        let report = done(root.path(), work.path(), &of_format(format));
        assert!(report.shards > 1);
        let found = verified(work.path());
        assert_eq!((found.rows, found.problems.as_slice()), (9, &[][..]), "{format:?}");
        let files = walkdir::WalkDir::new(work.path()).into_iter().filter_map(Result::ok);
        let holds = |path: &Path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(jpeg(4).len()).any(|w| w == jpeg(4))
        };
        let file = files.map(walkdir::DirEntry::into_path).find(|p| p.is_file() && holds(p));
        damage(&file.expect("the sample's file"), &jpeg(4));
        let found = verified(work.path());
        let about = |what: &str| found.problems.iter().any(|p| p.what.contains(what));
        assert!(about("payload hash"), "{format:?}: {:?}", found.problems);
    }
}

/// Smaller encodings have hashes of their own.
#[test]
fn a_flipped_bit_of_a_level_is_found() {
    let (root, work) = (pictures(), tempfile::tempdir().expect("folder"));
    let pyramid = Some(Pyramid { sides: vec![12, 20], quality: 90 });
    done(root.path(), work.path(), &ConvertOptions { pyramid, ..ConvertOptions::default() });
    assert!(verified(work.path()).problems.is_empty());
    let reader = open(work.path(), &OpenOptions::default()).expect("opens");
    let mut buf = Vec::new();
    let level = reader.read_level(&reader.record(3), 12, &mut buf).expect("read");
    let level = level.expect("a level").to_vec();
    assert_eq!(reader.stored_level_hash(3, 12), Some(xxhash_rust::xxh3::xxh3_64(&level)));
    damage(&work.path().join("train-00000-of-00001.parquet"), &level);
    let found = verify(work.path(), 1, false, &StoreOptions::default(), &|_, _| ());
    let problems = found.unwrap_or_else(|e| panic!("{e}")).problems;
    let about = |p: &&crate::verify::Problem| p.what.contains("level 12: the payload has hash");
    assert!(problems.iter().any(|p| about(&p)), "{problems:?}");
}

#[test]
fn files_that_a_folder_lacks_or_has_too_many_are_told() {
    let (root, work) = (pictures(), tempfile::tempdir().expect("folder"));
    done(root.path(), work.path(), &of_format(Format::Folder));
    write(&work.path().join("train/b/more.jpg"), jpeg(1));
    std::fs::remove_file(work.path().join("train/a/000000000-2.jpg")).expect("removed");
    let found = verified(work.path());
    let told: Vec<String> =
        found.problems.iter().map(|p| format!("{} {}", p.file, p.what)).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("000000000-2.jpg is missing"), "{told:?}");
    assert!(told[1].contains("train/b/more.jpg is in no line"), "{told:?}");
    let mut table = std::fs::read(work.path().join(MANIFEST_TABLE)).expect("read");
    table[100] ^= 1;
    std::fs::write(work.path().join(MANIFEST_TABLE), table).expect("written");
    assert!(verified(work.path()).problems[0].what.contains("hash"));
}

/// Labels that are not the places of sorted names come back from a folder.
#[test]
fn a_folder_keeps_the_numbers_of_its_classes() {
    let work = tempfile::tempdir().expect("folder");
    let at = |name: &str| work.path().join(name);
    for n in 0..4 {
        write(&at(&format!("in/{n}.jpg")), jpeg(n));
    }
    write(&at("in/train.csv"), "0.jpg,7\n1.jpg,2\n2.jpg,-1\n3.jpg,12\n");
    let labels = |path: &Path| -> Vec<Option<u32>> {
        let reader = open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let mut found: Vec<_> = (0..reader.len()).map(|n| reader.record(n)).collect();
        found.sort_by_key(|r| r.name.rsplit('/').next().map(str::to_owned));
        found.iter().map(|r| r.label).collect()
    };
    done(&at("in"), &at("out"), &of_format(Format::Folder));
    let wanted = [Some(7), Some(2), None, Some(12)];
    assert_eq!(labels(&at("out")), wanted);
    assert_eq!(labels(&at("out/train")), wanted);
    // Tar shards without class names too.
    done(&at("in"), &at("tars"), &of_format(Format::Webdataset));
    done(&at("tars"), &at("again"), &of_format(Format::Folder));
    assert_eq!(labels(&at("again")), wanted);
    // Names that are no names of folders.
    write(&at("slashes/0.jpg"), jpeg(0));
    write(&at("slashes/1.jpg"), jpeg(1));
    write(&at("slashes/train.csv"), "0.jpg,x/y\n1.jpg,z\n");
    done(&at("slashes"), &at("named"), &of_format(Format::Folder));
    for folder in ["named", "named/train"] {
        let reader = open(&at(folder), &OpenOptions::default()).expect("opens");
        assert_eq!(reader.classes(), ["x/y", "z"], "{folder}");
    }
    // A folder that is no class of the conversion.
    write(&at("out/train/stray/0.jpg"), jpeg(0));
    let stray = open(&at("out"), &OpenOptions::default()).map(|_| ()).expect_err("stray");
    assert!(stray.to_string().contains("`stray` is no class"), "{stray}");
}

#[test]
fn long_names_become_files() {
    let work = tempfile::tempdir().expect("folder");
    let name = format!("{}ä{}.jpg", "n".repeat(199), "m".repeat(40));
    write(&work.path().join("in/train/a").join(&name), jpeg(0));
    let out = work.path().join("out");
    assert_eq!(done(&work.path().join("in"), &out, &of_format(Format::Folder)).written, 1);
    assert!(verified(&out).problems.is_empty());
    let reader = open(&out, &OpenOptions::default()).expect("opens");
    assert!(reader.record(0).name.contains("/000000000-nnn"));
}

#[test]
fn another_job_is_refused_and_what_differs_is_named() {
    let (root, work) = (pictures(), tempfile::tempdir().expect("folder"));
    let train = |quality| ConvertOptions {
        images: Images::Train(PictureSettings { short_side: 20, quality }),
        ..ConvertOptions::default()
    };
    done(root.path(), work.path(), &train(90));
    let again = |data: &Path, options: &ConvertOptions| {
        let reader = open(data, &OpenOptions::default()).expect("opens");
        let report = convert(reader.as_ref(), "test", work.path(), options, &|_, _| ());
        report.map(|_| ()).expect_err("another job").to_string()
    };
    let error = again(root.path(), &train(85));
    assert!(error.contains("images.train.quality is 90, now 85"), "{error}");
    assert!(!error.contains('{'), "{error}");
    // The same samples with other class names.
    write(&root.path().join("classes.txt"), "a\nb\nx_y\nmore\n");
    let error = again(root.path(), &train(90));
    assert!(error.contains("other classes"), "{error}");
    let none = work.path().join("none");
    let error = merge(&none, &[], &StoreOptions::default()).map(|_| ()).expect_err("nothing");
    assert!(error.to_string().contains("no conversion is here"), "{error}");
}

#[test]
fn cut_pictures_are_told_and_cut_videos_noted() {
    let work = tempfile::tempdir().expect("folder");
    let at = |name: &str| work.path().join(name);
    let whole = jpeg(1);
    write(&at("in/train/a/0.jpg"), &whole);
    write(&at("in/train/a/1.jpg"), &whole[..whole.len() / 2]);
    let report = done(&at("in"), &at("out"), &ConvertOptions::default());
    assert_eq!((report.written, report.broken.len()), (1, 1));
    assert!(report.broken[0].why.contains("cut off"), "{:?}", report.broken);
    let size = Size::new(64, 48);
    let frame = |t: u8| (0..size.area() * 3).map(|n| (n as u8).wrapping_mul(t)).collect::<Vec<_>>();
    let frames: Vec<Vec<u8>> = (0..40).map(frame).collect();
    let options = crate::encode::EncodeOptions {
        size,
        codec: "libvpx-vp9".to_owned(),
        container: "webm".to_owned(),
        gop: 8,
        b_frames: 0,
        ..crate::encode::EncodeOptions::default()
    };
    let webm = crate::encode::encode_video(frames.iter().map(Vec::as_slice), &options);
    let webm = webm.expect("encodes");
    write(&at("videos/train/a/0.webm"), &webm);
    write(&at("videos/train/a/1.webm"), &webm[..webm.len() / 2]);
    let video = Videos::Train(VideoSettings::default());
    let options = ConvertOptions { video, ..ConvertOptions::default() };
    let report = done(&at("videos"), &at("videos-out"), &options);
    assert_eq!((report.written, report.notes.len()), (2, 1), "{report:?}");
    assert!(report.notes[0].why.contains("cut off") && report.notes[0].name.contains("1.webm"));
}

/// Rows of foreign Parquet files and raw pixels are as large as they are.
#[test]
fn shards_are_cut_by_what_samples_weigh() {
    use parquet::arrow::ArrowWriter;
    let work = tempfile::tempdir().expect("folder");
    let path = work.path().join("in.parquet");
    let payloads: Vec<Vec<u8>> = (0..12).map(jpeg).collect();
    let column = arrow_array::BinaryArray::from_iter_values(&payloads);
    let column: arrow_array::ArrayRef = std::sync::Arc::new(column);
    let batch = arrow_array::RecordBatch::try_from_iter([("image", column)]).expect("a batch");
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let file = std::fs::File::create(&path).expect("made");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    let limit = payloads.iter().map(|p| p.len() as u64).sum::<u64>() / 4;
    let options = ConvertOptions { shard_size: limit, ..ConvertOptions::default() };
    let report = done(&path, &work.path().join("out"), &options);
    assert_eq!(report.written, 12);
    assert!((4..=6).contains(&report.shards), "{} shards", report.shards);
}
