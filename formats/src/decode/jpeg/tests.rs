use super::*;

fn picture() -> Vec<u8> {
    let rgb: Vec<u8> = (0..64 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let mut out = std::io::Cursor::new(Vec::new());
    image::codecs::jpeg::JpegEncoder::new(&mut out)
        .encode(&rgb, 64, 48, image::ExtendedColorType::Rgb8)
        .unwrap();
    out.into_inner()
}

#[test]
fn size_and_truncation() {
    let bytes = picture();
    let mut decoder = JpegDecoder::new();
    let info = decoder.probe(&bytes).unwrap();
    assert_eq!((info.size.width, info.size.height, info.codec.as_str()), (64, 48, "mjpeg"));
    let mut clip = Clip::new();
    decoder.decode(&bytes, None, &mut clip).unwrap();
    for keep in [bytes.len() - 1, bytes.len() - 2, bytes.len() / 2, 700, 100, 4] {
        let cut = decoder.decode(&bytes[..keep], None, &mut clip);
        assert!(matches!(cut, Err(DecodeError::Damaged(_))), "cut to {keep}: {cut:?}");
    }
    decoder.decode(&bytes, None, &mut clip).unwrap();
}

#[cfg(feature = "turbojpeg")]
#[test]
fn stray_bytes_before_a_marker_are_a_warning_only() {
    let mut bytes = picture();
    let end = bytes.len() - 2;
    bytes.splice(end..end, [1, 2, 3, 4, 5]);
    let mut clip = Clip::new();
    JpegDecoder::new().decode(&bytes, None, &mut clip).unwrap();
}

/// Values by Pillow: `Image.frombytes("CMYK", ...).convert("RGB")` of the inverted bytes.
#[cfg(feature = "turbojpeg")]
#[test]
fn cmyk_follows_pillow() {
    let stored = [255, 255, 255, 255, 0, 0, 0, 0, 200, 100, 50, 255, 200, 100, 50, 128];
    let mut rgb = [0; 12];
    cmyk_to_rgb(&stored, &mut rgb);
    assert_eq!(rgb, [255, 255, 255, 0, 0, 0, 200, 100, 50, 100, 50, 25]);
}

/// Checksums of Pillow's output, where they and the photos are.
#[cfg(feature = "turbojpeg")]
#[test]
fn reference_checksums() {
    use sha2::{Digest, Sha256};
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let golden = std::fs::read_to_string(shared.join("golden/jpeg_decode.json"));
    let Ok(golden) = golden else { return };
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    for want in golden["files"].as_array().unwrap() {
        let name = want["file"].as_str().unwrap();
        let photos = walkdir::WalkDir::new(shared.join("data/imagenet-sample")).into_iter();
        let photo = photos.flatten().find(|e| e.file_name() == name).unwrap();
        let mut clip = Clip::new();
        let bytes = std::fs::read(photo.path()).unwrap();
        JpegDecoder::new().decode(&bytes, None, &mut clip).unwrap();
        let sha: String = Sha256::digest(clip.nth(0)).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(want["rgb_sha256"], sha, "{name}");
    }
}

/// A photo-like picture, by libjpeg-turbo with its numbers for sampling, progressive form and
/// restart markers after so many rows of coding units or units.
#[cfg(feature = "turbojpeg")]
fn encode(
    width: i32,
    height: i32,
    sampling: i32,
    progressive: bool,
    restart: (i32, i32),
) -> Vec<u8> {
    use turbojpeg::raw;
    let value = |n: i32| {
        let (x, y, c) = (n / 3 % width, n / 3 / width, n % 3);
        let wave = ((x * (c + 2)) as f64 * 0.21).sin() + ((y * (3 - c)) as f64 * 0.17).cos();
        (127.0 + 55.0 * wave) as u8 ^ ((x * 7 + y * 13) % 11) as u8
    };
    let rgb: Vec<u8> = (0..width * height * 3).map(value).collect();
    let settings = [
        (raw::TJPARAM_TJPARAM_QUALITY, 85),
        (raw::TJPARAM_TJPARAM_SUBSAMP, sampling),
        (raw::TJPARAM_TJPARAM_PROGRESSIVE, i32::from(progressive)),
        (raw::TJPARAM_TJPARAM_RESTARTROWS, restart.0),
        (raw::TJPARAM_TJPARAM_RESTARTBLOCKS, restart.1),
    ];
    // SAFETY: the handle is checked, the pixels have the size told, and the result is copied
    // before it is freed.
    unsafe {
        let handle = raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as i32);
        assert!(!handle.is_null());
        for (name, value) in settings.into_iter().filter(|(_, v)| *v != 0) {
            assert_eq!(raw::tj3Set(handle, name as i32, value), 0);
        }
        let (mut to, mut len) = (std::ptr::null_mut(), 0);
        let (from, format) = (rgb.as_ptr(), raw::TJPF_TJPF_RGB);
        assert_eq!(raw::tj3Set(handle, raw::TJPARAM_TJPARAM_SUBSAMP as i32, sampling), 0);
        assert_eq!(raw::tj3Compress8(handle, from, width, 0, height, format, &mut to, &mut len), 0);
        let bytes = std::slice::from_raw_parts(to, len as usize).to_vec();
        raw::tj3Free(to.cast());
        raw::tj3Destroy(handle);
        bytes
    }
}

