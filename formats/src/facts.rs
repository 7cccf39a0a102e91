//! Media facts as columns of a shard.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int32Array, ListArray, RecordBatch, StringArray};
use tubelet_core::{MediaInfo, Size, Spacing};

use crate::error::{FormatError, FormatErrorKind};

/// The facts as columns, one row each.
pub(crate) fn info_columns(facts: &[&MediaInfo]) -> Vec<(&'static str, ArrayRef)> {
    let int = |f: &dyn Fn(&MediaInfo) -> u32| -> ArrayRef {
        Arc::new(facts.iter().map(|i| Some(f(i) as i32)).collect::<Int32Array>())
    };
    let spacing = |f: &dyn Fn(&Spacing) -> u32| -> ArrayRef {
        let value = |i: &&MediaInfo| i.spacing.as_ref().map(|s| f(s) as i32);
        Arc::new(facts.iter().map(value).collect::<Int32Array>())
    };
    let mut keyframes = ListBuilder::new(Int32Builder::new());
    for info in facts {
        keyframes.append_value(info.keyframes.iter().map(|k| Some(*k as i32)));
    }
    vec![
        ("width", int(&|i| i.size.width)),
        ("height", int(&|i| i.size.height)),
        ("frames", int(&|i| i.frames)),
        ("fps", Arc::new(facts.iter().map(|i| Some(i.fps)).collect::<Float64Array>())),
        ("codec", Arc::new(facts.iter().map(|i| Some(i.codec.as_str())).collect::<StringArray>())),
        ("rotation", int(&|i| u32::from(i.rotation))),
        ("keyframes", Arc::new(keyframes.finish())),
        ("stride", spacing(&|s| s.stride)),
        ("gop", spacing(&|s| s.gop)),
    ]
}

/// The facts in row `row`; `None` where they are null or the columns are not there.
pub(crate) fn info_from_columns(batch: &RecordBatch, row: usize) -> Option<MediaInfo> {
    let int = |name: &str| -> Option<u32> {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Int32Type>()?;
        column.is_valid(row).then(|| column.value(row).max(0) as u32)
    };
    let keyframes: &ListArray = batch.column_by_name("keyframes")?.as_list_opt()?;
    let keys = keyframes.value(row);
    let fps = batch.column_by_name("fps")?.as_primitive_opt::<Float64Type>()?;
    let codec = batch.column_by_name("codec")?.as_string_opt::<i32>()?;
    Some(MediaInfo {
        size: Size::new(int("width")?, int("height")?),
        frames: int("frames")?,
        fps: fps.value(row),
        codec: codec.value(row).to_owned(),
        rotation: u16::try_from(int("rotation")?).ok()?,
        keyframes: keys
            .as_primitive_opt::<Int32Type>()?
            .values()
            .iter()
            .map(|k| *k as u32)
            .collect(),
        spacing: int("stride").zip(int("gop")).map(|(stride, gop)| Spacing { stride, gop }),
    })
}

/// An error of the Parquet library about `path`.
pub(crate) fn parquet_error(path: &Path, error: &dyn std::fmt::Display) -> FormatError {
    FormatError::new(path, FormatErrorKind::Parquet(error.to_string()))
}

thread_local! {
    /// Whether what panics on this thread is caught and told as an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `task`, which reads `path` by the Parquet library: that panics on some damaged files, which is
/// an error like any other here, and is not printed.
pub(crate) fn guarded<T>(
    path: &Path,
    task: impl FnOnce() -> Result<T, FormatError>,
) -> Result<T, FormatError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(task));
    GUARDED.set(before);
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        Err(parquet_error(path, &format!("damaged: {}", text.unwrap_or_default())))
    })
}
