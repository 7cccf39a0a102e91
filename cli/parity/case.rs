//! One reference case: its description, its inputs and its expected values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// Version of `cases.json` that is understood.
const VERSION: u32 = 1;

/// Reads `cases.json` in `dir`.
///
/// # Errors
/// When the file is missing, not JSON, of another version, or a case lacks a field.
pub(crate) fn read_cases(dir: &Path) -> Result<Vec<Case>> {
    #[derive(Deserialize)]
    struct CaseList {
        version: u32,
        cases: Vec<Case>,
    }
    let path = dir.join("cases.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: CaseList =
        serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?;
    ensure!(list.version == VERSION, "{}: version {}, not 1", path.display(), list.version);
    let mut cases = list.cases;
    for case in &mut cases {
        case.dir = dir.to_owned();
    }
    Ok(cases)
}

/// A case as `cases.json` describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Unique name.
    pub(crate) name: String,
    /// Which runner it is for.
    pub(crate) kind: String,
    /// Whose rule it is.
    pub(crate) method: String,
    file: PathBuf,
    #[serde(default)]
    weights: BTreeMap<String, PathBuf>,
    at: Option<String>,
    /// Everything needed that is not an input.
    #[serde(default)]
    pub(crate) params: Json,
    #[serde(default)]
    inputs: BTreeMap<String, Json>,
    /// What must come out.
    pub(crate) expect: Vec<Expect>,
    #[serde(default)]
    needs_media: Vec<String>,
    #[serde(skip)]
    dir: PathBuf,
}

/// One expected output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// Name of the expected value in the case's file.
    pub(crate) tensor: String,
    /// Role of the output to compare with it.
    pub(crate) output: String,
    /// How close it must be.
    pub(crate) tolerance: Tolerance,
    /// After which step, where there are several.
    pub(crate) step: Option<usize>,
    /// Inclusive range of the elements of the innermost lists to compare.
    pub(crate) items: Option<[usize; 2]>,
    /// (batch, token) pairs left out.
    #[serde(default)]
    pub(crate) ignore_tokens: Vec<[usize; 2]>,
    /// Where ids may differ.
    pub(crate) tie: Option<Tie>,
}

/// Ids may differ where the two largest values of `tensor` along `axis` are within `margin`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tie {
    /// Tensor of scores in the case's file.
    pub(crate) tensor: String,
    /// Its axis of classes.
    pub(crate) axis: usize,
    /// Largest difference that counts as a tie.
    pub(crate) margin: f64,
}

/// How close an output must be. All limits that are given add up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tolerance {
    /// Absolute.
    pub(crate) abs: Option<f64>,
    /// Relative to each expected value.
    pub(crate) rel: Option<f64>,
    /// Relative to the largest magnitude expected.
    pub(crate) rel_to_max: Option<f64>,
    /// Equal.
    pub(crate) exact: Option<bool>,
    /// Share of the elements that must be within the limit; 1 if absent.
    pub(crate) fraction: Option<f64>,
    /// For back ends that cannot add in the stated order; not used on the host.
    #[serde(rename = "allowance")]
    pub(crate) _allowance: Option<Json>,
    /// Standard errors of the difference between two samples.
    pub(crate) standard_errors: Option<f64>,
    /// Elements that may lie up to one standard error further out.
    #[serde(default)]
    pub(crate) outliers: usize,
    /// Half the summed difference of two normalised histograms.
    pub(crate) total_variation: Option<f64>,
    /// The same bins are empty.
    #[serde(default)]
    pub(crate) same_support: bool,
}

