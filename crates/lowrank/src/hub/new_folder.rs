//! Folders that are there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use super::atomic::{check_is_free, is_running};
use crate::{Error, Result};

/// A folder beside the place that it is made for, which it takes when it is finished. Dropped before, it is removed.
#[derive(Debug)]
pub struct NewFolder {
    place: PathBuf,
    path: PathBuf,
}

impl NewFolder {
    /// Begins the folder for `place`, which is empty or not there. What a killed process began for the same place and
    /// left is removed.
    ///
    /// # Errors
    /// If there is something in `place`, it is a file, or nothing can be made beside it.
    pub fn beside(place: &Path) -> Result<Self> {
        if place.is_file() {
            return Err(Error::file(place, "this is a file; name a folder to write"));
        }
        check_is_free(place)?;
        let name = place.file_name().ok_or_else(|| Error::file(place, "it names no folder to write"))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        let parent = place.parent().unwrap_or(Path::new(""));
        remove_stale(if parent == Path::new("") { Path::new(".") } else { parent }, &prefix);
        let path = parent.join(format!("{prefix}{}.tmp", process::id()));
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self { place: place.to_path_buf(), path })
    }

    /// Where it is until it is finished.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// If something has come to be there meanwhile.
    pub fn finish(self) -> Result<()> {
        if self.place.exists() {
            check_is_free(&self.place)?;
            fs::remove_dir(&self.place).map_err(Error::io(&self.place))?;
        }
        fs::rename(&self.path, &self.place).map_err(Error::io(&self.place))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes that are gone have left. Failing to is no reason not to begin.
fn remove_stale(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let writer = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".tmp")?.parse().ok());
        if writer.is_some_and(|writer: u32| writer != process::id() && !is_running(writer)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let room = tempfile::tempdir().unwrap();
        let place = room.path().join("deep/out");
        let unfinished = NewFolder::beside(&place).unwrap();
        fs::write(unfinished.path().join("a"), "1").unwrap();
        assert!(!place.exists());
        drop(unfinished);
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 0);

        // No process has this number.
        fs::create_dir_all(room.path().join("deep/.out.4294967295.tmp/b")).unwrap();
        fs::create_dir_all(room.path().join("deep/.other.4294967295.tmp")).unwrap();
        fs::create_dir(&place).unwrap();
        let finished = NewFolder::beside(&place).unwrap();
        fs::write(finished.path().join("a"), "1").unwrap();
        finished.finish().unwrap();
        assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 2, "the stale one is gone");
        assert!(NewFolder::beside(&place).unwrap_err().to_string().contains("not empty"));
        assert!(NewFolder::beside(&place.join("a")).unwrap_err().to_string().contains("this is a file"));
    }
}
