//! Archives that are compressed as a whole: they have no random access, so that they are
//! decompressed once, to a plain archive beside them, when the user asks for it.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{FormatError, FormatErrorKind};
use crate::index::{side_path, stamp};

/// Whether this is a tar archive compressed with gzip, by its name.
pub(crate) fn is_tar_gz(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.ends_with(".tar.gz") || name.ends_with(".tgz")
}

/// The plain archive of `path`: itself, or what it was decompressed to; decompresses it where
/// `allowed`.
///
/// # Errors
/// When it would have to be decompressed and must not, or cannot be.
pub(crate) fn plain(path: &Path, allowed: bool) -> Result<PathBuf, FormatError> {
    if !is_tar_gz(path) {
        return Ok(path.to_owned());
    }
    let (bytes, time) = stamp(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let out = side_path(path, &format!("{name}.{bytes:x}-{time:x}.tar"));
    if out.is_file() {
        return Ok(out);
    }
    if !allowed {
        let what = format!(
            "a gzip archive has no random access: add --unpack to decompress it once to {} (media \
             hardly shrink, so about {:.1} GB are needed)",
            out.display(),
            bytes as f64 / 1e9
        );
        return Err(FormatError::new(path, FormatErrorKind::Layout(what)));
    }
    decompress(path, &out)?;
    Ok(out)
}

/// Decompresses `path` to `out`, whole or not at all.
fn decompress(path: &Path, out: &Path) -> Result<(), FormatError> {
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(|e| FormatError::new(folder, e))?;
    }
    let source = File::open(path).map_err(|e| FormatError::new(path, e))?;
    let mut source = MultiGzDecoder::new(BufReader::with_capacity(1 << 20, source));
    let part = out.with_extension(format!("part-{}", std::process::id()));
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
    fn gzip_is_decompressed_once_and_only_when_asked() {
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
        let left = std::fs::read_dir(root.path().join(".tubelet")).expect("folder").count();
        assert_eq!(left, 1, "nothing half done stays");
    }
}
