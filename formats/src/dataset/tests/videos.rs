//! UCF101, HMDB51, Something-Something and lists, as files and as folders of frames.

use proptest::prelude::*;
use tubelet_core::Clip;

use super::*;
use crate::decode::decoder;
use crate::encode::{EncodeOptions, encode_video};
use crate::record::FrameRequest;

/// A folder of frames; returns their files.
fn frames(folder: &Path, names: impl Fn(u32) -> String, count: u32) -> Vec<Vec<u8>> {
    let size = Size::new(40, 24);
    let file = |n: u32| {
        let pixels: Vec<u8> = (0..size.area() as u32 * 3).map(|k| (k / 7 + n * 9) as u8).collect();
        let bytes = encode_jpeg(&pixels, size, 92).expect("encodes");
        write(&folder.join(names(n)), &bytes);
        bytes
    };
    (0..count).map(file).collect()
}

fn usual(n: u32) -> String {
    format!("img_{:05}.jpg", n + 1)
}

/// Names, class names and numbers of frames.
#[track_caller]
fn videos(reader: &dyn ShardReader) -> Vec<String> {
    let mut decoder = decoder();
    let mut line = |(name, class, bytes): (String, Option<String>, Vec<u8>)| {
        let frames = decoder.probe(&bytes).map_or(0, |info| info.frames);
        format!("{name} {} {frames}", class.unwrap_or_else(|| "-".to_owned()))
    };
    samples(reader).into_iter().map(&mut line).collect()
}

fn video() -> Vec<u8> {
    let size = Size::new(32, 32);
    let frames: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n * 20; size.area() * 3]).collect();
    let options = EncodeOptions { size, ..EncodeOptions::default() };
    encode_video(frames.iter().map(Vec::as_slice), &options).expect("encodes")
}

#[test]
fn a_folder_of_frames_is_a_video_with_the_pixels_of_its_files() {
    let root = tempfile::tempdir().expect("folder");
    let folder = root.path().join("train/archery/v1");
    let files = frames(&folder, usual, 9);
    // Optical flow beside the pictures is not looked at.
    frames(&folder, |n| format!("flow_x_{n:05}.jpg"), 3);
    frames(&root.path().join("train/zumba/v2"), usual, 8);
    assert_eq!(detected(root.path(), "train"), Layout::Frames);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(videos(reader.as_ref()), ["train/archery/v1 archery 9", "train/zumba/v2 zumba 8"]);
    // Classes of other splits are numbered with them.
    frames(&root.path().join("val/baking/v3"), usual, 8);
    for split in ["train", "val"] {
        let reader = opened(root.path(), &of_split(split));
        assert_eq!(reader.classes(), ["archery", "baking", "zumba"], "{split}");
    }
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(videos(reader.as_ref()), ["train/archery/v1 archery 9", "train/zumba/v2 zumba 8"]);

    let packed = samples(reader.as_ref()).remove(0).2;
    let (mut decoder, mut clip, mut picture) = (decoder(), Clip::new(), Clip::new());
    let info = decoder.probe(&packed).expect("a video");
    assert_eq!((info.size, info.fps, info.codec.as_str()), (Size::new(40, 24), 30.0, "mjpeg"));
    let region = Some(tubelet_core::Rect { x: 9, y: 3, width: 12, height: 7 });
    for region in [None, region] {
        let want = FrameRequest { frames: vec![0, 3, 8], region, planes: false };
        decoder.decode(&packed, &info, &want, &mut clip).expect("decodes");
        for (n, index) in [0, 3, 8].into_iter().enumerate() {
            let want = FrameRequest { frames: vec![0], region, planes: false };
            decoder.decode(&files[index], &info, &want, &mut picture).expect("decodes");
            assert_eq!(clip.region(), picture.region());
            assert!(clip.nth(n) == picture.nth(0), "frame {index}");
        }
    }
    let beyond = FrameRequest { frames: vec![2, 9], region: None, planes: false };
    let error = decoder.decode(&packed, &info, &beyond, &mut clip).expect_err("9 frames");
    assert!(error.to_string().contains("frame 9 is wanted, only 9"), "{error}");
}

