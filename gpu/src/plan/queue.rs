//! The launches that make the tensors of a batch, in order.

use std::convert::Infallible;

use tubelet_augment::TargetSpec;
use tubelet_augment::target::pixels::PixelSpec;

use super::batch::{BatchPlan, BatchTensors, PassPlan, PassTensors, Scratch, ViewPlan};
use super::{ConstantAddresses, Input, StagePlan};
use crate::error::GpuError;
use crate::kernels::{
    Address, DType, FloatBatch, IndexLists, Launch, PatchNormSpec, Pixels, PlaneOrder, Source,
    TokenList, erase, flags, hog, indices, mix, patch_norm, patches, picture, picture_cells,
    planes,
};

/// Where a batch is on the device, and where its tensors go.
#[derive(Clone, Debug, Default)]
pub struct BatchAddresses {
    /// The slot's bytes.
    pub slot: Address,
    /// The tensors.
    pub tensors: BatchTensors<Address>,
    /// What is needed in between.
    pub scratch: Scratch<Address>,
}

/// Where the pixels of rows that are erased or mixed are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Nothing is changed.
    Bytes,
    /// In the input itself.
    Input(PlaneOrder),
    /// In f32 planes that become the input afterwards.
    Floats,
}

impl StagePlan {
    /// The launches that make a batch's tensors, in order.
    ///
    /// # Errors
    /// When a kernel cannot do the shape.
    pub fn launches(
        &self,
        batch: &BatchPlan,
        constants: &ConstantAddresses,
        at: &BatchAddresses,
    ) -> Result<Vec<Launch>, GpuError> {
        let mut queue = Queue { plan: self, batch, constants, at, launches: Vec::new() };
        queue.lists()?;
        queue.views()?;
        queue.pixels()?;
        Ok(queue.launches)
    }

    /// Addresses for a look at the launches.
    pub(super) fn no_addresses(&self, batch: &BatchPlan) -> BatchAddresses {
        let none = |_: &_| Ok::<_, Infallible>(Address::NULL);
        let Ok(tensors) = self.tensors(batch).try_map(none);
        BatchAddresses { tensors, ..BatchAddresses::default() }
    }

    fn route(&self, batch: &BatchPlan) -> Route {
        // Targets of erased rows are made of f32 planes.
        let of_floats = batch.erase.is_some() && batch.has_targets();
        match self.input {
            _ if !batch.is_touched() => Route::Bytes,
            Input::Planes(order) if !of_floats => Route::Input(order),
            Input::Planes(PlaneOrder::ChannelFirst) if self.dtype == DType::F32 => {
                Route::Input(PlaneOrder::ChannelFirst)
            }
            _ => Route::Floats,
        }
    }

    /// Whether the pixels of `batch` are changed in planes of their own.
    pub(super) fn needs_floats(&self, batch: &BatchPlan) -> bool {
        self.route(batch) == Route::Floats
    }
}

/// The launches so far.
struct Queue<'a> {
    plan: &'a StagePlan,
    batch: &'a BatchPlan,
    constants: &'a ConstantAddresses,
    at: &'a BatchAddresses,
    launches: Vec<Launch>,
}

impl<'a> Queue<'a> {
    /// Masks, and the lists of their tokens.
    fn lists(&mut self) -> Result<(), GpuError> {
        let Some(mask_at) = self.batch.view.mask_at else { return Ok(()) };
        let (rows, tokens) = (self.batch.rows as u32, self.batch.view.tokens as u32);
        let mask = self.in_slot(mask_at);
        for (pass, to) in self.passes() {
            let lists = IndexLists {
                visible: to.visible,
                masked: to.masked,
                masked_count: to.masked_count,
                max_visible: pass.max_visible as u32,
                max_masked: pass.max_masked as u32,
            };
            self.launches.push(flags(mask, rows, tokens, pass.bit, to.mask)?);
            self.launches.push(indices(mask, rows, tokens, pass.bit, &lists)?);
        }
        Ok(())
    }

    /// Further views.
    fn views(&mut self) -> Result<(), GpuError> {
        let (order, dtype) = (self.plan.plane_order(), self.plan.view_dtype);
        let views = self.batch.views.iter().zip(&self.at.tensors.views);
        for (n, (view, to)) in views.enumerate() {
            let source = Source::Bytes { table: self.constants.table(n + 1) };
            self.launches.push(planes(&self.view(view), source, order, dtype, to.pixels)?);
            if let Some(mask_at) = view.mask_at {
                let (rows, tokens) = (self.batch.rows as u32, view.tokens as u32);
                let mask = self.in_slot(mask_at);
                self.launches.push(flags(mask, rows, tokens, 0, to.mask)?);
            }
        }
        Ok(())
    }

