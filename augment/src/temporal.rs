//! Which frames a clip has, by the published rules.
//!
//! Each rule that draws is split into a draw and a deterministic walk, so that the walk can be
//! checked against a reference's own draws. All indices are 0-based presentation numbers below the
//! number of frames; a medium without frames is refused before these are called, and gives zeros.

use tubelet_core::SampleRng;

/// VideoMAE pre-training (`kinetics.py`): exclusive upper bound of the offset's draw, `None` where
/// nothing is drawn and the offset is 0.
pub fn videomae_bound(num_frames: u32, frames: u32, step: u32) -> Option<u32> {
    let span = frames * step;
    (num_frames + 1 > span).then(|| num_frames + 1 - span)
}

/// VideoMAE pre-training: `frames` indices from `offset`, `step` apart while the next one is
/// inside; then the last one reached again.
pub fn videomae_indices(num_frames: u32, frames: u32, step: u32, offset: u32) -> Vec<u32> {
    let mut at = offset.min(num_frames.saturating_sub(1));
    let mut out = Vec::with_capacity(frames as usize);
    for _ in 0..frames {
        out.push(at);
        if at + 1 + step < num_frames {
            at += step;
        }
    }
    out
}

/// VideoMAE pre-training: draw and walk.
pub fn videomae(num_frames: u32, frames: u32, step: u32, rng: &mut SampleRng) -> Vec<u32> {
    let offset = videomae_bound(num_frames, frames, step).map_or(0, |bound| rng.below(bound));
    videomae_indices(num_frames, frames, step, offset)
}

/// VideoMAE's `temporal_jitter`: a draw and a walk whose frames each move on by 0 to `step` − 1,
/// where that is inside. All of a clip's offsets are drawn after its start.
pub fn videomae_jittered(num_frames: u32, frames: u32, step: u32, rng: &mut SampleRng) -> Vec<u32> {
    let mut out = videomae(num_frames, frames, step, rng);
    for at in &mut out {
        let offset = rng.below(step);
        if *at + offset < num_frames {
            *at += offset;
        }
    }
    out
}

/// VideoMAE fine-tuning on Kinetics (`VideoClsDataset.loadvideo_decord`): `end` is the drawn end of
/// the window (in span..num_frames), absent for videos no longer than the window.
pub fn videomae_dense_indices(
    num_frames: u32,
    frames: u32,
    step: u32,
    end: Option<u32>,
) -> Vec<u32> {
    let span = frames * step;
    let last = num_frames.saturating_sub(1);
    match end {
        Some(end) => {
            let start = end - span;
            linspace(f64::from(start), f64::from(end), frames)
                .map(|x| (x as u32).clamp(start, end - 1))
                .collect()
        }
        None => {
            let count = num_frames / step;
            let mut out: Vec<u32> = linspace(0.0, f64::from(num_frames), count)
                .map(|x| (x as u32).min(last))
                .take(frames as usize)
                .collect();
            out.resize(frames as usize, last);
            out
        }
    }
}

/// VideoMAE fine-tuning on Kinetics: draw and walk.
pub fn videomae_dense(num_frames: u32, frames: u32, step: u32, rng: &mut SampleRng) -> Vec<u32> {
    let span = frames * step;
    let end = (num_frames > span).then(|| span + rng.below(num_frames - span));
    videomae_dense_indices(num_frames, frames, step, end)
}

/// Something-Something fine-tuning (VideoMAE `ssv2.py`): frames of each of `frames` equal segments, the
/// exclusive upper bound of its draw; 0 where segments would be empty.
pub fn segments_bound(num_frames: u32, frames: u32) -> u32 {
    num_frames / frames
}

/// Something-Something fine-tuning: the frame at `draw` of each segment; zeros, and nothing drawn, for
/// videos of fewer frames than segments.
pub fn segments_indices(
    num_frames: u32,
    frames: u32,
    mut draw: impl FnMut(u32) -> u32,
) -> Vec<u32> {
    match segments_bound(num_frames, frames) {
        0 => vec![0; frames as usize],
        bound => (0..frames).map(|k| k * bound + draw(k)).collect(),
    }
}

/// Something-Something fine-tuning: draw and walk.
pub fn segments(num_frames: u32, frames: u32, rng: &mut SampleRng) -> Vec<u32> {
    let bound = segments_bound(num_frames, frames);
    segments_indices(num_frames, frames, |_| rng.below(bound))
}

/// SlowFast on Something-Something (`ssv2.py`): first and last frame of segment `k` of `frames`,
/// both of them in it: round(k·s) and round((k + 1)·s) with s = (frames of the video − 1)/frames.
pub fn slowfast_segment(num_frames: u32, frames: u32, k: u32) -> [u32; 2] {
    let segment = f64::from(num_frames.saturating_sub(1)) / f64::from(frames);
    [k, k + 1].map(|k| (segment * f64::from(k)).round_ties_even() as u32)
}

