//! Annotations that lack something, and splits that are not there: errors and notes, never other
//! labels.

use super::onramps::{index, mds};
use super::*;

#[track_caller]
fn labels(reader: &dyn ShardReader) -> Vec<Option<u32>> {
    (0..reader.len()).map(|n| reader.record(n).label).collect()
}

/// A folder with pictures `0.jpg` … and a list of `lines` about them.
fn listed(lines: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("folder");
    for n in 0..lines.len() {
        write(&root.path().join(format!("{n}.jpg")), jpeg(n as u32));
    }
    write(&root.path().join("train.csv"), lines.join("\n"));
    root
}

#[test]
fn one_odd_label_of_a_list_renumbers_nothing() {
    let mut lines: Vec<String> = (0..13).map(|n| format!("{n}.jpg,{}", n * 10)).collect();
    let all = |lines: &[String]| listed(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    lines[4] = "4.jpg,-1".to_owned();
    let root = all(&lines);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!((labels(reader.as_ref())[4], labels(reader.as_ref())[12]), (None, Some(120)));
    lines[7] = "7.jpg,3x".to_owned();
    let error = refused(all(&lines).path(), &of_split("train"));
    assert!(error.contains("train.csv, line 8: ") && error.contains("`3x`"), "{error}");
    lines[7] = "7.jpg,70".to_owned();
    lines.insert(0, "path,label".to_owned());
    let root = all(&lines);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!((reader.len(), labels(reader.as_ref())[12]), (13, Some(120)));
    assert!(reader.notes()[0].contains("line 1"), "{:?}", reader.notes());
    lines[0] = "something,else".to_owned();
    let error = refused(
        all(&lines).path(),
        &OpenOptions { layout: Some(Layout::List), ..of_split("train") },
    );
    assert!(error.contains("line 1: ") && error.contains("`else`"), "{error}");
}

#[test]
fn lines_that_repeat_are_counted_and_absent_files_are_named() {
    let root = listed(&["0.jpg a", "1.jpg b", "0.jpg a", "1.jpg b", "0.jpg a"]);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(reader.len(), 5);
    assert!(reader.notes()[0].contains("3 samples are listed again, such as 0.jpg"));
    let root = listed(&[]);
    write(&root.path().join("train.csv"), "x/0.jpg;1\nx/1.jpg;2\n");
    let options = OpenOptions { layout: Some(Layout::List), ..of_split("train") };
    let error = refused(root.path(), &options);
    assert!(
        error.contains("x/0.jpg;1, x/1.jpg;2") && error.contains("separated by ' '"),
        "{error}"
    );
}

#[test]
fn a_split_has_its_names_and_no_other_is_taken_for_it() {
    let root = tempfile::tempdir().expect("folder");
    for (n, file) in ["train/n00000001/a.JPEG", "train/n00000002/b.JPEG", "val/n00000002/c.JPEG"]
        .iter()
        .enumerate()
    {
        write(&root.path().join(file), jpeg(n as u32));
    }
    let val = opened(root.path(), &of_split("validation"));
    assert_eq!(detected(root.path(), "validation"), Layout::Imagenet);
    assert_eq!((val.len(), labels(val.as_ref())), (1, vec![Some(1)]));
    for layout in [None, Some(Layout::Imagenet), Some(Layout::Folder), Some(Layout::Frames)] {
        let error = refused(root.path(), &OpenOptions { layout, ..of_split("test") });
        assert!(error.contains("no split `test`: there is train, val"), "{error}");
    }
    // Folders of other names: the splits of a tree number their classes alike.
    let root = tempfile::tempdir().expect("folder");
    for file in ["train/a/0.jpg", "train/b/1.jpg", "validation/b/2.jpg"] {
        write(&root.path().join(file), jpeg(3));
    }
    assert_eq!(labels(opened(root.path(), &of_split("val")).as_ref()), [Some(1)]);
}

#[test]
fn class_files_number_the_folders_they_name() {
    let root = tempfile::tempdir().expect("folder");
    for file in ["train/a/0.jpg", "train/b/1.jpg"] {
        write(&root.path().join(file), jpeg(3));
    }
    let open = || opened(root.path(), &of_split("train"));
    write(&root.path().join("classes.txt"), "c\nb\na\n");
    assert_eq!(labels(open().as_ref()), [Some(2), Some(1)]);
    assert_eq!(open().classes(), ["c", "b", "a"]);
    write(&root.path().join("classes.txt"), "1 apple\n2 banana\n");
    assert_eq!(labels(open().as_ref()), [Some(0), Some(1)]);
    assert!(open().notes()[0].contains("classes.txt does not name the folder `a`"));
}

#[test]
fn annotations_of_kinetics_need_their_columns() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("train/id0_000001_000011.mp4"), b"x");
    let header = "label,youtube_id,time_start,time_end,split\n";
    let fails = |text: &str| {
        write(&at("train.csv"), text);
        refused(root.path(), &of_split("train"))
    };
    let none = fails("youtube_id,time_start,time_end,split\nid0,1,11,train\n");
    assert!(none.contains("train.csv, line 2: clip id0 has no label"), "{none}");
    let time = fails(&format!("{header}a,id0,1,11,train\na,id1,x,11,train\n"));
    assert!(time.contains("line 3: column time_start is `x`"), "{time}");
    let options = OpenOptions { layout: Some(Layout::Kinetics), ..of_split("train") };
    write(&at("train.csv"), "label,time_start\na,1\n");
    write(&at("val.csv"), format!("{header}a,id0,1,11,val\n"));
    let options = OpenOptions { annotations: Some(at("train.csv")), ..options };
    let error = refused(root.path(), &options);
    assert!(error.contains("no column `youtube_id` among label, time_start"), "{error}");
    // The test split has none.
    write(&at("test.csv"), "youtube_id,time_start,time_end,split\nid0,1,11,test\n");
    write(&at("test/id0_000001_000011.mp4"), b"x");
    std::fs::remove_file(at("train.csv")).expect("removed");
    assert_eq!(labels(opened(root.path(), &of_split("test")).as_ref()), [None]);
    // A clip that is there twice.
    write(&at("val/a/id0_000001_000011.mp4"), b"x");
    write(&at("val/b/id0_000001_000011.mp4"), b"y");
    let notes = opened(root.path(), &of_split("val")).notes().to_vec();
    assert!(notes[0].contains("1 clips are there more than once, such as id0_"), "{notes:?}");
}

