//! What is done to a batch in floats: mixing, erasing, colours.

use half::{bf16, f16};
use tubelet_augment::normalise::IMAGENET;
use tubelet_core::{Rect, SampleId, SampleKey, Size};

use super::data::{assert_close, bytes, normal};
use super::device::{Buffer, Device, on_each_device};
use crate::kernels::{
    Address, Change, ColorRow, DType, EraseBox, FloatBatch, Mix, color, erase, mix, noise,
};

const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// A batch there, and what its rounded values are.
fn upload(device: &Device, values: &[f32], dtype: DType) -> (Buffer, Vec<f32>) {
    match dtype {
        DType::Bf16 => {
            let bits: Vec<u16> = values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect();
            (device.copy(&bits), bits.iter().map(|b| bf16::from_bits(*b).to_f32()).collect())
        }
        DType::F16 => {
            let bits: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            (device.copy(&bits), bits.iter().map(|b| f16::from_bits(*b).to_f32()).collect())
        }
        DType::F32 | DType::U32 => (device.copy(values), values.to_vec()),
    }
}

fn download(buffer: &Buffer, dtype: DType) -> Vec<f32> {
    match dtype {
        DType::Bf16 => {
            buffer.read::<u16>().into_iter().map(|b| bf16::from_bits(b).to_f32()).collect()
        }
        DType::F16 => {
            buffer.read::<u16>().into_iter().map(|b| f16::from_bits(b).to_f32()).collect()
        }
        DType::F32 | DType::U32 => buffer.read(),
    }
}

/// How far a rounded value of up to 8 may be off.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::U32 => 1e-5,
        DType::F16 => 4e-3,
        DType::Bf16 => 4e-2,
    }
}

const SIZE: Size = Size { width: 20, height: 12 };
const FRAMES: u32 = 2;

fn batch(address: Address, dtype: DType, rows: u32) -> FloatBatch {
    FloatBatch { address, dtype, rows, frames: FRAMES, size: SIZE }
}

fn row_values() -> usize {
    3 * FRAMES as usize * SIZE.area()
}

/// Mixing as its definition says, on a copy of the whole batch.
fn host_mix(values: &[f32], rows: usize, how: Mix) -> Vec<f32> {
    let row = values.len() / rows;
    let at = |r: usize, i: usize| values[r * row + i];
    (0..values.len())
        .map(|n| {
            let (r, i) = (n / row, n % row);
            let (y, x) = (i as u32 / SIZE.width % SIZE.height, i as u32 % SIZE.width);
            let other = at(rows - 1 - r, i);
            match how {
                Mix::Mixup { lambda } => at(r, i) * lambda as f32 + other * (1.0 - lambda) as f32,
                Mix::Cutmix { region } => {
                    let inside = (region.x..region.x + region.width).contains(&x)
                        && (region.y..region.y + region.height).contains(&y);
                    if inside { other } else { at(r, i) }
                }
            }
        })
        .collect()
}

#[test]
fn rows_are_mixed_with_their_partners() {
    let region = Rect { x: 5, y: 3, width: 13, height: 8 };
    let ways = [
        Mix::Mixup { lambda: 0.3 },
        Mix::Mixup { lambda: 1.0 },
        Mix::Cutmix { region },
        Mix::Cutmix { region: Rect::full(SIZE) },
    ];
    on_each_device(|device| {
        for rows in [1u32, 4, 5] {
            let values = normal(31, rows as usize * row_values());
            for (how, dtype) in ways.into_iter().flat_map(|how| DTYPES.map(|d| (how, d))) {
                let (data, rounded) = upload(device, &values, dtype);
                let launch = mix(&batch(data.address(), dtype, rows), how).expect("fits");
                device.run(&launch.expect("not empty"));
                let want = host_mix(&rounded, rows as usize, how);
                assert_close(&download(&data, dtype), &want, tolerance(dtype));
            }
        }
    });
}

