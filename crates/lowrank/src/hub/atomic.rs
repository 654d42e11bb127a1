//! Files that are there whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// How many temporary files this process has begun: the number in their names.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// Bytes that are handed to the system at a time.
const BUFFER: usize = 1 << 20;

/// Checks that a folder to write is not there yet, or empty.
///
/// # Errors
/// If there is something in it, or it cannot be read.
pub fn check_is_free(folder: &Path) -> Result<()> {
    if folder.exists() && fs::read_dir(folder).map_err(Error::io(folder))?.next().is_some() {
        return Err(Error::file(folder, "this folder is not empty; name another"));
    }
    Ok(())
}

/// Writes `path` through a temporary file beside it that is flushed to the disk and then renamed into place.
///
/// Whatever stood at `path` stays until the new file is whole; a failure leaves it as it was. Temporary files of
/// the same name that a killed process left behind are removed. A link to a file stays a link, and the file that it
/// leads to is replaced. What is neither file nor folder, such as `/dev/null` or a pipe, cannot be replaced: it is
/// written to as it is.
///
/// # Errors
/// [`Error::Io`] at `path`: it is a folder, its folder is missing or may not be written, the disk is full, or `write`
/// failed.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("summary.json");
/// lowrank::hub::write_atomically(&path, |file| file.write_all(b"{}"))?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_atomically(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let result = match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(there) if !there.is_file() || is_descriptor(path) => write_to(path, write),
        Ok(_) if path.is_symlink() => fs::canonicalize(path).and_then(|target| replace(&target, write)),
        _ => replace(path, write),
    };
    result.map_err(Error::io(path))
}

/// Whether a path means an open file, as `/dev/stdout` does: what it leads to is not to be replaced.
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// Writes to a device or a pipe; there is nothing to flush to a disk.
fn write_to(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER, OpenOptions::new().append(true).open(path)?);
    write(&mut writer)?;
    writer.flush()
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    remove_stale(folder, name);
    let mut temporary = Temporary::beside(folder, name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary.path)?;
    let mut writer = BufWriter::with_capacity(BUFFER, file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary.path, path)?;
    temporary.in_place = true;
    // The rename itself reaches the disk with the folder; not every file system lets a folder be synchronised.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// A temporary file that is removed when dropped, unless it has become the real one.
struct Temporary {
    path: PathBuf,
    in_place: bool,
}

impl Temporary {
    fn beside(folder: &Path, name: &OsStr) -> Self {
        let number = BEGUN.fetch_add(1, Ordering::SeqCst);
        let mut temporary = prefix(name);
        temporary.push(format!("{}-{number}.tmp", process::id()));
        Self { path: folder.join(temporary), in_place: false }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.in_place {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn prefix(name: &OsStr) -> std::ffi::OsString {
    let mut prefix = OsStr::new(".").to_os_string();
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Removes the temporary files of `name` whose writer is gone. Failing to is no reason not to write.
fn remove_stale(folder: &Path, name: &OsStr) {
    let prefix = prefix(name);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let stale = entry
            .file_name()
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes())
            .and_then(|rest| rest.strip_suffix(b".tmp"))
            .and_then(|middle| std::str::from_utf8(middle).ok()?.split_once('-'))
            .and_then(|(process, number)| Some((process.parse().ok()?, number.parse().ok()?)))
            .is_some_and(|(process, number)| !is_being_written(process, number));
        if stale {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_being_written(writer: u32, number: u64) -> bool {
    if writer == process::id() {
        // An earlier process of the same id may have left a number that this one has not reached.
        return number < BEGUN.load(Ordering::SeqCst);
    }
    is_running(writer)
}

/// Whether there is a process of this number. Where the system does not show them there may be, and a stranger's files are
/// left alone.
pub(super) fn is_running(process: u32) -> bool {
    let processes = Path::new("/proc/self");
    !processes.exists() || processes.with_file_name(process.to_string()).exists()
}
