//! Where the members of a tar archive are: found from its headers alone, without reading payloads.

use std::cell::Cell;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use crate::error::FormatError;

/// Bytes of a block; headers and payloads begin at multiples of it.
const BLOCK: u64 = 512;

/// A regular file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its path in the archive.
    pub(crate) name: String,
    /// Its bytes in the file that was scanned.
    pub(crate) bytes: Range<u64>,
}

/// The regular files of the tar archive `archive`, which begins at byte `base` of `path`.
///
/// # Errors
/// When a header is damaged, a member is cut off, or the mark that ends an archive is not there.
pub(crate) fn members(path: &Path, archive: &[u8], base: u64) -> Result<Vec<Member>, FormatError> {
    whole(members_until(path, archive, base))
}

/// What is there of an archive, and what is wrong with the rest of it.
pub(crate) type Until<T> = (Vec<T>, Option<FormatError>);

/// The members before the first damage of an archive, and what the damage is.
pub(crate) fn members_until(path: &Path, archive: &[u8], base: u64) -> Until<Member> {
    let mut members = Vec::new();
    let place = (base, archive.len() as u64);
    let walked = walk_into(&mut members, path, Cursor::new(archive), place, |_, _| Ok(()));
    (members, walked.err())
}

/// All of an archive, or its damage.
pub(crate) fn whole<T>((found, damage): Until<T>) -> Result<Vec<T>, FormatError> {
    damage.map_or(Ok(found), Err)
}

/// The regular files of an archive of `len` bytes that `reader` gives and that begins at byte `base`
/// of `path`; `see` is shown each with a reader of its payload, which it may leave unread.
///
/// # Errors
/// As [`members`]; also when `reader` or `see` fails.
pub(crate) fn walk<R: Read + Seek>(
    path: &Path,
    reader: R,
    place: (u64, u64),
    see: impl FnMut(&Member, &mut dyn Read) -> std::io::Result<()>,
) -> Result<Vec<Member>, FormatError> {
    let mut members = Vec::new();
    walk_into(&mut members, path, reader, place, see)?;
    Ok(members)
}

/// The same; what comes before an error is in `members`.
fn walk_into<R: Read + Seek>(
    members: &mut Vec<Member>,
    path: &Path,
    reader: R,
    (base, len): (u64, u64),
    mut see: impl FnMut(&Member, &mut dyn Read) -> std::io::Result<()>,
) -> Result<(), FormatError> {
    let mut end = 0u64;
    let mut reader = ::tar::Archive::new(reader);
    let at = |end: u64, what: String| {
        FormatError::malformed(path, what).at(format!("tar header at byte {}", base + end))
    };
    let entries = reader.entries_with_seek().map_err(|e| at(0, e.to_string()))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| at(end, e.to_string()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (start, size) = (entry.raw_file_position(), entry.size());
        let stop = start.checked_add(size).filter(|stop| *stop <= len);
        let stop = stop.ok_or_else(|| {
            let have = len.saturating_sub(start);
            let what = format!("cut off: {have} of {size} bytes are there");
            FormatError::malformed(path, what).at(format!("member {name}"))
        })?;
        end = stop.next_multiple_of(BLOCK);
        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() {
            let what = "a sparse member is not stored in one piece: pack it without --sparse";
            return Err(FormatError::malformed(path, what).at(format!("member {name}")));
        }
        if kind.is_file() || kind.is_contiguous() {
            let member = Member { name, bytes: base + start..base + stop };
            see(&member, &mut entry).map_err(|e| at(start, e.to_string()))?;
            members.push(member);
        }
    }
    let mut mark = [1; BLOCK as usize];
    let mut reader = reader.into_inner();
    match reader.seek(SeekFrom::Start(end)).and_then(|_| reader.read_exact(&mut mark)) {
        Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(at(end, e.to_string()));
        }
        _ => {}
    }
    if mark != [0; BLOCK as usize] {
        let what = format!(
            "the mark that ends a tar archive is not there: cut off after {} members",
            members.len()
        );
        return Err(at(end, what));
    }
    Ok(())
}

/// A regular file that went by, with its payload where that was wanted.
pub(crate) type Streamed = (Member, Option<Vec<u8>>);

/// The regular files of the tar archive that `source` reads, with the payloads of those that `wanted`
/// names by path and size; `path` is for errors.
///
/// # Errors
/// When `source` fails, a header is damaged, or the mark that ends an archive is not there; what comes
/// before that is given all the same.
pub(crate) fn stream_members(
    path: &Path,
    source: impl Read,
    wanted: &dyn Fn(&str, u64) -> bool,
) -> Until<Streamed> {
    let mut members = Vec::new();
    let walked = stream_into(&mut members, path, source, wanted);
    (members, walked.err())
}