/// Rows of 105 values, which do not come in fours.
#[test]
fn odd_rows_are_mixed_too() {
    let values = normal(33, 2 * 105);
    let size = Size::new(7, 5);
    on_each_device(|device| {
        for dtype in DTYPES {
            let (data, rounded) = upload(device, &values, dtype);
            let batch = FloatBatch { address: data.address(), dtype, rows: 2, frames: 1, size };
            let launch = mix(&batch, Mix::Mixup { lambda: 0.25 }).expect("fits");
            device.run(&launch.expect("not empty"));
            let (a, b) = rounded.split_at(105);
            let mixed = |a: &[f32], b: &[f32]| -> Vec<f32> {
                a.iter().zip(b).map(|(a, b)| a * 0.25 + b * 0.75).collect()
            };
            let want = [mixed(a, b), mixed(b, a)].concat();
            assert_close(&download(&data, dtype), &want, tolerance(dtype));
        }
    });
}

#[test]
fn impossible_mixes_are_refused() {
    let batch = batch(Address(64), DType::F32, 2);
    assert!(mix(&batch, Mix::Mixup { lambda: 1.5 }).is_err());
    assert!(mix(&batch, Mix::Mixup { lambda: f64::NAN }).is_err());
    let outside = Rect { x: 10, y: 0, width: 11, height: 1 };
    let error = mix(&batch, Mix::Cutmix { region: outside }).expect_err("leaves the frame");
    assert!(error.to_string().contains("width: 11"), "{error}");
    let empty = Rect { x: 0, y: 0, width: 0, height: 5 };
    assert_eq!(mix(&batch, Mix::Cutmix { region: empty }).expect("fits"), None);
}

fn key(sample: u64) -> SampleKey {
    SampleKey { seed: 99, epoch: 4, sample: SampleId(sample), repeat: 1 }
}

#[test]
fn erased_boxes_hold_the_documented_noise() {
    let boxes = [
        EraseBox::new(0, Rect { x: 2, y: 1, width: 7, height: 5 }, &key(1 << 35)),
        EraseBox::new(2, Rect::full(SIZE), &key(7)),
        EraseBox::new(1, Rect { x: 19, y: 11, width: 1, height: 1 }, &key(8)),
    ];
    let values = normal(41, 3 * row_values());
    on_each_device(|device| {
        for dtype in DTYPES {
            let (data, mut want) = upload(device, &values, dtype);
            for b in &boxes {
                for e in 0..3 * FRAMES * b.height * b.width {
                    let (plane, inside) = (e / (b.height * b.width), e % (b.height * b.width));
                    let (y, x) = (b.top + inside / b.width, b.left + inside % b.width);
                    let at = (b.row * 3 * FRAMES + plane) * SIZE.area() as u32 + y * SIZE.width + x;
                    want[at as usize] = noise(b, 99, e.into());
                }
            }
            let there = device.copy(&boxes);
            let data_at = batch(data.address(), dtype, 3);
            let launch = erase(&data_at, &boxes, there.address(), 99).expect("fits");
            device.run(&launch.expect("not empty"));
            assert_close(&download(&data, dtype), &want, tolerance(dtype));
        }
    });
}

#[test]
fn noise_is_standard_normal_and_depends_on_the_key() {
    let full = Rect::full(SIZE);
    let of = |sample: u64, seed: u64| -> Vec<f32> {
        let b = EraseBox::new(0, full, &key(sample));
        (0..40_000).map(|e| noise(&b, seed, e)).collect()
    };
    let one = of(1, 5);
    let mean = one.iter().sum::<f32>() / 40_000.0;
    let var = one.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 40_000.0;
    // Standard errors are 0.005 and 0.007; five of them.
    assert!(mean.abs() < 0.025 && (var - 1.0).abs() < 0.036, "{mean} {var}");
    assert!(one != of(2, 5) && one != of(1, 6));
}

