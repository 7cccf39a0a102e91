//! WebDataset: tar files in which consecutive members of one key are one sample.
//!
//! A key is a member's path up to the first dot of its base name; the rest is the field. Media are
//! told by their field's extension. A sample's class comes from `.cls` (a number or a name), from
//! `label`, `cls` or `class` of `.json`, or from a number in `.txt`. Every medium of a sample is a
//! sample of its own with the same class; where a data set has videos, pictures beside them are
//! taken for previews and left out, and so are the smaller encodings of a pyramid (`.px128.jpg`). A
//! field asked for by name overrides all of that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::labels::{Labels, Odd};
use super::{Listing, kind_by_name, relative_name, shards};
use crate::error::FormatError;
use crate::index::in_parallel;
use crate::record::MediaKind;
use crate::shard::OpenOptions;
use crate::shard::catalogue::{Item, catalogue, kind_of, stored_items, stored_or};
use crate::shard::packed::stream;
use crate::shard::tar::{self, Member, members_until, stream_members, walk};
use crate::shard::unpack::{TarSource, tar_source};
use crate::store::{AT_ONCE, Object, ReadAhead};

/// Largest member that is read for a class.
const MAX_FACTS: u64 = 1 << 20;

/// Lists the media of the tar files of the split.
pub(super) fn list(root: &Path, options: &OpenOptions) -> Result<Listing, FormatError> {
    let base = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
    let mut archives = Vec::new();
    let mut found = Vec::new();
    for path in shards::of_split(root, &options.split)? {
        let (file, items) = items_of(&path, options)?;
        archives.push(file);
        found.push((path, items));
    }
    assemble(base, archives, found, options)
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
    assemble(base, paths, found, options)
}

/// The listing of what was found in archives.
fn assemble(
    base: &Path,
    archives: Vec<PathBuf>,
    found: Vec<(PathBuf, Vec<Item>)>,
    options: &OpenOptions,
) -> Result<Listing, FormatError> {
    let mut listing = Listing { archives, ..Listing::default() };
    let all = || found.iter().flat_map(|(_, items)| items);
    let videos = all().any(|i| kind(&i.name) == Some(MediaKind::Video));
    let wanted = |item: &Item| match &options.field {
        Some(field) => field_of(&item.name) == Some(field.as_str()),
        None => match videos {
            true => kind(&item.name) == Some(MediaKind::Video),
            false => !field_of(&item.name).is_some_and(is_level),
        },
    };
    let labels = Labels::of(all().map(said)).map_err(|odd| odd_one(&found, odd))?;
    for (shard, (path, items)) in found.iter().enumerate() {
        for item in items {
            if item.is_lost() {
                listing.add_lost(base, path, item);
            } else if item.bytes == NO_MEDIUM {
                let name = relative_name(base, path);
                listing.missing.push(format!("{name}/{} (no picture or video)", item.name));
            } else if wanted(item) {
                listing.add_item(base, path, shard as u32, item, labels.label(said(item)));
            }
        }
    }
    listing.classes = labels.names;
    listing.entries.shrink();
    Ok(listing)
}

/// What a sample says of its class.
fn said(item: &Item) -> (Option<u32>, Option<&str>) {
    (item.label, item.class.as_deref())
}

/// The error about a sample whose class is unlike those of the others.
fn odd_one(found: &[(PathBuf, Vec<Item>)], odd: Odd) -> FormatError {
    let mut all = found.iter().flat_map(|(path, items)| items.iter().map(move |i| (path, i)));
    let (path, item) = all.nth(odd.sample).map_or((Path::new(""), ""), |(p, i)| (p, &i.name));
    FormatError::malformed(path, odd.what).at(format!("member {item}"))
}

/// The media of one archive, and the file that holds them.
fn items_of(path: &Path, options: &OpenOptions) -> Result<(PathBuf, Vec<Item>), FormatError> {
    let stored_as = kind_of("webdataset", options.salvage);
    let packing = match tar_source(path, options)? {
        TarSource::Plain(file) => {
            let items = catalogue(&file, &stored_as, |bytes| {
                let content = |member: &Member| {
                    let (start, end) = (member.bytes.start as usize, member.bytes.end as usize);
                    bytes.get(start..end).unwrap_or_default()
                };
                let (members, damage) = members_until(path, bytes, 0);
                left(path, &members, damage, &content, options)
            })?;
            return Ok((file, items));
        }
        TarSource::Packed(packing) => packing,
    };
    let items = stored_or(path, &stored_as, || {
        let (found, damage) = stream_members(path, stream(path, packing)?, &tells);
        let (members, texts): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let starts = members.iter().map(|m: &Member| m.bytes.start);
        let texts: HashMap<u64, Option<Vec<u8>>> = starts.zip(texts).collect();
        let content = |member: &Member| {
            texts.get(&member.bytes.start).and_then(Option::as_deref).unwrap_or_default()
        };
        left(path, &members, damage, &content, options)
    })?;
    Ok((path.to_owned(), items))
}

