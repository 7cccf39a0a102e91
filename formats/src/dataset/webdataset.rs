//! WebDataset: tar files in which consecutive members of one key are one sample.
//!
//! A key is a member's path up to the first dot of its base name; the rest is the field. Media are
//! told by their field's extension. A sample's class comes from `.cls` (a number or a name), from
//! `label`, `cls` or `class` of `.json`, or from a number in `.txt`. Every medium of a sample is a
//! sample of its own with the same class; where a data set has videos, pictures beside them are
//! taken for previews and left out. A field asked for by name overrides both.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::{Listing, kind_by_name, numbers, relative_name, shards};
use crate::error::FormatError;
use crate::index::in_parallel;
use crate::record::MediaKind;
use crate::shard::OpenOptions;
use crate::shard::catalogue::{Item, catalogue, stored_items};
use crate::shard::tar::{self, Member, members, walk};
use crate::shard::unpack::plain;
use crate::store::{AT_ONCE, Object, ReadAhead};

/// Largest member that is read for a class.
const MAX_FACTS: u64 = 1 << 20;

/// Lists the media of the tar files of the split.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let base = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
    let mut archives = Vec::new();
    let mut found = Vec::new();
    for path in shards::of_split(root, &options.split)? {
        let file = plain(&path, options.unpack)?;
        let items = catalogue(&file, "webdataset", |bytes| media(&path, bytes))?;
        archives.push(file);
        found.push((path, items));
    }
    Ok(assemble(base, archives, found, options))
}

/// Lists the media of tar files of an object store; `root` is the URL that was asked for.
///
/// # Errors
/// When one is damaged or cannot be read.
pub(crate) fn list_objects(
    root: &Path,
    objects: &[Object],
    options: &OpenOptions,
) -> Result<Listing, FormatError> {
    let items = in_parallel(objects.len(), AT_ONCE, &|_, _| (), || {
        |n| {
            let object: &Object = &objects[n];
            let stored = object.table("webdataset.parquet");
            stored_items(&stored, &object.stamp(), || media_of_object(object))
        }
    });
    let paths: Vec<PathBuf> = objects.iter().map(|o| PathBuf::from(o.url())).collect();
    let items = items.into_iter().collect::<Result<Vec<_>, _>>()?;
    let found = paths.iter().cloned().zip(items).collect();
    let base = if tar::is_tar(root) { root.parent().unwrap_or(root) } else { root };
    Ok(assemble(base, paths, found, options))
}

/// The listing of what was found in archives.
fn assemble(
    base: &Path,
    archives: Vec<PathBuf>,
    found: Vec<(PathBuf, Vec<Item>)>,
    options: &OpenOptions,
) -> Listing {
    let mut listing = Listing { archives, ..Listing::default() };
    let all = || found.iter().flat_map(|(_, items)| items);
    let videos = all().any(|i| kind(&i.name) == Some(MediaKind::Video));
    let wanted = |item: &Item| match &options.field {
        Some(field) => field_of(&item.name) == Some(field.as_str()),
        None => !videos || kind(&item.name) == Some(MediaKind::Video),
    };
    let classes = class_names(all());
    let numbers = numbers(&classes);
    listing.entries.reserve_exact(all().filter(|i| wanted(i)).count());
    for (shard, (path, items)) in found.iter().enumerate() {
        for item in items {
            if item.bytes == NO_MEDIUM {
                let name = relative_name(base, path);
                listing.missing.push(format!("{name}/{} (no picture or video)", item.name));
            } else if wanted(item) {
                let by_name = || numbers.get(item.class.as_deref()?).copied();
                let label = item.label.or_else(by_name);
                listing.add_item(base, path, shard as u32, item, label);
            }
        }
    }
    listing.classes = classes;
    listing
}

/// Size that stands for a sample without a medium.
const NO_MEDIUM: u64 = u64::MAX;

/// Class names by number; sorted names where samples have no numbers. Empty where neither is known.
fn class_names<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> Vec<String> {
    let limit = 1 << 20;
    let most = items.clone().filter_map(|i| i.label).filter(|l| *l < limit).max();
    let Some(most) = most else {
        let names: BTreeSet<&String> = items.filter_map(|i| i.class.as_ref()).collect();
        return names.into_iter().cloned().collect();
    };
    let mut names: Vec<String> = (0..=most).map(|l| l.to_string()).collect();
    for item in items {
        if let (Some(label), Some(class)) = (item.label, &item.class)
            && let Some(name) = names.get_mut(label as usize)
        {
            name.clone_from(class);
        }
    }
    names
}

/// The bytes of a small member.
type Facts<'a> = &'a dyn Fn(&Member) -> Cow<'a, [u8]>;

/// The media of one archive with the classes of their samples.
fn media(path: &Path, archive: &[u8]) -> Result<Vec<Item>, FormatError> {
    let facts = |member: &Member| {
        let range = member.bytes.start as usize..member.bytes.end as usize;
        Cow::Borrowed(archive.get(range).unwrap_or_default())
    };
    media_of(path, &members(path, archive, 0)?, &facts)
}

