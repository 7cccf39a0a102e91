//! The Parquet schema of shards.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::sample::Payload;
use crate::facts::info_columns;
use crate::record::{MediaKind, Record};
use crate::shard::parquet::{LEVELS, level_hash};

/// The shards' schema, with the metadata by which Hugging Face's `datasets` shows media and classes.
/// `sides` are those of further, smaller encodings.
pub(super) fn schema(kind: MediaKind, classes: &[String], sides: &[u32]) -> Schema {
    let column = column_name(kind);
    let media = if kind == MediaKind::Video { "Video" } else { "Image" };
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    let label = match classes.is_empty() {
        true => value("int64"),
        false => json!({"names": classes, "_type": "ClassLabel"}),
    };
    let mut features = json!({
        column: {"_type": media},
        "label": label,
        "width": value("int32"), "height": value("int32"), "frames": value("int32"),
        "fps": value("float64"), "codec": value("string"), "rotation": value("int32"),
        "keyframes": {"feature": value("int32"), "_type": "List"},
        "stride": value("int32"), "gop": value("int32"),
        "xxh3": value("string"),
    });
    let mut fields = vec![
        Field::new(column, DataType::Struct(media_fields()), true),
        Field::new("label", DataType::Int64, true),
    ];
    for (name, array) in info_columns(&[]) {
        fields.push(Field::new(name, array.data_type().clone(), true));
    }
    fields.push(Field::new("xxh3", DataType::Utf8, true));
    for side in sides {
        let name = level_column(*side);
        features[&name] = json!({"_type": "Image"});
        fields.push(Field::new(name, DataType::Struct(media_fields()), true));
        let name = level_hash(*side);
        features[&name] = value("string");
        fields.push(Field::new(name, DataType::Utf8, true));
    }
    let text = json!({"info": {"features": features}}).to_string();
    let metadata = std::collections::HashMap::from([("huggingface".to_owned(), text)]);
    Schema::new(fields).with_metadata(metadata)
}

/// One payload a page, plain and uncompressed, so that readers can lend it from a map.
pub(super) fn properties(kind: MediaKind, sides: &[u32]) -> WriterProperties {
    let levels = sides.iter().map(|side| level_column(*side));
    let payloads = std::iter::once(column_name(kind).to_owned()).chain(levels);
    let plain = WriterProperties::builder();
    let without = payloads.fold(plain, |properties, column| {
        let path = ColumnPath::from(vec![column, "bytes".to_owned()]);
        properties.set_column_statistics_enabled(path, EnabledStatistics::None)
    });
    without
        .set_created_by(format!("tubelet {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1)
        .set_max_row_group_row_count(Some(1 << 20))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build()
}

/// One sample as a row of `schema`; `hash` is that of its payload.
pub(super) fn row(
    schema: &Arc<Schema>,
    sample: &Record,
    payload: &Payload,
    hash: &str,
) -> Result<RecordBatch, ArrowError> {
    let own = media(&payload.bytes, Some(&sample.name))?;
    let label = sample.label.map_or(-1, i64::from);
    let mut columns: Vec<ArrayRef> = vec![Arc::new(own), Arc::new(Int64Array::from(vec![label]))];
    columns.extend(info_columns(&[&payload.info]).into_iter().map(|(_, column)| column));
    columns.push(Arc::new(StringArray::from(vec![hash])));
    for level in &payload.levels {
        let hash = level.as_ref().map(|bytes| format!("{:016x}", xxh3_64(bytes)));
        columns.push(match level {
            Some(bytes) => Arc::new(media(bytes, None)?),
            None => Arc::new(StructArray::new_null(media_fields(), 1)),
        });
        columns.push(Arc::new(StringArray::from(vec![hash])));
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// One medium.
fn media(bytes: &[u8], path: Option<&str>) -> Result<StructArray, ArrowError> {
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![bytes]));
    let path: ArrayRef = Arc::new(StringArray::from(vec![path]));
    StructArray::try_new(media_fields(), vec![bytes, path], None)
}

/// The column of the encodings of shorter side `side`.
fn level_column(side: u32) -> String {
    format!("{LEVELS}{side}")
}

fn column_name(kind: MediaKind) -> &'static str {
    if kind == MediaKind::Video { "video" } else { "image" }
}

fn media_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}