/// FFmpeg, told nothing, reads the same payload: any player does.
#[test]
fn packed_frames_are_an_ordinary_avi() {
    let root = tempfile::tempdir().expect("folder");
    frames(&root.path().join("a/b"), usual, 9);
    let mut packed = Vec::new();
    crate::frames::pack(&root.path().join("a/b"), None, 12, &mut packed).expect("packed");
    let mut foreign = packed.clone();
    let at = foreign.windows(14).position(|w| w == b"tubelet frames").expect("marked");
    foreign[at] = b'T';
    let mut decoder = decoder();
    let info = decoder.probe(&foreign).expect("a video");
    assert_eq!((info.frames, info.size, info.fps), (9, Size::new(40, 24), 12.0));
    let want = FrameRequest { frames: vec![1, 8], region: None, planes: false };
    let (mut clip, mut own) = (Clip::new(), Clip::new());
    decoder.decode(&foreign, &info, &want, &mut clip).expect("decodes");
    decoder.decode(&packed, &info, &want, &mut own).expect("decodes");
    let far = |(a, b): (&u8, &u8)| a.abs_diff(*b) > 12;
    assert_eq!(clip.nth(1).iter().zip(own.nth(1)).filter(|p| far(*p)).count(), 0);
}

#[test]
fn damaged_packed_frames_are_errors() {
    let root = tempfile::tempdir().expect("folder");
    frames(&root.path().join("v"), usual, 4);
    let mut packed = Vec::new();
    crate::frames::pack(&root.path().join("v"), None, 12, &mut packed).expect("packed");
    let mut decoder = decoder();
    let info = decoder.probe(&packed).expect("a video");
    let want = FrameRequest { frames: vec![0, 3], region: None, planes: false };
    let mut clip = Clip::new();
    for cut in (0..packed.len()).step_by(97) {
        let cut = &packed[..cut];
        assert!(decoder.decode(cut, &info, &want, &mut clip).is_err(), "{} bytes", cut.len());
    }
    for bit in (0..packed.len() * 8).step_by(53) {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = decoder.decode(&flipped, &info, &want, &mut clip);
    }
}

#[test]
fn wrong_frames_are_named() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("list.txt"), "v 9 0\n");
    let read = || {
        let reader = opened(&at("list.txt"), &of_split("train"));
        let mut buf = Vec::new();
        reader.read(&reader.record(0), &mut buf).err().map(|e| e.to_string()).unwrap_or_default()
    };
    frames(&at("v"), usual, 8);
    assert!(read().ends_with("v: 9 frames are listed, 8 are there"), "{}", read());
    frames(&at("v"), usual, 9);
    assert_eq!(read(), "");
    std::fs::remove_file(at("v/img_00004.jpg")).expect("removed");
    assert!(read().ends_with("v: frame 4 is not there"), "{}", read());
    write(&at("v/img_00004.jpg"), b"text");
    assert!(read().ends_with("img_00004.jpg: a frame must be a JPEG or PNG file"), "{}", read());
    let missing = std::fs::remove_dir_all(at("v")).map(|()| at("list.txt"));
    let missing = refused(&missing.expect("removed"), &of_split("train"));
    assert!(missing.contains("all 1 files"), "{missing}");
}

#[test]
fn ucf101_has_three_splits() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("ucfTrainTestlist/classInd.txt"), "1 ApplyEyeMakeup\r\n2 Archery\r\n");
    let list = "Archery/v_Archery_g01_c01.avi 2\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n";
    write(&at("ucfTrainTestlist/trainlist01.txt"), list);
    write(&at("ucfTrainTestlist/trainlist02.txt"), "Archery/v_Archery_g02_c01.avi 2\n");
    write(&at("ucfTrainTestlist/testlist02.txt"), list.replace(" 2", "").replace(" 1", ""));
    write(&at("UCF-101/Archery/v_Archery_g01_c01.avi"), video());
    frames(&at("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01"), usual, 6);
    assert_eq!(detected(root.path(), "train1"), Layout::Ucf101);
    let wanted = [
        "UCF-101/Archery/v_Archery_g01_c01.avi Archery 5",
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01 ApplyEyeMakeup 6",
    ];
    for split in ["train", "train1", "test2", "val2"] {
        let reader = opened(root.path(), &of_split(split));
        assert_eq!(videos(reader.as_ref()), wanted, "{split}");
        assert_eq!(reader.classes(), ["ApplyEyeMakeup", "Archery"]);
    }
    let absent = refused(root.path(), &of_split("train2"));
    assert!(absent.contains("all 1 files"), "{absent}");
    let split = refused(root.path(), &of_split("train4"));
    assert!(split.contains("train1, train2, train3"), "{split}");
    write(&at("ucfTrainTestlist/trainlist01.txt"), "Cooking/v_x.avi 3\n");
    let class = refused(root.path(), &of_split("train"));
    assert!(class.contains("trainlist01.txt, line 1: class `Cooking`"), "{class}");
    write(&at("ucfTrainTestlist/classInd.txt"), "1 Archery\n3 Cooking\n");
    let header = refused(root.path(), &of_split("train"));
    assert!(header.contains("classInd.txt, line 2"), "{header}");
}

