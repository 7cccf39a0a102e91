//! The rows of the drawn samples: planned, decoded once a sample, rendered, mixed.

use anyhow::Result;
use tubelet_augment::mix::Mix;
use tubelet_augment::plan::{Scratch, union_of_frames};
use tubelet_augment::recipe::Region;
use tubelet_augment::{HostStage, HostTensors, Recipe, SamplePlan, Stage};
use tubelet_core::layout::NO_LABEL;
use tubelet_core::{
    BatchKey, BatchLayout, BatchRef, Clip, Heap, HostBuf, HostMemory, MediaInfo, RowMut, SampleId,
    SampleKey,
};
use tubelet_formats::{FrameRequest, ShardReader, decoder};

use super::PreviewArgs;
use super::panels::Drawer;

/// A sample with the plans of its rows and the frames that they need.
pub(super) struct Sample<'a> {
    n: usize,
    name: String,
    label: u32,
    /// The recipe of its shape.
    pub(super) shape: &'a Recipe,
    plans: Vec<SamplePlan>,
    pub(super) clip: Clip,
}

impl<'a> Sample<'a> {
    /// Plans and decodes sample `n` in the shape that it has by `whole`.
    pub(super) fn read(
        args: &PreviewArgs,
        shards: &dyn ShardReader,
        whole: &'a Recipe,
        n: usize,
    ) -> Result<Self> {
        let record = shards.record(n);
        let (mut buf, mut decoder, mut clip) = (Vec::new(), decoder(), Clip::new());
        let bytes = shards.read(&record, &mut buf)?;
        let info: MediaInfo = match &record.info {
            Some(info) => info.as_ref().clone(),
            None => decoder.probe(bytes)?,
        };
        let shape = whole.shape_for(args.epoch, args.batch, info.size);
        let sample = SampleId(n as u64);
        let key = |repeat| SampleKey { seed: args.seed, epoch: args.epoch, sample, repeat };
        let plans: Result<Vec<SamplePlan>, _> =
            (0..shape.repeats()).map(|repeat| shape.plan(key(repeat), &info)).collect();
        let plans = plans?;
        let want = FrameRequest { frames: union_of_frames(&plans), region: None, planes: false };
        decoder.decode(bytes, &info, &want, &mut clip)?;
        let label = record.label.unwrap_or(NO_LABEL);
        Ok(Self { n, name: record.name, label, shape, plans, clip })
    }

    /// Whether it may be in one batch with `others`: alone unless rows are mixed.
    pub(super) fn fits(&self, others: &[Self]) -> bool {
        let rows: usize = others.iter().map(|other| other.plans.len()).sum();
        let alike = others.iter().all(|other| std::ptr::eq(other.shape, self.shape));
        let room = rows + self.plans.len() <= self.shape.batch_size() as usize;
        rows == 0 || (self.shape.mix().is_some() && alike && room)
    }

    /// Crops that an evaluation makes of each clip.
    fn crops(&self) -> usize {
        match (self.shape.stage(), self.shape.views().next().map(|view| &view.region)) {
            (Stage::Eval, Some(Region::Own(rule))) => rule.crops().max(1) as usize,
            _ => 1,
        }
    }

    /// Its rows as they are drawn: one by one, or the crops of a clip.
    pub(super) fn together(&self) -> impl Iterator<Item = &[SamplePlan]> {
        self.plans.chunks(self.crops())
    }

    /// The title of the n-th of these.
    pub(super) fn title(&self, n: usize) -> String {
        let (of, what) = (self.plans.len() / self.crops(), self.row_name());
        let name = format!("sample {}: {}", self.n, self.name);
        if of > 1 { format!("{name}; {what} {} of {of}", n + 1) } else { name }
    }

    /// What a row is.
    fn row_name(&self) -> &'static str {
        if self.shape.frames() > 1 { "clip" } else { "row" }
    }

    /// What each row is called as the partner of another.
    fn row_names(&self) -> impl Iterator<Item = String> {
        (0..self.plans.len()).map(|row| match self.plans.len() {
            1 => format!("sample {}", self.n),
            _ => format!("sample {}, {} {}", self.n, self.row_name(), row + 1),
        })
    }
}

