//! Batches of JPEG files through the simulated library, in which a file's samples are a function of
//! their places (`kernels/host/driver.cpp`); real files through nvJPEG on a real device.

use cudarc::driver::result;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;

use tubelet_core::{Chroma, Rect, Size, Upsampling, Yuv, YuvMatrix};

use super::device::gpu;
use super::simulated::NO_REGIONS;
use super::simulation::SIMULATED;
use crate::kernels::Address;
use crate::nvjpeg::{JpegDecoder, JpegPlanes, JpegRequest};

/// A simulated file; `kind` says who can decode it: 0 all, 1 the multiprocessors, 2 nobody, 3 is
/// damaged, 4 the engines, whole.
fn file(chroma: Chroma, size: Size, seed: u8, kind: u8) -> [u8; 8] {
    let (components, subsampling) = match chroma {
        Chroma::Absent => (1, 6),
        Chroma::Full => (3, 0),
        Chroma::HalfColumns => (3, 1),
        Chroma::HalfBoth => (3, 2),
    };
    [components, subsampling, size.width as u8, size.height as u8, seed, 0, 0, kind]
}

/// Samples of plane `n` at the simulated address.
fn check(planes: &JpegPlanes, seed: u8) {
    let [luma, chroma] = [planes.held.region, planes.held.chroma];
    let count = if planes.held.yuv.chroma == Chroma::Absent { 1 } else { 3 };
    for (n, Address(at)) in planes.planes.into_iter().take(count).enumerate() {
        let (rect, pitch) = match n {
            0 => (luma, planes.layout.luma_pitch),
            _ => (chroma, planes.layout.chroma_pitch),
        };
        for y in 0..rect.height {
            for x in 0..rect.width {
                // SAFETY: the simulated device's memory is the host's; the planes are held.
                let got = unsafe { *((at + u64::from(y * pitch + x)) as *const u8) };
                let want = u32::from(seed) + (rect.x + x) * 3 + (rect.y + y) * 5 + n as u32 * 11;
                assert_eq!(got, want as u8, "plane {n} at {x}, {y}");
            }
        }
    }
}

#[test]
fn files_come_back_as_planes_or_refused_one_by_one() {
    if std::env::var_os(SIMULATED).is_none() {
        return;
    }
    let gpu = gpu().expect("the simulated one");
    let stream = gpu.context().new_stream().expect("a stream");
    let mut decoder = JpegDecoder::new(&gpu, &stream).expect("the simulated library");
    let failure = std::env::var("TUBELET_SIMULATED_FAILURE").unwrap_or_default();
    assert_eq!(decoder.has_engines(), failure != "nvjpegHardware");
    let regions = std::env::var_os(NO_REGIONS).is_none();
    let size = Size::new(101, 67);
    let region = Rect { x: 33, y: 20, width: 21, height: 19 };
    let chroma = [Chroma::Absent, Chroma::Full, Chroma::HalfColumns, Chroma::HalfBoth];
    let kinds = [0, 1, 0, 2, 0, 3, 1, 0, 4, 4];
    let files: Vec<_> =
        (0..10).map(|n| file(chroma[n % 4], size, n as u8 * 17, kinds[n])).collect();
    let request = |n: usize| {
        let yuv = Yuv {
            chroma: chroma[n % 4],
            upsampling: Upsampling::Triangle,
            matrix: YuvMatrix::JPEG,
        };
        // The last one's header says another size than its caller.
        let size = if n == 7 { Size::new(100, 67) } else { size };
        JpegRequest { encoded: &files[n], size, yuv, region: (n % 3 > 0).then_some(region) }
    };
    for _ in 0..3 {
        let requests: Vec<_> = (0..10).map(request).collect();
        let decoded = decoder.decode(&requests).expect("the device works");
        for (n, outcome) in decoded.iter().enumerate() {
            match outcome {
                Ok(planes) => {
                    assert!((kinds[n] < 2 || kinds[n] == 4) && n != 7, "file {n}");
                    let by_engine = failure.is_empty() && regions && kinds[n] == 0;
                    let whole = requests[n].region.is_none() || !by_engine;
                    assert!(kinds[n] < 4 || failure.is_empty(), "file {n}: for the engines alone");
                    assert_eq!(planes.held.region == Rect::full(size), whole, "file {n}");
                    assert!(planes.held.suffices(region));
                    check(planes, n as u8 * 17);
                }
                Err(error) => {
                    assert!(kinds[n] > 1 || n == 7, "file {n}: {error}");
                    assert!(kinds[n] < 4 || !failure.is_empty(), "file {n}: {error}");
                    let reason =
                        if kinds[n] == 2 || kinds[n] == 4 { "does not support" } else { "header" };
                    assert!(error.to_string().contains(reason), "file {n}: {error}");
                }
            }
        }
    }
}

/// Grey pictures, so that samples are pixels, by another decoder and by nvJPEG: whole and in part.
#[test]
fn real_files_have_the_usual_samples() {
    if std::env::var_os(SIMULATED).is_some() {
        return;
    }
    let Some(gpu) = gpu() else { return };
    let stream = gpu.context().new_stream().expect("a stream");
    let mut decoder = JpegDecoder::new(&gpu, &stream).expect("nvJPEG, see TUBELET_NVJPEG");
    let size = Size::new(333, 251);
    let wave = |x: f64, y: f64| 128.0 + 90.0 * (x * 0.07).sin() * (y * 0.05).cos() + (x * y) % 7.0;
    let pixels: Vec<u8> = (0..size.height)
        .flat_map(|y| (0..size.width).map(move |x| wave(x.into(), y.into()) as u8))
        .collect();
    let mut encoded = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut encoded, 90);
    let grey = image::ExtendedColorType::L8;
    encoder.write_image(&pixels, size.width, size.height, grey).expect("encodes");
    let want = image::load_from_memory(&encoded).expect("decodes").into_luma8();
    let yuv =
        Yuv { chroma: Chroma::Absent, upsampling: Upsampling::Triangle, matrix: YuvMatrix::JPEG };
    let region = Rect { x: 101, y: 64, width: 90, height: 77 };
    let requests = [None, Some(region)].map(|region| {
        let encoded = encoded.as_slice();
        JpegRequest { encoded, size, yuv, region }
    });
    for planes in decoder.decode(&requests).expect("the device works") {
        let planes = planes.expect("a usual file");
        let (held, pitch) = (planes.held.region, planes.layout.luma_pitch as usize);
        assert!(planes.held.suffices(region), "{held:?}");
        let mut line = vec![0u8; held.width as usize];
        for y in 0..held.height {
            let at = planes.planes[0].0 + (y as usize * pitch) as u64;
            // SAFETY: the planes are held, and as large as their region.
            unsafe { result::memcpy_dtoh_sync(&mut line, at) }.expect("copies");
            for (x, got) in (held.x..).zip(&line) {
                let want = want.get_pixel(x, held.y + y).0[0];
                assert!(got.abs_diff(want) <= 2, "{got} for {want} at {x}, {y} of {held:?}");
            }
        }
    }
}
