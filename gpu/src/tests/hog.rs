//! HOG targets.

use tubelet_augment::normalise::SLOWFAST;
use tubelet_augment::target::hog::{HogScratch, HogSpec, gaussian_window, hog_targets};
use tubelet_core::{PatchSize, Size};

use super::data::{assert_close, bytes, lists, normal, patch, photo};
use super::device::{Device, on_each_device};
use crate::kernels::{Address, Pixels, Source, TokenList, hog};

/// One setting.
#[derive(Clone, Copy)]
struct Case {
    spec: HogSpec,
    frames: u32,
    size: Size,
    patch: PatchSize,
}

/// f32 `[rows, 3, frames, h, w]` or the bytes that it is made of.
enum Input {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

const ROWS: usize = 2;

impl Case {
    fn values(&self) -> usize {
        ROWS * 3 * self.frames as usize * self.size.area()
    }

    fn tokens(&self) -> usize {
        let plane = (self.size.width / self.patch.w) * (self.size.height / self.patch.h);
        (self.frames / self.patch.t * plane) as usize
    }

    /// Targets by the host's function; padding is zero.
    fn host(&self, planes: &[f32], tokens: &[u32], counts: &[u32]) -> Vec<f32> {
        let dim = self.spec.token_dim(self.patch);
        let (row, most) = (planes.len() / ROWS, tokens.len() / ROWS);
        let mut out = vec![0.0; tokens.len() * dim];
        for (r, count) in counts.iter().enumerate() {
            hog_targets(
                &self.spec,
                &planes[r * row..(r + 1) * row],
                self.frames,
                self.size,
                self.patch,
                &tokens[r * most..][..*count as usize],
                &mut out[r * most * dim..][..*count as usize * dim],
                &mut HogScratch::default(),
            );
        }
        out
    }

    fn check(&self, device: &Device, input: &Input) {
        let planes = match input {
            Input::Floats(floats) => floats.clone(),
            Input::Bytes(bytes) => {
                let (row, mut planes) = (self.values() / ROWS, vec![0.0; self.values()]);
                for (from, to) in bytes.chunks_exact(row).zip(planes.chunks_exact_mut(row)) {
                    SLOWFAST.apply(from, self.frames as usize, self.size, to);
                }
                planes
            }
        };
        let (tokens, counts, most) = lists(11, ROWS, self.tokens());
        let want = self.host(&planes, &tokens, &counts);
        let (tokens, counts) = (device.copy(&tokens), device.copy(&counts));
        let (table, window) = (
            device.copy(&SLOWFAST.table()),
            device.copy(&gaussian_window(self.spec.gaussian_window.max(1))),
        );
        let at = match input {
            Input::Bytes(bytes) => device.copy(bytes),
            Input::Floats(floats) => device.copy(floats),
        };
        let source = match input {
            Input::Bytes(_) => Source::Bytes { table: table.address() },
            Input::Floats(_) => Source::Floats(at.address()),
        };
        let pixels = Pixels {
            address: at.address(),
            rows: ROWS as u32,
            frames: self.frames,
            size: self.size,
        };
        let list =
            TokenList { address: tokens.address(), count: most as u32, counts: counts.address() };
        let out = device.room::<f32>(want.len());
        let window = window.address();
        let launch = hog(&self.spec, &pixels, source, window, self.patch, &list, out.address());
        device.run(&launch.expect("fits"));
        let scale = if self.spec.normalise { 1.0 } else { largest(&want) };
        assert_close(&out.read::<f32>(), &want, 1e-5 * scale);
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(1.0, f32::max)
}

const VIT: Case = Case {
    spec: HogSpec::new(9, 8),
    frames: 1,
    size: Size { width: 48, height: 32 },
    patch: patch(1, 16, 16),
};

fn cases() -> Vec<Case> {
    let with =
        |bins, cell, gaussian_window, normalise| HogSpec { bins, cell, gaussian_window, normalise };
    vec![
        VIT,
        Case { frames: 4, patch: patch(2, 16, 16), ..VIT },
        // Swin's 432 numbers.
        Case { size: Size::square(64), patch: patch(1, 32, 32), ..VIT },
        Case { spec: with(9, 8, 16, true), ..VIT },
        Case { spec: with(18, 4, 0, true), ..VIT },
        Case { spec: with(5, 16, 0, false), ..VIT },
        Case { spec: with(9, 8, 7, false), ..VIT },
        Case { spec: with(12, 7, 0, true), size: Size::square(28), patch: patch(1, 14, 14), ..VIT },
        // Cells that do not fill the patch.
        Case { spec: with(9, 3, 0, true), size: Size::square(16), patch: patch(1, 8, 8), ..VIT },
    ]
}

#[test]
fn histograms_of_noise_are_the_hosts() {
    on_each_device(|device| {
        for case in cases() {
            case.check(device, &Input::Floats(normal(21, case.values())));
            case.check(device, &Input::Bytes(bytes(22, case.values())));
        }
    });
}

/// Photos have gradients on edges between bins, where an angle rounded otherwise changes the bin:
/// no allowance is made for them.
#[test]
fn histograms_of_photos_are_the_hosts_at_every_edge() {
    on_each_device(|device| {
        for case in cases() {
            let input = photo(5, ROWS as u32 * case.frames, case.size);
            case.check(device, &Input::Bytes(input));
        }
    });
}

/// At a reflected border gx or gy is 0 but for rounding, and the bin hangs on its sign.
#[test]
fn bins_at_reflected_borders_are_equal() {
    // One cell a token and one pixel row of tokens at each border: every histogram is a border's.
    let case =
        Case { size: Size::new(32, 4), patch: patch(1, 4, 4), spec: HogSpec::new(9, 4), ..VIT };
    on_each_device(|device| {
        for seed in 0..4 {
            case.check(device, &Input::Floats(normal(seed, case.values())));
            case.check(device, &Input::Bytes(photo(seed, ROWS as u32, case.size)));
        }
    });
}

#[test]
fn a_flat_picture_has_empty_histograms() {
    on_each_device(|device| {
        // The host's are zero: `target/hog.rs` tests that.
        VIT.check(device, &Input::Bytes(vec![200; VIT.values()]));
    });
}

#[test]
fn impossible_histograms_are_refused() {
    let pixels = |size| Pixels { address: Address(64), rows: 1, frames: 1, size };
    let list = TokenList { address: Address(64), count: 1, counts: Address(64) };
    let refuse = |spec: HogSpec, size: Size, patch: PatchSize| {
        let source = Source::Floats(Address(64));
        let launch = hog(&spec, &pixels(size), source, Address(64), patch, &list, Address(64));
        launch.expect_err("refused").to_string()
    };
    let square = Size::square(64);
    assert!(refuse(HogSpec::new(300, 8), square, patch(1, 16, 16)).contains("300"));
    assert!(refuse(HogSpec::new(9, 0), square, patch(1, 16, 16)).contains("HOG cell: 0"));
    assert!(refuse(HogSpec::new(9, 17), square, patch(1, 16, 16)).contains("HOG cell: 17"));
    assert!(refuse(HogSpec::new(9, 8), square, patch(1, 64, 64)).contains("64x64 pixels"));
    assert!(refuse(HogSpec::new(9, 1), Size::square(1), patch(1, 1, 1)).contains("1x1"));
}