/// The rows of a batch in bytes and floats.
pub(super) struct Rows<'a> {
    shape: &'a Recipe,
    layout: BatchLayout,
    memory: HostBuf,
    count: usize,
    tensors: HostTensors,
    mixed: Option<Mixed>,
}

/// The floats of mixed rows, and how each was mixed.
pub(super) struct Mixed {
    pub(super) tensors: HostTensors,
    pub(super) how: Vec<String>,
}

impl<'a> Rows<'a> {
    /// Renders and mixes the rows of `samples`, all of `shape`, as batch `number`.
    pub(super) fn render(
        args: &PreviewArgs,
        shape: &'a Recipe,
        samples: &[Sample<'_>],
        number: u64,
    ) -> Result<Self> {
        let all = || samples.iter().flat_map(|s| s.plans.iter().map(move |plan| (s, plan)));
        let count = all().count();
        let layout = shape.rows_layout(count as u32);
        let memory = Heap.allocate(layout.bytes)?;
        let mut scratch = Scratch::default();
        for (n, (sample, plan)) in all().enumerate() {
            // SAFETY: the buffer has the layout's bytes, `n` is one of the layout's rows, and nothing
            // else refers to them.
            let mut row = unsafe { RowMut::from_raw(&layout, memory.as_ptr(), n) };
            shape
                .render(plan, &sample.clip, &mut scratch, &mut row)
                .map_err(|frame| anyhow::anyhow!("frame {frame} was not decoded"))?;
            row.set_facts(sample.label, sample.n as u64);
        }
        let stage = HostStage::new(shape);
        let tensors = stage.floats(BatchRef::new(&layout, memory.as_slice(), count));
        let mixed = shape.mix().map(|spec| {
            let key = BatchKey { seed: args.seed, epoch: args.epoch, number, first_row: 0 };
            let mut mixed = tensors.clone();
            stage.mix(&mut mixed, 0..count, key);
            let names: Vec<String> = samples.iter().flat_map(Sample::row_names).collect();
            let groups = spec.draw_groups(key, count, shape.size());
            let how = groups.into_iter().flat_map(|(rows, mixes)| how(&names[rows], &mixes));
            Mixed { tensors: mixed, how: how.collect() }
        });
        Ok(Self { shape, layout, memory, count, tensors, mixed })
    }

    /// What draws the rows of `plans`, of which `first` is the first.
    pub(super) fn drawer<'r>(
        &'r self,
        sample: &'r Sample<'_>,
        plans: &'r [SamplePlan],
        first: usize,
    ) -> Drawer<'r> {
        Drawer {
            recipe: self.shape,
            batch: BatchRef::new(&self.layout, self.memory.as_slice(), self.count),
            tensors: self.tensors.slice(first..first + 1),
            mixed: self.mixed.as_ref(),
            plans,
            first,
            clip: &sample.clip,
        }
    }
}

/// How each row of a group is mixed with the row at the mirrored place.
fn how(names: &[String], mixes: &[Mix]) -> Vec<String> {
    let one = |(n, mix): (usize, &Mix)| {
        let partner = &names[names.len() - 1 - n];
        let own = mix.lambda();
        match mix {
            _ if 2 * n + 1 == names.len() => "not mixed: the middle row has no partner".to_owned(),
            Mix::None => "not mixed".to_owned(),
            Mix::Mixup(_) => format!("mixup: {own:.2} of it, {:.2} of {partner}", 1.0 - own),
            Mix::Cutmix { .. } => format!("CutMix: {own:.2} of it, a box of {partner}"),
        }
    };
    mixes.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_at_mirrored_places() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let how = how(&names, &[Mix::Mixup(0.25), Mix::Mixup(0.5), Mix::None]);
        assert_eq!(how[0], "mixup: 0.25 of it, 0.75 of c");
        assert!(how[1].starts_with("not mixed: the middle"));
        assert_eq!(how[2], "not mixed");
    }
}
