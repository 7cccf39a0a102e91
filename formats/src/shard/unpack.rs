//! Archives that are compressed as a whole: they have no random access, so that they are read in
//! order (see [`super::packed`]) or decompressed once, to a plain archive beside them, when the user
//! asks for it. Read are gzip, Zstandard, bzip2, Brotli and Snappy.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::OpenOptions;
use super::packed::{self, Packing};
use crate::error::{FormatError, FormatErrorKind};
use crate::index::{side_path, stamp};
use crate::temporary::Working;

/// Whether this is a compressed tar archive, by its name.
pub(crate) fn is_packed_tar(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    packing(path).is_ok_and(|p| p.is_some()) && stem.ends_with(".tar") || extension(path) == "tgz"
}

/// How a file is compressed, by its name; an error names what is not read.
pub(crate) fn packing(path: &Path) -> Result<Option<Packing>, FormatError> {
    Ok(Some(match extension(path).as_str() {
        "gz" | "tgz" => Packing::Gzip,
        "zst" | "zstd" => Packing::Zstandard,
        "bz2" => Packing::Bzip2,
        "br" => Packing::Brotli,
        "snappy" => Packing::Snappy,
        other @ ("xz" | "lz4" | "lzma" | "z") => {
            let what = format!("compressed by {other}, which is not read: decompress it first");
            return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
        }
        _ => return Ok(None),
    }))
}

/// What a tar archive is read from.
pub(crate) enum TarSource {
    /// A plain file, with random access.
    Plain(PathBuf),
    /// The archive as it is, in order.
    Packed(Packing),
}

/// What the tar archive `path` is read from, as `options` allow; errors are those of [`plain`].
pub(crate) fn tar_source(path: &Path, options: &OpenOptions) -> Result<TarSource, FormatError> {
    match packing(path)? {
        Some(packing) if options.stream && !options.unpack && !unpacked_path(path).is_file() => {
            Ok(TarSource::Packed(packing))
        }
        _ => plain(path, options.unpack).map(TarSource::Plain),
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// The plain archive of `path`: itself, or what it was decompressed to; decompresses it where
/// `allowed`.
///
/// # Errors
/// When it would have to be decompressed and must not, or cannot be.
pub(crate) fn plain(path: &Path, allowed: bool) -> Result<PathBuf, FormatError> {
    let Some(packing) = packing(path)? else { return Ok(path.to_owned()) };
    let out = unpacked_path(path);
    if out.is_file() {
        return Ok(out);
    }
    if !allowed {
        let what = format!(
            "a compressed archive has no random access: add --unpack to decompress it once to {} (media \
             hardly shrink, so about {:.1} GB are needed)",
            out.display(),
            stamp(path).0 as f64 / 1e9
        );
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    decompress(path, packing, &out)?;
    Ok(out)
}

/// Where the archive of `path` is decompressed to.
fn unpacked_path(path: &Path) -> PathBuf {
    let (bytes, time) = stamp(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    side_path(path, &format!("{name}.{bytes:x}-{time:x}.tar"))
}

/// Decompresses `path` to `out`, whole or not at all.
fn decompress(path: &Path, packing: Packing, out: &Path) -> Result<(), FormatError> {
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
    }
    let mut source = packed::stream(path, packing)?;
    let mut working = Working::beside(out)?;
    let mut file = Counting { file: working.file(), bytes: 0 };
    std::io::copy(&mut source, &mut file).map_err(|e| packed::broken(path, file.bytes, &e))?;
    working.publish(out)
}

struct Counting<'a> {
    file: &'a mut File,
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_decompressed_once_and_only_when_asked() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("part_0.tar.gz");
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&bytes).expect("written");
        let packed = writer.finish().expect("written");
        std::fs::write(&path, &packed).expect("written");
        let refused = plain(&path, false).expect_err("not asked for").to_string();
        assert!(refused.contains("part_0.tar.gz") && refused.contains("--unpack"), "{refused}");
        let out = plain(&path, true).expect("decompressed");
        assert_eq!(std::fs::read(&out).expect("there"), bytes);
        assert_eq!(plain(&path, false).expect("there already"), out);

        std::fs::write(&path, &packed[..packed.len() / 2]).expect("written");
        let cut = plain(&path, true).expect_err("cut off").to_string();
        assert!(cut.contains("part_0.tar.gz, byte ") && cut.contains("decompressed"), "{cut}");
        let packed = zstd::encode_all(bytes.as_slice(), 1).expect("written");
        let path = root.path().join("shard.00000.mds.zstd");
        std::fs::write(&path, &packed).expect("written");
        let other = plain(&path, true).expect("decompressed");
        assert_eq!(std::fs::read(&other).expect("there"), bytes);
        std::fs::write(&path, &packed[..packed.len() / 2]).expect("written");
        assert!(plain(&path, true).expect_err("cut off").to_string().contains(".mds.zstd, byte "));
        // 40 times `tubelet `, as Brotli packs it.
        let brotli = [
            27, 63, 1, 248, 141, 84, 181, 191, 22, 99, 163, 171, 83, 32, 101, 177, 91, 56, 64, 222,
            116, 0,
        ];
        let bytes = b"tubelet ".repeat(40);
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&bytes).expect("written");
        let snappy = snap::raw::Encoder::new().compress_vec(&bytes).expect("written");
        let bzip2 = bzip2.finish().expect("written");
        for (name, packed) in [("br", &brotli[..]), ("bz2", &bzip2), ("snappy", &snappy)] {
            let path = root.path().join(format!("shard.00001.mds.{name}"));
            std::fs::write(&path, packed).expect("written");
            let plain = plain(&path, true).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(std::fs::read(&plain).expect("there"), bytes, "{name}");
            std::fs::remove_file(&plain).expect("removed");
        }
        let path = root.path().join("lie.snappy");
        std::fs::write(&path, [0xff, 0xff, 0xff, 0xff, 0x0f, 0]).expect("written");
        assert!(
            plain(&path, true).expect_err("refused").to_string().contains("cannot be 4294967295")
        );
        let xz = plain(Path::new("x.mds.xz"), true).expect_err("not read").to_string();
        assert!(xz.contains("x.mds.xz: compressed by xz"), "{xz}");
        let left = std::fs::read_dir(root.path().join(".tubelet")).expect("folder").count();
        assert_eq!(left, 2, "nothing half done stays");
    }
}