/// The pixels `wanted` of `part` are those of `whole`.
#[cfg(feature = "turbojpeg")]
fn check_region(name: &str, whole: &Clip, part: &Clip, wanted: Rect) {
    assert!(part.region().holds(wanted) && part.size() == whole.size());
    for row in wanted.y..wanted.y + wanted.height {
        let line = |clip: &Clip| -> Vec<u8> {
            let held = clip.region();
            let start = ((row - held.y) * held.width + wanted.x - held.x) as usize * 3;
            clip.nth(0)[start..start + wanted.width as usize * 3].to_vec()
        };
        assert_eq!(line(part), line(whole), "{name}: {wanted:?}, row {row}");
    }
}

/// Random regions of `bytes` equal a whole decode; says how many were made from fewer rows.
#[cfg(feature = "turbojpeg")]
fn check_regions(name: &str, bytes: &[u8], count: u32) -> u32 {
    let mut decoder = JpegDecoder::new();
    let (mut whole, mut part) = (Clip::new(), Clip::new());
    let failed = |e: DecodeError| -> () { panic!("{name}: {e}") };
    decoder.decode_by(Way::Turbo, bytes, None, &mut whole).unwrap_or_else(failed);
    decoder.decode(bytes, None, &mut part).unwrap_or_else(failed);
    assert!(part.nth(0) == whole.nth(0), "{name}: all of it");
    let size = whole.size();
    let seed = bytes.len() as u64;
    let mut rng = tubelet_core::SampleRng::new(seed, 0, 0, 0, tubelet_core::Draw::Crop);
    let (mut sliced, mut shorter) = (0, Vec::new());
    for _ in 0..count {
        let (x, y) = (rng.below(size.width), rng.below(size.height));
        let (width, height) = (1 + rng.below(size.width - x), 1 + rng.below(size.height - y));
        let wanted = Rect { x, y, width, height };
        let (from, to) = (y as usize, (y + height) as usize);
        sliced += u32::from(slice::rows(bytes, from, to, &mut shorter).is_some());
        decoder.decode(bytes, Some(wanted), &mut part).unwrap_or_else(failed);
        check_region(name, &whole, &part, wanted);
        decoder.decode_by(Way::Turbo, bytes, Some(wanted), &mut part).unwrap_or_else(failed);
        check_region(name, &whole, &part, wanted);
        let mut planes = |way| {
            let done = decoder.decode_planes_by(way, bytes, Some(wanted), &mut part);
            done.unwrap_or_else(failed);
            (part.form(), part.region(), part.nth(0).to_vec())
        };
        assert_eq!(planes(Way::Best), planes(Way::Turbo), "{name}: planes of {wanted:?}");
    }
    sliced
}

