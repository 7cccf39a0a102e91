//! Pixel targets.

use tubelet_augment::normalise::{IMAGENET, INCEPTION, Normalise};
use tubelet_augment::target::pixels::{FrameChoice, PatchNorm, PixelOrder, pixel_targets};
use tubelet_core::{PatchSize, Size};

use super::data::{assert_close, bytes, lists, normal, patch};
use super::device::{Device, on_each_device};
use crate::kernels::{Address, PatchNormSpec, Pixels, Source, TokenList, patch_norm, target_table};

/// One setting.
struct Case {
    frames: u32,
    size: Size,
    patch: PatchSize,
    choice: FrameChoice,
    normalise: Normalise,
}

impl Case {
    /// Targets by the host's function; padding is zero.
    fn host(&self, norm: PatchNorm, floats: &[f32], tokens: &[u32], counts: &[u32]) -> Vec<f32> {
        let row = floats.len() / counts.len();
        let most = tokens.len() / counts.len();
        let slots = self.frames / self.patch.t;
        let per_slot = self.choice.indices(self.frames).len() as u32 / slots;
        let dim = (per_slot * self.patch.h * self.patch.w * 3) as usize;
        let mut out = vec![0.0; tokens.len() * dim];
        for (r, count) in counts.iter().enumerate() {
            let tokens = &tokens[r * most..][..*count as usize];
            pixel_targets(
                norm,
                &floats[r * row..(r + 1) * row],
                self.frames,
                self.size,
                self.patch,
                &self.normalise,
                self.choice,
                tokens,
                &mut out[r * most * dim..][..tokens.len() * dim],
            );
        }
        out
    }

    fn check(&self, device: &Device) {
        let rows = 2usize;
        let input = bytes(7, rows * self.frames as usize * self.size.area() * 3);
        let mut floats = vec![0.0; input.len()];
        let row = input.len() / rows;
        for (bytes, floats) in input.chunks_exact(row).zip(floats.chunks_exact_mut(row)) {
            self.normalise.apply(bytes, self.frames as usize, self.size, floats);
        }
        self.check_source(device, rows, &floats, Some(&input));
        // As erased pixels are: no bytes' values.
        let noise = normal(9, floats.len());
        floats.iter_mut().zip(noise).step_by(5).for_each(|(value, noise)| *value = noise);
        self.check_source(device, rows, &floats, None);
    }

    /// `bytes` are what `floats` are made of; without them the kernel reads floats.
    fn check_source(&self, device: &Device, rows: usize, floats: &[f32], bytes: Option<&[u8]>) {
        let columns = self.size.width / self.patch.w;
        let slots = self.frames / self.patch.t;
        let all = slots * columns * (self.size.height / self.patch.h);
        let (tokens, counts, most) = lists(8, rows, all as usize);
        let chosen = self.choice.indices(self.frames);
        let (at, chosen_at) = match bytes {
            Some(bytes) => (device.copy(bytes), device.copy(&chosen)),
            None => (device.copy(floats), device.copy(&chosen)),
        };
        let (tokens_at, counts_at) = (device.copy(&tokens), device.copy(&counts));
        let pixels = Pixels {
            address: at.address(),
            rows: rows as u32,
            frames: self.frames,
            size: self.size,
        };
        let list = TokenList {
            address: tokens_at.address(),
            count: most as u32,
            counts: counts_at.address(),
        };
        for norm in PatchNorm::ALL {
            let mut want = self.host(norm, floats, &tokens, &counts);
            let table = device.copy(&target_table(norm, &self.normalise));
            let source = match bytes {
                Some(_) => Source::Bytes { table: table.address() },
                None => Source::Floats(at.address()),
            };
            // The order does not hang on the formula.
            let last = norm == PatchNorm::Bootmae;
            for order in [PixelOrder::ChannelLast, PixelOrder::ChannelFirst]
                .into_iter()
                .take(1 + usize::from(last))
            {
                let out = device.room::<f32>(want.len());
                let spec = PatchNormSpec {
                    norm,
                    patch: self.patch,
                    chosen: chosen_at.address(),
                    per_slot: chosen.len() as u32 / slots,
                    order,
                    normalise: self.normalise,
                };
                order.arrange(&mut want, spec.dim() as usize, &mut Vec::new());
                let launch = patch_norm(&spec, &pixels, source, &list, out.address());
                device.run(&launch.expect("fits"));
                assert_close(&out.read::<f32>(), &want, 1e-5);
            }
        }
    }
}

#[test]
fn targets_of_every_formula_are_the_hosts() {
    let clip = Case {
        frames: 8,
        size: Size::new(24, 16),
        patch: patch(2, 8, 8),
        choice: FrameChoice::All,
        normalise: IMAGENET,
    };
    let cases = [
        Case { choice: FrameChoice::MaeSt, ..clip },
        Case { choice: FrameChoice::Slowfast, ..clip },
        // Patches that are no multiple of four pixels.
        Case { frames: 1, size: Size::new(21, 14), patch: patch(1, 7, 7), ..clip },
        Case { frames: 1, size: Size::new(64, 32), patch: patch(1, 32, 32), ..clip },
        Case {
            frames: 2,
            size: Size::new(16, 16),
            patch: patch(1, 16, 16),
            normalise: INCEPTION,
            ..clip
        },
        clip,
    ];
    on_each_device(|device| cases.iter().for_each(|case| case.check(device)));
}

const SPEC: PatchNormSpec = PatchNormSpec {
    norm: PatchNorm::Mae,
    patch: patch(1, 8, 8),
    chosen: Address(64),
    per_slot: 1,
    order: PixelOrder::ChannelLast,
    normalise: IMAGENET,
};

#[test]
fn flat_tokens_become_zero() {
    on_each_device(|device| {
        let (pixels, tokens) = (device.copy(&[77u8; 8 * 8 * 3]), device.copy(&[0u32]));
        let (counts, chosen) = (device.copy(&[1u32]), device.copy(&[0u32]));
        let list = TokenList { address: tokens.address(), count: 1, counts: counts.address() };
        let size = Size::square(8);
        let pixels = Pixels { address: pixels.address(), rows: 1, frames: 1, size };
        // Not MAE's: jointly, three channels of one grey level differ after normalisation.
        for norm in [PatchNorm::Videomae, PatchNorm::Omnimae, PatchNorm::Bootmae] {
            let table = device.copy(&target_table(norm, &IMAGENET));
            let out = device.room::<f32>(192);
            let chosen = chosen.address();
            let spec = PatchNormSpec { norm, patch: patch(1, 8, 8), chosen, ..SPEC };
            let source = Source::Bytes { table: table.address() };
            let launch = patch_norm(&spec, &pixels, source, &list, out.address());
            device.run(&launch.expect("fits"));
            assert_close(&out.read::<f32>(), &[0.0; 192], 0.0);
        }
    });
}

#[test]
fn targets_too_long_for_a_block_are_refused() {
    let size = Size::square(128);
    let pixels = Pixels { address: Address(64), rows: 1, frames: 1, size };
    let list = TokenList { address: Address(64), count: 1, counts: Address(64) };
    let spec = PatchNormSpec { patch: patch(1, 128, 128), ..SPEC };
    let source = Source::Floats(Address(64));
    let error = patch_norm(&spec, &pixels, source, &list, Address(64)).expect_err("too long");
    assert!(error.to_string().contains("49152 numbers"), "{error}");
}