impl Case {
    /// The parameter `name`.
    ///
    /// # Errors
    /// When it is absent or of another type.
    pub(crate) fn param<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.params.get(name).ok_or_else(|| anyhow!("parameter {name} is missing"))?;
        T::deserialize(value).with_context(|| format!("parameter {name}"))
    }

    /// The parameter `name`; `None` where it is absent or null.
    ///
    /// # Errors
    /// When it is of another type.
    pub(crate) fn param_opt<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match self.params.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(_) => self.param(name).map(Some),
        }
    }

    /// The weights file with this role.
    ///
    /// # Errors
    /// When the case has none.
    #[allow(dead_code, reason = "for the kinds that run models")]
    pub(crate) fn weights(&self, role: &str) -> Result<PathBuf> {
        let file = self.weights.get(role).ok_or_else(|| anyhow!("no weights for {role}"))?;
        Ok(self.dir.join(file))
    }

    /// Names and places of the media the case needs; `Err(name)` for the first that is absent.
    pub(crate) fn media(&self) -> Result<Vec<PathBuf>, String> {
        let data = self.dir.join("../data");
        let find = |name: &String| find_media(&data, name).ok_or_else(|| name.clone());
        self.needs_media.iter().map(find).collect()
    }

    /// The sub-cases: one a row where `at` names rows, else one.
    ///
    /// # Errors
    /// When the file is missing or lacks a named value.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let path = self.dir.join(&self.file);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let rows = if self.file.extension().is_some_and(|e| e == "json") {
            self.json_rows(&bytes)
        } else {
            self.tensor_rows(&bytes)
        };
        rows.with_context(|| format!("in {}", path.display()))
    }

    fn tensor_rows(&self, bytes: &[u8]) -> Result<Vec<Row>> {
        let file = SafeTensors::deserialize(bytes)?;
        let fetch = |name: &str| tensor(&file, name);
        let mut row = Row::default();
        for (role, names) in &self.inputs {
            row.inputs.insert(role, self.fetch_input(names, fetch)?);
        }
        for expect in &self.expect {
            self.fetch_expected(expect, &mut row, fetch)?;
        }
        Ok(vec![row])
    }

    fn json_rows(&self, bytes: &[u8]) -> Result<Vec<Row>> {
        let root: Json = serde_json::from_slice(bytes)?;
        let at = self.at.as_deref().unwrap_or("");
        let place = root.pointer(at).ok_or_else(|| anyhow!("nothing at {at:?}"))?;
        let mut places: Vec<(String, &Json)> = match place {
            Json::Array(rows) => {
                rows.iter().enumerate().map(|(i, row)| (i.to_string(), row)).collect()
            }
            Json::Object(map) if self.expect.iter().any(|e| !map.contains_key(&e.tensor)) => {
                map.iter().map(|(key, row)| (key.clone(), row)).collect()
            }
            other => vec![(String::new(), other)],
        };
        if let Some([from, to]) = self.param_opt::<[usize; 2]>("rows")? {
            ensure!(from < to && to <= places.len(), "rows {from}..{to} of {}", places.len());
            places = places.drain(from..to).collect();
        }
        ensure!(!places.is_empty(), "no rows at {at:?}");
        places.into_iter().map(|(key, place)| self.json_row(&key, place)).collect()
    }

    fn json_row(&self, key: &str, place: &Json) -> Result<Row> {
        let fetch = |name: &str| {
            let expected = self.expect.first().and_then(|e| place.get(&e.tensor));
            if let ("key", "", Some(Json::Object(map))) = (name, key, expected) {
                return Ok(Value::Json(map.keys().cloned().collect()));
            }
            if name == "key" {
                return Ok(Value::Json(Json::String(key.to_owned())));
            }
            if let Some(of) = name.strip_prefix("key of ") {
                let map = place.get(of).and_then(Json::as_object);
                let map = map.ok_or_else(|| anyhow!("row {key} has no object {of}"))?;
                return Ok(Value::Json(map.keys().cloned().collect()));
            }
            let value = place.get(name).ok_or_else(|| anyhow!("row {key} has no {name}"))?;
            Ok(Value::Json(value.clone()))
        };
        let mut row = Row { key: key.to_owned(), ..Row::default() };
        for (role, names) in &self.inputs {
            row.inputs.insert(role, self.fetch_input(names, fetch)?);
        }
        for expect in &self.expect {
            self.fetch_expected(expect, &mut row, fetch)?;
        }
        if let Some(std) = place.get("std") {
            row.expected.insert("std".to_owned(), Value::Json(std.clone()));
        }
        Ok(row)
    }

    fn fetch_input(
        &self,
        names: &Json,
        fetch: impl Fn(&str) -> Result<Value>,
    ) -> Result<Vec<Value>> {
        let one = |name: &str| match name.strip_prefix("weights.") {
            Some(role) => Ok(Value::Json(Json::String(self.weights(role)?.display().to_string()))),
            None => fetch(name),
        };
        match names {
            Json::String(name) => Ok(vec![one(name)?]),
            Json::Array(names) => names
                .iter()
                .map(|n| one(n.as_str().ok_or_else(|| anyhow!("input name {n} is no text"))?))
                .collect(),
            other => bail!("input name {other} is no text"),
        }
    }

    fn fetch_expected(
        &self,
        expect: &Expect,
        row: &mut Row,
        fetch: impl Fn(&str) -> Result<Value>,
    ) -> Result<()> {
        if expect.tensor == "*" {
            let role = expect.output.strip_prefix("weights.").unwrap_or(&expect.output);
            row.all_tensors = read_tensors(&self.weights(role)?)?;
            return Ok(());
        }
        row.expected.insert(expect.tensor.clone(), fetch(&expect.tensor)?);
        if let Some(tie) = &expect.tie {
            row.expected.insert(tie.tensor.clone(), fetch(&tie.tensor)?);
        }
        Ok(())
    }
}

