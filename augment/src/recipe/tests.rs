//! What a recipe may not say about views and augmentation.

use crate::builtin;
use crate::recipe::RecipeFile;

fn load(recipe: &str, set: &[&str]) -> Result<RecipeFile, String> {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    builtin::recipe(recipe, &set).map_err(|e| e.to_string())
}

/// Each is refused with the key, the value and what would be valid.
#[test]
fn impossible_augmentation_is_refused() {
    let cases: &[(&str, &[&str])] = &[
        ("finetune.augment.randaugment=\"rand-m9-x3\"", &["randaugment", "x3", "known:"]),
        ("finetune.augment.randaugment=\"auto\"", &["auto", "known:"]),
        ("finetune.augment.erase.probability=2.0", &["erase.probability = 2", "0 to 1"]),
        ("finetune.augment.erase.mode=\"black\"", &["black", "const"]),
        ("finetune.augment.erase.count=0", &["erase.count = 0", "1 to"]),
        ("finetune.augment.erase.area=[0.5, 0.1]", &["erase.area", "smallest <= largest"]),
        ("finetune.augment.mixup=-1.0", &["augment.mixup = -1.0", "0 (none) or more"]),
        ("finetune.augment.mode=\"half\"", &["half", "batch"]),
        ("finetune.augment.mix_group=7", &["mix_group = 7", "divisor of batch_size 32"]),
        ("finetune.augment.smoothing=1.0", &["smoothing = 1.0", "below 1"]),
        ("finetune.augment.colour=1", &["colour"]),
        ("finetune.augment.grayscale=-0.1", &["grayscale = -0.1", "0 to 1"]),
        ("finetune.augment.color_jitter={hue=0.7}", &["color_jitter.hue = 0.7", "0 to 0.5"]),
        ("finetune.augment.blur={probability=1.0, sigma=[2.0, 1.0]}", &["blur.sigma", "<="]),
        ("finetune.augment.solarize={probability=1.0, threshold=300}", &["300", "0 to 256"]),
        ("finetune.augment.place=\"middle\"", &["middle", "source"]),
        ("pretrain.augment.mixup=0.8", &["pretrain.augment.mixup", "only for finetune"]),
        ("pretrain.augment.smoothing=0.1", &["smoothing", "only beside mixup"]),
        ("pretrain.augment.fill=[1, 2, 3]", &["augment.fill", "only beside a colour operation"]),
        ("eval.augment.grayscale=1.0", &["eval.augment", "changes no pixels"]),
    ];
    for (set, says) in cases {
        let error = load("mae-vit-b", &[set]).expect_err(set);
        for word in *says {
            assert!(error.contains(word), "{set}: `{word}` is not in: {error}");
        }
    }
}

#[test]
fn impossible_clips_are_refused() {
    let cases = [
        ("pretrain.clip.step=0", "pretrain.clip.step = 0: 1 to 10000"),
        ("pretrain.clip.step=4294967295", "clip.step = 4294967295"),
        ("finetune.clip.step=0", "finetune.clip.step = 0"),
        ("eval.clip.step=0", "eval.clip.step = 0"),
        ("eval.clip.clips=0", "clip.clips = 0: 1 to 1000"),
        ("pretrain.clip.frames=4294967294", "clip.frames = 4294967294: 1 to 4096"),
        ("pretrain.clip.frames=15", "not a multiple of the patch's 2 frames: 14 or 16"),
        (
            "pretrain.clip={rule=\"slowfast\", frames=16, step=4, target_fps=0}",
            "clip.target_fps = 0: above 0",
        ),
        (
            "pretrain.clip={rule=\"slowfast\", frames=16, step=4, target_fps=nan}",
            "clip.target_fps = NaN",
        ),
        ("pretrain.share_frames=true", "share_frames = true: for videos with repeats"),
        ("pretrain.crop.size=230", "crop.size = 230: not a multiple of the patch's 16 rows"),
        ("patch=[2, 0, 16]", "patch = [2, 0, 16]: at least 1"),
        ("pretrain.batch_size=4000000000", "batch_size = 4000000000: 1 to 1048576"),
        ("method=\"foo\"", "method: unknown variant `foo`, expected one of `beit`"),
        ("finetune.crop.rule=\"foo\"", "finetune.crop"),
    ];
    for (set, says) in cases {
        let error = load("videomae-vit-b-k400", &[set]).expect_err(set);
        assert!(error.contains(says), "{set}: {error}");
    }
}

/// The line in the text that was written, and the key.
#[test]
fn errors_point_into_the_text() {
    let text = builtin::text("mae-vit-b").expect("built in");
    let wrong = text.replace("normalise = \"imagenet\"", "normalise = \"imagenot\"");
    let line = 1 + text.lines().position(|l| l.starts_with("normalise")).expect("a line");
    let error = RecipeFile::parse("my.toml", &wrong, &[]).expect_err("unknown").to_string();
    assert!(error.contains(&format!("normalise: TOML parse error at line {line}")), "{error}");
    assert!(error.contains("imagenot") && error.contains("slowfast"), "{error}");
}

