//! Planes, patches, index lists.

use half::{bf16, f16};
use tubelet_augment::normalise::IMAGENET;
use tubelet_core::{PatchSize, Size};

use super::data::{bytes, lists, patch};
use super::device::{Device, on_each_device};
use crate::kernels::{
    Address, DType, IndexLists, PatchOrder, Pixels, PlaneOrder, Source, TokenList, flags, indices,
    patches, planes,
};

const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// f32 `[rows, 3, frames, h, w]` by the host's function.
fn host_planes(input: &[u8], rows: usize, frames: u32, size: Size) -> Vec<f32> {
    let row = input.len() / rows;
    let mut out = vec![0.0; input.len()];
    for (bytes, out) in input.chunks_exact(row).zip(out.chunks_exact_mut(row)) {
        IMAGENET.apply(bytes, frames as usize, size, out);
    }
    out
}

/// As bits of `dtype`, four bytes or two a value.
fn bits(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::F32 | DType::U32 | DType::U8 => {
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
    }
}

fn check_planes(device: &Device, rows: u32, frames: u32, size: Size, order: PlaneOrder) {
    let input = bytes(1, (rows * frames) as usize * size.area() * 3);
    let floats = host_planes(&input, rows as usize, frames, size);
    let mut want = floats.clone();
    if order == PlaneOrder::FrameFirst {
        want = frame_first(&want, rows as usize, frames as usize, size.area());
    }
    let (table, floats) = (device.copy(&IMAGENET.table()), device.copy(&floats));
    let pixels = device.copy(&input);
    let view = Pixels { address: pixels.address(), rows, frames, size };
    let sources = [Source::Bytes { table: table.address() }, Source::Floats(floats.address())];
    for (dtype, source) in FLOATS.into_iter().flat_map(|d| sources.map(|s| (d, s))) {
        let out = device.room::<u8>(input.len() * dtype.bytes());
        device.run(&planes(&view, source, order, dtype, out.address()).expect("fits"));
        assert_eq!(out.read::<u8>(), bits(&want, dtype), "{dtype:?} {size:?} {order:?}");
    }
}

fn frame_first(values: &[f32], rows: usize, frames: usize, area: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        for frame in 0..frames {
            for c in 0..3 {
                let start = ((row * 3 + c) * frames + frame) * area;
                out.extend_from_slice(&values[start..start + area]);
            }
        }
    }
    out
}

#[test]
fn planes_equal_the_hosts_to_the_bit() {
    on_each_device(|device| {
        for order in [PlaneOrder::ChannelFirst, PlaneOrder::FrameFirst] {
            check_planes(device, 2, 3, Size::new(12, 8), order);
            // 63 pixels: one at a time.
            check_planes(device, 3, 2, Size::new(9, 7), order);
            // Several blocks a plane.
            check_planes(device, 1, 1, Size::new(100, 96), order);
        }
    });
}

/// The patches of chosen tokens, from planes on the host.
fn host_patches(
    planes: &[f32],
    frames: u32,
    size: Size,
    patch: PatchSize,
    tokens: &[(usize, u32)],
    order: PatchOrder,
) -> Vec<f32> {
    let columns = size.width / patch.w;
    let cells = columns * (size.height / patch.h);
    let mut out = Vec::new();
    for (row, token) in tokens {
        let (slot, cell) = (token / cells, token % cells);
        let value = |c: u32, t: u32, y: u32, x: u32| {
            let frame = (*row as u32 * 3 + c) * frames + slot * patch.t + t;
            let (y, x) = (cell / columns * patch.h + y, cell % columns * patch.w + x);
            planes[((frame * size.height + y) * size.width + x) as usize]
        };
        let channels = |inner: &mut dyn FnMut(u32)| (0..3).for_each(inner);
        let volume = |inner: &mut dyn FnMut(u32, u32, u32)| {
            for t in 0..patch.t {
                for y in 0..patch.h {
                    for x in 0..patch.w {
                        inner(t, y, x);
                    }
                }
            }
        };
        match order {
            PatchOrder::ChannelFirst => {
                for c in 0..3 {
                    volume(&mut |t, y, x| out.push(value(c, t, y, x)));
                }
            }
            PatchOrder::ChannelLast => {
                volume(&mut |t, y, x| channels(&mut |c| out.push(value(c, t, y, x))));
            }
        }
    }
    out
}