fn stream_into(
    members: &mut Vec<Streamed>,
    path: &Path,
    source: impl Read,
    wanted: &dyn Fn(&str, u64) -> bool,
) -> Result<(), FormatError> {
    let read = Cell::new(0);
    let mut reader = ::tar::Archive::new(Counting { source, read: &read });
    let mut end = 0;
    let at = |e: std::io::Error| {
        FormatError::malformed(path, e.to_string()).at(format!("byte {} decompressed", read.get()))
    };
    for entry in reader.entries().map_err(at)? {
        let mut entry = entry.map_err(at)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let (start, size) = (entry.raw_file_position(), entry.size());
        let stop = start.checked_add(size).and_then(|s| s.checked_next_multiple_of(BLOCK));
        end = stop.ok_or_else(|| at(std::io::Error::other("a member of more than 2^63 bytes")))?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() {
            let what = "a sparse member is not stored in one piece: pack it without --sparse";
            return Err(FormatError::malformed(path, what).at(format!("member {name}")));
        }
        if !kind.is_file() && !kind.is_contiguous() {
            continue;
        }
        let mut payload = None;
        if wanted(&name, size) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(at)?;
            payload = Some(bytes);
        }
        members.push((Member { name, bytes: start..start + size }, payload));
    }
    if read.get() < end + BLOCK {
        let what = "the mark that ends a tar archive is not there: cut off";
        return Err(at(std::io::Error::other(format!("{what} after {} members", members.len()))));
    }
    Ok(())
}

/// Counts what it reads.
struct Counting<'a, R> {
    source: R,
    read: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buf)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// Whether this is a tar archive by its name.
pub(crate) fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice()).expect("written");
        }
        builder.into_inner().expect("written")
    }

    fn contents() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        let name = "[a-zä-ü0-9_]{1,12}(/[a-z日本]{1,90}){0,2}\\.[a-z]{1,4}";
        proptest::collection::vec((name, proptest::collection::vec(any::<u8>(), 0..2000)), 0..12)
    }

    /// A member of 3 GiB that is a hole in the file, and one behind it.
    #[test]
    fn members_lie_beyond_two_gigabytes() {
        use std::io::Write;
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("large.tar");
        let mut file = std::fs::File::create(&path).expect("created");
        let large = 3u64 << 30;
        let head = |name: &str, size: u64| {
            let mut header = ::tar::Header::new_gnu();
            header.set_path(name).expect("short");
            header.set_size(size);
            header.set_mode(0o644);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        file.write_all(&head("large.mp4", large)).expect("written");
        file.seek(SeekFrom::Current(large as i64)).expect("there");
        file.write_all(&[head("b.mp4", 4), b"last".to_vec()].concat()).expect("written");
        file.set_len(large + 5 * BLOCK).expect("extended");
        let map = crate::shard::map(&path).expect("mapped");
        let found = members(&path, &map, 0).expect("whole");
        let ranges: Vec<Range<u64>> = found.iter().map(|m| m.bytes.clone()).collect();
        assert_eq!(ranges, [512..large + 512, large + 1024..large + 1028]);
        assert_eq!(&map[large as usize + 1024..large as usize + 1028], b"last");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn members_are_found_whatever_their_names_and_sizes(contents in contents()) {
            let bytes = archive(&contents);
            let found = members(Path::new("x.tar"), &bytes, 0).expect("whole");
            prop_assert_eq!(found.len(), contents.len());
            for (member, (name, payload)) in found.iter().zip(&contents) {
                prop_assert_eq!(&member.name, name);
                let range = member.bytes.start as usize..member.bytes.end as usize;
                prop_assert_eq!(&bytes[range], payload.as_slice());
            }
            let odd = |_: &str, size: u64| size % 2 == 1;
            let streamed = whole(stream_members(Path::new("x.tar"), &bytes[..], &odd)).expect("whole");
            for ((member, payload), (plain, (_, bytes))) in
                streamed.iter().zip(found.iter().zip(&contents))
            {
                prop_assert_eq!(member, plain);
                prop_assert_eq!(payload.as_ref(), Some(bytes).filter(|b| b.len() % 2 == 1));
            }
            prop_assert_eq!(streamed.len(), found.len());
        }

        /// Cut anywhere before the end mark, an archive is an error that names the file.
        #[test]
        fn a_cut_archive_is_an_error(contents in contents(), share in 0.0..1.0f64) {
            let bytes = archive(&contents);
            let whole = bytes.len() - 2 * BLOCK as usize;
            let cut = (whole as f64 * share) as usize;
            let error = members(Path::new("x.tar"), &bytes[..cut], 0).expect_err("cut").to_string();
            prop_assert!(error.starts_with("x.tar, "), "{}", error);
            let (found, damage) = stream_members(Path::new("x.tar"), &bytes[..cut], &|_, _| false);
            prop_assert!(damage.expect("cut").to_string().starts_with("x.tar, "));
            prop_assert!(found.len() <= contents.len());
            let (found, _) = members_until(Path::new("x.tar"), &bytes[..cut], 0);
            let all = members(Path::new("x.tar"), &bytes, 0).expect("whole");
            prop_assert_eq!(found.as_slice(), &all[..found.len()]);
        }

        /// A flipped bit of a header is found by its checksum or leads to an error; of a payload it
        /// does no harm to the members.
        #[test]
        fn a_flipped_bit_never_panics(contents in contents(), at in any::<prop::sample::Index>()) {
            let mut bytes = archive(&contents);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            match members(Path::new("x.tar"), &bytes, 0) {
                Ok(found) => prop_assert!(
                    found.iter().all(|m| m.bytes.end <= bytes.len() as u64)
                ),
                Err(error) => prop_assert!(error.to_string().starts_with("x.tar, ")),
            }
        }
    }
}
