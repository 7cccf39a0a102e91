//! The exact bytes of a batch, known before the first sample.
//!
//! A slot holds each field for all rows, one field after the other, every field aligned to
//! [`crate::memory::ALIGN`]. Only bytes that cannot be recomputed cross the slot: u8 pixels after
//! crop and resize, the mask, the label, the sample's number, the boxes to be erased. Floats are
//! born later.

use crate::clip::Size;
use crate::key::BatchKey;
use crate::memory::ALIGN;
use crate::patch::PatchGrid;

/// One array of a batch: `row_bytes` bytes a row, rows one after the other from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// First byte in the slot.
    pub offset: usize,
    /// Bytes of one row.
    pub row_bytes: usize,
}

/// One picture or clip of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewLayout {
    /// Frames; 1 for a picture.
    pub frames: u32,
    /// Size of every frame.
    pub size: Size,
    /// Token grid of the mask.
    pub grid: PatchGrid,
    /// u8 `[frames, height, width, 3]`, RGB.
    pub pixels: Field,
    /// u8 `[tokens]`; bit 0 = masked, bit k = hidden in the k-th further pass
    /// ([`crate::Mask::passes`]); absent where nothing is masked.
    pub mask: Option<Field>,
}

/// All of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchLayout {
    /// Rows.
    pub batch_size: u32,
    /// Views of a row.
    pub views: Vec<ViewLayout>,
    /// u32 class; [`NO_LABEL`] where the data set has none.
    pub label: Field,
    /// u64 sample number.
    pub sample: Field,
    /// u32 `[2 + 4 * boxes]`: the key of the noise (low, high word), then x, y, width and height of
    /// each box of the first view that is erased, width 0 where there is none; absent where nothing
    /// is ever erased.
    pub erase: Option<Field>,
    /// Bytes of the slot.
    pub bytes: usize,
}

/// The label of a sample that has none.
pub const NO_LABEL: u32 = u32::MAX;

/// What a view needs, for [`BatchLayout::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewShape {
    /// Frames; 1 for a picture.
    pub frames: u32,
    /// Size of every frame.
    pub size: Size,
    /// Token grid.
    pub grid: PatchGrid,
    /// Whether a mask is carried.
    pub masked: bool,
}

impl BatchLayout {
    /// Places the fields of `batch_size` rows of `views`.
    pub fn new(batch_size: u32, views: &[ViewShape]) -> Self {
        let mut end = 0usize;
        let mut place = |row_bytes: usize| {
            let field = Field { offset: end, row_bytes };
            end = (end + row_bytes * batch_size as usize).next_multiple_of(ALIGN);
            field
        };
        let views = views
            .iter()
            .map(|v| ViewLayout {
                frames: v.frames,
                size: v.size,
                grid: v.grid,
                pixels: place(v.frames as usize * v.size.area() * 3),
                mask: v.masked.then(|| place(v.grid.len())),
            })
            .collect();
        let label = place(size_of::<u32>());
        let sample = place(size_of::<u64>());
        Self { batch_size, views, label, sample, erase: None, bytes: end }
    }

    /// The same with room for `boxes` erased boxes a row; as it is for none.
    #[must_use]
    pub fn with_erase(mut self, boxes: u32) -> Self {
        if boxes > 0 {
            let row_bytes = (2 + 4 * boxes as usize) * size_of::<u32>();
            self.erase = Some(Field { offset: self.bytes, row_bytes });
            let end = self.bytes + row_bytes * self.batch_size as usize;
            self.bytes = end.next_multiple_of(ALIGN);
        }
        self
    }
}

