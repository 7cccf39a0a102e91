//! Views, colours and erasing in plans.

mod independence;

use tubelet_core::{BatchRef, Heap, HostMemory, SampleId};

use super::*;
use crate::builtin;
use crate::recipe::Stage;

fn recipe(name: &str, stage: Stage, set: &[&str]) -> Recipe {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let file = builtin::recipe(name, &set).unwrap_or_else(|e| panic!("{e}"));
    file.stage(stage).unwrap_or_else(|e| panic!("{e}"))
}

fn key(sample: u64) -> SampleKey {
    SampleKey { seed: 5, epoch: 1, sample: SampleId(sample), repeat: 0 }
}

fn photo() -> MediaInfo {
    MediaInfo::picture(Size::new(120, 90), "mjpeg")
}

fn video() -> MediaInfo {
    MediaInfo { frames: 300, fps: 30.0, ..MediaInfo::picture(Size::new(120, 90), "h264") }
}

/// BEiT's pair: one region, mirrored alike, two sizes.
const TOKENIZER: &str = r#"pretrain.views=[{resize="lanczos", size=32, normalise="dalle"}]"#;
/// iBOT's crops.
const MULTI_CROP: &str = r#"pretrain.views=[
  {resize="bicubic", flip=0.5, mask=true,
   crop={rule="random-resized", size=64, scale=[0.25, 1.0]},
   augment={color_jitter={brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8},
            grayscale=0.2, blur={probability=0.1}, solarize={probability=0.2}}},
  {resize="bicubic", flip=0.5, count=6,
   crop={rule="random-resized", size=32, scale=[0.05, 0.25]}, augment={blur={probability=0.5}}}]"#;

#[test]
fn clips_begin_on_references_where_their_step_allows() {
    let spaced = |stride: u32| MediaInfo {
        frames: 300,
        spacing: Some(tubelet_core::Spacing { stride, gop: 32 }),
        ..MediaInfo::picture(Size::new(120, 90), "h264")
    };
    let frames = |info: &MediaInfo, step: u32, sample: u64| {
        let clip = format!("pretrain.clip={{rule=\"videomae\", frames=16, step={step}}}");
        let recipe = recipe("videomae-vit-b-k400", Stage::Pretrain, &[&clip]);
        recipe.plan(key(sample), info).expect("has frames").views[0].frames.clone()
    };
    let plain = MediaInfo { spacing: None, ..spaced(4) };
    let mut moved = 0;
    for sample in 0..40 {
        let before = frames(&plain, 4, sample);
        let after = frames(&spaced(4), 4, sample);
        assert!(after.iter().all(|f| f % 4 == 0), "{after:?}");
        assert!(before.iter().zip(&after).all(|(b, a)| b - a == before[0] % 4));
        moved += u32::from(before != after);
        assert_eq!(frames(&spaced(4), 6, sample), frames(&plain, 6, sample));
        assert_eq!(frames(&spaced(1), 4, sample), before);
        let exact = recipe("videomae-vit-b-k400", Stage::Pretrain, &["pretrain.exact_start=true"]);
        let plan = exact.plan(key(sample), &spaced(4)).expect("has frames");
        assert_eq!(plan.views[0].frames, before);
    }
    assert!(moved > 20, "{moved}");
}

#[test]
fn repeats_share_their_frames_where_the_recipe_says_so() {
    let plans = |set: &str| {
        let recipe = recipe("videomae-vit-b-k400", Stage::Finetune, &[set]);
        let key = |repeat| SampleKey { repeat, ..key(3) };
        [0, 1].map(|repeat| recipe.plan(key(repeat), &video()).expect("has frames"))
    };
    let [first, second] = plans("finetune.share_frames=true");
    assert_eq!(first.views[0].frames, second.views[0].frames);
    assert_ne!(first.views[0].geometry, second.views[0].geometry);
    let [own, other] = plans("finetune.share_frames=false");
    assert_eq!(own, first);
    assert_ne!(own.views[0].frames, other.views[0].frames);
}

#[test]
fn whole_frames_are_warped_and_short_sides_cropped_anywhere() {
    let geometry = |crop: &str| {
        let recipe = recipe("mae-vit-b", Stage::Pretrain, &[crop]);
        recipe.plan(key(1), &photo()).expect("has a frame").views[0].geometry
    };
    let whole = Rect::full(photo().size);
    assert_eq!(
        geometry("pretrain.crop={rule=\"warp\", size=64}"),
        Geometry::CropThenResize { region: whole }
    );
    let random = geometry("pretrain.crop={rule=\"random\", size=64, resize=72}");
    let Geometry::ResizeThenCrop { resized, region } = random else { panic!("{random:?}") };
    assert_eq!(resized, Size::new(96, 72));
    assert!(region.fits(resized) && region.size() == Size::square(64));
}