#[cfg(feature = "turbojpeg")]
#[test]
fn regions_equal_a_whole_decode() {
    for sampling in 0..=6 {
        for progressive in [false, true] {
            for (width, height) in [(131, 97), (64, 64), (17, 200)] {
                let bytes = encode(width, height, sampling, progressive, (0, 0));
                let name = format!("sampling {sampling}, {progressive}, {width}x{height}");
                assert_eq!(check_regions(&name, &bytes, 25), 0);
            }
        }
        for restart in [(1, 0), (2, 0), (0, 1), (0, 3)] {
            let bytes = encode(160, 211, sampling, false, restart);
            let sliced = check_regions(&format!("{sampling}, {restart:?}"), &bytes, 25);
            assert!(sliced > 5 || restart == (0, 3), "sampling {sampling}, {restart:?}");
        }
    }
}

#[cfg(feature = "turbojpeg")]
#[test]
fn damaged_restart_files_are_errors_or_pictures() {
    let bytes = encode(160, 211, 2, false, (1, 0));
    let mut rng = tubelet_core::SampleRng::new(3, 0, 0, 0, tubelet_core::Draw::Crop);
    let mut decoder = JpegDecoder::new();
    for n in 0..3000 {
        let mut damaged = bytes.clone();
        // Every other time in the headers.
        let room = if n % 2 == 0 { 640 } else { bytes.len() as u32 };
        damaged[rng.below(room) as usize] = rng.next_u32() as u8;
        let wanted = Rect { x: 40, y: 50, width: 60, height: 70 };
        // Either is right; a panic or a write outside would not be.
        let _ = decoder.decode(&damaged, Some(wanted), &mut Clip::new());
    }
    decoder.decode(&bytes, None, &mut Clip::new()).unwrap();
}

/// What is damaged and can be decoded nevertheless gives the same pixels both ways.
#[cfg(feature = "turbojpeg")]
#[test]
fn damaged_files_do_not_depend_on_the_way() {
    let mut rng = tubelet_core::SampleRng::new(4, 0, 0, 0, tubelet_core::Draw::Crop);
    let (mut decoder, mut both) = (JpegDecoder::new(), 0);
    for (sampling, restart) in [(0, (0, 0)), (1, (0, 5)), (2, (0, 0)), (2, (1, 0)), (3, (0, 0))] {
        let bytes = encode(121, 83, sampling, false, restart);
        for n in 0..400 {
            let mut damaged = bytes.clone();
            let room = if n % 4 == 0 { 640 } else { bytes.len() as u32 };
            damaged[rng.below(room) as usize] = rng.next_u32() as u8;
            for planes in [false, true] {
                let mut decode = |way| {
                    let mut clip = Clip::new();
                    let done = match planes {
                        true => decoder.decode_planes_by(way, &damaged, None, &mut clip),
                        false => decoder.decode_by(way, &damaged, None, &mut clip),
                    };
                    done.is_ok().then(|| (clip.size(), clip.nth(0).to_vec()))
                };
                let (best, turbo) = (decode(Way::Best), decode(Way::Turbo));
                let name = format!("sampling {sampling}, {restart:?}, damage {n}, {planes}");
                if let (Some((size, best)), Some((_, turbo))) = (best, turbo) {
                    let at = best.iter().zip(&turbo).position(|(a, b)| a != b);
                    assert_eq!(at, None, "{name}, {size}");
                    both += 1;
                }
            }
        }
    }
    assert!(both > 500, "{both}");
}

/// The same on photos, where they are.
#[cfg(feature = "turbojpeg")]
#[test]
fn regions_of_photos() {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let photos = walkdir::WalkDir::new(shared.join("data/imagenet-sample/val")).into_iter();
    for photo in photos.flatten().filter(|e| e.file_type().is_file()) {
        let bytes = std::fs::read(photo.path()).unwrap();
        check_regions(&photo.path().display().to_string(), &bytes, 6);
    }
}
