//! Decoded frames to pixels against the host's resamplers: equal to the bit.

use tubelet_augment::resample::planes::{Cut, Held, Kernel, PlaneResampler};
use tubelet_augment::resample::{Filter, Resampler};
use tubelet_core::{Chroma, Clip, PixelForm, Rect, Size, Upsampling, Yuv, YuvMatrix};

use super::data::bytes;
use super::device::{Buffer, Device, on_each_device};
use crate::kernels::{Address, CropBatch, PlaneLayout};

const KERNELS: [Kernel; 4] = [
    Kernel::Pillow(Filter::Bilinear),
    Kernel::Pillow(Filter::Bicubic),
    Kernel::Pillow(Filter::Lanczos),
    Kernel::TorchBilinear,
];
const CHROMA: [Chroma; 4] = [Chroma::Absent, Chroma::Full, Chroma::HalfColumns, Chroma::HalfBoth];

/// BT.709, limited range, with a bias.
const BT709: YuvMatrix = YuvMatrix {
    black: 16,
    luma: 9539,
    red_v: 14_686,
    green_u: -1747,
    green_v: -4366,
    blue_u: 17_305,
    bias: [-60, -88, -60],
};

/// A clip of one frame, all of it or a region.
fn clip(seed: u64, size: Size, region: Rect, yuv: Yuv) -> Clip {
    let mut clip = Clip::new();
    clip.reset_form(size, region, PixelForm::Yuv(yuv), &[0]);
    let len = clip.nth(0).len();
    clip.nth_mut(0).copy_from_slice(&bytes(seed, len));
    clip
}

fn held(clip: &Clip, yuv: Yuv) -> Held {
    let (size, region, chroma) = (clip.size(), clip.region(), clip.chroma_region());
    Held { size, region, chroma, yuv }
}

/// `rows` with a pitch, what lies between them filled with something else.
fn pitched(plane: &[u8], width: usize, pitch: usize) -> Vec<u8> {
    plane
        .chunks_exact(width)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0x77, pitch - width)))
        .collect()
}

/// The planes of `clip` on the device, U and V apart or in turns.
fn upload(device: &Device, clip: &Clip, interleaved: bool) -> (Vec<Buffer>, PlaneLayout) {
    let planes = clip.planes(0);
    let (luma, chroma) = (clip.region().width as usize, clip.chroma_region().width as usize);
    let luma_pitch = luma.next_multiple_of(64) + 64;
    let mut buffers = vec![device.copy(&pitched(planes.luma, luma, luma_pitch))];
    let chroma_pitch = (2 * chroma).next_multiple_of(32) + 32;
    let [u, v] = planes.chroma;
    if chroma > 0 && interleaved {
        let pairs: Vec<u8> = u.iter().zip(v).flat_map(|(u, v)| [*u, *v]).collect();
        buffers.push(device.copy(&pitched(&pairs, 2 * chroma, chroma_pitch)));
    } else if chroma > 0 {
        buffers.extend([u, v].map(|p| device.copy(&pitched(p, chroma, chroma_pitch))));
    }
    let (luma_pitch, chroma_pitch) = (luma_pitch as u32, chroma_pitch as u32);
    (buffers, PlaneLayout { luma_pitch, chroma_pitch, interleaved })
}

fn addresses(buffers: &[Buffer], interleaved: bool) -> [Address; 3] {
    match buffers {
        [luma, uv] if interleaved => [luma.address(), uv.address(), Address(uv.address().0 + 1)],
        [luma, u, v] => [luma.address(), u.address(), v.address()],
        _ => [buffers[0].address(), Address::NULL, Address::NULL],
    }
}

/// Crops of different frames that go into one launch.
fn cuts(kernel: Kernel, size: Size, flip: bool) -> [Cut; 4] {
    let region = Rect { x: 5, y: 3, width: 41, height: 30 };
    let whole = Rect::full(size);
    let out = Size::new(32, 24);
    let cut = |region, resized, window| Cut { region, resized, window, kernel, flip };
    [
        cut(region, out, Rect::full(out)),
        cut(whole, Size::new(20, 15), Rect { x: 3, y: 2, width: 14, height: 13 }),
        cut(region, region.size(), Rect::full(region.size())),
        cut(
            Rect { x: 7, y: 9, width: 6, height: 5 },
            Size::new(50, 40),
            Rect::full(Size::new(50, 40)),
        ),
    ]
}

