//! Made-up batches, and what the tests of devices share.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use tubelet_augment::{Recipe, Stage, builtin};
use tubelet_core::layout::BatchLayout;
use tubelet_core::{
    BatchKey, BatchRef, Draw, Heap, HostBuf, HostMemory, RowMut, SampleId, SampleKey,
};
use tubelet_gpu::Gpu;

use crate::model::Geometry;

#[path = "../../../gpu/src/tests/skip.rs"]
mod skip;

/// The GPU, `None` where there is none and that is allowed.
pub(super) fn gpu() -> Option<Gpu> {
    skip::or_skip("GPU", tubelet_gpu::REQUIRE_GPU, Gpu::probe())
}

/// Stage `stage` of the built-in recipe `name`, with changes.
pub(super) fn recipe(name: &str, stage: Stage, set: &[&str]) -> Recipe {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    builtin::recipe(name, &set).expect("built in").stage(stage).expect("checked")
}

/// A batch of waves, with drawn masks.
pub(super) struct MadeUp {
    pub(super) recipe: Recipe,
    pub(super) rows: usize,
    pub(super) layout: BatchLayout,
    pub(super) memory: HostBuf,
}

impl MadeUp {
    pub(super) fn new(recipe: &Recipe) -> Self {
        let (rows, layout) = (4, recipe.rows_layout(4));
        let memory = Heap.allocate(layout.bytes).expect("small");
        for n in 0..rows {
            // SAFETY: the buffer has the layout's bytes, and one row is written at a time.
            let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), n) };
            for (i, byte) in row.pixels(0).iter_mut().enumerate() {
                let wave = ((i / 3) as f64 * 0.031 + n as f64).sin() * 90.0 + (i % 3 * 20) as f64;
                *byte = (110.0 + wave) as u8 ^ (i * 7 % 5) as u8;
            }
            let key = SampleKey { seed: 1, epoch: 0, sample: SampleId(n as u64), repeat: 0 };
            let rng = &mut key.view_rng(Draw::Mask, 0);
            if let Some(bytes) = row.mask(0) {
                recipe.mask().draw(recipe.grid(), rng).expect("a mask").write_bytes(bytes);
            }
        }
        Self { recipe: recipe.clone(), rows, layout, memory }
    }

    pub(super) fn batch(&self) -> BatchRef<'_> {
        let key = BatchKey { seed: 3, epoch: 1, number: 2, first_row: 0 };
        BatchRef::new(&self.layout, self.memory.as_slice(), self.rows).keyed(key)
    }

    pub(super) fn geometry(&self) -> Geometry {
        let (view, patch) = (&self.layout.views[0], self.recipe.patch());
        Geometry {
            input: [view.frames, view.size.height, view.size.width].map(|n| n as usize),
            patch: [patch.t, patch.h, patch.w].map(|n| n as usize),
            patch_3d: true,
        }
    }
}

/// Equal shapes, and numbers at most `most` apart.
#[track_caller]
pub(super) fn close<B: Backend>(want: Tensor<B, 2>, got: Tensor<B, 2>, most: f32, what: &str) {
    assert_eq!(want.dims(), got.dims(), "{what}");
    let [want, got] = [want, got].map(|t| crate::params::values(&t));
    assert!(!want.is_empty(), "{what}");
    let far = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < most, "{what}: {far}");
}
