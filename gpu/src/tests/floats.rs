//! What is done to a batch in floats: mixing, erasing, colours.

use half::{bf16, f16};
use tubelet_augment::erase::{Erase, EraseMode};
use tubelet_augment::mix::{Mix, MixMode, MixSpec, mix_rows};
use tubelet_augment::normalise::IMAGENET;
use tubelet_core::{BatchKey, Rect, Size};

use super::data::{assert_close, bytes, normal};
use super::device::{Buffer, Device, on_each_device};
use crate::kernels::{
    Address, Boxes, Change, ColorRow, DType, FloatBatch, PairMix, PlaneOrder, color, erase, mix,
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
        DType::F32 | DType::U32 | DType::U8 => (device.copy(values), values.to_vec()),
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
        DType::F32 | DType::U32 | DType::U8 => buffer.read(),
    }
}

/// How far a rounded value of up to 8 may be off.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::U32 | DType::U8 => 1e-5,
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

/// Mixes rows of `size` on `device` and on the host.
fn check_mix(device: &Device, rows: usize, frames: u32, size: Size, mixes: &[Mix]) {
    let values = normal(31, rows * 3 * frames as usize * size.area());
    let pairs: Vec<PairMix> = PairMix::of_group(0..rows, mixes).collect();
    for dtype in DTYPES {
        let (data, mut want) = upload(device, &values, dtype);
        let batch = FloatBatch { address: data.address(), dtype, rows: rows as u32, frames, size };
        let launches = mix(&batch, &pairs).expect("fits");
        launches.iter().for_each(|launch| device.run(launch));
        mix_rows(&mut want, mixes, size);
        assert_close(&download(&data, dtype), &want, tolerance(dtype));
    }
}

#[test]
fn rows_are_mixed_as_on_the_host() {
    let spec = MixSpec {
        mixup: 0.8,
        cutmix: 1.0,
        probability: 0.9,
        switch: 0.6,
        mode: MixMode::Elem,
        group: 0,
        smoothing: 0.0,
    };
    let key = |number| BatchKey { seed: 2, epoch: 1, number, first_row: 0 };
    on_each_device(|device| {
        for mode in [MixMode::Batch, MixMode::Pair, MixMode::Elem] {
            let spec = MixSpec { mode, ..spec };
            // The last has more pairs than one launch.
            for (n, rows) in [1usize, 2, 5, 6, 9, 71].into_iter().enumerate() {
                let odd = Size::new(7, 5);
                check_mix(device, rows, 1, odd, &spec.draw(key(n as u64), 0, rows, odd));
                if rows < 10 {
                    let mixes = spec.draw(key(n as u64 + 10), 0, rows, SIZE);
                    check_mix(device, rows, FRAMES, SIZE, &mixes);
                }
            }
        }
        let region = Rect { x: 5, y: 3, width: 13, height: 8 };
        let cut = |region| Mix::Cutmix { region, lambda: 0.5 };
        for mixes in [
            [cut(region), Mix::None],
            [Mix::None, cut(Rect { x: 19, y: 11, width: 1, height: 1 })],
            [cut(Rect::full(SIZE)), Mix::Mixup(0.25)],
            [cut(region), cut(Rect { x: 0, y: 9, width: 2, height: 3 })],
        ] {
            check_mix(device, 2, FRAMES, SIZE, &mixes);
        }
    });
}

#[test]
fn impossible_mixes_are_refused() {
    let batch = batch(Address(64), DType::F32, 2);
    let refuse = |rows, one| {
        let error = mix(&batch, &[PairMix { rows, mixes: [one, Mix::None] }]);
        error.expect_err("impossible").to_string()
    };
    assert!(refuse([0, 1], Mix::Mixup(1.5)).contains("1.5"));
    assert!(refuse([0, 1], Mix::Mixup(f64::NAN)).contains("NaN"));
    assert!(refuse([0, 2], Mix::Mixup(0.5)).contains("0 and 2"));
    assert!(refuse([1, 1], Mix::Mixup(0.5)).contains("1 and 1"));
    let region = Rect { x: 10, y: 0, width: 11, height: 1 };
    assert!(refuse([0, 1], Mix::Cutmix { region, lambda: 0.5 }).contains("width: 11"));
    let region = Rect { x: 0, y: 0, width: 0, height: 5 };
    let nothing = [Mix::Cutmix { region, lambda: 1.0 }; 2];
    assert_eq!(PairMix::of_group(0..2, &nothing).count(), 0);
    assert_eq!(mix(&batch, &[]).expect("fits"), []);
}

/// A slot's fields of rows with several boxes, overlapping, empty and none.
fn erase_fields() -> Vec<u32> {
    let none = [0, 0, 0, 0];
    [
        ([7, 1 << 30], [[2, 1, 7, 5], [4, 3, 6, 6], none]),
        ([0, 0], [none, none, none]),
        ([9, 9], [none, [0, 0, 20, 12], [19, 11, 1, 1]]),
        ([u32::MAX, 3], [[5, 0, 9, 2], none, [8, 1, 3, 3]]),
    ]
    .into_iter()
    .flat_map(|(noise, boxes)| noise.into_iter().chain(boxes.into_iter().flatten()))
    .collect()
}