/// The media of an archive or, where `options` say so, those before its damage. The last sample then
/// may lack members, so it is lost with what follows.
fn left(
    path: &Path,
    members: &[Member],
    damage: Option<FormatError>,
    content: &Content<'_>,
    options: &OpenOptions,
) -> Result<Vec<Item>, FormatError> {
    let Some(damage) = damage else { return media(path, members, content) };
    if !options.salvage {
        return Err(damage);
    }
    let key = |member: &Member| split_name(&member.name).map(|(key, _)| key.to_owned());
    let last = members.last().and_then(key);
    let whole = members.iter().rposition(|m| last.is_none() || key(m) != last);
    let mut items = media(path, &members[..whole.map_or(0, |n| n + 1)], content)?;
    items.push(Item::lost(&damage));
    Ok(items)
}

/// Looks a small member's bytes up.
type Content<'a> = dyn Fn(&Member) -> &'a [u8] + 'a;

/// Size that stands for a sample without a medium.
const NO_MEDIUM: u64 = u64::MAX;

/// The media of an archive in a store, whose headers and small members are read once.
fn media_of_object(object: &Object) -> Result<Vec<Item>, FormatError> {
    let path = PathBuf::from(object.url());
    let mut texts = HashMap::new();
    let members = walk(&path, ReadAhead::new(object), (0, object.len()), |member, payload| {
        if tells(&member.name, member.bytes.end - member.bytes.start) {
            let mut bytes = Vec::new();
            payload.read_to_end(&mut bytes)?;
            texts.insert(member.bytes.start, bytes);
        }
        Ok(())
    })?;
    let content =
        |member: &Member| texts.get(&member.bytes.start).map(Vec::as_slice).unwrap_or_default();
    media(&path, &members, &content)
}

/// Whether a member may tell the class of its sample, by its name and size.
fn tells(name: &str, bytes: u64) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default().to_lowercase();
    bytes <= MAX_FACTS && ["cls", "json", "txt"].contains(&last.as_str())
}

/// The media of one archive with the classes of their samples.
fn media(path: &Path, members: &[Member], content: &Content<'_>) -> Result<Vec<Item>, FormatError> {
    let mut items = Vec::new();
    let mut sample: Vec<(&str, &Member)> = Vec::new();
    let mut key = None;
    for member in members {
        let Some((own, field)) = split_name(&member.name) else { continue };
        if key != Some(own) {
            finish(path, content, key, &sample, &mut items)?;
            sample.clear();
            key = Some(own);
        }
        sample.push((field, member));
    }
    finish(path, content, key, &sample, &mut items)?;
    Ok(items)
}

/// Adds the media of one sample.
fn finish(
    path: &Path,
    content: &Content<'_>,
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
    let told = told(path, content, &fields)?;
    let before = items.len();
    for (_, member) in sample.iter().filter(|(field, _)| kind(field).is_some()) {
        let (label, class) = (told.label, told.class.clone());
        items.push(Item { label, class, ..shards::item((*member).clone()) });
    }
    let own = |item: &&mut Item| !field_of(&item.name).is_some_and(is_level);
    if let [item] = &mut items[before..].iter_mut().filter(own).collect::<Vec<_>>()[..] {
        item.hash = told.hash;
    }
    if items.len() == before {
        items.push(Item { name: key.to_owned(), bytes: NO_MEDIUM, ..Item::default() });
    }
    Ok(())
}

/// What the small members of a sample tell: number and name of its class, and, where this program
/// wrote them, the hash of its one medium (smaller encodings of it left out).
#[derive(Default)]
struct Told {
    label: Option<u32>,
    class: Option<String>,
    hash: Option<u64>,
}

fn told(
    path: &Path,
    content: &Content<'_>,
    fields: &BTreeMap<String, &Member>,
) -> Result<Told, FormatError> {
    let text = |field: &str| -> Result<Option<&str>, FormatError> {
        let Some(member) = fields.get(field) else { return Ok(None) };
        let wrong =
            |what: String| FormatError::malformed(path, what).at(format!("member {}", member.name));
        let (start, end) = (member.bytes.start, member.bytes.end);
        if end - start > MAX_FACTS {
            return Err(wrong(format!("{} bytes: too long for facts", end - start)));
        }
        let text =
            std::str::from_utf8(content(member)).map_err(|e| wrong(format!("not UTF-8: {e}")))?;
        Ok(Some(text.trim()))
    };
    let Told { mut label, mut class, mut hash } = Told::default();
    if let Some(text) = text("cls")?.filter(|t| !t.is_empty()) {
        match text.parse::<i64>() {
            Ok(number) => label = u32::try_from(number).ok(),
            Err(_) => class = Some(text.to_owned()),
        }
    }
    if let Some(text) = text("json")? {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|e| {
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

/// Whether a field is a smaller encoding of its sample's picture, as `convert --pyramid` calls it.
fn is_level(field: &str) -> bool {
    let side = field.strip_prefix("px").and_then(|rest| rest.strip_suffix(".jpg"));
    side.is_some_and(|side| !side.is_empty() && side.bytes().all(|b| b.is_ascii_digit()))
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