/// Whatever is drawn: a crop at a level holds at least the output's pixels and lies where the crop
/// lay, within half a pixel of the level; the smallest level is refused where it would enlarge.
#[test]
fn levels_serve_crops_that_they_do_not_enlarge() {
    let set = ["pretrain.pyramid=true", "pretrain.crop.size=96", "patch=[1, 16, 16]"];
    let recipe = recipe("mae-vit-b", Stage::Pretrain, &set);
    assert!(recipe.pyramid());
    let (stored, level) = (Size::new(640, 480), Size::new(171, 128));
    let info = MediaInfo::picture(stored, "mjpeg");
    let mut used = 0;
    for sample in 0..200 {
        let plan = recipe.plan(key(sample), &info).expect("has a frame");
        let Geometry::CropThenResize { region } = plan.views[0].geometry else { panic!("a crop") };
        let (kx, ky) = (171.0 / 640.0, 128.0 / 480.0);
        let Some(small) = plan.at_level(stored, level) else {
            let (w, h) = (f64::from(region.width) * kx, f64::from(region.height) * ky);
            assert!(w < 97.0 || h < 97.0, "{region:?} fits");
            continue;
        };
        used += 1;
        let Geometry::CropThenResize { region: at } = small.views[0].geometry else {
            panic!("still a crop")
        };
        assert!(at.width >= 96 && at.height >= 96 && at.fits(level), "{at:?}");
        let near = |a: u32, b: u32, k: f64| (f64::from(a) - f64::from(b) * k).abs() <= 0.5001;
        assert!(near(at.x, region.x, kx) && near(at.y, region.y, ky), "{region:?} {at:?}");
        assert!(near(at.x + at.width, region.x + region.width, kx));
        assert_eq!(
            (small.views[0].flip, &small.views[0].mask),
            (plan.views[0].flip, &plan.views[0].mask)
        );
    }
    assert!((20..200).contains(&used), "{used}");
}

#[test]
fn whole_pictures_need_a_level_as_large_as_they_are_resized_to() {
    let recipe = recipe("mae-vit-b", Stage::Eval, &[]);
    let stored = Size::new(1000, 800);
    let plan = recipe.plan(key(1), &MediaInfo::picture(stored, "mjpeg")).expect("has a frame");
    let Geometry::ResizeThenCrop { resized, .. } = plan.views[0].geometry else { panic!("whole") };
    assert_eq!(resized, Size::new(320, 256));
    assert_eq!(plan.at_level(stored, Size::new(320, 256)).as_ref(), Some(&plan));
    assert_eq!(plan.at_level(stored, Size::new(319, 255)), None);
}

#[test]
fn a_view_of_the_first_region_copies_its_draws() {
    let recipe = recipe("mae-tiny", Stage::Pretrain, &[TOKENIZER]);
    for sample in 0..20 {
        let plan = recipe.plan(key(sample), &photo()).expect("has a frame");
        let [first, second] = &plan.views[..] else { panic!("{} views", plan.views.len()) };
        assert_eq!((first.geometry, first.flip), (second.geometry, second.flip));
        assert_eq!((second.out, second.resize), (Size::square(32), Resize::Lanczos));
        assert!(second.mask.is_none());
    }
}

#[test]
fn views_with_regions_of_their_own_differ() {
    let recipe = recipe("mae-tiny", Stage::Pretrain, &[MULTI_CROP]);
    let plan = recipe.plan(key(3), &photo()).expect("has a frame");
    assert_eq!(plan.views.len(), 8);
    let mut regions: Vec<String> = plan.views.iter().map(|v| format!("{:?}", v.geometry)).collect();
    regions.sort();
    regions.dedup();
    assert_eq!(regions.len(), 8);
    assert_ne!(plan.views[0].mask, plan.views[1].mask);
    assert!(plan.views[1].mask.is_some() && plan.views[2].mask.is_none());
}

/// A view more changes nothing in the others.
#[test]
fn further_views_do_not_move_the_first() {
    let plain = recipe("mae-tiny", Stage::Pretrain, &[]);
    let more = recipe("mae-tiny", Stage::Pretrain, &[MULTI_CROP]);
    for sample in 0..20 {
        let plans = [&plain, &more].map(|r| r.plan(key(sample), &photo()).expect("has a frame"));
        assert_eq!(plans[0].views[0], plans[1].views[0]);
    }
}

