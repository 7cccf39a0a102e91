use super::*;
use crate::encode::{EncodeOptions, encode_video};
use tubelet_core::SampleRng;
use xxhash_rust::xxh3::xxh3_64;

const SIZE: Size = Size::new(96, 64);

/// Frames that all differ and move.
fn frames(count: u32) -> Vec<Vec<u8>> {
    let pixel = |t: u32, n: usize| {
        let (x, y, k) = (n / 3 % 96, n / 3 / 96, n % 3);
        let at = (x as f64 * 0.13 + f64::from(t) * 0.4 + k as f64).sin() + (y as f64 * 0.19).cos();
        (127.5 + 55.0 * at + f64::from(t % 5)) as u8
    };
    (0..count).map(|t| (0..SIZE.area() * 3).map(|n| pixel(t, n)).collect()).collect()
}

fn made(options: &EncodeOptions, count: u32) -> Option<Vec<u8>> {
    let frames = frames(count);
    match encode_video(frames.iter().map(Vec::as_slice), options) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!("{}: {error}", options.codec);
            None
        }
    }
}

fn options(codec: &str, container: &str, b_frames: u32, extra: &[(&str, &str)]) -> EncodeOptions {
    let extra = extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (codec, container) = (codec.to_owned(), container.to_owned());
    EncodeOptions { codec, container, size: SIZE, b_frames, extra, ..EncodeOptions::default() }
}

/// Every frame of a linear decode, hashed.
fn linear(bytes: &[u8], info: &MediaInfo) -> Vec<u64> {
    let mut decoder = VideoDecoder::new(ColorConversion::Plain);
    let all: Vec<u32> = (0..info.frames).collect();
    let mut clip = Clip::new();
    clip.reset(info.size, &all);
    decoder.decode_all(bytes, info, &all, &mut clip).unwrap();
    (0..all.len()).map(|n| xxh3_64(clip.nth(n))).collect()
}

/// A random region equals that part of the whole frames in `clip`.
fn check_region(
    name: &str,
    decoder: &mut VideoDecoder,
    bytes: &[u8],
    info: &MediaInfo,
    clip: &Clip,
    rng: &mut SampleRng,
) {
    let (x, y) = (rng.below(info.size.width), rng.below(info.size.height));
    let width = 1 + rng.below(info.size.width - x);
    let region = Rect { x, y, width, height: 1 + rng.below(info.size.height - y) };
    let want =
        FrameRequest { frames: clip.indices().to_vec(), region: Some(region), planes: false };
    let mut part = Clip::new();
    decoder.decode(bytes, info, &want, &mut part).unwrap_or_else(|e| panic!("{name}: {e}"));
    let held = part.region();
    assert!(held.holds(region), "{name}: {held:?}");
    for n in 0..want.frames.len() {
        for row in 0..held.height {
            let bytes = held.width as usize * 3;
            let start = ((held.y + row) * info.size.width + held.x) as usize * 3;
            let got = &part.nth(n)[row as usize * bytes..][..bytes];
            assert_eq!(got, &clip.nth(n)[start..start + bytes], "{name}: {region:?}, row {row}");
        }
    }
}

/// Random subsets equal the linear decode, and regions the whole frames.
fn check(name: &str, bytes: &[u8], subsets: u32) -> MediaInfo {
    let mut decoder = VideoDecoder::new(ColorConversion::Plain);
    let info = decoder.probe(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    let whole = linear(bytes, &info);
    let mut rng = SampleRng::new(5, 0, bytes.len() as u64, 0, tubelet_core::Draw::Frames);
    let mut clip = Clip::new();
    for _ in 0..subsets {
        let mut frames: Vec<u32> = (0..1 + rng.below(6)).map(|_| rng.below(info.frames)).collect();
        frames.sort_unstable();
        frames.dedup();
        let want = FrameRequest { frames: frames.clone(), region: None, planes: false };
        decoder.decode(bytes, &info, &want, &mut clip).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(xxh3_64(clip.nth(n)), whole[*frame as usize], "{name} frame {frame}");
        }
        check_region(name, &mut decoder, bytes, &info, &clip, &mut rng);
    }
    info
}

