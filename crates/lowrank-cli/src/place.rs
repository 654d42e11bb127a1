//! Files that the user names for a result.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Checks before the work that no two results, each under its option, go to one file.
pub fn check_apart(results: &[(&str, &Path)]) -> Result {
    let places: Vec<PathBuf> = results.iter().map(|(_, path)| whole(path)).collect();
    for (index, place) in places.iter().enumerate() {
        if let Some(earlier) = places[..index].iter().position(|earlier| earlier == place) {
            let ((one, _), (other, path)) = (results[earlier], results[index]);
            let path = path.display();
            return Err(Failure::usage(format!(
                "{one} and {other}: both name {path}; choose another for one"
            )));
        }
    }
    Ok(())
}

/// The one name of a file that is perhaps not there yet.
fn whole(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let new = || Some(folder.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(new).unwrap_or_else(|| path.to_path_buf())
}

/// Checks before the work that a result can be written where it is wanted: into a folder that is there, and not over
/// what is read.
pub fn check(option: &str, place: &Path, read: &Path) -> Result {
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b && a.is_file(),
        _ => false,
    };
    if same(place, read) {
        let place = place.display();
        return Err(Failure::usage(format!("{option} {place}: it is the file that is read; choose another")));
    }
    let folder = place.parent().filter(|parent| *parent != Path::new(""));
    match folder {
        Some(folder) if !folder.is_dir() => {
            let (place, folder) = (place.display(), folder.display());
            Err(Failure::failed(format!("{option} {place}: there is no folder {folder}")))
        }
        _ if place.is_dir() => Err(Failure::failed(format!("{option} {}: it is a folder", place.display()))),
        _ => Ok(()),
    }
}