/// One sub-case with everything read.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Its place among the rows; empty where there is only one.
    pub(crate) key: String,
    /// What goes in.
    pub(crate) inputs: Inputs,
    /// What must come out, by the name in the file.
    pub(crate) expected: BTreeMap<String, Value>,
    /// What must come out where a case expects every tensor of a file.
    pub(crate) all_tensors: BTreeMap<String, Value>,
}

/// Inputs by role.
#[derive(Debug, Default)]
pub(crate) struct Inputs(BTreeMap<String, Vec<Value>>);

impl Inputs {
    fn insert(&mut self, role: &str, values: Vec<Value>) {
        self.0.insert(role.to_owned(), values);
    }

    /// Whether there is an input with this role.
    pub(crate) fn has(&self, role: &str) -> bool {
        self.0.contains_key(role)
    }

    /// All values of `role`: several where the case has several steps.
    ///
    /// # Errors
    /// When there is no such role.
    pub(crate) fn all(&self, role: &str) -> Result<&[Value]> {
        Ok(self.0.get(role).ok_or_else(|| anyhow!("input {role} is missing"))?)
    }

    /// The value of `role`.
    ///
    /// # Errors
    /// When there is no such role.
    pub(crate) fn value(&self, role: &str) -> Result<&Value> {
        self.all(role)?.first().ok_or_else(|| anyhow!("input {role} is empty"))
    }

    /// The array of `role`.
    ///
    /// # Errors
    /// When there is no such role or it holds no numbers.
    pub(crate) fn array(&self, role: &str) -> Result<Array> {
        self.value(role)?.numeric().ok_or_else(|| anyhow!("input {role} is no array"))
    }

    /// The JSON value of `role` as a `T`.
    ///
    /// # Errors
    /// When there is no such role or it is of another type.
    pub(crate) fn get<T: DeserializeOwned>(&self, role: &str) -> Result<T> {
        match self.value(role)? {
            Value::Json(json) => T::deserialize(json).with_context(|| format!("input {role}")),
            Value::Array(_) => bail!("input {role} is an array"),
        }
    }
}

/// A value of a case: an array, or anything JSON can say (texts too).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Numbers with a shape.
    Array(Array),
    /// The rest.
    Json(Json),
}

/// Numbers with a shape, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    /// Extent of each axis; empty for a scalar.
    pub(crate) shape: Vec<usize>,
    /// The numbers.
    pub(crate) data: Data,
}

/// Numbers of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

impl Value {
    /// An array of this shape.
    pub(crate) fn array(shape: &[usize], data: impl Into<Data>) -> Self {
        Self::Array(Array { shape: shape.to_vec(), data: data.into() })
    }

    /// One number.
    pub(crate) fn number(value: f64) -> Self {
        Self::array(&[], vec![value])
    }

    /// Anything that JSON can say.
    pub(crate) fn json(value: impl Into<Json>) -> Self {
        Self::Json(value.into())
    }

    /// The numbers, where it is an array or JSON that holds a rectangle of numbers.
    pub(crate) fn numeric(&self) -> Option<Array> {
        match self {
            Self::Array(array) => Some(array.clone()),
            Self::Json(json) => {
                let (mut shape, mut data) = (Vec::new(), Vec::new());
                flatten(json, 0, &mut shape, &mut data)
                    .then_some(Array { shape, data: Data::F64(data) })
            }
        }
    }

