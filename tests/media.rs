//! Small data sets made on the spot.

use std::path::Path;

use tempfile::TempDir;
use tubelet_core::Size;
use tubelet_formats::encode::{EncodeOptions, encode_jpeg, encode_video};

/// A picture whose pixels depend on `seed` and position: smooth, so that codecs keep it.
pub(crate) fn picture(size: Size, seed: u32, time: u32) -> Vec<u8> {
    let wave = |x: u32, y: u32, k: u32| {
        let phase = f64::from(seed) * 1.7 + f64::from(k) * 2.1 + f64::from(time) * 0.3;
        let at = f64::from(x) * 0.11 + f64::from(y) * 0.07 * f64::from(k + 1) + phase;
        (127.5 + 100.0 * at.sin()) as u8
    };
    (0..size.height)
        .flat_map(|y| (0..size.width).flat_map(move |x| (0..3).map(move |k| wave(x, y, k))))
        .collect()
}

/// A JPEG file.
pub(crate) fn jpeg(size: Size, seed: u32) -> Vec<u8> {
    encode_jpeg(&picture(size, seed, 0), size, 90).expect("encodes")
}

/// An H.264 file of `frames` frames with B-frames and a key frame every 12.
pub(crate) fn video(size: Size, frames: u32, seed: u32) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = (0..frames).map(|t| picture(size, seed, t)).collect();
    let options = EncodeOptions { size, fps: 12, gop: 12, b_frames: 2, ..EncodeOptions::default() };
    encode_video(frames.iter().map(Vec::as_slice), &options).expect("encodes")
}

/// ImageNet's layout: `classes` folders of `each` pictures for `train` and one each for `val`.
pub(crate) fn imagenet(classes: u32, each: u32) -> TempDir {
    let root = tempfile::tempdir().expect("temporary folder");
    for (split, count) in [("train", each), ("val", 1)] {
        for class in 0..classes {
            let folder = root.path().join(split).join(format!("n{class:08}"));
            std::fs::create_dir_all(&folder).expect("folder");
            for n in 0..count {
                let size = Size::new(90 + 7 * n, 70 + 5 * class);
                let name = format!("n{class:08}_{n}.JPEG");
                write(&folder.join(name), &jpeg(size, class * 100 + n));
            }
        }
    }
    root
}

/// Kinetics' layout: `count` clips each for `train` and `val`, two classes.
pub(crate) fn kinetics(count: u32) -> TempDir {
    let root = tempfile::tempdir().expect("temporary folder");
    let annotations = root.path().join("annotations");
    std::fs::create_dir_all(&annotations).expect("folder");
    for split in ["train", "val"] {
        let folder = root.path().join(split);
        std::fs::create_dir_all(&folder).expect("folder");
        let mut csv = String::from("label,youtube_id,time_start,time_end,split\n");
        for n in 0..count {
            let label = ["air drumming", "zumba"][n as usize % 2];
            csv += &format!("{label},id{split}{n:04},3,13,{split}\n");
            let file = folder.join(format!("id{split}{n:04}_000003_000013.mp4"));
            write(&file, &video(Size::new(64, 48), 20 + n, n));
        }
        write(&annotations.join(format!("{split}.csv")), csv.as_bytes());
    }
    root
}

/// Writes a file.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