/// Exclusive access to one row of a slot that is being filled.
pub struct RowMut<'a> {
    layout: &'a BatchLayout,
    base: *mut u8,
    row: usize,
    _slot: std::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> RowMut<'a> {
    /// Row `row` of the slot that starts at `base`.
    ///
    /// # Safety
    /// `base` must be valid for `layout.bytes` bytes and aligned to [`ALIGN`] for `'a`; `row` must
    /// be below `layout.batch_size`; and nobody else may touch that row's bytes during `'a`.
    pub unsafe fn from_raw(layout: &'a BatchLayout, base: *mut u8, row: usize) -> Self {
        debug_assert!(row < layout.batch_size as usize);
        Self { layout, base, row, _slot: std::marker::PhantomData }
    }

    /// The layout of the batch.
    pub fn layout(&self) -> &'a BatchLayout {
        self.layout
    }

    /// u8 `[frames, height, width, 3]` of view `view`.
    pub fn pixels(&mut self, view: usize) -> &mut [u8] {
        self.bytes(self.layout.views[view].pixels)
    }

    /// u8 `[tokens]` of view `view`; `None` where the view carries no mask.
    pub fn mask(&mut self, view: usize) -> Option<&mut [u8]> {
        let field = self.layout.views[view].mask?;
        Some(self.bytes(field))
    }

    /// Writes the label and the sample's number.
    pub fn set_facts(&mut self, label: u32, sample: u64) {
        self.bytes(self.layout.label).copy_from_slice(&label.to_ne_bytes());
        self.bytes(self.layout.sample).copy_from_slice(&sample.to_ne_bytes());
    }

    /// u32 `[2 + 4 * boxes]`, see [`BatchLayout::erase`]; `None` where nothing is ever erased.
    pub fn erase(&mut self) -> Option<&mut [u32]> {
        let field = self.layout.erase?;
        Some(bytemuck::cast_slice_mut(self.bytes(field)))
    }

    fn bytes(&mut self, field: Field) -> &mut [u8] {
        let start = field.offset + self.row * field.row_bytes;
        // SAFETY: `from_raw`'s contract; the fields of a layout are disjoint and lie inside it.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), field.row_bytes) }
    }
}

/// A full batch, read only.
#[derive(Clone, Copy, Debug)]
pub struct BatchRef<'a> {
    layout: &'a BatchLayout,
    bytes: &'a [u8],
    rows: usize,
    key: Option<BatchKey>,
    elsewhere: &'a [bool],
}

impl<'a> BatchRef<'a> {
    /// `rows` filled rows of a slot laid out as `layout`; `bytes` must be aligned to 8.
    ///
    /// # Panics
    /// When `bytes` is shorter than the layout or there are more rows than it has.
    pub fn new(layout: &'a BatchLayout, bytes: &'a [u8], rows: usize) -> Self {
        assert!(bytes.len() >= layout.bytes && rows <= layout.batch_size as usize);
        Self { layout, bytes, rows, key: None, elsewhere: &[] }
    }

    /// The same, where the pixels of row n are not in the slot if `elsewhere[n]` is set: a device has
    /// them.
    #[must_use]
    pub fn with_elsewhere(self, elsewhere: &'a [bool]) -> Self {
        let any = elsewhere.iter().any(|row| *row);
        Self { elsewhere: if any { elsewhere } else { &[] }, ..self }
    }

    /// Whether the pixels of row `row` are not in the slot.
    pub fn is_elsewhere(&self, row: usize) -> bool {
        self.elsewhere.get(row).is_some_and(|row| *row)
    }

    /// The same with its place in the run, without which its rows are not mixed.
    #[must_use]
    pub fn keyed(self, key: BatchKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Its place in the run, where it has one.
    pub fn key(&self) -> Option<BatchKey> {
        self.key
    }

    /// The layout.
    pub fn layout(&self) -> &'a BatchLayout {
        self.layout
    }

