//! The plans of every recipe, as snapshots: a change of any draw shows.

use tubelet_augment::recipe::Media;
use tubelet_augment::{RecipeFile, Stage, builtin};
use tubelet_core::{MediaInfo, SampleId, SampleKey, Size};

fn info(file: &RecipeFile) -> MediaInfo {
    match file.media {
        Media::Image => MediaInfo::picture(Size::new(500, 375), "mjpeg"),
        Media::Video => MediaInfo {
            size: Size::new(340, 256),
            frames: 300,
            fps: 30.0,
            codec: "h264".to_owned(),
            rotation: 0,
            keyframes: vec![0, 250],
            spacing: None,
        },
    }
}

#[test]
fn every_recipe_plans_as_before() {
    let mut text = String::new();
    for (name, _) in builtin::ALL {
        let file = builtin::recipe(name, &[]).expect("built in");
        let info = info(&file);
        for stage in file.stages() {
            let recipe = file.stage(stage).expect("checked");
            for (sample, repeat) in [(7, 0), (8, recipe.repeats() - 1)] {
                let key = SampleKey { seed: 1, epoch: 2, sample: SampleId(sample), repeat };
                let plan = recipe.plan(key, &info).expect("has frames");
                let plan = serde_json::to_string(&plan).expect("plain data");
                text += &format!("{name} {stage} sample {sample} repeat {repeat}\n{plan}\n");
            }
        }
    }
    insta::assert_snapshot!(text);
}

/// Short, tiny and odd media: a plan exists, stays inside and has the right length.
#[test]
fn any_medium_with_a_frame_can_be_planned() {
    for (name, _) in builtin::ALL {
        let file = builtin::recipe(name, &[]).expect("built in");
        for (frames, width, height) in
            [(1, 1, 1), (2, 3, 500), (5, 500, 2), (17, 64, 48), (9999, 31, 33)]
        {
            let mut info = info(&file);
            info.size = Size::new(width, height);
            if file.media == Media::Video {
                info.frames = frames;
            }
            for stage in file.stages() {
                let recipe = file.stage(stage).expect("checked");
                for repeat in 0..recipe.repeats() {
                    let key = SampleKey { seed: 3, epoch: 0, sample: SampleId(1), repeat };
                    let plan = recipe.plan(key, &info).expect("has a frame");
                    let view = &plan.views[0];
                    assert_eq!(view.frames.len(), recipe.frames() as usize, "{name} {stage}");
                    assert!(
                        view.frames.iter().all(|f| *f < info.frames),
                        "{name} {stage} {info:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_medium_without_frames_or_pixels_is_refused() {
    let file = builtin::recipe("videomae-tiny", &[]).expect("built in");
    let recipe = file.stage(Stage::Pretrain).expect("checked");
    let key = SampleKey { seed: 3, epoch: 0, sample: SampleId(1), repeat: 0 };
    assert!(recipe.plan(key, &MediaInfo { frames: 0, ..info(&file) }).is_err());
    assert!(recipe.plan(key, &MediaInfo { size: Size::new(0, 4), ..info(&file) }).is_err());
}
