//! Mean cost of drawing a mask, every family at its published setting.

use criterion::{Criterion, criterion_group, criterion_main};
use tubelet_augment::mask::{BlockGroup, CountRule, IbotShape, MaskFile, MvmMode, mvm};
use tubelet_augment::policy::MaskPolicy;
use tubelet_core::{Draw, PatchGrid, PatchSize, SampleRng};

/// Tokens of a picture.
const IMAGE: (PatchGrid, PatchSize) = (PatchGrid::new(1, 14, 14), PatchSize { t: 1, h: 16, w: 16 });
/// Tokens of a clip of 16 frames.
const CLIP: (PatchGrid, PatchSize) = (PatchGrid::new(8, 14, 14), PatchSize { t: 2, h: 16, w: 16 });
/// Tokens of a picture of 192 pixels for a Swin transformer.
const FINE: (PatchGrid, PatchSize) = (PatchGrid::new(1, 48, 48), PatchSize { t: 1, h: 4, w: 4 });
/// Tokens of a clip where none joins two frames.
const FRAMES: (PatchGrid, PatchSize) = (PatchGrid::new(4, 7, 7), PatchSize { t: 1, h: 32, w: 32 });

const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];

fn block(ratio: Option<f64>, count: Option<u32>, min: Option<u32>) -> MaskFile {
    let (max, unit) = (None, None);
    MaskFile::Block { ratio, count, min, max, aspect: ASPECT, tries: 10, unit }
}

fn ibot(shape: IbotShape) -> MaskFile {
    let (ratio, variance) = (vec![0.0, 0.3], vec![0.0, 0.2]);
    MaskFile::Ibot {
        ratio,
        variance,
        shape,
        min: None,
        aspect: ASPECT,
        tries: 10,
        pred_start_epoch: 0,
    }
}

fn group(blocks: u32, share: f64) -> BlockGroup {
    let (time, aspect) = ([1.0; 2], [0.75, 1.5]);
    BlockGroup { blocks, scale: [share; 2], time, aspect, context: 1.0 }
}

/// Families with one count for all draws: below 20 µs.
fn exact() -> Vec<(&'static str, (PatchGrid, PatchSize), MaskFile)> {
    let (floor, ceil) = (CountRule::KeepFloor, CountRule::MaskedCeil);
    vec![
        ("random, picture", IMAGE, MaskFile::Random { ratio: 0.75, count: floor }),
        ("random, clip", CLIP, MaskFile::Random { ratio: 0.9, count: floor }),
        ("random, OmniMAE", CLIP, MaskFile::Random { ratio: 0.9, count: CountRule::MaskedFloor }),
        ("tube", CLIP, MaskFile::Tube { ratio: 0.9 }),
        ("frame, MaskFeat", CLIP, MaskFile::Frame { ratio: 0.4, count: CountRule::MaskedRound }),
        ("frame, OmniMAE", CLIP, MaskFile::Frame { ratio: 0.9, count: CountRule::MaskedFloor }),
        ("grid, SimMIM ViT", IMAGE, MaskFile::Grid { unit: 32, ratio: 0.6, count: ceil }),
        ("grid, SimMIM Swin", FINE, MaskFile::Grid { unit: 32, ratio: 0.6, count: ceil }),
        ("grid, ConvNeXt V2", IMAGE, MaskFile::Grid { unit: 32, ratio: 0.6, count: floor }),
        ("multi-fold", IMAGE, MaskFile::MultiFold { ratio: 0.75, folds: 3, count: floor }),
        ("halves", IMAGE, MaskFile::Halves {}),
        ("running-cell", CLIP, MaskFile::RunningCell { ratio: 0.9, decoder: 0.5 }),
        ("drop-token", CLIP, MaskFile::DropToken { keep: 0.5 }),
    ]
}

/// Families that draw rectangles or boxes: below 200 µs.
fn blocks() -> Vec<(&'static str, (PatchGrid, PatchSize), MaskFile)> {
    let topped = MaskFile::BlockExact {
        ratio: 0.75,
        blocks: 120,
        min: 16,
        max: None,
        aspect: ASPECT,
        roll: 3,
    };
    let cube =
        MaskFile::Cube { ratio: 0.4, unit: 32, min: None, max: None, aspect: ASPECT, tries: 100 };
    let tube = MaskFile::Block {
        ratio: Some(0.4),
        count: None,
        min: None,
        max: None,
        aspect: ASPECT,
        tries: 10,
        unit: Some(32),
    };
    let groups = vec![group(8, 0.15), group(2, 0.7)];
    let modes = vec![MvmMode::Random, MvmMode::Block];
    vec![
        ("block, BEiT", IMAGE, block(None, Some(75), Some(16))),
        ("block, MaskFeat", IMAGE, block(Some(0.4), None, None)),
        ("block tube, MaskFeat", CLIP, tube),
        ("block-exact", IMAGE, topped),
        ("ibot, block", IMAGE, ibot(IbotShape::Block)),
        ("ibot, random", IMAGE, ibot(IbotShape::Random)),
        ("cube", CLIP, cube),
        ("multi-block", CLIP, MaskFile::MultiBlock { groups }),
        ("mvm", FRAMES, MaskFile::Mvm { modes, p: 0.15 }),
    ]
}

fn masks(criterion: &mut Criterion) {
    for (name, families) in [("exact count", exact()), ("blocks", blocks())] {
        let mut group = criterion.benchmark_group(name);
        for (name, (grid, patch), file) in families {
            let policy = MaskPolicy::resolve(&file, grid, patch).expect("a published setting");
            // Every draw is another sample's: the mean is over them.
            let mut sample = 0;
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    sample += 1;
                    let mut rng = SampleRng::new(1, 0, sample, 0, Draw::Mask);
                    policy.draw(grid, &mut rng)
                });
            });
        }
    }
}

/// The slots that a model attends to, of a clip and 32 words, with scores without preference.
fn attended(criterion: &mut Criterion) {
    let (grid, _) = FRAMES;
    let slots = grid.t as usize * (1 + grid.plane());
    let scores: Vec<f32> = (0..slots + 32)
        .map(|slot| f32::from(u8::from(slot >= slots || slot % (1 + grid.plane()) > 0)))
        .collect();
    let mut sample = 0;
    criterion.bench_function("blocks/mvm, attended", |bencher| {
        bencher.iter(|| {
            sample += 1;
            let mut rng = SampleRng::new(1, 0, sample, 0, Draw::Mask);
            mvm::attended(grid, &scores, 0.15, &mut rng)
        });
    });
}

criterion_group!(benches, masks, attended);
criterion_main!(benches);
