//! Files that the user names for a result.

use std::path::Path;

use crate::failure::{Failure, Result};

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
