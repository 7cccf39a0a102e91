//! WebDataset, ILSVRC2012 and Kinetics archives.

use proptest::prelude::*;

use super::*;

fn jpegs(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(jpeg).collect()
}

#[test]
fn webdataset_pairs_members_by_key() {
    let root = tempfile::tempdir().expect("folder");
    let known = jpegs(5);
    let text = |t: &str| t.as_bytes().to_vec();
    let members = [
        ("a/000.jpg", known[0].clone()),
        ("a/000.cls", text("1\n")),
        ("a/001.left.jpg", known[1].clone()),
        ("a/001.json", text("{\"label\": 0, \"class\": \"cat\"}")),
        ("a/001.right.jpg", known[2].clone()),
        ("README", text("no sample")),
        ("a/002.txt", text("1")),
        ("a/002.JPG", known[3].clone()),
        ("a/003.cls", text("0")),
        ("a/004.txt", text("a caption of four words")),
        ("a/004.jpg", known[4].clone()),
    ];
    write(&root.path().join("train-000.tar"), tar(&members[..5]));
    write(&root.path().join("train-001.tar"), tar(&members[5..]));
    assert_eq!(detected(root.path(), "train"), Layout::Webdataset);
    let wanted = [
        "train-000.tar/a/000.jpg 1 0",
        "train-000.tar/a/001.left.jpg cat 1",
        "train-000.tar/a/001.right.jpg cat 2",
        "train-001.tar/a/002.JPG 1 3",
        "train-001.tar/a/004.jpg - 4",
    ];
    // The second time the stored catalogue is read.
    for _ in 0..2 {
        let reader = opened(root.path(), &of_split("train"));
        assert_eq!(table(reader.as_ref(), &known), wanted);
        assert_eq!(reader.missing(), ["train-001.tar/a/003 (no picture or video)"]);
    }
    assert!(root.path().join(".tubelet/train-000.tar.webdataset.parquet").is_file());
    let other = refused(root.path(), &of_split("val"));
    assert!(other.contains("no split `val`: there is train"), "{other}");
    let field = OpenOptions { field: Some("right.jpg".to_owned()), ..OpenOptions::default() };
    assert_eq!(table(opened(root.path(), &field).as_ref(), &known), [wanted[2]]);
    let braces = opened(&root.path().join("train-{000..001}.tar"), &of_split("train"));
    assert_eq!(braces.len(), 5);
    write(&root.path().join("cats/0.jpg"), &known[0]);
    assert_eq!(detected(root.path(), "train"), Layout::Folder);
    let absent = refused(&root.path().join("train-{000..002}.tar"), &of_split("train"));
    assert!(absent.contains("train-002.tar"), "{absent}");
}

#[test]
fn webdataset_takes_videos_without_their_previews_and_classes_by_name() {
    let root = tempfile::tempdir().expect("folder");
    let video = b"\0\0\0\x20ftypisom".to_vec();
    let members = [
        ("0.mp4", video.clone()),
        ("0.jpg", jpeg(0)),
        ("0.cls", b"zumba".to_vec()),
        ("1.mp4", video.clone()),
        ("1.cls", b"archery".to_vec()),
    ];
    write(&root.path().join("x.tar"), tar(&members));
    let reader = opened(&root.path().join("x.tar"), &of_split("train"));
    assert_eq!(table(reader.as_ref(), &[video]), ["x.tar/0.mp4 zumba 0", "x.tar/1.mp4 archery 0"]);
    assert_eq!(reader.classes(), ["archery", "zumba"]);
}

