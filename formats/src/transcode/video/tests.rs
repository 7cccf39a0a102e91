use tubelet_core::{Clip, MediaInfo, Size};

use super::*;
use crate::decode::{decoder, nal};
use crate::encode::{EncodeOptions, encode_video};
use crate::record::FrameRequest;

/// A clip whose frames all differ.
fn source(options: &EncodeOptions, count: u32) -> Vec<u8> {
    let size = options.size;
    let value = |t: u32, n: usize| {
        let (x, y) = (n / 3 % size.width as usize, n / 3 / size.width as usize);
        let phase = x as f64 * 0.11 + f64::from(t) * 0.35 + (n % 3) as f64;
        (127.5 + 60.0 * phase.sin() + 40.0 * (y as f64 * 0.07).cos()) as u8
    };
    let frames: Vec<Vec<u8>> =
        (0..count).map(|t| (0..size.area() * 3).map(|n| value(t, n)).collect()).collect();
    encode_video(frames.iter().map(Vec::as_slice), options).unwrap()
}

fn options(width: u32, height: u32) -> EncodeOptions {
    EncodeOptions { size: Size::new(width, height), ..EncodeOptions::default() }
}

fn settings(stride: u32) -> VideoSettings {
    VideoSettings { short_side: 64, stride, ..VideoSettings::default() }
}

fn train(bytes: &[u8], settings: &VideoSettings) -> (Vec<u8>, MediaInfo) {
    let done = train_video(bytes, settings, false).unwrap().bytes.unwrap();
    let info = decoder().probe(&done).unwrap();
    (done, info)
}

/// (presentation index, reference, key) of every picture.
fn pictures(bytes: &[u8]) -> Vec<(usize, bool, bool)> {
    let mut input = Input::open(bytes, false).unwrap();
    let packets = input.packets();
    let mut times: Vec<i64> = packets.iter().map(|p| p.pts().unwrap()).collect();
    times.sort_unstable();
    let picture = |p: &crate::decode::av::Packet| {
        let index = times.binary_search(&p.pts().unwrap()).unwrap();
        let reference = nal::is_reference(input.extradata(), p.data()).unwrap();
        (index, reference, p.is_key() && nal::is_clean_start(input.extradata(), p.data()))
    };
    let mut pictures: Vec<_> = packets.iter().map(picture).collect();
    pictures.sort_unstable();
    pictures
}

#[test]
fn references_come_at_the_stride_and_close_each_group() {
    let bytes = source(&options(96, 80), 83);
    for stride in [1, 2, 4, 8] {
        for small in [false, true] {
            let (done, info) = train(&bytes, &VideoSettings { small, ..settings(stride) });
            assert_eq!((info.frames, info.keyframes.as_slice()), (83, &[0, 32, 64][..]));
            for (n, reference, key) in pictures(&done) {
                let inside = n % GOP as usize;
                let closes = n == 82 || inside == GOP as usize - 1;
                let wanted = inside % stride as usize == 0 || closes;
                assert_eq!(reference, wanted, "picture {n}, stride {stride}");
                assert_eq!(key, inside == 0, "picture {n}, stride {stride}");
            }
        }
    }
}

#[test]
fn times_and_rate_are_kept() {
    let times: Vec<i64> = (0..40).map(|n| 7 + 3 * n + n % 2).collect();
    let uneven = EncodeOptions { times, fps: 90, ..options(64, 64) };
    let bytes = source(&uneven, 40);
    let (done, info) = train(&bytes, &settings(4));
    let seconds = |bytes: &[u8]| -> Vec<i64> {
        let mut input = Input::open(bytes, false).unwrap();
        let base = input.time_base();
        let microseconds = |t: i64| (t as f64 * base * 1e6).round() as i64;
        let mut all: Vec<i64> =
            input.packets().iter().map(|p| microseconds(p.pts().unwrap())).collect();
        all.sort_unstable();
        all.iter().map(|t| t - all[0]).collect()
    };
    assert_eq!(seconds(&done), seconds(&bytes));
    let before = decoder().probe(&bytes).unwrap().fps;
    assert!((info.fps / before - 1.0).abs() < 0.03, "{} instead of {before}", info.fps);
}

