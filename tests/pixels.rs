//! How far `pixels = "fast"` is from `pixels = "exact"`: on media made here, and on the photos and
//! clips of `../shared` where they are.

use std::path::{Path, PathBuf};

use tubelet_augment::{Pixels, Recipe, Scratch, Stage, builtin};
use tubelet_core::{
    BatchRef, Clip, Heap, HostMemory, PixelForm, RowMut, SampleId, SampleKey, Size,
};
use tubelet_formats::{FrameRequest, decoder};

use crate::media;

/// Largest mean absolute difference in grey levels, and smallest PSNR in dB.
const BOUNDS: (f64, f64) = (1.0, 40.0);

/// Sums over all bytes that were compared.
#[derive(Default)]
struct Difference {
    bytes: u64,
    absolute: u64,
    squared: u64,
    /// Media that came as planes.
    planes: u32,
    worst: (f64, f64, String),
}

impl Difference {
    /// Adds one row, decoded and rendered both ways.
    fn add(&mut self, name: &str, recipe: &Recipe, encoded: &[u8], sample: u64) {
        let (mut decoder, mut clip) = (decoder(), Clip::new());
        let info = decoder.probe(encoded).unwrap_or_else(|e| panic!("{name}: {e}"));
        let key = SampleKey { seed: 11, epoch: 0, sample: SampleId(sample), repeat: 0 };
        let plan = recipe.plan(key, &info).expect("has a frame");
        let mut row = |planes: bool| {
            let want = FrameRequest { frames: plan.frames(), region: None, planes };
            decoder
                .decode(encoded, &info, &want, &mut clip)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            self.planes += u32::from(clip.form() != PixelForm::Rgb);
            let layout = recipe.layout_of(0, 1);
            let memory = Heap.allocate(layout.bytes).expect("small");
            // SAFETY: the buffer has the layout's bytes, the layout one row, and nothing else refers
            // to it.
            let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), 0) };
            recipe.render(&plan, &clip, &mut Scratch::default(), &mut row).expect("has the frames");
            BatchRef::new(&layout, memory.as_slice(), 1).pixels(0).to_vec()
        };
        let (exact, fast) = (row(false), row(true));
        let own = exact.iter().zip(&fast).fold([0; 2], |[sum, squares], (a, b)| {
            let d = u64::from(a.abs_diff(*b));
            [sum + d, squares + d * d]
        });
        let bytes = exact.len() as u64;
        self.bytes += bytes;
        self.absolute += own[0];
        self.squared += own[1];
        let (mean, db) = (own[0] as f64 / bytes as f64, psnr(own[1], bytes));
        if self.worst.2.is_empty() || db < self.worst.1 {
            self.worst = (mean, db, name.to_owned());
        }
    }

    /// Prints both figures and holds them to the bounds.
    fn check(&self, what: &str) {
        let (mean, db) = (self.absolute as f64 / self.bytes as f64, psnr(self.squared, self.bytes));
        let (worst_mean, worst_db, name) = &self.worst;
        eprintln!(
            "{what}: mean absolute difference {mean:.3} grey levels, PSNR {db:.2} dB; \
             worst: {worst_mean:.3}, {worst_db:.2} dB ({name})"
        );
        assert!(self.planes > 0, "{what}: nothing came as planes");
        assert!(mean <= BOUNDS.0 && db >= BOUNDS.1, "{what}: {mean:.3} grey levels, {db:.2} dB");
    }
}

fn psnr(squared: u64, bytes: u64) -> f64 {
    10.0 * (255.0 * 255.0 * bytes as f64 / (squared as f64).max(1.0)).log10()
}

fn recipe(name: &str) -> Recipe {
    let file = builtin::recipe(name, &[]).expect("built in");
    let recipe = file.stage(Stage::Pretrain).expect("checked");
    assert_eq!(recipe.pixels(), Pixels::Fast, "{name}: the default of pre-training");
    recipe
}

#[test]
fn fast_pixels_are_near_the_exact_ones() {
    let recipes = ["mae-vit-b", "mae-tiny"].map(recipe);
    let mut pictures = Difference::default();
    for seed in 0..6 {
        let bytes = media::jpeg(Size::new(120 + 90 * seed, 400 - 50 * seed), seed);
        for (n, recipe) in recipes.iter().enumerate() {
            pictures.add(
                &format!("picture {seed}"),
                recipe,
                &bytes,
                u64::from(seed) * 2 + n as u64,
            );
        }
    }
    pictures.check("pictures made here");
    // A filter of Pillow's and torch's interpolation, which resizes before it crops.
    for name in ["videomae-vit-b-k400", "mae-st-vit-l", "maskfeat-tiny"] {
        let recipe = recipe(name);
        let mut clips = Difference::default();
        for seed in 0..3 {
            let bytes = media::video(Size::new(160 + 66 * seed, 120 + 50 * seed), 24, seed);
            clips.add(&format!("clip {seed}"), &recipe, &bytes, seed.into());
        }
        clips.check(&format!("clips made here, {name}"));
    }
}

#[test]
fn fast_pixels_of_photos_and_clips() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    for (folder, name) in [
        ("imagenet-sample/val", "mae-vit-b"),
        ("imagenet-sample/train", "mae-vit-b"),
        ("kinetics-like/val", "videomae-vit-b-k400"),
        ("kinetics-like/val", "mae-st-vit-l"),
        ("ssv2-like", "videomae-vit-b-ssv2"),
        ("videos", "videomae-vit-b-k400"),
    ] {
        let files = files(&shared.join(folder));
        let (recipe, mut all) = (recipe(name), Difference::default());
        for (n, file) in files.iter().enumerate().step_by(files.len() / 24 + 1) {
            let bytes = std::fs::read(file).expect("readable");
            all.add(&file.display().to_string(), &recipe, &bytes, n as u64);
        }
        if !files.is_empty() {
            all.check(&format!("{folder}, {name}"));
        }
    }
}

/// Media below `folder`, sorted; none where it is absent.
fn files(folder: &Path) -> Vec<PathBuf> {
    let known = ["JPEG", "jpg", "mp4", "mkv", "webm", "avi"];
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| known.iter().any(|k| e == *k)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