/// Same key, same bytes; another sample's plan or a buffer's past changes nothing.
#[test]
fn rendering_is_a_function_of_the_key() {
    let colors =
        r#"augment={randaugment="rand-m9-n4-mstd0.5-inc1", blur={probability=1.0}, place="#;
    for place in ["source", "cropped"] {
        let set = |stage: &str, more: &str| format!("{stage}.{colors}\"{place}\"{more}}}");
        let photos = recipe("mae-tiny", Stage::Pretrain, &[MULTI_CROP, &set("pretrain", "")]);
        is_a_function_of_the_key(&photos, &photo());
        let (crop, mask) = (small_clips("pretrain"), "pretrain.mask.ratio=0.5");
        let hidden = [crop.as_str(), mask, &set("pretrain", "")];
        is_a_function_of_the_key(&recipe("mae-st-vit-l", Stage::Pretrain, &hidden), &video());
        let erase = ", erase={probability=1.0, mode=\"pixel\"}";
        let erased = [small_clips("finetune"), set("finetune", erase)];
        let erased = [erased[0].as_str(), &erased[1]];
        is_a_function_of_the_key(&recipe("mae-st-vit-l", Stage::Finetune, &erased), &video());
    }
}

/// A crop of few pixels for a video recipe's stage.
fn small_clips(stage: &str) -> String {
    format!("{stage}.crop={{rule=\"random-resized\", size=32, scale=[0.2, 1.0]}}")
}

fn is_a_function_of_the_key(recipe: &Recipe, info: &MediaInfo) {
    let mut scratch = Scratch::default();
    let once = render(recipe, info, 7, &mut Scratch::default());
    let other = render(recipe, info, 8, &mut scratch);
    assert_eq!(once, render(recipe, info, 7, &mut scratch));
    assert_ne!(once, other);
}

/// All bytes of one row: pixels, masks, boxes.
fn render(recipe: &Recipe, info: &MediaInfo, sample: u64, scratch: &mut Scratch) -> Vec<u8> {
    let plan = recipe.plan(key(sample), info).expect("has frames");
    let mut clip = Clip::new();
    let frames = plan.frames();
    clip.reset(info.size, &frames);
    for (n, frame) in frames.iter().enumerate() {
        for (i, byte) in clip.nth_mut(n).iter_mut().enumerate() {
            *byte = ((i * i / 7 + *frame as usize * 13) % 251) as u8;
        }
    }
    let layout = recipe.layout_of(0, 1);
    let memory = Heap.allocate(layout.bytes).expect("small");
    // SAFETY: the buffer has the layout's bytes, the layout one row, and nothing else refers to it.
    let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), 0) };
    recipe.render(&plan, &clip, scratch, &mut row).expect("has the frames");
    let batch = BatchRef::new(&layout, memory.as_slice(), 1);
    let view = |view| [batch.pixels(view), batch.mask(view).unwrap_or_default()].concat();
    let mut bytes: Vec<u8> = (0..layout.views.len()).flat_map(view).collect();
    bytes.extend(batch.erase().unwrap_or_default().iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

#[test]
fn clips_have_one_policy_on_the_whole_frame_and_pictures_on_the_crop() {
    let clips = recipe("videomae-vit-b-k400", Stage::Finetune, &[]);
    let info =
        MediaInfo { frames: 300, fps: 30.0, ..MediaInfo::picture(Size::new(340, 256), "h264") };
    let colors: Vec<ColorPlan> = (0..40)
        .filter_map(|s| clips.plan(key(s), &info).expect("has frames").views.remove(0).colors)
        .collect();
    assert!(colors.len() > 20, "{}", colors.len());
    assert!(colors.iter().all(|c| c.place == Place::Source && c.canvas.fill == [128; 3]));
    let photos = recipe("mae-vit-b", Stage::Finetune, &[]);
    let colors = (0..40)
        .filter_map(|s| photos.plan(key(s), &photo()).expect("has a frame").views.remove(0).colors);
    assert!(
        colors.into_iter().all(|c| c.place == Place::Cropped && c.canvas.fill == [124, 116, 104])
    );
}

/// What the decoder may leave out: nothing where colours look at the whole frame.
#[test]
fn colours_of_the_whole_frame_need_all_of_it() {
    let region = |place: &str| {
        let set = format!("pretrain.augment={{blur={{probability=1.0}}, place=\"{place}\"}}");
        let recipe = recipe("mae-tiny", Stage::Pretrain, &[&set]);
        union_of_regions(&[recipe.plan(key(3), &photo()).expect("has a frame")])
    };
    assert!(region("cropped").is_some());
    assert_eq!(region("source"), None);
}