fn check_patches(device: &Device, frames: u32, size: Size, patch: PatchSize) {
    let rows = 3u32;
    let input = bytes(2, (rows * frames) as usize * size.area() * 3);
    let planes = host_planes(&input, rows as usize, frames, size);
    let all = (frames / patch.t * (size.height / patch.h) * (size.width / patch.w)) as usize;
    let (chosen, counts, most) = lists(3, rows as usize, all);
    let (table, pixels) = (device.copy(&IMAGENET.table()), device.copy(&input));
    let floats = device.copy(&planes);
    let sources = [Source::Bytes { table: table.address() }, Source::Floats(floats.address())];
    let (tokens, counts) = (device.copy(&chosen), device.copy(&counts));
    let view = Pixels { address: pixels.address(), rows, frames, size };
    let list =
        TokenList { address: tokens.address(), count: most as u32, counts: counts.address() };
    let every: Vec<_> =
        (0..rows as usize).flat_map(|r| (0..all as u32).map(move |t| (r, t))).collect();
    let some: Vec<_> = chosen.iter().enumerate().map(|(i, t)| (i / most, *t)).collect();
    for (list, written) in [(None, &every), (Some(&list), &some)] {
        for order in [PatchOrder::ChannelFirst, PatchOrder::ChannelLast] {
            let want = host_patches(&planes, frames, size, patch, written, order);
            for (dtype, source) in FLOATS.into_iter().flat_map(|d| sources.map(|s| (d, s))) {
                let out = device.room::<u8>(want.len() * dtype.bytes());
                let launch = patches(&view, source, patch, list, order, dtype, out.address());
                device.run(&launch.expect("fits"));
                assert_eq!(out.read::<u8>(), bits(&want, dtype), "{dtype:?} {order:?} {patch:?}");
            }
        }
    }
}

#[test]
fn patches_equal_the_hosts_to_the_bit() {
    on_each_device(|device| {
        check_patches(device, 4, Size::new(24, 16), patch(2, 8, 8));
        check_patches(device, 1, Size::new(21, 14), patch(1, 7, 7));
        check_patches(device, 2, Size::new(32, 16), patch(1, 16, 16));
    });
}

#[test]
fn sixteen_bit_floats_are_rounded_as_everywhere() {
    // A table of awkward values: halfway cases, subnormals, overflow, infinities, NaN.
    let awkward = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        65504.0,
        65519.9,
        65520.0,
        1e6,
        -1e6,
        1e-8,
        5.96e-8,
        2.98e-8,
        6.1e-5,
        6.097_6e-5,
        1.000_488_3,
        1.001_464_8,
        3.386e38,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        1e-40,
    ];
    let mut table = vec![0.0f32; 768];
    for (i, value) in table.iter_mut().enumerate() {
        *value = if i < awkward.len() { awkward[i] } else { (i as f32 - 400.0) * 0.013 };
    }
    let input: Vec<u8> = (0..=255u8).flat_map(|v| [v; 3]).collect();
    let want: Vec<f32> = (0..768).map(|i| table[i / 256 * 256 + i % 256]).collect();
    on_each_device(|device| {
        let (table, pixels) = (device.copy(&table), device.copy(&input));
        let size = Size::new(16, 16);
        let view = Pixels { address: pixels.address(), rows: 1, frames: 1, size };
        for dtype in [DType::Bf16, DType::F16] {
            let out = device.room::<u16>(768);
            let order = PlaneOrder::ChannelFirst;
            let source = Source::Bytes { table: table.address() };
            let launch = planes(&view, source, order, dtype, out.address());
            device.run(&launch.expect("fits"));
            for (got, want) in out.read::<u16>().into_iter().zip(&want) {
                let right = match dtype {
                    DType::Bf16 => bf16::from_f32(*want).to_bits(),
                    _ => f16::from_f32(*want).to_bits(),
                };
                let nan = want.is_nan()
                    && (got & 0x7fff) > if dtype == DType::F16 { 0x7c00 } else { 0x7f80 };
                assert!(nan || got == right, "{dtype:?} {want:e}: {got:#x}, not {right:#x}");
            }
        }
    });
}