    /// As JSON, arrays flat.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Array(array) => array.f64s().into(),
            Self::Json(json) => json.clone(),
        }
    }
}

impl Array {
    /// The numbers as f64 (i64 beyond 2^53 are rounded).
    pub(crate) fn f64s(&self) -> Vec<f64> {
        match &self.data {
            Data::F64(v) => v.clone(),
            Data::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::I64(v) => v.iter().map(|x| *x as f64).collect(),
            Data::U8(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        }
    }

    /// The numbers as f32.
    pub(crate) fn f32s(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(v) => v.clone(),
            _ => self.f64s().into_iter().map(|x| x as f32).collect(),
        }
    }

    /// The numbers as truth values: 0 is false.
    pub(crate) fn bools(&self) -> Vec<bool> {
        match &self.data {
            Data::Bool(v) => v.clone(),
            _ => self.f64s().into_iter().map(|x| x != 0.0).collect(),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// When it holds another type.
    pub(crate) fn u8s(&self) -> Result<&[u8]> {
        match &self.data {
            Data::U8(v) => Ok(v),
            _ => bail!("not an array of bytes"),
        }
    }

    /// Number of elements the shape names.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape without axes of length one.
    pub(crate) fn squeezed(&self) -> Vec<usize> {
        self.shape.iter().copied().filter(|n| *n != 1).collect()
    }
}

impl From<Vec<f64>> for Data {
    fn from(v: Vec<f64>) -> Self {
        Self::F64(v)
    }
}

impl From<Vec<f32>> for Data {
    fn from(v: Vec<f32>) -> Self {
        Self::F32(v)
    }
}

impl From<Vec<i64>> for Data {
    fn from(v: Vec<i64>) -> Self {
        Self::I64(v)
    }
}

impl From<Vec<u8>> for Data {
    fn from(v: Vec<u8>) -> Self {
        Self::U8(v)
    }
}

impl From<Vec<bool>> for Data {
    fn from(v: Vec<bool>) -> Self {
        Self::Bool(v)
    }
}

/// All tensors of a safetensors file.
///
/// # Errors
/// When the file is missing, broken, or holds a type that no case uses.
pub(crate) fn read_tensors(path: &Path) -> Result<BTreeMap<String, Value>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)?;
    file.names().into_iter().map(|name| Ok((name.to_owned(), tensor(&file, name)?))).collect()
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Result<Value> {
    let view = file.tensor(name).map_err(|_| anyhow!("no tensor {name:?}"))?;
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F64 => Data::F64(elements(bytes, f64::from_le_bytes)),
        Dtype::F32 => Data::F32(elements(bytes, f32::from_le_bytes)),
        Dtype::I64 => Data::I64(elements(bytes, i64::from_le_bytes)),
        Dtype::I32 => Data::I64(elements(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        Dtype::U8 => Data::U8(bytes.to_vec()),
        Dtype::BOOL => Data::Bool(bytes.iter().map(|b| *b != 0).collect()),
        other => bail!("tensor {name:?} is of type {other:?}"),
    };
    Ok(Value::Array(Array { shape: view.shape().to_vec(), data }))
}

fn elements<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Collects the numbers of a rectangular nest of lists; false where it is none.
fn flatten(json: &Json, depth: usize, shape: &mut Vec<usize>, data: &mut Vec<f64>) -> bool {
    match json {
        Json::Number(number) => {
            data.push(number.as_f64().unwrap_or(f64::NAN));
            depth == shape.len()
        }
        Json::Array(items) if !items.is_empty() => {
            if depth == shape.len() {
                if !data.is_empty() {
                    return false;
                }
                shape.push(items.len());
            }
            shape[depth] == items.len()
                && items.iter().all(|item| flatten(item, depth + 1, shape, data))
        }
        _ => false,
    }
}

fn find_media(data: &Path, name: &str) -> Option<PathBuf> {
    let clip = data.join("videos").join(name);
    if clip.is_file() {
        return Some(clip);
    }
    let mut folders = vec![data.join("imagenet-sample")];
    while let Some(folder) = folders.pop() {
        let photo = folder.join(name);
        if photo.is_file() {
            return Some(photo);
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
    }
    None
}
