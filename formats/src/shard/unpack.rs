//! Archives that are compressed as a whole: they have no random access, so that they are
//! decompressed once, to a plain archive beside them, when the user asks for it. Read are gzip and
//! Zstandard.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{FormatError, FormatErrorKind};
use crate::index::{part_path, side_path, stamp};

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstandard,
}

/// Whether this is a compressed tar archive, by its name.
pub(crate) fn is_packed_tar(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    matches!(packing(path), Some(Ok(_))) && stem.ends_with(".tar") || extension(path) == "tgz"
}

/// How a file is compressed, by its name; an error names what is not read.
fn packing(path: &Path) -> Option<Result<Packing, String>> {
    match extension(path).as_str() {
        "gz" | "tgz" => Some(Ok(Packing::Gzip)),
        "zst" | "zstd" => Some(Ok(Packing::Zstandard)),
        other @ ("bz2" | "br" | "snappy" | "xz") => Some(Err(other.to_owned())),
        _ => None,
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
    let layout = |what: String| FormatError::new(path, FormatErrorKind::Layout(what));
    let packing = match packing(path) {
        None => return Ok(path.to_owned()),
        Some(Ok(packing)) => packing,
        Some(Err(other)) => {
            let what = format!("compressed by {other}, which is not read: decompress it first");
            return Err(layout(what));
        }
    };
    let (bytes, time) = stamp(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let out = side_path(path, &format!("{name}.{bytes:x}-{time:x}.tar"));
    if out.is_file() {
        return Ok(out);
    }
    if !allowed {
        let what = format!(
            "a compressed archive has no random access: add --unpack to decompress it once to {} (media \
             hardly shrink, so about {:.1} GB are needed)",
            out.display(),
            bytes as f64 / 1e9
        );
        return Err(layout(what));
    }
    decompress(path, packing, &out)?;
    Ok(out)
}

/// Decompresses `path` to `out`, whole or not at all.
fn decompress(path: &Path, packing: Packing, out: &Path) -> Result<(), FormatError> {
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
    }
    let source = File::open(path).map_err(|e| FormatError::new(path, e))?;
    let source = BufReader::with_capacity(1 << 20, source);
    let mut source: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(source)),
        Packing::Zstandard => Box::new(
            zstd::stream::read::Decoder::with_buffer(source)
                .map_err(|e| FormatError::new(path, e))?,
        ),
    };
    let part = part_path(out);
    let written = File::create(&part).map_err(|e| FormatError::new(&part, e)).and_then(|file| {
        let mut file = Counting { file, bytes: 0 };
        std::io::copy(&mut source, &mut file).map_err(|e| {
            let what = format!("cannot be decompressed further: {e}");
            FormatError::malformed(path, what).at(format!("byte {} decompressed", file.bytes))
        })?;
        std::fs::rename(&part, out).map_err(|e| FormatError::new(out, e))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

struct Counting {
    file: File,
    bytes: u64,
}

impl Write for Counting {
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
        let brotli = plain(Path::new("x.mds.br"), true).expect_err("not read").to_string();
        assert!(brotli.contains("x.mds.br: compressed by br"), "{brotli}");
        let left = std::fs::read_dir(root.path().join(".tubelet")).expect("folder").count();
        assert_eq!(left, 2, "nothing half done stays");
    }
}
