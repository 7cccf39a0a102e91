//! Pictures of HOG.

use tubelet_augment::normalise::IMAGENET;
use tubelet_augment::target::hog_picture::picture_targets;
use tubelet_core::{PatchSize, Size};

use super::data::{assert_close, bytes, lists, normal, patch, photo};
use super::device::{Device, on_each_device};
use crate::kernels::{Pixels, Source, TokenList, cells_len, line_table, picture, picture_cells};

const ROWS: usize = 2;

/// One setting.
#[derive(Clone, Copy)]
struct Case {
    frames: u32,
    size: Size,
    patch: PatchSize,
}

impl Case {
    fn values(&self) -> usize {
        ROWS * 3 * self.frames as usize * self.size.area()
    }

    /// `bytes` are what `floats` are made of; without them the kernels read floats.
    fn check(&self, device: &Device, floats: &[f32], bytes: Option<&[u8]>) {
        let Self { frames, size, patch } = *self;
        let plane = size.width / patch.w * (size.height / patch.h);
        let (tokens, counts, most) = lists(12, ROWS, (frames / patch.t * plane) as usize);
        let dim = (patch.t * patch.h * patch.w) as usize;
        let (row, mut want) = (floats.len() / ROWS, vec![0.0; tokens.len() * dim]);
        for (r, count) in counts.iter().enumerate() {
            let count = *count as usize;
            let tokens = &tokens[r * most..][..count];
            let out = &mut want[r * most * dim..][..count * dim];
            picture_targets(&floats[r * row..][..row], frames, size, patch, tokens, out);
        }
        let at = bytes.map_or_else(|| device.copy(floats), |bytes| device.copy(bytes));
        let (table, lines) = (device.copy(&IMAGENET.table()), device.copy(&line_table()));
        let source = match bytes {
            Some(_) => Source::Bytes { table: table.address() },
            None => Source::Floats(at.address()),
        };
        let pixels = Pixels { address: at.address(), rows: ROWS as u32, frames, size };
        let cells = device.room::<f32>(ROWS * frames as usize * cells_len(size));
        let (tokens, counts) = (device.copy(&tokens), device.copy(&counts));
        let (address, counts_at) = (tokens.address(), counts.address());
        let list = TokenList { address, count: most as u32, counts: counts_at };
        let out = device.room::<f32>(want.len());
        device.run(&picture_cells(&pixels, source, cells.address()).expect("fits"));
        let (cells_at, lines) = (cells.address(), lines.address());
        device.run(&picture(&pixels, cells_at, lines, patch, &list, out.address()).expect("fits"));
        assert!(want.iter().any(|v| *v > 0.0));
        assert_close(&out.read::<f32>(), &want, 1e-5);
        // All cells were written.
        assert!(cells.read::<f32>().iter().all(|v| *v >= 0.0));
    }

    fn check_bytes(&self, device: &Device, bytes: &[u8]) {
        let (row, mut floats) = (self.values() / ROWS, vec![0.0; self.values()]);
        for (from, to) in bytes.chunks_exact(row).zip(floats.chunks_exact_mut(row)) {
            IMAGENET.apply(from, self.frames as usize, self.size, to);
        }
        self.check(device, &floats, Some(bytes));
    }
}

#[test]
fn pictures_are_the_hosts() {
    let cases = [
        Case { frames: 1, size: Size::new(48, 32), patch: patch(1, 16, 16) },
        Case { frames: 4, size: Size::new(16, 24), patch: patch(2, 8, 8) },
        // Tokens that cut cells, and cells that do not fill the frame.
        Case { frames: 1, size: Size::new(28, 42), patch: patch(1, 14, 14) },
        Case { frames: 2, size: Size::new(20, 12), patch: patch(1, 4, 4) },
    ];
    on_each_device(|device| {
        for case in cases {
            case.check(device, &normal(23, case.values()), None);
            case.check_bytes(device, &bytes(24, case.values()));
            case.check_bytes(device, &photo(6, ROWS as u32 * case.frames, case.size));
        }
    });
}

/// Of channels with gradients of the same length, the first one's direction counts.
#[test]
fn the_first_of_equal_channels_counts() {
    let case = Case { frames: 1, size: Size::new(24, 16), patch: patch(1, 8, 8) };
    let area = case.size.area();
    let ramp = |i: usize| {
        let (c, x, y) = (i / area % 3, (i % 24) as f32, (i / 24 % 16) as f32);
        [x + 3.0 * y, 3.0 * x + y, 0.0][c]
    };
    let floats: Vec<f32> = (0..case.values()).map(ramp).collect();
    on_each_device(|device| case.check(device, &floats, None));
}