#[test]
fn subsets_equal_a_linear_decode() {
    let x264 = |params| [("x264-params", params)];
    let cases = [
        options("libx264", "mp4", 3, &[]),
        options("libx264", "mp4", 3, &x264("open-gop=1:keyint=12:b-adapt=0")),
        options("libx264", "matroska", 3, &x264("open-gop=1:keyint=8:b-pyramid=strict")),
        options("libx264", "matroska", 0, &x264("intra-refresh=1:keyint=10")),
        options("libx264", "avi", 2, &[]),
        options(
            "libx265",
            "mp4",
            3,
            &[("x265-params", "log-level=none:pools=none:open-gop=1:keyint=12")],
        ),
        options(
            "libvpx-vp9",
            "webm",
            0,
            &[("b", "200k"), ("auto-alt-ref", "1"), ("lag-in-frames", "12")],
        ),
        options("libsvtav1", "webm", 0, &[("preset", "12")]),
        options("mpeg4", "avi", 2, &[]),
        options("mpeg4", "mp4", 2, &[]),
    ];
    let mut seen = 0;
    for case in &cases {
        let mut case = case.clone();
        if case.codec == "mpeg4" {
            case.crf = None;
        }
        if let Some(bytes) = made(&case, 40) {
            let info = check(&format!("{}/{}", case.codec, case.container), &bytes, 25);
            assert_eq!((info.frames, info.size, info.keyframes[0]), (40, SIZE, 0));
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} encoders are there");
}

#[test]
fn uneven_times_and_rotation() {
    let times = (0..30).map(|n| n * 2 + n * n % 3).collect();
    let uneven = EncodeOptions { size: SIZE, times, fps: 60, ..EncodeOptions::default() };
    let bytes = made(&uneven, 30).expect("libx264");
    assert_eq!(check("uneven", &bytes, 20).frames, 30);
    let upright = options("libx264", "mp4", 2, &[]);
    let plain = made(&upright, 8).expect("libx264");
    let mut decoder = VideoDecoder::new(ColorConversion::Plain);
    let want = FrameRequest { frames: vec![5], region: None, planes: false };
    let (mut clip, mut other) = (Clip::new(), Clip::new());
    let info = decoder.probe(&plain).unwrap();
    decoder.decode(&plain, &info, &want, &mut clip).unwrap();
    for rotation in [90, 180, 270] {
        let turned = made(&EncodeOptions { rotation, ..upright.clone() }, 8).expect("libx264");
        let info = check("turned", &turned, 5);
        assert_eq!((info.rotation, info.size), (rotation, rotated(SIZE, rotation)));
        decoder.decode(&turned, &info, &want, &mut other).unwrap();
        // The upper left pixel goes to the upper right, lower right, lower left.
        let (w, h) = (info.size.width as usize, info.size.height as usize);
        let at = match rotation {
            90 => w - 1,
            180 => w * h - 1,
            _ => (h - 1) * w,
        };
        assert_eq!(other.nth(0)[at * 3..at * 3 + 3], clip.nth(0)[..3]);
    }
}

#[test]
fn damage_is_an_error() {
    let bytes = made(&options("libx264", "matroska", 2, &[]), 40).expect("libx264");
    let mut decoder = VideoDecoder::new(ColorConversion::Plain);
    let info = decoder.probe(&bytes).unwrap();
    let mut clip = Clip::new();
    let want = |frame| FrameRequest { frames: vec![frame], region: None, planes: false };
    let beyond = decoder.decode(&bytes, &info, &want(40), &mut clip);
    assert_eq!(beyond, Err(DecodeError::MissingFrame { wanted: 40, have: 40 }));
    let cut = &bytes[..bytes.len() / 2];
    assert!(decoder.decode(cut, &info, &want(39), &mut clip).is_err());
    for keep in [0, 1, 40, 200, 500] {
        assert!(decoder.probe(&bytes[..keep]).is_err(), "cut to {keep}");
    }
    let mp4 = made(&options("libx264", "mp4", 2, &[]), 10).expect("libx264");
    assert!(decoder.probe(&mp4[..mp4.len() / 2]).is_err(), "no moov");
    assert!(decoder.decode(&mp4, &info, &want(0), &mut clip).is_ok());
    let wrong = MediaInfo { size: Size::new(10, 10), ..info };
    assert!(matches!(
        decoder.decode(&mp4, &wrong, &want(0), &mut clip),
        Err(DecodeError::Damaged(_))
    ));
}

fn shared() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared")
}