/// The media of an archive in a store, whose headers and small members are read once.
fn media_of_object(object: &Object) -> Result<Vec<Item>, FormatError> {
    let path = PathBuf::from(object.url());
    let mut small = HashMap::new();
    let members = walk(&path, ReadAhead::new(object), (0, object.len()), |member, payload| {
        let size = member.bytes.end - member.bytes.start;
        if size <= MAX_FACTS && field_of(&member.name).is_some_and(|f| is_facts(f)) {
            let mut bytes = Vec::new();
            payload.read_to_end(&mut bytes)?;
            small.insert(member.bytes.start, bytes);
        }
        Ok(())
    })?;
    let facts = |member: &Member| {
        Cow::Borrowed(small.get(&member.bytes.start).map(Vec::as_slice).unwrap_or_default())
    };
    media_of(&path, &members, &facts)
}

/// Whether a class may be read from this field.
fn is_facts(field: &str) -> bool {
    ["cls", "json", "txt"].iter().any(|f| field.eq_ignore_ascii_case(f))
}

fn media_of(path: &Path, members: &[Member], facts: Facts<'_>) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut sample: Vec<(&str, &Member)> = Vec::new();
    let mut key = None;
    for member in members {
        let Some((own, field)) = split_name(&member.name) else { continue };
        if key != Some(own) {
            finish(path, facts, key, &sample, &mut items)?;
            sample.clear();
            key = Some(own);
        }
        sample.push((field, member));
    }
    finish(path, facts, key, &sample, &mut items)?;
    Ok(items)
}

/// Adds the media of one sample.
fn finish(
    path: &Path,
    facts: Facts<'_>,
    key: Option<&str>,
    sample: &[(&str, &Member)],
    items: &mut Vec<Item>,
) -> Result<(), FormatError> {
    let Some(key) = key else { return Ok(()) };
    let mut fields = BTreeMap::new();
    for (field, member) in sample {
        if fields.insert(field.to_lowercase(), *member).is_some() {
            let what = format!("sample {key} has two members `.{field}`");
            return Err(FormatError::malformed(path, what).at(format!("member {}", member.name)));
        }
    }
    let told = told(path, facts, &fields)?;
    let before = items.len();
    for (_, member) in sample.iter().filter(|(field, _)| kind(field).is_some()) {
        let (label, class) = (told.label, told.class.clone());
        items.push(Item { label, class, ..shards::item((*member).clone()) });
    }
    if items.len() == before + 1 {
        items[before].hash = told.hash;
    }
    if items.len() == before {
        items.push(Item { name: key.to_owned(), bytes: NO_MEDIUM, ..Item::default() });
    }
    Ok(())
}

/// What the small members of a sample tell: number and name of its class, and, where this program
/// wrote them, the hash of its one medium.
#[derive(Default)]
struct Told {
    label: Option<u32>,
    class: Option<String>,
    hash: Option<u64>,
}

fn told(
    path: &Path,
    facts: Facts<'_>,
    fields: &BTreeMap<String, &Member>,
) -> Result<Told, FormatError> {
    let text = |field: &str| -> Result<Option<String>, FormatError> {
        let Some(member) = fields.get(field) else { return Ok(None) };
        let wrong =
            |what: String| FormatError::malformed(path, what).at(format!("member {}", member.name));
        let (start, end) = (member.bytes.start, member.bytes.end);
        if end - start > MAX_FACTS {
            return Err(wrong(format!("{} bytes: too long for facts", end - start)));
        }
        let bytes = facts(member);
        let text = std::str::from_utf8(&bytes).map_err(|e| wrong(format!("not UTF-8: {e}")))?;
        Ok(Some(text.trim().to_owned()))
    };
    let Told { mut label, mut class, mut hash } = Told::default();
    if let Some(text) = text("cls")?.filter(|t| !t.is_empty()) {
        match text.parse::<i64>() {
            Ok(number) => label = u32::try_from(number).ok(),
            Err(_) => class = Some(text),
        }
    }
    if let Some(text) = text("json")? {
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| {
            let name = fields.get("json").map(|m| m.name.clone()).unwrap_or_default();
            FormatError::malformed(path, e.to_string()).at(format!("member {name}"))
        })?;
        for value in ["label", "cls", "class"].iter().filter_map(|name| json.get(name)) {
            label = label.or_else(|| u32::try_from(value.as_u64()?).ok());
            class = class.or_else(|| value.as_str().map(str::to_owned));
        }
        let stored = json.get("info").and(json.get("xxh3")).and_then(serde_json::Value::as_str);
        hash = stored.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    }
    if label.is_none() && class.is_none() {
        label = text("txt")?.and_then(|t| t.parse().ok());
    }
    Ok(Told { label, class, hash })
}

/// Key and field of a member; `None` for members that belong to no sample.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    let hidden = name[base..].starts_with("__") || dot == base;
    (!hidden && dot + 1 < name.len()).then(|| (&name[..dot], &name[dot + 1..]))
}

fn field_of(name: &str) -> Option<&str> {
    split_name(name).map(|(_, field)| field)
}

/// The kind of medium that a field or member name promises.
fn kind(name: &str) -> Option<MediaKind> {
    let last = name.rsplit(['.', '/']).next().unwrap_or(name);
    kind_by_name(Path::new(&format!("x.{last}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_at_the_first_dot_of_the_base_name() {
        assert_eq!(split_name("a/b.c/000.seg.png"), Some(("a/b.c/000", "seg.png")));
        assert_eq!(split_name("000.jpg"), Some(("000", "jpg")));
        for none in ["README", "a.b/README", ".hidden", "000.", "__meta__.json"] {
            assert_eq!(split_name(none), None, "{none}");
        }
    }
}