#[test]
fn annotations_that_no_layout_knows_are_named() {
    let root = tempfile::tempdir().expect("folder");
    write(&root.path().join("train/a/0.jpg"), jpeg(0));
    write(&root.path().join("train.csv"), "0.jpg;3\n");
    write(&root.path().join("README.txt"), "hello");
    let notes = opened(root.path(), &of_split("train")).notes().to_vec();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("train.csv was not read"), "{notes:?}");
}

#[test]
fn videos_of_something_something_need_templates_but_for_the_test() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("labels.json"), r#"{"Opening something": "0"}"#);
    write(&at("17.webm"), b"x");
    write(&at("train.json"), r#"[{"id": 17, "template": "Opening [something]"}]"#);
    assert_eq!(labels(opened(root.path(), &of_split("train")).as_ref()), [Some(0)]);
    write(&at("train.json"), r#"[{"id": "17"}]"#);
    let error = refused(root.path(), &of_split("train"));
    assert!(error.contains("train.json, item 0: video 17 has no template"), "{error}");
    write(&at("test.json"), r#"[{"id": "17"}]"#);
    assert_eq!(labels(opened(root.path(), &of_split("test")).as_ref()), [None]);
}

#[test]
fn numbers_as_text_are_numbers() {
    let root = tempfile::tempdir().expect("folder");
    let columns = [("image", "jpeg", None), ("label", "str", None)];
    let open = |texts: &[&str]| {
        let sample = |text: &&str| vec![jpeg(1), text.as_bytes().to_vec()];
        let samples: Vec<_> = texts.iter().map(sample).collect();
        let name = format!("{}.mds", texts.concat());
        write(&root.path().join(&name), mds(&samples, &[false, false]));
        write(&root.path().join("index.json"), index(&[(&name, samples.len())], &columns));
        crate::open(root.path(), &of_split("train"))
    };
    let texts: Vec<String> = (0..=12).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let reader = open(&texts).expect("opens");
    assert_eq!((labels(reader.as_ref())[2], reader.classes()[2].as_str()), (Some(2), "2"));
    assert_eq!(
        labels(open(&["b", "a", "7"]).expect("opens").as_ref()),
        [Some(2), Some(1), Some(0)]
    );
    let odd = open(&["1", "2", "x"]).map(|_| ()).expect_err("mixed").to_string();
    assert!(odd.contains("12x.mds/2.jpg") && odd.contains("`x`"), "{odd}");
}

#[test]
fn a_name_among_the_numbers_of_an_archive_is_an_error() {
    let root = tempfile::tempdir().expect("folder");
    let text = |t: &str| t.as_bytes().to_vec();
    let archive = |name: &str, field: &str, classes: &[&str]| {
        let mut members = Vec::new();
        for (n, class) in classes.iter().enumerate() {
            members.push((format!("{n}.jpg"), jpeg(n as u32)));
            members.push((format!("{n}.{field}"), text(class)));
        }
        let members: Vec<(&str, Vec<u8>)> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        let path = root.path().join(name);
        write(&path, tar(&members));
        path
    };
    let odd = refused(&archive("a.tar", "cls", &["3", "cat", "1"]), &of_split("train"));
    assert!(odd.contains("a.tar, member 1.jpg: its class is `cat`"), "{odd}");
    let json = archive("b.tar", "json", &[r#"{"label": "10"}"#, r#"{"label": "2"}"#]);
    let reader = opened(&json, &of_split("train"));
    assert_eq!(labels(reader.as_ref()), [Some(10), Some(2)]);
    assert_eq!(reader.classes()[10], "10");
}

#[test]
fn what_a_conversion_wrote_into_the_data_set_is_no_part_of_it() {
    let root = tempfile::tempdir().expect("folder");
    write(&root.path().join("a/0.jpg"), jpeg(0));
    write(&root.path().join("out/.tubelet/job.json"), b"{}");
    write(&root.path().join("out/train/a/0.jpg"), jpeg(0));
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!((reader.len(), reader.classes().len()), (1, 1));
    assert!(reader.notes()[0].contains("out holds a conversion"), "{:?}", reader.notes());
}

#[test]
fn tar_shards_that_lack_one_are_refused() {
    let root = tempfile::tempdir().expect("folder");
    for n in [0, 2] {
        let path = root.path().join(format!("train-0000{n}-of-00003.tar"));
        write(&path, tar(&[("0.jpg", jpeg(n)), ("0.cls", b"0".to_vec())]));
    }
    let gap = refused(root.path(), &of_split("train"));
    assert!(gap.contains("train-00001-of-00003.tar"), "{gap}");
}

#[test]
fn a_path_that_is_nothing_is_a_mistake_of_the_command_line() {
    for layout in [None, Some(Layout::Folder), Some(Layout::Parquet)] {
        let error =
            crate::open(Path::new("/no/where"), &OpenOptions { layout, ..of_split("train") });
        let error = error.map(|_| ()).expect_err("nothing there");
        assert!(matches!(error.kind, crate::error::FormatErrorKind::Layout(_)), "{error:?}");
        assert_eq!(error.to_string(), "/no/where: there is no such file or folder");
    }
}

/// Of a damaged archive the whole samples before the damage can be had, and the rest is named.
#[test]
fn what_is_left_of_damaged_archives_is_read_where_that_is_asked_for() {
    let root = tempfile::tempdir().expect("folder");
    let members: Vec<(String, Vec<u8>)> = (0..6)
        .flat_map(|n| {
            [(format!("{n}.jpg"), jpeg(n)), (format!("{n}.cls"), n.to_string().into_bytes())]
        })
        .collect();
    let named: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let whole = tar(&named);
    // Behind the picture of sample 3, before its class.
    let end = whole.windows(5).position(|w| w == b"3.cls").expect("a header");
    let salvage = OpenOptions { salvage: true, ..of_split("train") };
    write(&root.path().join("tar/train-1.tar"), tar(&named[..2]));
    write(&root.path().join("tar/train-0.tar"), &whole[..end]);
    let packed = gzip(&whole);
    write(&root.path().join("gz/train-0.tar.gz"), &packed[..packed.len() * 2 / 3]);
    assert!(refused(&root.path().join("tar"), &of_split("train")).contains("train-0.tar"));
    for _ in 0..2 {
        let reader = opened(&root.path().join("tar"), &salvage);
        assert_eq!(labels(reader.as_ref()), [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(reader.missing().len(), 1);
        assert!(reader.missing()[0].starts_with("train-0.tar, "), "{:?}", reader.missing());
    }
    let packed = opened(&root.path().join("gz"), &OpenOptions { stream: true, ..salvage });
    assert!(!packed.is_empty() && packed.len() < 6, "{} samples", packed.len());
    assert!(packed.missing()[0].starts_with("train-0.tar.gz, "));
    assert_eq!(labels(packed.as_ref())[0], Some(0));
}