/// Indices of the tokens of each row that are `want`, padded, and how many a row has.
fn host_lists(mask: &[u8], tokens: usize, want: u8) -> (Vec<u32>, usize) {
    let list = |row: &[u8]| -> Vec<u32> {
        (0..tokens as u32).filter(|i| row[*i as usize] == want).collect()
    };
    let rows: Vec<Vec<u32>> = mask.chunks_exact(tokens).map(list).collect();
    let most = rows.iter().map(Vec::len).max().expect("rows");
    let pad = |mut row: Vec<u32>| {
        row.resize(most, row.last().copied().unwrap_or(0));
        row
    };
    (rows.into_iter().flat_map(pad).collect(), most)
}

#[test]
fn lists_of_tokens_equal_the_hosts() {
    let tokens = 197usize;
    let mut mask: Vec<u8> = bytes(5, 6 * tokens).iter().map(|b| b % 2).collect();
    mask[..tokens].fill(1);
    mask[tokens..2 * tokens].fill(0);
    let ((visible, max_visible), (masked, max_masked)) =
        (host_lists(&mask, tokens, 0), host_lists(&mask, tokens, 1));
    let counts: Vec<u32> =
        mask.chunks_exact(tokens).map(|row| row.iter().map(|m| u32::from(*m)).sum()).collect();
    on_each_device(|device| {
        for bit in [0, 1, 7] {
            // The other bits are other passes.
            let passes: Vec<u8> = mask.iter().map(|m| !(1 << bit) | m << bit).collect();
            let at = device.copy(&passes);
            let (v, m) = (device.room::<u32>(visible.len()), device.room::<u32>(masked.len()));
            let (c, f) = (device.room::<u32>(counts.len()), device.room::<u8>(mask.len()));
            let lists = IndexLists {
                visible: v.address(),
                masked: m.address(),
                masked_count: c.address(),
                max_visible: max_visible as u32,
                max_masked: max_masked as u32,
            };
            device.run(&indices(at.address(), 6, tokens as u32, bit, &lists).expect("fits"));
            device.run(&flags(at.address(), 6, tokens as u32, bit, f.address()).expect("fits"));
            assert_eq!(v.read::<u32>(), visible);
            assert_eq!(m.read::<u32>(), masked);
            assert_eq!(c.read::<u32>(), counts);
            assert_eq!(f.read::<u8>(), mask);
        }
    });
}

#[test]
fn impossible_shapes_are_refused() {
    let pixels = |rows, size| Pixels { address: Address(64), rows, frames: 2, size };
    let good = pixels(1, Size::new(16, 16));
    let (out, bytes) = (Address(64), Source::Bytes { table: Address(64) });
    let text = |r: Result<_, crate::GpuError>| {
        r.map(|_: crate::Launch| ()).expect_err("refused").to_string()
    };
    let order = PatchOrder::ChannelFirst;
    let error = text(patches(&good, bytes, patch(1, 5, 8), None, order, DType::F32, out));
    assert!(error.contains("1x5x8") && error.contains("16x16"), "{error}");
    let none = pixels(0, Size::new(16, 16));
    let error = text(planes(&none, bytes, PlaneOrder::ChannelFirst, DType::F32, out));
    assert!(error.contains("0 blocks"), "{error}");
    let error = text(planes(&good, bytes, PlaneOrder::ChannelFirst, DType::U32, out));
    assert!(error.contains("U32"), "{error}");
    // What kernels cannot number in 32 bits.
    let huge = pixels(1, Size::new(1 << 16, 1 << 15));
    let error = text(planes(&huge, bytes, PlaneOrder::ChannelFirst, DType::F32, out));
    assert!(error.contains("65536x32768"), "{error}");
    let many = pixels(1 << 24, Size::new(16, 16));
    let error = text(patches(&many, bytes, patch(1, 1, 1), None, order, DType::F32, out));
    assert!(error.contains("tokens of a batch: 8589934592"), "{error}");
}