#[test]
fn webdataset_errors_name_archive_and_member() {
    let root = tempfile::tempdir().expect("folder");
    let path = root.path().join("x.tar");
    let refuse = |members: &[(&str, Vec<u8>)]| {
        write(&path, tar(members));
        refused(&path, &of_split("train"))
    };
    let twice = refuse(&[("0.jpg", jpeg(0)), ("0.JPG", jpeg(1))]);
    assert!(twice.contains("x.tar, member 0.JPG: sample 0 has two members"), "{twice}");
    let json = refuse(&[("0.jpg", jpeg(0)), ("0.json", b"{\"label\": ".to_vec())]);
    assert!(json.contains("x.tar, member 0.json: EOF"), "{json}");
    let empty = refuse(&[]);
    assert!(empty.contains("no picture or video"), "{empty}");
    let whole = tar(&[("0.jpg", jpeg(0))]);
    write(&path, &whole[..700]);
    let cut = refused(&path, &of_split("train"));
    assert!(cut.contains("x.tar, member 0.jpg: cut off: 188 of "), "{cut}");
    let mut damaged = whole;
    damaged[3] ^= 1;
    write(&path, &damaged);
    let damaged = refused(&path, &of_split("train"));
    assert!(damaged.contains("x.tar, tar header at byte 0"), "{damaged}");
    write(&root.path().join("x.tar.gz"), gzip(b"not a tar"));
    let packed = refused(&root.path().join("x.tar.gz"), &of_split("train"));
    assert!(packed.contains("no random access"), "{packed}");
}

/// Compressed archives are read in order, without a plain copy; the shards hold what those of the
/// plain archives hold, and are the same bytes after any of them is made again by other threads.
#[test]
fn compressed_archives_are_converted_as_they_are() {
    use crate::convert::{ConvertOptions, convert};
    let root = tempfile::tempdir().expect("folder");
    let known = jpegs(23);
    let at = |name: &str| root.path().join(name);
    for (n, part) in known.chunks(8).enumerate() {
        let key = |k: usize, field: &str| format!("{:03}.{field}", n * 8 + k);
        let mut members: Vec<(String, Vec<u8>)> = Vec::new();
        for (k, bytes) in part.iter().enumerate() {
            members.push((key(k, "jpg"), bytes.clone()));
            members.push((key(k, "cls"), format!("{}", (n + k) % 5).into_bytes()));
        }
        let named: Vec<(&str, Vec<u8>)> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        write(&at(&format!("plain/train-{n}.tar")), tar(&named));
        write(&at(&format!("packed/train-{n}.tar.gz")), gzip(&tar(&named)));
    }
    let stream = OpenOptions { stream: true, ..of_split("train") };
    let rows = |text: Vec<String>| -> Vec<String> {
        text.iter().map(|row| row.replace(".tar.gz/", ".tar/")).collect()
    };
    let plain = table(opened(&at("plain"), &of_split("train")).as_ref(), &known);
    assert!(refused(&at("packed"), &of_split("train")).contains("no random access"));
    let options =
        |workers| ConvertOptions { shard_size: 2048, workers, ..ConvertOptions::default() };
    let shards = at("shards");
    for workers in [1, 4] {
        let reader = opened(&at("packed"), &stream);
        assert!(reader.in_order());
        let done = convert(reader.as_ref(), "x", &shards, &options(workers), &|_, _| ());
        let done = done.expect("converts");
        assert!((done.complete, done.written) == (true, 23) && done.shards > 3, "{done:?}");
        let read = table(opened(&shards, &of_split("train")).as_ref(), &known);
        assert_eq!(rows(read), plain);
        let second = std::fs::read_dir(&shards).expect("folder").filter_map(Result::ok);
        let second = second.map(|e| e.path()).find(|p| p.display().to_string().contains("-00001-"));
        let second = second.expect("a second shard");
        if workers == 1 {
            std::fs::rename(&second, at("second")).expect("moved");
        } else {
            let same = std::fs::read(&second).expect("made again");
            assert!(same == std::fs::read(at("second")).expect("kept"), "other bytes");
        }
    }
    assert_eq!(std::fs::read_dir(at("packed/.tubelet")).expect("folder").count(), 3);
    let cut = std::fs::read(at("packed/train-1.tar.gz")).expect("read");
    write(&at("packed/train-1.tar.gz"), &cut[..cut.len() / 2]);
    let cut = refused(&at("packed"), &stream);
    assert!(cut.contains("train-1.tar.gz, byte ") && cut.contains("decompressed"), "{cut}");
}