#[test]
fn planes_of_every_form_equal_the_hosts_in_one_launch() {
    let size = Size::new(61, 47);
    on_each_device(|device| {
        let mut batch = CropBatch::new();
        let (mut kept, mut outs) = (Vec::new(), Vec::new());
        for (n, chroma) in CHROMA.into_iter().enumerate() {
            for (k, kernel) in KERNELS.into_iter().enumerate() {
                let interleaved = (n + k) % 2 == 1;
                let upsampling = if k % 2 == 0 { Upsampling::Triangle } else { Upsampling::Repeat };
                let matrix = if n % 2 == 0 { YuvMatrix::JPEG } else { BT709 };
                let yuv = Yuv { chroma, upsampling, matrix };
                let source = clip((4 * n + k) as u64, size, Rect::full(size), yuv);
                let (buffers, layout) = upload(device, &source, interleaved);
                for cut in cuts(kernel, size, k % 2 == 1) {
                    let mut want = vec![0; cut.window.size().area() * 3];
                    PlaneResampler::default().resize(&source, 0, &cut, &mut want);
                    let out = device.room::<u8>(want.len());
                    let geometry =
                        batch.planes(&held(&source, yuv), layout, &cut).expect("possible");
                    batch.frame(geometry, addresses(&buffers, interleaved), out.address());
                    outs.push((out, want, format!("{yuv:?} {cut:?}")));
                }
                kept.push(buffers);
            }
        }
        let tables = device.copy(&batch.bytes());
        device.run(&batch.launch(tables.address()).expect("frames"));
        for (out, want, what) in outs {
            assert_eq!(out.read::<u8>(), want, "{what}");
        }
    });
}

#[test]
fn a_region_of_the_planes_is_enough() {
    let size = Size::new(90, 64);
    let region = Rect { x: 17, y: 21, width: 40, height: 33 };
    for (chroma, interleaved) in [(Chroma::HalfBoth, true), (Chroma::HalfColumns, false)] {
        let yuv = Yuv { chroma, upsampling: Upsampling::Triangle, matrix: BT709 };
        let source = clip(9, size, region, yuv);
        let cut = Cut { region, ..cuts(KERNELS[1], size, true)[0] };
        let mut want = vec![0; cut.window.size().area() * 3];
        PlaneResampler::default().resize(&source, 0, &cut, &mut want);
        on_each_device(|device| {
            let mut batch = CropBatch::new();
            let (buffers, layout) = upload(device, &source, interleaved);
            let out = device.room::<u8>(want.len());
            let geometry = batch.planes(&held(&source, yuv), layout, &cut).expect("possible");
            batch.frame(geometry, addresses(&buffers, interleaved), out.address());
            let tables = device.copy(&batch.bytes());
            device.run(&batch.launch(tables.address()).expect("a frame"));
            assert_eq!(out.read::<u8>(), want, "{chroma:?}");
        });
    }
}

#[test]
fn packed_rgb_equals_pillows_arithmetic() {
    let size = Size::new(61, 47);
    let (source, pitch) = (bytes(3, size.area() * 3), 61 * 3 + 9);
    on_each_device(|device| {
        let mut batch = CropBatch::new();
        let buffer = device.copy(&pitched(&source, 61 * 3, pitch));
        let mut outs = Vec::new();
        for (k, kernel) in KERNELS[..3].iter().enumerate() {
            let Kernel::Pillow(filter) = *kernel else { continue };
            for cut in cuts(*kernel, size, k % 2 == 0) {
                let mut whole = vec![0; cut.resized.area() * 3];
                let mut resampler = Resampler::default();
                resampler.resize(&source, size, cut.region, filter, cut.resized, false, &mut whole);
                let mut want = vec![0; cut.window.size().area() * 3];
                let window = cut.window;
                tubelet_augment::crop::copy_region(
                    &whole,
                    cut.resized,
                    window,
                    cut.flip,
                    &mut want,
                );
                let out = device.room::<u8>(want.len());
                let geometry = batch.rgb(size, pitch as u32, &cut).expect("possible");
                let planes = [buffer.address(), Address::NULL, Address::NULL];
                batch.frame(geometry, planes, out.address());
                outs.push((out, want, cut));
            }
        }
        let tables = device.copy(&batch.bytes());
        device.run(&batch.launch(tables.address()).expect("frames"));
        for (out, want, cut) in outs {
            assert_eq!(out.read::<u8>(), want, "{cut:?}");
        }
    });
}

#[test]
fn impossible_crops_are_refused() {
    let size = Size::new(61, 47);
    let yuv = Yuv { chroma: Chroma::HalfBoth, upsampling: Upsampling::Repeat, matrix: BT709 };
    let region = Rect { x: 8, y: 8, width: 20, height: 20 };
    let part = held(&clip(1, size, region, yuv), yuv);
    let layout = PlaneLayout { luma_pitch: 64, chroma_pitch: 64, interleaved: true };
    let good = cuts(KERNELS[0], size, false)[0];
    let mut batch = CropBatch::new();
    let text = |r: Result<_, crate::GpuError>| {
        r.map(|_: crate::kernels::Geometry| ()).expect_err("refused").to_string()
    };
    assert!(text(batch.planes(&part, layout, &good)).contains("inside"));
    assert!(text(batch.rgb(Size::new(20, 20), 60, &good)).contains("inside"));
    let torch = Cut { kernel: Kernel::TorchBilinear, ..good };
    assert!(text(batch.rgb(size, 183, &torch)).contains("Pillow"));
    let wide = Size::new(20_000, 4);
    let full = Yuv { chroma: Chroma::Full, ..yuv };
    let line = Held { size: wide, region: Rect::full(wide), chroma: Rect::full(wide), yuv: full };
    let cut = Cut { region: Rect::full(wide), ..good };
    assert!(text(batch.planes(&line, layout, &cut)).contains("60000 samples"));
    assert!(batch.launch(Address(64)).is_err(), "no frame");
}