/// SlowFast's training on Something-Something: one frame of each segment.
pub fn segments_slowfast(num_frames: u32, frames: u32, rng: &mut SampleRng) -> Vec<u32> {
    let ends = |k| slowfast_segment(num_frames, frames, k);
    (0..frames).map(ends).map(|[first, last]| first + rng.below(last - first + 1)).collect()
}

/// SlowFast's evaluation on Something-Something: the middle of each segment, rounded down.
pub fn middles_slowfast(num_frames: u32, frames: u32) -> Vec<u32> {
    let ends = |k| slowfast_segment(num_frames, frames, k);
    (0..frames).map(ends).map(|[first, last]| first.midpoint(last)).collect()
}

/// VideoMAE evaluation on Kinetics: every `step`-th frame, the last repeated up to `frames`.
pub fn videomae_test_sequence(num_frames: u32, frames: u32, step: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..num_frames).step_by(step as usize).collect();
    let last = all.last().copied().unwrap_or(0);
    all.resize(all.len().max(frames as usize), last);
    all
}

/// VideoMAE evaluation on Kinetics: where clip `clip` of `clips` starts in that sequence.
pub fn videomae_test_start(sequence: usize, frames: u32, clip: u32, clips: u32) -> usize {
    let room = (sequence as f64 - f64::from(frames)).max(0.0);
    let step = if clips > 1 { room / f64::from(clips - 1) } else { 0.0 };
    (f64::from(clip) * step) as usize
}

/// VideoMAE evaluation on Kinetics: clip `clip` of `clips`.
pub fn videomae_test_clip(
    num_frames: u32,
    frames: u32,
    step: u32,
    clip: u32,
    clips: u32,
) -> Vec<u32> {
    let all = videomae_test_sequence(num_frames, frames, step);
    let start = videomae_test_start(all.len(), frames, clip, clips);
    all[start..start + frames as usize].to_vec()
}

/// VideoMAE evaluation on Something-Something: the sorted union of segment starts and middles, for
/// two clips of `frames`.
pub fn segments_test_indices(num_frames: u32, frames: u32) -> Vec<u32> {
    let tick = f64::from(num_frames) / f64::from(frames);
    let last = num_frames.saturating_sub(1);
    let at = |x: f64| (x as u32).min(last);
    let mut all: Vec<u32> = (0..frames)
        .flat_map(|k| {
            let k = f64::from(k);
            [at(tick / 2.0 + tick * k), at(tick * k)]
        })
        .collect();
    all.sort_unstable();
    all
}

/// VideoMAE evaluation on Something-Something: clip `clip` takes every `clips`-th of the union, the
/// last repeated where there are too few.
pub fn segments_test_clip(num_frames: u32, frames: u32, clip: u32, clips: u32) -> Vec<u32> {
    let all = segments_test_indices(num_frames, frames);
    let mut out: Vec<u32> = all
        .iter()
        .copied()
        .skip(clip as usize)
        .step_by(clips as usize)
        .take(frames as usize)
        .collect();
    let last = out.last().copied().unwrap_or(0);
    out.resize(frames as usize, last);
    out
}

/// SlowFast: frames of the source that a clip of `frames`, `step` apart at `target_fps`, spans; at
/// least 1. A source without a frame rate counts as one of the target rate.
pub fn slowfast_span(frames: u32, step: u32, target_fps: f64, fps: f64) -> f64 {
    let fps = if fps > 0.0 { fps } else { target_fps };
    (f64::from(frames * step) / target_fps * fps).max(1.0)
}

/// SlowFast (`decoder.py::temporal_sampling`): `frames` indices from `start` to
/// `start + span − 1`, spaced in f32, clamped to the video and truncated.
pub fn slowfast_indices(num_frames: u32, frames: u32, span: f64, start: f64) -> Vec<u32> {
    let last = num_frames.saturating_sub(1) as f32;
    torch_linspace(start as f32, (start + span - 1.0) as f32, frames)
        .map(|x| x.clamp(0.0, last) as u32)
        .collect()
}

/// SlowFast: where clip `clip` of `clips` starts in evaluation.
pub fn slowfast_test_start(
    num_frames: u32,
    span: f64,
    clip: u32,
    clips: u32,
    use_offset: bool,
) -> f64 {
    let room = (f64::from(num_frames) - span).max(0.0);
    match (use_offset, clips) {
        (true, 0 | 1) => (room / 2.0).floor(),
        (true, _) => f64::from(clip) * (room / f64::from(clips - 1)).floor(),
        (false, _) => f64::from(clip) * room / f64::from(clips.max(1)),
    }
}

/// SlowFast training: a start drawn uniformly (not rounded) and the walk.
pub fn slowfast(num_frames: u32, frames: u32, span: f64, rng: &mut SampleRng) -> Vec<u32> {
    let room = (f64::from(num_frames) - span).max(0.0);
    slowfast_indices(num_frames, frames, span, rng.uniform(0.0, room))
}