    /// All bytes of the slot, [`BatchLayout::bytes`] of them: what one copy to a device moves. Pixels
    /// that are elsewhere are an earlier batch's here.
    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[..self.layout.bytes]
    }

    /// Filled rows: the batch size, or fewer in the last batch of an evaluation.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// u8 `[rows, frames, height, width, 3]` of view `view`.
    ///
    /// # Panics
    /// When pixels of some row are elsewhere.
    pub fn pixels(&self, view: usize) -> &'a [u8] {
        assert!(self.elsewhere.is_empty(), "pixels that a device has are read on the host");
        self.field(self.layout.views[view].pixels)
    }

    /// u8 `[rows, tokens]` of view `view`.
    pub fn mask(&self, view: usize) -> Option<&'a [u8]> {
        self.layout.views[view].mask.map(|f| self.field(f))
    }

    /// u32 `[rows]`.
    pub fn labels(&self) -> &'a [u32] {
        bytemuck::cast_slice(self.field(self.layout.label))
    }

    /// u64 `[rows]`.
    pub fn samples(&self) -> &'a [u64] {
        bytemuck::cast_slice(self.field(self.layout.sample))
    }

    /// u32 `[rows, 2 + 4 * boxes]`, see [`BatchLayout::erase`].
    pub fn erase(&self) -> Option<&'a [u32]> {
        self.layout.erase.map(|f| bytemuck::cast_slice(self.field(f)))
    }

    fn field(&self, field: Field) -> &'a [u8] {
        &self.bytes[field.offset..field.offset + field.row_bytes * self.rows]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Heap, HostMemory};
    use proptest::prelude::*;

    fn shapes() -> impl Strategy<Value = Vec<ViewShape>> {
        let one = (1u32..4, 1u32..40, 1u32..40, 1u32..5, any::<bool>()).prop_map(
            |(frames, width, height, grid, masked)| ViewShape {
                frames,
                size: Size::new(width, height),
                grid: PatchGrid::new(1, grid, grid),
                masked,
            },
        );
        prop::collection::vec(one, 1..4)
    }

    proptest! {
        #[test]
        fn fields_are_disjoint_aligned_and_inside(
            batch in 1u32..9, views in shapes(), boxes in 0u32..3,
        ) {
            let layout = BatchLayout::new(batch, &views).with_erase(boxes);
            let mut fields = vec![layout.label, layout.sample];
            fields.extend(layout.erase);
            for view in &layout.views {
                fields.push(view.pixels);
                fields.extend(view.mask);
            }
            fields.sort_by_key(|f| f.offset);
            for field in &fields {
                prop_assert_eq!(field.offset % ALIGN, 0);
            }
            for pair in fields.windows(2) {
                prop_assert!(pair[0].offset + pair[0].row_bytes * batch as usize <= pair[1].offset);
            }
            let last = fields[fields.len() - 1];
            prop_assert!(last.offset + last.row_bytes * batch as usize <= layout.bytes);
        }

        #[test]
        fn rows_written_are_rows_read(batch in 1u32..6, views in shapes()) {
            let layout = BatchLayout::new(batch, &views).with_erase(1);
            let buf = Heap.allocate(layout.bytes).expect("small");
            for row in 0..batch as usize {
                // SAFETY: the buffer has the layout's bytes, one row at a time on one thread.
                let mut out = unsafe { RowMut::from_raw(&layout, buf.as_ptr(), row) };
                for view in 0..views.len() {
                    out.pixels(view).fill(row as u8 + 1);
                    if let Some(mask) = out.mask(view) {
                        mask.fill(row as u8 + 101);
                    }
                }
                out.set_facts(row as u32, row as u64 + 7);
                out.erase().expect("has room").fill(row as u32);
            }
            let batch_ref = BatchRef::new(&layout, buf.as_slice(), batch as usize);
            for (n, view) in views.iter().enumerate() {
                let row_bytes = layout.views[n].pixels.row_bytes;
                for (row, chunk) in batch_ref.pixels(n).chunks(row_bytes).enumerate() {
                    prop_assert!(chunk.iter().all(|b| *b == row as u8 + 1));
                }
                prop_assert_eq!(batch_ref.mask(n).is_some(), view.masked);
            }
            prop_assert_eq!(batch_ref.labels(), (0..batch).collect::<Vec<_>>());
            prop_assert_eq!(batch_ref.samples()[0], 7);
            let erase = batch_ref.erase().expect("has room").chunks_exact(6);
            for (row, values) in erase.enumerate() {
                prop_assert_eq!(values, [row as u32; 6]);
            }
        }
    }
}