#[test]
fn impossible_crops_are_refused() {
    let cases = [
        (r#"{rule="short-side-jitter", size=224, min=200, max=256}"#, "crop.size 224 <= min"),
        (r#"{rule="short-side-jitter", size=224, min=300, max=256}"#, "[300, 256]"),
        (r#"{rule="random-resized-once", size=224, scale=[0.0, 1.0]}"#, "0 < smallest"),
        (r#"{rule="multi-scale", size=224, places="six"}"#, "six"),
        (r#"{rule="along-slowfast", size=224, crops=3}"#, "several crops are for eval"),
        (r#"{rule="along-slowfast", size=224, crops=2}"#, "1 or 3"),
        (r#"{rule="along-slowfast", size=224, resize=200, crops=1}"#, "at least crop.size"),
        (r#"{rule="center", size=224, resize=99999}"#, "at most 16384"),
        (r#"{rule="random-resized", size=99984, scale=[0.2, 1.0]}"#, "crop.size = 99984: 1 to"),
        (r#"{rule="random", size=224, resize=200}"#, "at least crop.size"),
    ];
    for (crop, says) in cases {
        let error = load("mae-vit-b", &[&format!("pretrain.crop={crop}")]).expect_err(crop);
        assert!(error.contains(says), "{crop}: {error}");
    }
}

#[test]
fn impossible_targets_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        (r#"{kind="hog", bins=0}"#, &["pretrain.target.bins = 0", "1 to 360"]),
        (r#"{kind="hog", cell=5}"#, &["pretrain.target.cell = 5", "divide the patch of 16x16"]),
        (r#"{kind="hog", cell=0}"#, &["pretrain.target.cell = 0"]),
        (r#"{kind="hog", window=300}"#, &["pretrain.target.window = 300", "at most", "224"]),
        (r#"{kind="hog", windows=3}"#, &["windows"]),
        (r#"{kind="pixels", norm="simmim"}"#, &["simmim", "raw", "unit", "bootmae"]),
        (r#"{kind="pixels", norm="raw", order="row-first"}"#, &["row-first", "channel-first"]),
        (r#"{kind="pixels", norm="raw", frames="mae-st"}"#, &["target.frames", "time slots"]),
        (r#"{kind="hog-picture", bins=9}"#, &["bins"]),
        (r#"{kind="hog", bins=400000, cell=8}"#, &["target.bins = 400000: 1 to 360"]),
    ];
    for (target, says) in cases {
        let error = load("mae-vit-b", &[&format!("pretrain.target={target}")]).expect_err(target);
        for word in *says {
            assert!(error.contains(word), "{target}: `{word}` is not in: {error}");
        }
    }
    for (target, dim) in [
        (r#"{kind="hog", window=16, normalise=false}"#, 108),
        (r#"{kind="pixels", norm="raw", order="channel-first"}"#, 768),
        (r#"{kind="pixels", norm="unit"}"#, 768),
        (r#"{kind="hog-picture"}"#, 256),
    ] {
        let file = load("mae-vit-b", &[&format!("pretrain.target={target}")]).expect(target);
        let recipe = file.stage(crate::Stage::Pretrain).expect("checked");
        assert_eq!(recipe.target().dim(recipe.patch(), 1, 1), dim, "{target}");
    }
}

#[test]
fn impossible_views_are_refused() {
    let cases = [
        (r#"{resize="lanczos"}"#, "views[0].size = absent"),
        (r#"{resize="lanczos", size=0}"#, "views[0].size = 0"),
        (r#"{resize="lanczos", size=112, flip=0.5}"#, "views[0].flip"),
        (r#"{resize="lanczos", size=112, count=2}"#, "views[0].count"),
        (r#"{resize="lanczos", size=100, mask=true}"#, "must divide 100"),
        (r#"{resize="lanczos", size=112, augment={grayscale=1.0}}"#, "views[0].augment"),
        (
            r#"{resize="bicubic", count=16, crop={rule="random-resized", size=96, scale=[0.1, 0.2]}}"#,
            "at most 16 views",
        ),
        (
            r#"{resize="bicubic", crop={rule="random-resized", size=96, scale=[0.3, 0.2]}}"#,
            "views[0].crop.scale",
        ),
        (
            r#"{resize="bicubic", crop={rule="center", size=96, resize=96}, augment={mixup=1.0}}"#,
            "colour operations only",
        ),
    ];
    for (view, says) in cases {
        let error = load("mae-vit-b", &[&format!("pretrain.views=[{view}]")]).expect_err(view);
        assert!(error.contains(says), "{view}: {error}");
    }
    let view = r#"[{resize="lanczos", size=112}]"#;
    let first = r#"pretrain.crop={rule="short-side-jitter", size=224, min=256, max=320}"#;
    let error = load("mae-vit-b", &[&format!("pretrain.views={view}"), first]).expect_err("jitter");
    assert!(error.contains("cuts before it resizes"), "{error}");
    let error = load("mae-vit-b", &[&format!("finetune.views={view}")]).expect_err("finetune");
    assert!(error.contains("several views are for pretrain"), "{error}");
}
