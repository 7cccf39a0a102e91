//! Training end to end on a handful of pictures, and gradients against finite differences.

use std::path::Path;

use tubelet_augment::builtin;
use tubelet_formats::OpenOptions;
use tubelet_trainer::burn::backend::{Autodiff, Flex};
use tubelet_trainer::burn::tensor::{Tensor, TensorData};
use tubelet_trainer::loss::mse;
use tubelet_trainer::model::{
    Geometry, Mae, MaeSt, MaeStForm, MaskFeat, MaskedTokens, VideoMae, Width, patch_values,
    patchify, patchify_rows,
};
use tubelet_trainer::nn::{Drops, select_rows};
use tubelet_trainer::params::{Params, values};
use tubelet_trainer::run::Metric;
use tubelet_trainer::weights::Weights;
use tubelet_trainer::{
    Device, FinetuneOptions, Precision, RunOptions, TrainErrorKind, checkpoint, finetune, init,
    pretrain,
};

type Cpu = Autodiff<Flex>;

const SMALL: [&str; 9] = [
    "model.dim=32",
    "model.depth=2",
    "model.decoder_dim=16",
    "model.decoder_depth=1",
    "pretrain.batch_size=4",
    "pretrain.train.epochs=6",
    "finetune.batch_size=4",
    "finetune.train.epochs=3",
    "finetune.train.ema=0.9",
];

#[test]
fn a_resumed_pretraining_run_repeats_the_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    pictures(&folder.path().join("data"));
    let run = |name: &str, steps: u64, resume: bool| {
        let mut options = options(folder.path(), name);
        (options.max_steps, options.resume) = (Some(steps), resume);
        pretrain(&options).expect("trains").metrics
    };
    let whole = run("whole", 6, false);
    run("parts", 3, false);
    let parts = run("parts", 6, true);
    // The first steps come from the file of metrics, whose decimal numbers are read to f32 accuracy.
    let losses = |m: &[Metric]| -> Vec<(u64, f32, f32)> {
        m.iter().map(|m| (m.step, m.loss as f32, m.lr as f32)).collect()
    };
    assert_eq!(whole.len(), 6);
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(whole[3..], parts[3..].iter().zip(&whole[3..]).map(same_speed).collect::<Vec<_>>());
    let weights = |name: &str| checkpoint::read_any(&folder.path().join(name)).expect("reads");
    assert_eq!(weights("whole"), weights("parts"));
    assert!(pretrain(&options(folder.path(), "whole")).is_err(), "a run is not overwritten");
}

/// Losses are read when a step is over, so the step with the first bad one has moved the weights.
#[test]
fn a_run_that_diverges_stops_and_keeps_no_bad_step() {
    let folder = tempfile::tempdir().expect("temporary folder");
    pictures(&folder.path().join("data"));
    let mut options = options(folder.path(), "diverges");
    options.checkpoint_every = 1;
    let set = ["pretrain.train.base_lr=1e25", "pretrain.train.warmup_epochs=0"].map(str::to_owned);
    let small = SMALL.map(str::to_owned);
    options.recipe =
        builtin::recipe("mae-tiny", &[small.as_slice(), &set].concat()).expect("built in");
    let error = pretrain(&options).expect_err("diverges");
    assert!(matches!(error.kind, TrainErrorKind::Diverged(_)), "{error}");
    let metrics = std::fs::read_to_string(options.out.join("metrics.jsonl")).expect("metrics");
    let metrics: Vec<Metric> =
        metrics.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert!(!metrics.is_empty() && metrics.iter().all(|m| m.loss.is_finite()), "{metrics:?}");
    let (state, _, _) = checkpoint::load_latest(&options.out).expect("reads").expect("kept");
    assert_eq!(state.step, metrics.len() as u64);
    assert_eq!(error.place, format!("step {}", state.step));
}