#[test]
fn sizes_shrink_turn_and_stay() {
    let (_, info) = train(&source(&options(160, 120), 9), &settings(4));
    assert_eq!(info.size, Size::new(86, 64));
    let turned = EncodeOptions { rotation: 90, ..options(96, 64) };
    let bytes = source(&turned, 9);
    let (done, info) = train(&bytes, &settings(4));
    assert_eq!((info.size, info.rotation), (Size::new(64, 96), 0));
    let (before, after) = (decoded(&bytes), decoded(&done));
    assert!(super::super::quality::squared_error(&before, &after) / (before.len() as f64) < 60.0);
}

/// Which frame of the source each frame shows, told by its brightness, and their times in ticks.
fn shown(bytes: &[u8], levels: u32) -> (Vec<u32>, Vec<i64>) {
    let (mut frames, mut times) = (Vec::new(), Vec::new());
    each_shown(bytes, &mut |_, frame, time| {
        let luma = &frame.native_bytes()?[..frame.size().area()];
        let mean = luma.iter().map(|v| f64::from(*v)).sum::<f64>() / luma.len() as f64;
        frames.push(((mean - 16.0) / 219.0 * f64::from(levels)).round() as u32);
        times.push(time.unwrap_or(-1));
        Ok(())
    })
    .unwrap();
    (frames, times)
}

/// What FFmpeg's fps filter with `round=near` shows, worked out from its definition: tick n shows
/// the last frame whose rounded time is at most n.
#[test]
fn a_constant_rate_shows_what_the_fps_filter_shows() {
    let times: Vec<i64> = vec![3, 4, 9, 10, 11, 12, 30, 31, 33, 40, 41, 55];
    let grey = |n: usize| vec![(n * 255 / 16) as u8; 64 * 64 * 3];
    let frames: Vec<Vec<u8>> = (0..times.len()).map(grey).collect();
    let uneven = EncodeOptions { times: times.clone(), fps: 30, crf: Some(1), ..options(64, 64) };
    let bytes = encode_video(frames.iter().map(Vec::as_slice), &uneven).unwrap();
    for (frames, seconds) in [(10, 1), (30, 1), (25, 2), (60, 1), (30_000, 1001), (1, 1)] {
        let rate = Rate { frames, seconds };
        let settings = VideoSettings { fps: Some(rate), crf: 1, ..settings(4) };
        let done = train_video(&bytes, &settings, false).unwrap();
        let (seen, at) = shown(done.bytes.as_ref().unwrap(), 16);
        let per_second = f64::from(frames) / f64::from(seconds);
        let ticks: Vec<i64> =
            times.iter().map(|t| (*t as f64 / 30.0 * per_second).round() as i64).collect();
        // The last frame lasts one thirtieth.
        let end = ((times[11] + 1) as f64 / 30.0 * per_second).round() as i64;
        let last = |n: i64| ticks.iter().rposition(|t| *t <= n).unwrap() as u32;
        let wanted: Vec<u32> = (ticks[0]..end).map(last).collect();
        assert_eq!(seen, wanted, "{rate:?}");
        assert_eq!(done.frames as usize, seen.len());
        let apart: Vec<i64> = at.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(apart.iter().all(|d| *d == apart[0]), "{rate:?}: {at:?}");
        let info = decoder().probe(done.bytes.as_ref().unwrap()).unwrap();
        assert!(seen.len() < 2 || (info.fps - per_second).abs() < 1e-6, "{} {rate:?}", info.fps);
    }
}

#[test]
fn a_gap_too_long_for_a_constant_rate_is_an_error() {
    let frames = [vec![0; 64 * 64 * 3], vec![99; 64 * 64 * 3]];
    let gap = EncodeOptions { times: vec![0, 700], fps: 1, ..options(64, 64) };
    let bytes = encode_video(frames.iter().map(Vec::as_slice), &gap).unwrap();
    let constant = VideoSettings { fps: Some(Rate { frames: 25, seconds: 1 }), ..settings(4) };
    let error = train_video(&bytes, &constant, false).unwrap_err().to_string();
    assert!(error.contains("600 seconds"), "{error}");
}

/// The third frame as the loader sees it.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let (mut decoder, mut clip) = (decoder(), Clip::new());
    let info = decoder.probe(bytes).unwrap();
    let want = FrameRequest { frames: vec![3], region: None, planes: false };
    decoder.decode(bytes, &info, &want, &mut clip).unwrap();
    clip.nth(0).to_vec()
}

