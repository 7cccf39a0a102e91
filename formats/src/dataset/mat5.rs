//! MATLAB's MAT-file, level 5, as far as ImageNet's `meta.mat` needs it: struct arrays, text and
//! real numbers; everything else is passed over.
//!
//! Elements are a tag (type and size), data, and padding to eight bytes; types and classes carry the
//! numbers of MathWorks' "MAT-File Format".

use std::io::Read;

/// A value of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A struct array: names of the fields, and the values of each element.
    Structs(Vec<String>, Vec<Vec<Value>>),
    /// Text.
    Text(String),
    /// Real numbers, column after column.
    Numbers(Vec<f64>),
    /// What is passed over.
    Other,
}

/// Bytes of the file's header.
const HEADER: usize = 128;
/// Largest decompressed element.
const MAX_BYTES: u64 = 1 << 25;
/// Deepest nesting of arrays.
const MAX_DEPTH: u32 = 8;

/// The named variables of a file.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, Value)>, String> {
    match file.get(124..HEADER) {
        Some([_, 1, b'I', b'M']) => {}
        Some([1, _, b'M', b'I']) => return Err("written big-endian".to_owned()),
        _ => return Err("no MAT-file of level 5".to_owned()),
    }
    let mut rest = &file[HEADER..];
    let mut variables = Vec::new();
    while rest.len() >= 8 {
        let (kind, data) = element(&mut rest)?;
        let unpacked;
        let (kind, data) = match kind {
            15 => {
                unpacked = inflate(data)?;
                element(&mut unpacked.as_slice())?
            }
            _ => (kind, data),
        };
        if kind == 14 {
            variables.push(matrix(data, 0)?);
        }
    }
    Ok(variables)
}

fn inflate(data: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut reader = flate2::read::ZlibDecoder::new(data).take(MAX_BYTES);
    reader.read_to_end(&mut out).map_err(|e| format!("cannot be decompressed: {e}"))?;
    Ok(out)
}

/// Type and data of the next element; moves `rest` behind it.
fn element<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8]), String> {
    let cut = || "ends inside an element".to_owned();
    let word = |at: usize| {
        rest.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok_or_else(cut)
    };
    let first = word(0)?;
    // Up to four bytes of data share the tag's eight.
    let small = first >> 16;
    let (kind, start, size, end): (u32, usize, usize, usize) = match small {
        0 => {
            let size = word(4)? as usize;
            // Compressed elements are not padded.
            let padded = if first == 15 { size } else { size.next_multiple_of(8) };
            (first, 8, size, 8usize.saturating_add(padded))
        }
        size => (first & 0xffff, 4, size as usize, 8),
    };
    let data = start.checked_add(size).and_then(|stop| rest.get(start..stop)).ok_or_else(cut)?;
    *rest = rest.get(end..).unwrap_or_default();
    Ok((kind, data))
}

/// Name and value of an array.
fn matrix(mut data: &[u8], depth: u32) -> Result<(String, Value), String> {
    if depth > MAX_DEPTH {
        return Err("arrays are nested too deeply".to_owned());
    }
    if data.is_empty() {
        return Ok((String::new(), Value::Other));
    }
    let flags = element(&mut data)?.1;
    let class = flags.first().copied().ok_or("an array without flags")?;
    let dims = element(&mut data)?;
    let sizes = numbers(dims.0, dims.1)?;
    let count = sizes.iter().product::<f64>();
    let name = text(element(&mut data)?)?;
    let value = match class {
        2 => structs(&mut data, count, depth)?,
        4 => Value::Text(text(element(&mut data)?)?),
        6..=15 => {
            let (kind, data) = element(&mut data)?;
            Value::Numbers(numbers(kind, data)?)
        }
        _ => Value::Other,
    };
    Ok((name, value))
}

fn structs(data: &mut &[u8], count: f64, depth: u32) -> Result<Value, String> {
    let (kind, length) = element(data)?;
    let length = numbers(kind, length)?.first().copied().unwrap_or(0.0) as usize;
    let names = element(data)?.1;
    if length == 0 || names.len() % length != 0 {
        return Err("names of fields have no length".to_owned());
    }
    let fields: Vec<String> = names
        .chunks_exact(length)
        .map(|name| name.split(|b| *b == 0).next().unwrap_or_default())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let mut elements = Vec::new();
    // Each value takes a tag at least, so that a false count ends with the data.
    for _ in 0..count as usize {
        let mut values = Vec::with_capacity(fields.len());
        for _ in &fields {
            let (_, inner) = element(data)?;
            values.push(matrix(inner, depth + 1)?.1);
        }
        elements.push(values);
        if fields.is_empty() {
            break;
        }
    }
    Ok(Value::Structs(fields, elements))
}

fn text((kind, data): (u32, &[u8])) -> Result<String, String> {
    match kind {
        // UTF-16, two bytes a letter.
        4 | 17 => {
            let units: Vec<u16> =
                data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            Ok(String::from_utf16_lossy(&units))
        }
        1 | 2 | 16 => Ok(String::from_utf8_lossy(data).into_owned()),
        other => Err(format!("text stored as type {other}")),
    }
}

fn numbers(kind: u32, data: &[u8]) -> Result<Vec<f64>, String> {
    fn all<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let exact = |b: &[u8]| b.try_into().map(&value).unwrap_or(f64::NAN);
        data.chunks_exact(N).map(exact).collect()
    }
    Ok(match kind {
        1 => all(data, |b| f64::from(i8::from_le_bytes(b))),
        2 => all(data, |b| f64::from(u8::from_le_bytes(b))),
        3 => all(data, |b| f64::from(i16::from_le_bytes(b))),
        4 => all(data, |b| f64::from(u16::from_le_bytes(b))),
        5 => all(data, |b| f64::from(i32::from_le_bytes(b))),
        6 => all(data, |b| f64::from(u32::from_le_bytes(b))),
        7 => all(data, |b| f64::from(f32::from_le_bytes(b))),
        9 => all(data, f64::from_le_bytes),
        12 => all(data, |b| i64::from_le_bytes(b) as f64),
        13 => all(data, |b| u64::from_le_bytes(b) as f64),
        other => return Err(format!("numbers stored as type {other}")),
    })
}