/// Kinetics' clips come in the order of the archives then, whatever the annotations' order.
#[test]
fn clips_of_compressed_archives_come_in_their_order() {
    let root = tempfile::tempdir().expect("folder");
    annotations(root.path());
    let [first, second] = ["_a-1_000003_000013.mp4", "b_2_000010_000020.mp4"];
    let known = [b"first".to_vec(), b"second".to_vec()];
    let part = tar(&[(second, known[1].clone()), (first, known[0].clone())]);
    write(&root.path().join("train/part_0.tar.gz"), gzip(&part));
    let stream = OpenOptions { stream: true, ..OpenOptions::default() };
    let wanted = [
        format!("train/part_0.tar.gz/{second} air drumming 1"),
        format!("train/part_0.tar.gz/{first} zumba 0"),
    ];
    assert_eq!(table(opened(root.path(), &stream).as_ref(), &known), wanted);
}

const META: &[u8] = include_bytes!("meta.mat");

/// Training archive of three classes, validation archive of five pictures.
fn ilsvrc(root: &Path, known: &[Vec<u8>]) {
    let class = |wnid: &str, n: usize| {
        let names = [format!("{wnid}_{n}.JPEG"), format!("{wnid}_{}.JPEG", n + 1)];
        tar(&[(&names[0], known[n].clone()), (&names[1], known[n + 1].clone())])
    };
    let train = [
        ("n02119789.tar", class("n02119789", 0)),
        ("n01440764.tar", class("n01440764", 2)),
        ("n02100735.tar", class("n02100735", 4)),
    ];
    write(&root.join("ILSVRC2012_img_train.tar"), tar(&train));
    let names: Vec<String> = (1..=5).map(|n| format!("ILSVRC2012_val_{n:08}.JPEG")).collect();
    let val: Vec<(&str, Vec<u8>)> =
        names.iter().map(String::as_str).zip(known.iter().cloned()).collect();
    write(&root.join("ILSVRC2012_img_val.tar"), tar(&val));
}

const VAL: [&str; 5] = [
    "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000001.JPEG n01440764 0",
    "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000002.JPEG n02119789 1",
    "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000003.JPEG n02100735 2",
    "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000004.JPEG n02119789 3",
    "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000005.JPEG n01440764 4",
];
const NUMBERS: &str = "3\n1\n2\n1\n3\n";
const TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";

#[test]
fn ilsvrc_archives_are_read_inside_each_other() {
    let root = tempfile::tempdir().expect("folder");
    let known = jpegs(6);
    ilsvrc(root.path(), &known);
    assert_eq!(detected(root.path(), "train"), Layout::Imagenet);
    assert_eq!(detected(&root.path().join("ILSVRC2012_img_train.tar"), "train"), Layout::Imagenet);
    for _ in 0..2 {
        let reader = opened(root.path(), &of_split("train"));
        assert_eq!(reader.classes(), ["n01440764", "n02100735", "n02119789"]);
        let table = table(reader.as_ref(), &known);
        assert_eq!(table[0], "ILSVRC2012_img_train.tar/n02119789/n02119789_0.JPEG n02119789 0");
        assert_eq!(
            table[2..4],
            [
                "ILSVRC2012_img_train.tar/n01440764/n01440764_2.JPEG n01440764 2",
                "ILSVRC2012_img_train.tar/n01440764/n01440764_3.JPEG n01440764 3"
            ]
        );
    }
    // The inner archives, unpacked once, are the same data set.
    let inner = tempfile::tempdir().expect("folder");
    for wnid in ["n01440764", "n02119789"] {
        let members = [("a.JPEG", known[0].clone())];
        write(&inner.path().join(format!("train/{wnid}.tar")), tar(&members));
    }
    let reader = opened(inner.path(), &of_split("train"));
    assert_eq!(
        table(reader.as_ref(), &known),
        ["train/n01440764.tar/a.JPEG n01440764 0", "train/n02119789.tar/a.JPEG n02119789 0"]
    );
}

