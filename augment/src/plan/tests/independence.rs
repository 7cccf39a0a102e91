//! What is drawn for one purpose says nothing about what is drawn for another, nor for another
//! sample.

use tubelet_core::BatchKey;

use super::*;

const SAMPLES: u64 = 10_000;

/// Correlations of all columns, and of each column with every other of the next sample, within four
/// standard errors of 0; one of n numbers is 1/√n.
fn are_independent(names: &[&str], draw: impl Fn(u64) -> Vec<f64>) {
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for sample in 0..SAMPLES {
        let values = draw(sample);
        assert_eq!(values.len(), names.len());
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let bound = 4.0 / (SAMPLES as f64).sqrt();
    for (a, name) in names.iter().enumerate() {
        for (b, other) in names.iter().enumerate() {
            if b < a {
                let r = correlation(&columns[a], &columns[b]);
                assert!(r.abs() < bound, "{name}, {other}: {r}");
            }
            let last = columns[a].len() - 1;
            let r = correlation(&columns[a][..last], &columns[b][1..]);
            assert!(r.abs() < bound, "{name}, the next sample's {other}: {r}");
        }
    }
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let product = |x: &[f64], mx: f64, y: &[f64], my: f64| {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum::<f64>()
    };
    let r = product(a, ma, b, mb) / (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt();
    assert!(r.is_finite(), "a column never changes");
    r
}

fn width(view: &ViewPlan) -> f64 {
    match view.geometry {
        Geometry::CropThenResize { region } => f64::from(region.width),
        Geometry::ResizeThenCrop { .. } => f64::NAN,
    }
}

fn blur(view: &ViewPlan) -> f64 {
    match view.colors.as_ref().map(|c| c.ops[0]) {
        Some(ColorOp::GaussianBlur(sigma)) => sigma,
        other => panic!("{other:?}"),
    }
}

fn hidden(view: &ViewPlan, token: usize) -> f64 {
    f64::from(u8::from(view.mask.as_ref().expect("masked").as_slice()[token]))
}

#[test]
fn purposes_are_independent() {
    let set = r#"pretrain.augment={blur={probability=1.0}}"#;
    let recipe = recipe("mae-tiny", Stage::Pretrain, &[set, MULTI_CROP]);
    let names = ["crop", "second crop", "flip", "colour", "mask", "second mask"];
    are_independent(&names, |sample| {
        let views = recipe.plan(key(sample), &photo()).expect("has a frame").views;
        let (first, second) = (&views[0], &views[1]);
        let flip = f64::from(u8::from(first.flip));
        vec![width(first), width(second), flip, blur(first), hidden(first, 9), hidden(second, 9)]
    });
}

/// All that is drawn for a clip: what only fine-tuning draws beside what only pre-training does.
#[test]
fn purposes_of_a_clip_are_independent() {
    let augment = r#"finetune.augment={blur={probability=1.0}, mixup=0.8,
        erase={probability=1.0, mode="pixel"}}"#;
    let [few, less] = ["finetune", "pretrain"].map(small_clips);
    let finetune = recipe("mae-st-vit-l", Stage::Finetune, &[&few, augment]);
    let pretrain = recipe("mae-st-vit-l", Stage::Pretrain, &[&less, "pretrain.mask.ratio=0.5"]);
    let mix = finetune.mix().expect("mixes");
    let names = ["frames", "crop", "flip", "colour", "erased box", "noise", "mix", "mask"];
    are_independent(&names, |sample| {
        let plan = finetune.plan(key(sample), &video()).expect("has frames");
        let masked = pretrain.plan(key(sample), &video()).expect("has frames");
        let view = &plan.views[0];
        assert_eq!(view.frames, masked.views[0].frames);
        let erase = plan.erase.as_ref().expect("erased");
        // The numbers of batches are those of samples here: the same counter, another purpose.
        let batch =
            BatchKey { seed: key(0).seed, epoch: key(0).epoch, number: sample, first_row: 0 };
        vec![
            f64::from(view.frames[0]),
            width(view),
            f64::from(u8::from(view.flip)),
            blur(view),
            f64::from(erase.boxes[0].x),
            (erase.noise >> 32) as f64,
            mix.draw(batch, 0, 1, finetune.size())[0].lambda(),
            hidden(&masked.views[0], 9),
        ]
    });
}