/// Real clips, where they are.
#[test]
fn real_clips() {
    let folders = [("videos", 22), ("kinetics-like/val", 1)]
        .into_iter()
        .chain([("ssv2-like/20bn-something-something-v2", 2)]);
    for (folder, most) in folders {
        let Ok(entries) = std::fs::read_dir(shared().join("data").join(folder)) else { continue };
        for entry in entries.flatten().take(most) {
            let bytes = std::fs::read(entry.path()).unwrap();
            check(&entry.path().display().to_string(), &bytes, 2);
        }
    }
}

/// Checksums of FFmpeg's own output, where they and the clips are.
#[test]
fn reference_checksums() {
    use sha2::{Digest, Sha256};
    let sha = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    };
    let Ok(text) = std::fs::read_to_string(shared().join("golden/video_decode.json")) else {
        return;
    };
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, want) in golden["clips"].as_object().unwrap() {
        let bytes = std::fs::read(shared().join("data/videos").join(name)).unwrap();
        let mut decoder = VideoDecoder::new(ColorConversion::Plain);
        let info = decoder.probe(&bytes).unwrap();
        assert_eq!(want["decoded_frames"], info.frames, "{name}");
        assert_eq!(want["keyframes"], serde_json::json!(info.keyframes), "{name}");
        let (mut times, mut native) = (Vec::new(), Vec::new());
        decode_native(&bytes, &mut |frame| {
            times.push((frame.pts, frame.best_effort));
            let row = &want["frames"][frame.index.to_string()];
            native.push(row.is_null() || row["native_sha256"] == sha(&frame.bytes));
            true
        })
        .unwrap();
        let (pts, guessed): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        assert_eq!(want["pts"], serde_json::json!(pts), "{name}");
        assert_eq!(want["best_effort_timestamp"], serde_json::json!(guessed), "{name}");
        assert!(native.iter().all(|equal| *equal), "{name}: native bytes");
        for (conversion, key) in [
            (ColorConversion::Plain, "rgb_sha256"),
            (ColorConversion::Accurate, "rgb_accurate_sha256"),
        ] {
            let rows = want["frames"].as_object().unwrap();
            let frames: Vec<u32> = rows.keys().map(|k| k.parse().unwrap()).collect();
            let request = FrameRequest { frames: frames.clone(), region: None, planes: false };
            let mut clip = Clip::new();
            VideoDecoder::new(conversion).decode(&bytes, &info, &request, &mut clip).unwrap();
            for (n, frame) in frames.iter().enumerate() {
                assert_eq!(rows[&frame.to_string()][key], sha(clip.nth(n)), "{name} {frame} {key}");
            }
        }
    }
}

/// Our conversion of 4:2:0 frames gives the bytes of FFmpeg's default converter (its x86 form, which
/// the golden frames are of too).
#[cfg(target_arch = "x86_64")]
#[test]
fn conversion_equals_ffmpegs() {
    // Space 1 is BT.709, 5 and 6 BT.601; range 2 is full. 44 columns are not a multiple of 16.
    for (space, range) in [("bt709", "tv"), ("smpte170m", "tv"), ("bt470bg", "pc")] {
        let extra = [("colorspace", space), ("color_range", range)];
        let mut options = options("libx264", "mp4", 0, &extra);
        options.size = Size::new(44, 36);
        options.crf = Some(1);
        let noise = |t: u32| -> Vec<u8> {
            let mut rng = SampleRng::new(u64::from(t), 0, 0, 0, tubelet_core::Draw::Frames);
            (0..options.size.area() * 3).map(|_| rng.next_u32() as u8).collect()
        };
        let frames: Vec<Vec<u8>> = (0..3).map(noise).collect();
        let bytes = encode_video(frames.iter().map(Vec::as_slice), &options).unwrap();
        let mut input = Input::open(&bytes, true).unwrap();
        let packets = input.packets();
        let mut scaler = av::Scaler::new(ColorConversion::Plain).unwrap();
        let mut seen = 0;
        each_frame(&mut input.codec(None).unwrap(), packets.iter(), |frame| {
            let full = Rect::full(frame.size());
            let mut ours = vec![0; frame.size().area() * 3];
            let mut theirs = ours.clone();
            scaler.convert(frame, full, &mut ours)?;
            scaler.convert_by_ffmpeg(frame, full, &mut theirs)?;
            assert_eq!(ours, theirs, "{space}, {range}");
            seen += 1;
            Ok(true)
        })
        .unwrap();
        assert_eq!(seen, 3);
    }
}