#[test]
fn ilsvrc_validation_classes_come_from_whatever_tells_them() {
    let known = jpegs(6);
    let texts = |names: &[(&str, &str)]| {
        names.iter().map(|(n, t)| ((*n).to_owned(), t.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    let meta = "ILSVRC2012_devkit_t12/data/meta.mat";
    let numbers = format!("ILSVRC2012_devkit_t12/data/{TRUTH}");
    let kit = gzip(&tar(&[(meta, META.to_vec()), (&numbers, NUMBERS.into())]));
    let solution = "ImageId,PredictionString\nILSVRC2012_val_00000003,n02100735 1 2 3 4\n\
                    ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8\n\
                    ILSVRC2012_val_00000002,n02119789 \nILSVRC2012_val_00000005,n01440764 9\n\
                    ILSVRC2012_val_00000004,n02119789 1 2 3 4\n";
    let names = "n01440764\nn02119789\nn02100735\nn02119789\nn01440764\n";
    let variants = [
        vec![("ILSVRC2012_devkit_t12.tar.gz".to_owned(), kit)],
        vec![(meta.to_owned(), META.to_vec()), (numbers.clone(), NUMBERS.into())],
        texts(&[(TRUTH, NUMBERS), ("synsets.txt", "n02119789 kit fox\nn02100735\nn01440764\n")]),
        texts(&[("LOC_val_solution.csv", solution)]),
        texts(&[("imagenet_2012_validation_synset_labels.txt", names)]),
    ];
    for files in variants {
        let root = tempfile::tempdir().expect("folder");
        ilsvrc(root.path(), &known);
        for (name, bytes) in &files {
            write(&root.path().join(name), bytes);
        }
        let reader = opened(root.path(), &of_split("val"));
        assert_eq!(table(reader.as_ref(), &known), VAL, "{}", files[0].0);
        assert!(reader.missing().is_empty());
        let train = opened(root.path(), &of_split("train"));
        assert_eq!(train.classes(), reader.classes(), "{}", files[0].0);
    }
}

#[test]
fn ilsvrc_errors_name_archive_and_member() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    ilsvrc(root.path(), &jpegs(6));
    let nothing = refused(root.path(), &of_split("val"));
    assert!(nothing.contains("ILSVRC2012_devkit_t12.tar.gz"), "{nothing}");
    write(&at(TRUTH), NUMBERS);
    assert!(refused(root.path(), &of_split("val")).contains("meta.mat"));
    write(&at("synsets.txt"), "n01440764\nn02100735\nn02119789\n");
    let sorted = refused(root.path(), &of_split("val"));
    assert!(sorted.contains("synsets.txt: the wnids are sorted"), "{sorted}");
    write(&at("meta.mat"), META);
    write(&at(TRUTH), "3\n1\n2\n1001\n3\n");
    let inner = refused(root.path(), &of_split("val"));
    assert!(inner.contains("line 4: `1001` is no class number"), "{inner}");
    write(&at(TRUTH), "3\n1\n2\n");
    let few = refused(root.path(), &of_split("val"));
    assert!(few.contains("member ILSVRC2012_val_00000004.JPEG: no class is told"), "{few}");
    write(&at(TRUTH), format!("{NUMBERS}2\n"));
    let reader = opened(root.path(), &of_split("val"));
    assert_eq!(reader.missing(), ["ILSVRC2012_val_00000006.JPEG"]);
    write(&at("meta.mat"), &META[..META.len() / 2]);
    let cut = refused(root.path(), &of_split("val"));
    assert!(cut.contains("meta.mat, meta.mat: "), "{cut}");

    let train = std::fs::read(at("ILSVRC2012_img_train.tar")).expect("read");
    let mut damaged = train.clone();
    damaged[512 + 5] ^= 4;
    write(&at("ILSVRC2012_img_train.tar"), &damaged);
    let damaged = refused(root.path(), &of_split("train"));
    let place = "ILSVRC2012_img_train.tar, n02119789.tar, tar header at byte 512";
    assert!(damaged.contains(place), "{damaged}");
    write(&at("ILSVRC2012_img_train.tar"), &train[..train.len() / 2]);
    let cut = refused(root.path(), &of_split("train"));
    assert!(cut.contains("cut off"), "{cut}");
}

/// Kinetics' clips in each of the ways they come in; `known` are their bytes.
fn annotations(root: &Path) {
    let csv = "label,youtube_id,time_start,time_end,split,is_cc\n\
               zumba,_a-1,3,13,train,0\nair drumming,b_2,10,20,train,0\nzumba,gone,1,11,train,1\n";
    write(&root.join("annotations/train.csv"), csv);
}

const CLIPS: [&str; 2] = ["zumba", "air drumming"];

#[test]
fn kinetics_clips_are_found_wherever_they_lie() {
    let known = [b"first clip".to_vec(), b"second clip".to_vec()];
    let long = ["_a-1_000003_000013.mp4", "b_2_000010_000020.mp4"];
    let plain = [
        ["train/_a-1_000003_000013.mp4", "train/b_2_000010_000020.mp4"],
        ["train/zumba/_a-1_3_13.webm", "train/air drumming/b_2_10_20.mkv"],
        ["train/zumba/_a-1.mp4", "train/air_drumming/b_2.mp4"],
        ["videos_train/_a-1.mp4", "videos_train/b_2.mp4"],
        ["_a-1_000003_000013.mp4", "air_drumming/b_2.mp4"],
    ];
    for names in plain {
        let root = tempfile::tempdir().expect("folder");
        annotations(root.path());
        for (name, bytes) in names.iter().zip(&known) {
            write(&root.path().join(name), bytes);
        }
        assert_eq!(detected(root.path(), "train"), Layout::Kinetics);
        let reader = opened(root.path(), &of_split("train"));
        let wanted: Vec<String> =
            (0..2).map(|n| format!("{} {} {n}", names[n], CLIPS[n])).collect();
        assert_eq!(table(reader.as_ref(), &known), wanted);
        assert_eq!(reader.missing(), ["train/gone_000001_000011.mp4"]);
    }
    let archives = [["train/part_0.tar", "train/part_1.tar"], ["train.tar", "train_1.tar"]];
    for names in archives {
        let root = tempfile::tempdir().expect("folder");
        annotations(root.path());
        for (n, name) in names.iter().enumerate() {
            write(&root.path().join(name), tar(&[(long[n], known[n].clone())]));
        }
        let reader = opened(root.path(), &of_split("train"));
        let wanted: Vec<String> =
            (0..2).map(|n| format!("{}/{} {} {n}", names[n], long[n], CLIPS[n])).collect();
        assert_eq!(table(reader.as_ref(), &known), wanted);
    }
}

#[test]
fn kinetics_gz_archives_are_unpacked_when_asked_and_replacements_win() {
    let root = tempfile::tempdir().expect("folder");
    annotations(root.path());
    let known = [b"first".to_vec(), b"broken".to_vec(), b"replaced".to_vec()];
    let [first, second] = ["_a-1_000003_000013.mp4", "b_2_000010_000020.mp4"];
    let part = tar(&[(first, known[0].clone()), (second, known[1].clone())]);
    write(&root.path().join("train/part_0.tar.gz"), gzip(&part));
    let refused = refused(root.path(), &of_split("train"));
    assert!(refused.contains("part_0.tar.gz") && refused.contains("--unpack"), "{refused}");
    let unpack = OpenOptions { unpack: true, ..OpenOptions::default() };
    let wanted = |n, at: &str| {
        vec![
            format!("train/part_0.tar.gz/{first} zumba 0"),
            format!("{at}/{second} air drumming {n}"),
        ]
    };
    let reader = opened(root.path(), &unpack);
    assert_eq!(table(reader.as_ref(), &known), wanted(1, "train/part_0.tar.gz"));
    // Once unpacked, nothing has to be asked for.
    assert_eq!(opened(root.path(), &of_split("train")).len(), 2);
    write(&root.path().join("replacement").join(second), &known[2]);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(table(reader.as_ref(), &known), wanted(2, "replacement"));
    std::fs::remove_dir_all(root.path().join("replacement")).expect("removed");
    let archive = "replacement_for_corrupted_k400.tgz";
    write(&root.path().join(archive), gzip(&tar(&[(second, known[2].clone())])));
    assert_eq!(table(opened(root.path(), &unpack).as_ref(), &known), wanted(2, archive));
}

#[test]
fn kinetics_json_says_the_same_as_csv() {
    let root = tempfile::tempdir().expect("folder");
    let clip = |id: &str, label: &str, subset: &str| {
        format!(
            "\"{id}\": {{\"annotations\": {{\"label\": \"{label}\", \"segment\": [3.0, 13.0]}}, \
             \"duration\": 10.0, \"subset\": \"{subset}\", \"url\": \"https://x/{id}\"}}"
        )
    };
    let clips = [clip("b", "zumba", "train"), clip("a", "archery", "train")].join(", ");
    write(&root.path().join("train.json"), format!("{{{clips}}}"));
    let clips = [clip("v", "zumba", "validate"), clip("w", "archery", "train")].join(", ");
    write(&root.path().join("val.json"), format!("{{{clips}}}"));
    for name in ["train/a_000003_000013.mp4", "train/b_000003_000013.mp4", "val/v.mp4"] {
        write(&root.path().join(name), b"clip");
    }
    assert_eq!(detected(root.path(), "train"), Layout::Kinetics);
    let known = [b"clip".to_vec()];
    let train = opened(root.path(), &of_split("train"));
    assert_eq!(
        table(train.as_ref(), &known),
        ["train/a_000003_000013.mp4 archery 0", "train/b_000003_000013.mp4 zumba 0"]
    );
    // A file of several splits gives its own alone.
    let val = opened(root.path(), &of_split("val"));
    assert_eq!(table(val.as_ref(), &known), ["val/v.mp4 zumba 0"]);
    assert!(val.missing().is_empty());
    write(
        &root.path().join("train.json"),
        "{\"x\": {\"annotations\": 3, \"segment\": \"subset\"}}",
    );
    let wrong = refused(root.path(), &of_split("train"));
    assert!(wrong.contains("train.json") || wrong.contains("no annotation file"), "{wrong}");
}

#[test]
fn kinetics_errors_name_file_and_line() {
    let root = tempfile::tempdir().expect("folder");
    write(&root.path().join("train.csv"), "label,youtube_id,time_start\nzumba,a,soon\n");
    let row = refused(root.path(), &of_split("train"));
    assert!(row.contains("train.csv, line 2: "), "{row}");
    write(&root.path().join("train.csv"), "label,youtube,time_start\nzumba,a,1\n");
    let options = OpenOptions { layout: Some(Layout::Kinetics), ..OpenOptions::default() };
    let header = refused(root.path(), &options);
    assert!(header.contains("no annotation file for split `train`"), "{header}");
    let annotations = Some(root.path().join("train.csv"));
    let header = refused(root.path(), &OpenOptions { annotations, ..options });
    assert!(header.contains("train.csv") && header.contains("youtube_id"), "{header}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A bit flipped anywhere in an archive of archives leads to samples or to an error that names
    /// the file, never to a panic.
    #[test]
    fn flipped_bits_in_archives_never_panic(at in any::<prop::sample::Index>()) {
        let root = tempfile::tempdir().expect("folder");
        let inner = tar(&[("n01440764_1.JPEG", vec![7; 30]), ("n01440764_2.JPEG", vec![8; 600])]);
        let mut bytes = tar(&[("n01440764.tar", inner.clone()), ("n01440765.tar", inner)]);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let path = root.path().join("ILSVRC2012_img_train.tar");
        write(&path, &bytes);
        match open(&path, &of_split("train")) {
            Ok(reader) => drop(samples(reader.as_ref())),
            Err(error) => prop_assert!(
                error.to_string().contains("ILSVRC2012_img_train.tar"), "{}", error
            ),
        }
    }

    /// The same for `meta.mat`, which is compressed, and cut anywhere.
    #[test]
    fn damaged_mat_files_never_panic(at in any::<prop::sample::Index>(), cut in any::<bool>()) {
        let mut bytes = META.to_vec();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if cut {
            bytes.truncate(bit / 8);
        }
        let _ = super::super::mat5::read(&bytes);
    }
}