/// Products in bfloat16 follow those in f32; weights and the optimiser's state stay f32.
#[test]
fn products_in_bf16_train_as_f32_does() {
    let folder = tempfile::tempdir().expect("temporary folder");
    pictures(&folder.path().join("data"));
    let run = |name: &str, precision: Precision| {
        let mut options = options(folder.path(), name);
        (options.max_steps, options.precision) = (Some(6), precision);
        pretrain(&options).expect("trains").metrics
    };
    let (full, low) = (run("f32", Precision::F32), run("bf16", Precision::Bf16));
    let mut differ = false;
    for (full, low) in full.iter().zip(&low) {
        assert!((full.loss - low.loss).abs() < 0.02 * full.loss, "{full:?} {low:?}");
        assert!((full.grad_norm - low.grad_norm).abs() < 0.05 * full.grad_norm, "{full:?} {low:?}");
        differ |= full.loss != low.loss;
    }
    assert!(differ, "bf16 was not used");
    let weights = checkpoint::read_any(&folder.path().join("bf16")).expect("reads");
    let rounded = |v: &f32| v.to_bits() & 0xffff == 0;
    let some = weights.require("norm.weight").expect("there").data.iter().all(rounded);
    assert!(!some, "weights move in f32");
}

#[test]
fn finetuning_starts_from_a_pretraining_run_and_resumes() {
    let folder = tempfile::tempdir().expect("temporary folder");
    pictures(&folder.path().join("data"));
    let mut first = options(folder.path(), "pretrained");
    first.max_steps = Some(2);
    pretrain(&first).expect("trains");
    let run = |name: &str, steps: u64, resume: bool| {
        let mut run = options(folder.path(), name);
        (run.max_steps, run.resume) = (Some(steps), resume);
        let data = (run.data.clone(), OpenOptions::default());
        let init = Some(folder.path().join("pretrained"));
        finetune(&FinetuneOptions { run, val: Some(data), validate_every: 1, init })
            .expect("trains")
    };
    let whole = run("whole", 4, false);
    let report = whole.init.as_ref().expect("initialised");
    assert_eq!(report.missing, ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]);
    assert!(report.mismatched.is_empty() && report.unexpected.iter().any(|n| n == "mask_token"));
    run("parts", 2, false);
    let parts = run("parts", 4, true);
    let losses = |s: &tubelet_trainer::finetune::FinetuneSummary| -> Vec<f64> {
        s.metrics[2..].iter().map(|m| m.loss).collect()
    };
    assert_eq!(losses(&whole), losses(&parts));
    let accuracy = whole.accuracy.expect("evaluated");
    assert_eq!(accuracy.samples, 12);
    assert_eq!(Some(accuracy), parts.accuracy);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let picture = Geometry::new([1, 8, 8], [1, 4, 4], false).expect("tiles");
    let clip = Geometry::new([4, 8, 8], [2, 4, 4], true).expect("tiles");
    let (encoder, decoder) =
        (Width { dim: 16, depth: 1, heads: 2 }, Width { dim: 16, depth: 1, heads: 2 });
    let (mlp_ratio, target_dim) = (2.0, 5);
    let networks = [
        Network::Mae(Mae { geometry: picture, encoder, decoder, mlp_ratio, target_dim }),
        Network::VideoMae(VideoMae { geometry: clip, encoder, decoder, mlp_ratio, target_dim }),
        Network::MaeSt(MaeSt {
            form: MaeStForm::MaeSt,
            geometry: clip,
            encoder,
            decoder,
            mlp_ratio,
            target_dim,
        }),
        Network::MaeSt(MaeSt {
            form: MaeStForm::SlowFast,
            geometry: clip,
            encoder,
            decoder,
            mlp_ratio,
            target_dim,
        }),
        Network::MaskFeat(MaskFeat { geometry: picture, encoder, mlp_ratio, target_dim }),
    ];
    for network in &networks {
        check_gradients(network);
    }
}

/// The first metric with the second's timings, which no two runs share.
fn same_speed((metric, other): (&Metric, &Metric)) -> Metric {
    Metric {
        step_s: other.step_s,
        rows_per_s: other.rows_per_s,
        data_wait: other.data_wait,
        decoded_per_wanted: other.decoded_per_wanted,
        by_references: other.by_references,
        ..metric.clone()
    }
}

enum Network {
    Mae(Mae),
    VideoMae(VideoMae),
    MaeSt(MaeSt),
    MaskFeat(MaskFeat),
}

impl Network {
    fn specs(&self) -> Vec<init::ParamSpec> {
        match self {
            Self::Mae(m) => m.specs(),
            Self::VideoMae(m) => m.specs(),
            Self::MaeSt(m) => m.specs(),
            Self::MaskFeat(m) => m.specs(),
        }
    }

    fn geometry(&self) -> Geometry {
        match self {
            Self::Mae(m) => m.geometry,
            Self::VideoMae(m) => m.geometry,
            Self::MaeSt(m) => m.geometry,
            Self::MaskFeat(m) => m.geometry,
        }
    }