#[test]
fn hmdb51_takes_train_or_test_of_each_class() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    let splits = "testTrainMulti_7030_splits";
    let odd = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi";
    write(&at(&format!("{splits}/wave_test_split1.txt")), "a!_wave.avi 1 \nb_wave.avi 2 \n");
    write(&at(&format!("{splits}/clap_test_split1.txt")), format!("{odd} 1 \nc.avi 0 \n"));
    write(&at(&format!("{splits}/clap_test_split2.txt")), format!("{odd} 2 \n"));
    write(&at(&format!("hmdb51_org/clap/{odd}")), video());
    write(&at("hmdb51_org/wave/a!_wave.avi"), video());
    assert_eq!(detected(root.path(), "train1"), Layout::Hmdb51);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(
        videos(reader.as_ref()),
        [format!("hmdb51_org/clap/{odd} clap 5"), "hmdb51_org/wave/a!_wave.avi wave 5".to_owned()]
    );
    let second = opened(root.path(), &of_split("test2"));
    assert_eq!(videos(second.as_ref()), [format!("hmdb51_org/clap/{odd} clap 5")]);
    let missing = refused(root.path(), &of_split("test1"));
    assert!(missing.contains("all 1 files"), "{missing}");
    write(&at(&format!("{splits}/wave_test_split1.txt")), "a!_wave.avi 1\nb_wave.avi 7\n");
    let wrong = refused(root.path(), &of_split("train"));
    assert!(wrong.contains("wave_test_split1.txt, line 2"), "{wrong}");
}

#[test]
fn something_something_comes_as_frames_too() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("something-something-v1-labels.csv"), "Turning something\nHolding something\n");
    let list = "100218;Holding something\n7;Turning something\n8;Holding something\n";
    write(&at("something-something-v1-validation.csv"), list);
    frames(&at("20bn-something-something-v1/100218"), |n| format!("{:05}.jpg", n + 1), 10);
    frames(&at("20bn-something-something-v1/7"), |n| format!("{:05}.jpg", n + 1), 3);
    assert_eq!(detected(root.path(), "val"), Layout::Ssv2);
    let reader = opened(root.path(), &of_split("val"));
    assert_eq!(
        videos(reader.as_ref()),
        [
            "20bn-something-something-v1/100218 Holding something 10",
            "20bn-something-something-v1/7 Turning something 3"
        ]
    );
    assert_eq!(reader.classes(), ["Holding something", "Turning something"]);
    assert_eq!(reader.missing(), ["20bn-something-something-v1/8.webm"]);
    write(&at("something-something-v1-validation.csv"), "7;Eating something\n");
    let wrong = refused(root.path(), &of_split("val"));
    assert!(wrong.contains("validation.csv, line 1: template"), "{wrong}");

    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    write(&at("labels/labels.json"), "{\"Holding something\": \"0\"}");
    let items = "[{\"id\": \"5\", \"template\": \"Holding [something]\"}]";
    write(&at("labels/train.json"), items);
    frames(&at("rawframes/5"), usual, 4);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(videos(reader.as_ref()), ["rawframes/5 Holding something 4"]);
}