/// SlowFast evaluation: clip `clip` of `clips`.
pub fn slowfast_test_clip(
    num_frames: u32,
    frames: u32,
    span: f64,
    [clip, clips]: [u32; 2],
    use_offset: bool,
) -> Vec<u32> {
    let start = slowfast_test_start(num_frames, span, clip, clips, use_offset);
    slowfast_indices(num_frames, frames, span, start)
}

/// PyTorchVideo's `UniformTemporalSubsample`: evenly spaced from the first to the last frame,
/// truncated.
pub fn uniform(num_frames: u32, frames: u32) -> Vec<u32> {
    let last = num_frames.saturating_sub(1) as f32;
    torch_linspace(0.0, last, frames).map(|x| x.clamp(0.0, last) as u32).collect()
}

/// numpy's `linspace` with both ends.
fn linspace(from: f64, to: f64, count: u32) -> impl Iterator<Item = f64> {
    let step = if count > 1 { (to - from) / f64::from(count - 1) } else { 0.0 };
    (0..count).map(move |k| if k > 0 && k + 1 == count { to } else { from + step * f64::from(k) })
}

/// torch's f32 `linspace`: the second half is counted from the end.
fn torch_linspace(from: f32, to: f32, count: u32) -> impl Iterator<Item = f32> {
    let step = if count > 1 { (to - from) / (count - 1) as f32 } else { 0.0 };
    (0..count).map(move |k| {
        if k < count / 2 || count == 1 {
            step.mul_add(k as f32, from)
        } else {
            (-step).mul_add((count - 1 - k) as f32, to)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tubelet_core::Draw;

    #[test]
    fn short_clips_repeat_the_last_reachable_frame() {
        let ids = videomae_indices(17, 16, 4, 0);
        assert_eq!(ids[..4], [0, 4, 8, 12]);
        assert!(ids[3..].iter().all(|i| *i == 12));
        assert_eq!(videomae_bound(300, 16, 4), Some(237));
        assert_eq!(videomae_bound(63, 16, 4), None);
    }

    #[test]
    fn jittered_frames_stay_in_their_step() {
        let mut late = [0; 4];
        for sample in 0..200 {
            let rng = || SampleRng::new(1, 0, sample, 0, Draw::Frames);
            let plain = videomae(300, 16, 4, &mut rng());
            let jittered = videomae_jittered(300, 16, 4, &mut rng());
            for (plain, jittered) in plain.iter().zip(jittered) {
                assert!((*plain..plain + 4).contains(&jittered) && jittered < 300);
                late[(jittered - plain) as usize] += 1;
            }
        }
        // 800 of each are expected, give or take 24.
        assert!(late.iter().all(|n| (680..920).contains(n)), "{late:?}");
        let short = videomae_jittered(3, 16, 4, &mut SampleRng::new(1, 0, 0, 0, Draw::Frames));
        assert!(short.iter().all(|at| *at < 3));
    }

    #[test]
    fn slowfast_segments_share_their_ends() {
        // s = 31/4 = 7.75: 0, 8, 16 (15.5 to even), 23, 31.
        let ends: Vec<[u32; 2]> = (0..4).map(|k| slowfast_segment(32, 4, k)).collect();
        assert_eq!(ends, [[0, 8], [8, 16], [16, 23], [23, 31]]);
        assert_eq!(middles_slowfast(32, 4), [4, 12, 19, 27]);
        let mut seen = [[false; 9]; 2];
        for sample in 0..500 {
            let mut rng = SampleRng::new(1, 0, sample, 0, Draw::Frames);
            let ids = segments_slowfast(32, 4, &mut rng);
            seen[0][ids[0] as usize] = true;
            seen[1][ids[1] as usize - 8] = true;
        }
        assert_eq!(seen, [[true; 9]; 2]);
    }

    #[test]
    fn every_rule_stays_inside_for_any_length() {
        for n in (1..80).chain([299, 300, 1000]) {
            let mut rng = SampleRng::new(1, 0, u64::from(n), 0, Draw::Frames);
            let span = slowfast_span(16, 4, 30.0, 25.0);
            let mut all = vec![
                videomae(n, 16, 4, &mut rng),
                videomae_dense(n, 16, 4, &mut rng),
                segments(n, 16, &mut rng),
                slowfast(n, 16, span, &mut rng),
                uniform(n, 16),
                segments_slowfast(n, 16, &mut rng),
                middles_slowfast(n, 16),
            ];
            for clip in 0..5 {
                all.push(videomae_test_clip(n, 16, 4, clip, 5));
                for use_offset in [false, true] {
                    all.push(slowfast_test_clip(n, 16, span, [clip, 5], use_offset));
                }
                all.push(segments_test_clip(n, 16, clip % 2, 2));
            }
            for ids in all {
                assert_eq!(ids.len(), 16);
                assert!(ids.iter().all(|i| *i < n), "{n}: {ids:?}");
                assert!(ids.windows(2).all(|w| w[0] <= w[1]), "{n}: {ids:?}");
            }
        }
    }
}
