//! Frames kept on the device, cut, and copied back to rows; skipped without one.

use std::sync::Arc;

use tubelet_augment::resample::Filter;
use tubelet_augment::resample::planes::{Cut, Held, Kernel, PlaneResampler};
use tubelet_core::{Chroma, Clip, HostMemory, PixelForm, Rect, Size, Upsampling, Yuv, YuvMatrix};

use super::data::bytes;
use super::device::gpu;
use crate::context::{Gpu, Kernels};
use crate::crop::{Cropper, Nv12Clip};
use crate::kernels::{Address, CropBatch};
use crate::memory::DeviceBuffer;
use crate::{PinnedMemory, twin};

#[test]
fn kept_frames_become_the_hosts_rows() {
    let Some(gpu) = gpu() else { return };
    let cropper = Cropper::new(&gpu, &Arc::new(Kernels::load(&gpu).expect("kernels")));
    let cropper = cropper.expect("a stream");
    let fails = std::env::var("TUBELET_SIMULATED_FAILURE").is_ok_and(|f| !f.is_empty());
    // Odd sides: the last chroma sample belongs to one column and one row.
    let size = Size::new(45, 31);
    let upsampling = Upsampling::Repeat;
    let yuv = Yuv { chroma: Chroma::HalfBoth, upsampling, matrix: YuvMatrix::JPEG };
    let mut source = Clip::new();
    source.reset_form(size, Rect::full(size), PixelForm::Yuv(yuv), &[0, 1, 2]);
    let mut kept = Nv12Clip::new(cropper.memory(), size, 3).expect("memory");
    for n in 0..3 {
        let len = source.nth(n).len();
        source.nth_mut(n).copy_from_slice(&bytes(n as u64, len));
        let planes = source.planes(n);
        let [u, v] = planes.chroma;
        let pairs: Vec<u8> = u.iter().zip(v).flat_map(|(u, v)| [*u, *v]).collect();
        let [luma, chroma] = [planes.luma, &pairs]
            .map(|p| DeviceBuffer::from_slice(cropper.memory(), p).expect("a copy"));
        let planes = [luma.address(), chroma.address()];
        // SAFETY: both planes are as large as the size says.
        unsafe { kept.store(n, planes, [45, 46]) }.expect("stores");
    }
    // SAFETY: refused before anything is read.
    assert!(unsafe { kept.store(3, [Address::NULL; 2], [45, 46]) }.is_err(), "no fourth place");
    let chroma = Rect::full(Chroma::HalfBoth.size(size));
    let held = Held { size, region: Rect::full(size), chroma, yuv };
    let (resized, kernel) = (Size::new(20, 16), Kernel::Pillow(Filter::Bicubic));
    let (region, window) = (Rect { x: 3, y: 1, width: 42, height: 30 }, Rect::full(resized));
    let cut = Cut { region, resized, window, kernel, flip: true };
    let frame_bytes = resized.area() * 3;
    let pixels = DeviceBuffer::new(cropper.memory(), 3 * frame_bytes).expect("memory");
    let mut batch = CropBatch::new();
    let geometry = batch.planes(&held, kept.layout(), &cut).expect("possible");
    for n in 0..3 {
        let out = Address(pixels.address().0 + (n * frame_bytes) as u64);
        batch.frame(geometry, kept.planes(n), out);
    }
    // SAFETY: the frames are kept, and write inside `pixels`.
    let cutting = match unsafe { cropper.start(&batch, Some(pixels)) } {
        Err(error) if fails => {
            assert!(error.to_string().contains("start a kernel"), "{error}");
            return;
        }
        started => started.expect("starts"),
    };
    let straight = cut_to_a_slot(&gpu, &cropper, &held, &kept, &cut);
    let (mut first, mut rest) = (vec![0; frame_bytes], vec![0; 2 * frame_bytes]);
    // In any order.
    cutting.fetch(frame_bytes, &mut rest).expect("copies");
    cutting.fetch(0, &mut first).expect("copies");
    first.extend(rest);
    assert_eq!(straight, first, "cut straight to a slot's place");
    for (n, got) in first.chunks_exact(frame_bytes).enumerate() {
        let mut want = vec![0; frame_bytes];
        PlaneResampler::default().resize(&source, n, &cut, &mut want);
        assert_eq!(got, want, "frame {n}");
    }
    for (offset, length) in [(0, 4), (1, 3), (usize::MAX, 1)] {
        let mut long = vec![0; length * frame_bytes];
        let error = cutting.fetch(offset, &mut long).expect_err("too long").to_string();
        assert!(error.contains("rows end"), "{error}");
    }
}

/// The frames' bytes by way of the place of a slot.
fn cut_to_a_slot(gpu: &Gpu, cropper: &Cropper, held: &Held, kept: &Nv12Clip, cut: &Cut) -> Vec<u8> {
    let frame_bytes = cut.resized.area() * 3;
    let memory = PinnedMemory::new(gpu).with_twins(gpu).expect("a stream");
    let mut slot = memory.allocate(64 + 3 * frame_bytes).expect("memory");
    let rows = &mut slot.as_mut_slice()[64..];
    let mut batch = CropBatch::new();
    let geometry = batch.planes(held, kept.layout(), cut).expect("possible");
    for (n, row) in rows.chunks_exact(frame_bytes).enumerate() {
        batch.frame(geometry, kept.planes(n), twin::place(row).expect("has a place"));
    }
    // SAFETY: the frames are kept, and write inside the slot's place, which nobody else uses.
    unsafe { cropper.start(&batch, None) }.expect("starts").finish().expect("cuts");
    twin::fetch(rows).expect("copies");
    assert!(twin::place(&[0; 4]).is_none(), "other memory has no place");
    rows.to_vec()
}