    fn loss(&self, weights: &Weights) -> (Params<Cpu>, Tensor<Cpu, 1>) {
        let geometry = self.geometry();
        let (rows, count) = (2, geometry.tokens());
        let mask: Vec<bool> = (0..rows * count).map(|i| i % 2 == (i / count) % 2).collect();
        let tokens = MaskedTokens::from_mask(&mask, rows, count).expect("fits");
        let pixels: Vec<f32> =
            (0..rows * geometry.sample_values()).map(|i| (i as f32 * 0.37).sin()).collect();
        let patches = match self {
            Self::MaskFeat(_) => patchify(&pixels, rows, &geometry),
            _ => patchify_rows(&pixels, rows, &geometry, &tokens.visible),
        };
        let device = Default::default();
        let params = Params::<Cpu>::new(&self.specs(), weights, &device).expect("complete");
        let x = matrix(patches, patch_values(&geometry));
        let pred = match self {
            Self::Mae(m) => {
                let x = m.encode(&params, x, &tokens).expect("runs");
                let x = m.decode(&params, x, &tokens).expect("runs");
                m.predict(&params, select_rows(x, &tokens.masked)).expect("runs")
            }
            Self::VideoMae(m) => {
                let x = m.encode(&params, x, &tokens).expect("runs");
                let x = m.decode(&params, x, &tokens).expect("runs");
                m.predict(&params, x).expect("runs")
            }
            Self::MaeSt(m) => {
                let x = m.encode(&params, x, &tokens).expect("runs");
                let x = m.decode(&params, x, &tokens).expect("runs");
                m.predict(&params, select_rows(x, &tokens.masked)).expect("runs")
            }
            Self::MaskFeat(m) => {
                m.predict_masked(&params, x, &tokens, &mut Drops::none()).expect("runs")
            }
        };
        let targets = (0..tokens.masked.len() * 5).map(|i| (i as f32 * 0.71).cos()).collect();
        (params, mse(pred, matrix(targets, 5)))
    }
}

/// Moves every trained parameter along its own gradient and compares the change of the loss with
/// what the gradient promises.
fn check_gradients(network: &Network) {
    let weights = init::draw(&network.specs(), 3);
    let (params, loss) = network.loss(&weights);
    let mut tape = loss.backward();
    let grads = params.gradients(&mut tape);
    for spec in network.specs().iter().filter(|spec| spec.trainable) {
        let grad = values(grads.get(&spec.name).unwrap_or_else(|| panic!("{}", spec.name)));
        let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if norm < 1e-3 {
            continue; // Nothing to see in f32: the bias of a key moves no attention at all.
        }
        let step = 2e-3 / norm.max(1.0);
        let moved = |sign: f64| {
            let mut weights = weights.clone();
            let mut array = weights.require(&spec.name).expect("there").clone();
            for (value, g) in array.data.iter_mut().zip(&grad) {
                *value += (sign * step * f64::from(*g) / norm) as f32;
            }
            weights.insert(spec.name.clone(), array);
            f64::from(values(&network.loss(&weights).1)[0])
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        let error = (slope - norm).abs() / norm;
        assert!(error < 0.02 + 1e-3 / norm, "{}: {slope} against {norm}", spec.name);
    }
}

fn matrix(values: Vec<f32>, columns: usize) -> Tensor<Cpu, 2> {
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), &Default::default())
}

/// Two classes of six pictures.
fn pictures(root: &Path) {
    for (class, name) in ["apples", "pears"].into_iter().enumerate() {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).expect("makes a folder");
        for i in 0..6u32 {
            let picture = image::RgbImage::from_fn(72, 72, |x, y| {
                let wave = if class == 0 { x } else { y } * (i + 3) % 256;
                image::Rgb([wave as u8, (x + y) as u8, (i * 40) as u8])
            });
            picture.save(folder.join(format!("{i}.png"))).expect("writes a picture");
        }
    }
}

fn options(folder: &Path, run: &str) -> RunOptions {
    let overrides = SMALL.map(str::to_owned);
    RunOptions {
        recipe: builtin::recipe("mae-tiny", &overrides).expect("built in"),
        data: folder.join("data"),
        open: OpenOptions::default(),
        out: folder.join(run),
        resume: false,
        seed: 11,
        workers: 2,
        makers: tubelet_loader::HostMakers::shared(),
        max_steps: None,
        checkpoint_every: 0,
        device: Device::Cpu,
        precision: Precision::F32,
        progress: false,
    }
}