    /// The input and the targets, in the host's order: rows are erased, targets made, rows mixed.
    fn pixels(&mut self) -> Result<(), GpuError> {
        let bytes = Source::Bytes { table: self.constants.table(0) };
        let route = self.plan.route(self.batch);
        let (address, dtype, order) = match route {
            Route::Bytes => {
                self.input(bytes)?;
                return self.targets(bytes);
            }
            Route::Input(order) => (self.at.tensors.input, self.plan.dtype, order),
            Route::Floats => (self.at.scratch.floats, DType::F32, PlaneOrder::ChannelFirst),
        };
        let view = &self.batch.view;
        let (rows, frames, size) = (self.batch.rows as u32, view.frames, view.size);
        let floats = FloatBatch { address, dtype, rows, frames, size };
        self.launches.push(planes(&self.view(view), bytes, order, dtype, address)?);
        let mut source = bytes;
        if let (Some(mode), Some((boxes, fields))) = (self.plan.erase, &self.batch.erase) {
            let fields = self.in_slot(*fields);
            self.launches.push(erase(&floats, order, mode, boxes, fields)?);
            source = Source::Floats(address);
        }
        self.targets(source)?;
        self.launches.extend(mix(&floats, &self.batch.mixes)?);
        if route == Route::Floats { self.input(Source::Floats(address)) } else { Ok(()) }
    }

    /// The pixels in the form that the model wants.
    fn input(&mut self, source: Source) -> Result<(), GpuError> {
        let (pixels, out) = (self.view(&self.batch.view), self.at.tensors.input);
        let (dtype, lists) = (self.plan.dtype, &self.at.tensors.first);
        let first = &self.batch.first;
        let (list, order) = match self.plan.input {
            Input::Planes(order) => {
                self.launches.push(planes(&pixels, source, order, dtype, out)?);
                return Ok(());
            }
            Input::AllPatches(order) => (None, order),
            Input::VisiblePatches(order) => {
                (Some(token_list(lists.visible, first.max_visible, lists)), order)
            }
            Input::MaskedPatches(order) => (Some(masked_list(first, lists)), order),
        };
        // The listed patches may be none.
        if list.is_none_or(|list| list.count > 0) {
            let (patch, list) = (self.plan.patch, list.as_ref());
            self.launches.push(patches(&pixels, source, patch, list, order, dtype, out)?);
        }
        Ok(())
    }

    /// Targets of every pass that predicts.
    fn targets(&mut self, source: Source) -> Result<(), GpuError> {
        if !self.batch.has_targets() {
            return Ok(());
        }
        let pixels = self.view(&self.batch.view);
        if self.plan.target == TargetSpec::HogPicture {
            self.launches.push(picture_cells(&pixels, source, self.at.scratch.cells)?);
        }
        for (pass, to) in self.passes() {
            if pass.predicts && pass.max_masked > 0 {
                let list = masked_list(pass, to);
                let launch = self.target(&pixels, source, &list, to.targets)?;
                self.launches.extend(launch);
            }
        }
        Ok(())
    }

    fn target(
        &self,
        pixels: &Pixels,
        source: Source,
        list: &TokenList,
        out: Address,
    ) -> Result<Option<Launch>, GpuError> {
        let (patch, constants) = (self.plan.patch, self.constants);
        let launch = match self.plan.target {
            TargetSpec::None => return Ok(None),
            TargetSpec::Pixels(spec) => {
                let source = match source {
                    Source::Bytes { .. } => Source::Bytes { table: constants.target_table },
                    Source::Floats(_) => source,
                };
                patch_norm(&self.patch_norm_spec(spec), pixels, source, list, out)?
            }
            TargetSpec::Hog(spec) => {
                hog(&spec, pixels, source, constants.window, patch, list, out)?
            }
            TargetSpec::HogPicture => {
                picture(pixels, self.at.scratch.cells, constants.lines, patch, list, out)?
            }
        };
        Ok(Some(launch))
    }

    fn patch_norm_spec(&self, spec: PixelSpec) -> PatchNormSpec {
        let plan = self.plan;
        let frames = self.batch.view.frames;
        let per_slot = spec.frames.indices(frames).len() as u32 / (frames / plan.patch.t).max(1);
        PatchNormSpec {
            norm: spec.norm,
            patch: plan.patch,
            chosen: plan.chosen_at(spec.frames, frames, self.constants.chosen),
            per_slot,
            order: spec.order,
            normalise: plan.normalise[0],
        }
    }

    /// Every pass and its tensors.
    fn passes(&self) -> Vec<(&'a PassPlan, &'a PassTensors<Address>)> {
        let (batch, tensors) = (self.batch, &self.at.tensors);
        let further = batch.passes.iter().zip(&tensors.passes);
        std::iter::once((&batch.first, &tensors.first)).chain(further).collect()
    }

    /// The bytes of a view.
    fn view(&self, view: &ViewPlan) -> Pixels {
        Pixels {
            address: self.in_slot(view.pixels_at),
            rows: self.batch.rows as u32,
            frames: view.frames,
            size: view.size,
        }
    }

    fn in_slot(&self, offset: usize) -> Address {
        Address(self.at.slot.0 + offset as u64)
    }
}

fn token_list(address: Address, count: usize, lists: &PassTensors<Address>) -> TokenList {
    TokenList { address, count: count as u32, counts: lists.masked_count }
}

fn masked_list(pass: &PassPlan, lists: &PassTensors<Address>) -> TokenList {
    token_list(lists.masked, pass.max_masked, lists)
}