#[test]
fn the_same_bytes_every_time_and_a_measured_error() {
    let bytes = source(&options(96, 80), 50);
    let one = train_video(&bytes, &settings(4), true).unwrap();
    let two = train_video(&bytes, &settings(4), false).unwrap();
    assert_eq!(one.bytes, two.bytes);
    let quality = one.quality.unwrap();
    assert_eq!((quality.values, quality.windows), (50 * 76 * 64, 50 * 18 * 15));
    assert!(quality.psnr().unwrap() > 30.0 && quality.ssim().unwrap() > 0.9, "{quality:?}");
}

#[test]
fn times_that_are_missing_are_counted() {
    let avi = EncodeOptions {
        codec: "mpeg4".to_owned(),
        container: "avi".to_owned(),
        crf: None,
        ..options(64, 64)
    };
    let (_, info) = train(&source(&avi, 30), &settings(2));
    assert_eq!((info.frames, info.fps), (30, 25.0));
}

#[test]
fn truncated_videos_are_errors_or_as_short_as_the_loader_finds_them() {
    let mp4 = source(&options(96, 80), 60);
    for keep in [0, 40, mp4.len() / 2] {
        assert!(train_video(&mp4[..keep], &settings(4), false).is_err(), "cut to {keep}");
    }
    let bytes = source(&EncodeOptions { container: "matroska".to_owned(), ..options(96, 80) }, 60);
    let cut = &bytes[..bytes.len() / 2];
    let have = decoder().probe(cut).unwrap().frames;
    assert!(have < 60);
    assert_eq!(train(cut, &settings(4)).1.frames, have);
}

/// What the structure is for: a clip at the stride needs its own frames and the key frame's way to
/// them, no others.
#[test]
fn a_clip_at_the_stride_decodes_few_others() {
    let bytes = source(&options(96, 80), 200);
    let done = train_video(&bytes, &settings(4), false).unwrap().bytes.unwrap();
    let decoded = |bytes: &[u8], step: u32| {
        let (mut decoder, mut clip) = (decoder(), Clip::new());
        let info = decoder.probe(bytes).unwrap();
        let frames: Vec<u32> = (0..16).map(|n| 96 + n * step).collect();
        decoder
            .decode(bytes, &info, &FrameRequest { frames, region: None, planes: false }, &mut clip)
            .unwrap();
        decoder.frames_decoded()
    };
    assert_eq!(decoded(&done, 4), 16);
    // The last one leans on the reference after it.
    assert_eq!(decoded(&done, 2), 17);
    assert!(decoded(&bytes, 4) > 24, "{}", decoded(&bytes, 4));
}

/// Clips of the train profiles, however they lie to the stride, are the frames that FFmpeg's decoder
/// gives when it decodes everything, through FFmpeg's own colour converter.
#[test]
fn clips_are_what_a_plain_decode_yields() {
    use crate::decode::{ColorConversion, av};
    use tubelet_core::Rect;
    let bytes = source(&options(96, 80), 150);
    for (stride, small) in [(2, false), (4, false), (4, true), (8, false)] {
        let settings = VideoSettings { small, ..settings(stride) };
        let done = train_video(&bytes, &settings, false).unwrap().bytes.unwrap();
        let mut plain = Vec::new();
        let mut scaler = av::Scaler::new(ColorConversion::Plain).unwrap();
        each_shown(&done, &mut |_, frame, _| {
            let mut rgb = vec![0; frame.size().area() * 3];
            scaler.convert_by_ffmpeg(frame, Rect::full(frame.size()), &mut rgb)?;
            plain.push(rgb);
            Ok(())
        })
        .unwrap();
        assert_eq!(plain.len(), 150);
        let (mut decoder, mut clip) = (decoder(), Clip::new());
        let info = decoder.probe(&done).unwrap();
        for (start, step, count) in [(0, 1, 150), (64, stride, 16), (5, stride, 9), (93, 3, 19)] {
            let frames: Vec<u32> =
                (0..count).map(|n| start + n * step).filter(|f| *f < 150).collect();
            let want = FrameRequest { frames: frames.clone(), region: None, planes: false };
            decoder.decode(&done, &info, &want, &mut clip).unwrap();
            for (n, frame) in frames.iter().enumerate() {
                assert!(clip.nth(n) == plain[*frame as usize], "stride {stride}, frame {frame}");
            }
        }
    }
}