#[test]
fn boxes_outside_are_refused() {
    let data = batch(Address(64), DType::F32, 2);
    let outside = EraseBox::new(2, Rect::full(SIZE), &key(1));
    let error = erase(&data, &[outside], Address(64), 0).expect_err("no such row");
    assert!(error.to_string().contains("row: 2"), "{error}");
    assert_eq!(erase(&data, &[], Address(64), 0).expect("fits"), None);
}

/// torchvision's formulas, on one frame `[3][area]` in 0..1.
fn host_change(frame: &mut [Vec<f32>; 3], change: Change) {
    let area = frame[0].len();
    let gray = |frame: &[Vec<f32>; 3], i: usize| {
        0.2989 * frame[0][i] + 0.587 * frame[1][i] + 0.114 * frame[2][i]
    };
    let mean = (0..area).map(|i| f64::from(gray(frame, i))).sum::<f64>() / area as f64;
    for i in 0..area {
        let (factor, other) = match change {
            Change::Brightness(f) => (f, 0.0),
            Change::Contrast(f) => (f, mean as f32),
            Change::Saturation(f) => (f, gray(frame, i)),
        };
        for channel in frame.iter_mut() {
            channel[i] = (channel[i] * factor + other * (1.0 - factor)).clamp(0.0, 1.0);
        }
    }
}

fn host_color(values: &[f32], rows: &[Vec<Change>]) -> Vec<f32> {
    let (area, frames) = (SIZE.area(), FRAMES as usize);
    let mut out = values.to_vec();
    for (r, f) in (0..rows.len()).flat_map(|r| (0..frames).map(move |f| (r, f))) {
        let start = |c: usize| ((r * 3 + c) * frames + f) * area;
        let mut frame = [0, 1, 2].map(|c| {
            let plane = &values[start(c)..start(c) + area];
            plane.iter().map(|v| v * IMAGENET.std[c] + IMAGENET.mean[c]).collect::<Vec<_>>()
        });
        rows[r].iter().for_each(|change| host_change(&mut frame, *change));
        if rows[r].is_empty() {
            continue;
        }
        for (c, plane) in frame.iter().enumerate() {
            for (to, v) in out[start(c)..].iter_mut().zip(plane) {
                *to = (v - IMAGENET.mean[c]) / IMAGENET.std[c];
            }
        }
    }
    out
}

#[test]
fn colours_change_as_in_torchvision() {
    let rows = vec![
        vec![Change::Brightness(1.4), Change::Contrast(0.6), Change::Saturation(1.3)],
        vec![],
        vec![Change::Contrast(1.4), Change::Contrast(0.0)],
        vec![Change::Saturation(0.0), Change::Brightness(0.6)],
    ];
    let input = bytes(51, rows.len() * row_values());
    let mut values = vec![0.0; input.len()];
    for (from, to) in input.chunks_exact(row_values()).zip(values.chunks_exact_mut(row_values())) {
        IMAGENET.apply(from, FRAMES as usize, SIZE, to);
    }
    let there: Vec<ColorRow> = rows.iter().map(|r| ColorRow::new(r).expect("few")).collect();
    on_each_device(|device| {
        for dtype in DTYPES {
            let (data, rounded) = upload(device, &values, dtype);
            let changes = device.copy(&there);
            let at = batch(data.address(), dtype, rows.len() as u32);
            device.run(&color(&at, changes.address(), &IMAGENET).expect("fits"));
            let want = host_color(&rounded, &rows);
            assert_close(&download(&data, dtype), &want, tolerance(dtype));
        }
    });
}

#[test]
fn impossible_changes_are_refused() {
    assert!(ColorRow::new(&[Change::Contrast(1.0); 4]).is_err());
    assert!(ColorRow::new(&[Change::Contrast(-0.1)]).is_err());
    assert!(ColorRow::new(&[Change::Brightness(f32::NAN)]).is_err());
}