#[test]
fn lists_name_files_or_folders_of_frames() {
    let root = tempfile::tempdir().expect("folder");
    let at = |name: &str| root.path().join(name);
    frames(&at("a/v1"), usual, 9);
    write(&at("a/v2.mp4"), video());
    write(&at("a b.mp4"), video());
    write(&at("train.txt"), "a/v1 5 1\na/v2 0\na/v2.mp4 0\n");
    assert_eq!(detected(root.path(), "train"), Layout::List);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!(videos(reader.as_ref()), ["a/v1 1 5", "a/v2.mp4 0 5", "a/v2.mp4 0 5"]);

    write(&at("list.csv"), "a b.mp4;1\na/v2;0\n");
    let options = OpenOptions { separator: Some(';'), ..OpenOptions::default() };
    let reader = opened(&at("list.csv"), &options);
    assert_eq!(videos(reader.as_ref()), ["a b.mp4 1 5", "a/v2.mp4 0 5"]);

    let head = "original_vido_id video_id frame_id path labels\n";
    let rows = "v1 0 0 a/v1/img_00001.jpg \"\"\nv1 0 1 a/v1/img_00002.jpg \"\"\n";
    write(&at("frames.csv"), format!("{head}{rows}"));
    let reader = opened(&at("frames.csv"), &of_split("train"));
    assert_eq!(videos(reader.as_ref()), ["a/v1 - 9"]);
    write(&at("frames.csv"), format!("{head}{rows}v1 0 2 a/v1/img_00003.jpg\n"));
    let wrong = refused(&at("frames.csv"), &of_split("train"));
    assert!(wrong.contains("frames.csv, line 4: 4 fields"), "{wrong}");
    write(&at("list.csv"), "a/v1 many 1\n");
    let wrong = refused(&at("list.csv"), &of_split("train"));
    assert!(wrong.contains("list.csv, line 1: `many` is no number"), "{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever stands in an annotation file: a listing, or an error that names a file.
    #[test]
    fn annotations_of_any_text_never_panic(lines in proptest::collection::vec(
        proptest::prop_oneof![
            "[a-c]{0,3}[ ,;\t\"][a-c.]{0,6}[ ,;\t\"]?-?[0-9]{0,12}",
            "\\PC{0,24}",
            "\\{\"[a-z]\": \\{\"annotations\": [0-9a-z\\[{}\"]{0,9}",
            "(original_vido_id|label,youtube_id,time_start,time_end|1 Archery|n01440764)",
        ],
        0..5,
    )) {
        let root = tempfile::tempdir().expect("folder");
        let text = lines.join("\n");
        let files = [
            (Layout::List, "train.csv"),
            (Layout::Kinetics, "train.csv"),
            (Layout::Kinetics, "train.json"),
            (Layout::Ssv2, "train.json"),
            (Layout::Ssv2, "something-something-v1-train.csv"),
            (Layout::Ucf101, "trainlist01.txt"),
            (Layout::Ucf101, "classInd.txt"),
            (Layout::Hmdb51, "a_test_split1.txt"),
        ];
        write(&root.path().join("labels.json"), "{\"a\": \"0\"}");
        for (layout, name) in files {
            let path = root.path().join(name);
            write(&path, &text);
            let annotations = (!name.contains("class") && layout != Layout::Hmdb51).then_some(path);
            let options = OpenOptions { layout: Some(layout), annotations, ..of_split("train") };
            match open(root.path(), &options) {
                Ok(reader) => prop_assert!(!reader.is_empty()),
                Err(error) => {
                    prop_assert!(error.to_string().contains(root.path().to_str().expect("UTF-8")));
                }
            }
        }
        write(&root.path().join("something-something-v1-labels.csv"), &text);
        let options = OpenOptions { layout: Some(Layout::Ssv2), ..of_split("train") };
        prop_assert!(open(root.path(), &options).is_err());
        let truth = root.path().join("truth.txt");
        write(&truth, &text);
        let _ = super::super::truth::Truth::read(&truth);
    }
}

#[test]
fn imagenet_22k_is_wnid_folders_without_splits() {
    let root = tempfile::tempdir().expect("folder");
    let known: Vec<Vec<u8>> = (0..2).map(jpeg).collect();
    write(&root.path().join("n00005787/n00005787_12.JPEG"), &known[0]);
    write(&root.path().join("n00004475/n00004475_6590.JPEG"), &known[1]);
    assert_eq!(detected(root.path(), "train"), Layout::Imagenet);
    assert_eq!(
        table(opened(root.path(), &of_split("train")).as_ref(), &known),
        ["n00004475/n00004475_6590.JPEG n00004475 1", "n00005787/n00005787_12.JPEG n00005787 0"]
    );
}

#[test]
fn numbered_pictures_in_class_folders_stay_pictures() {
    let root = tempfile::tempdir().expect("folder");
    frames(&root.path().join("train/cats"), usual, 9);
    assert_eq!(detected(root.path(), "train"), Layout::Folder);
    let reader = opened(root.path(), &of_split("train"));
    assert_eq!((reader.len(), reader.classes()), (9, &["cats".to_owned()][..]));
}