#[test]
fn boxes_are_erased_as_on_the_host() {
    const ROWS: usize = 4;
    let (values, fields) = (normal(41, ROWS * row_values()), erase_fields());
    let boxes = Boxes::of(&fields, ROWS, SIZE).expect("inside").expect("some");
    let modes = [EraseMode::Const, EraseMode::Rand, EraseMode::Pixel];
    on_each_device(|device| {
        let there = device.copy(&fields);
        for (mode, dtype) in modes.into_iter().flat_map(|m| DTYPES.map(|d| (m, d))) {
            for order in [PlaneOrder::ChannelFirst, PlaneOrder::FrameFirst] {
                let (data, mut want) = upload(device, &values, dtype);
                for (row, field) in want.chunks_exact_mut(row_values()).zip(fields.chunks(14)) {
                    reorder(row, order, [FRAMES as usize, 3]);
                    Erase::load(field).apply(mode, row, FRAMES as usize, SIZE);
                    reorder(row, order, [3, FRAMES as usize]);
                }
                let at = batch(data.address(), dtype, ROWS as u32);
                device.run(&erase(&at, order, mode, &boxes, there.address()).expect("fits"));
                assert_close(&download(&data, dtype), &want, tolerance(dtype));
            }
        }
    });
}

/// Swaps the first two axes of a row, `[a, b, height, width]`, where `order` has frames first.
fn reorder(row: &mut [f32], order: PlaneOrder, [a, b]: [usize; 2]) {
    if order == PlaneOrder::FrameFirst {
        let (from, area) = (row.to_vec(), SIZE.area());
        for (n, plane) in row.chunks_exact_mut(area).enumerate() {
            let (i, j) = (n % a, n / a);
            plane.copy_from_slice(&from[(i * b + j) * area..][..area]);
        }
    }
}

#[test]
fn boxes_outside_are_refused() {
    let fields = [1, 2, 3, 4, 18, 2, 0, 0, 0, 0];
    let error = Boxes::of(&fields, 1, SIZE).expect_err("leaves the frame").to_string();
    assert!(error.contains("width: 18") && error.contains("row 0"), "{error}");
    let damaged = [1, 2, u32::MAX, 0, u32::MAX, 1];
    assert!(Boxes::of(&damaged, 1, SIZE).is_err());
    assert_eq!(Boxes::of(&[0; 12], 2, SIZE).expect("inside"), None);
    let boxes = Boxes::of(&[0, 0, 0, 0, 1, 1], 1, SIZE).expect("inside").expect("one");
    let (other, order) = (batch(Address(64), DType::F32, 2), PlaneOrder::ChannelFirst);
    assert!(erase(&other, order, EraseMode::Const, &boxes, Address(64)).is_err());
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
            Change::Hue(turn) => {
                let turned = turned([0, 1, 2].map(|c| f64::from(frame[c][i])), f64::from(turn));
                (0..3).for_each(|c| frame[c][i] = turned[c] as f32);
                continue;
            }
            Change::Brightness(f) => (f, 0.0),
            Change::Contrast(f) => (f, mean as f32),
            Change::Saturation(f) => (f, gray(frame, i)),
        };
        for channel in frame.iter_mut() {
            channel[i] = (channel[i] * factor + other * (1.0 - factor)).clamp(0.0, 1.0);
        }
    }
}

/// RGB with its hue turned, by the formula that needs no sectors: channel n of a hue h in sixths is
/// v − v s · clamp(min(k, 4 − k), 0, 1) with k = (n + h) mod 6 for n of 5, 3 and 1.
fn turned(rgb: [f64; 3], turn: f64) -> [f64; 3] {
    let [r, g, b] = rgb;
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return rgb;
    }
    let range = most - least;
    let hue = if most == r {
        (g - b) / range
    } else if most == g {
        (b - r) / range + 2.0
    } else {
        (r - g) / range + 4.0
    };
    let hue = hue + 6.0 * turn;
    [5.0, 3.0, 1.0].map(|n: f64| {
        let k = (n + hue).rem_euclid(6.0);
        most - range * k.min(4.0 - k).clamp(0.0, 1.0)
    })
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
        vec![
            Change::Brightness(0.8),
            Change::Hue(0.1),
            Change::Contrast(1.2),
            Change::Saturation(1.4),
        ],
        vec![Change::Hue(-0.37), Change::Saturation(0.0), Change::Hue(0.5)],
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
    assert!(ColorRow::new(&[Change::Contrast(1.0); 5]).is_err());
    assert!(ColorRow::new(&[Change::Hue(0.51)]).is_err());
    assert!(ColorRow::new(&[Change::Hue(f32::NAN)]).is_err());
    assert!(ColorRow::new(&[Change::Contrast(-0.1)]).is_err());
    assert!(ColorRow::new(&[Change::Brightness(f32::NAN)]).is_err());
}
