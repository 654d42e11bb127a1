//! A file is written whole or not at all.

use std::fs;
use std::io;

use lowrank::Error;
use lowrank::hub::write_atomically;

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("summary.json");
    write_atomically(&path, |file| file.write_all(b"old")).unwrap();
    let error = write_atomically(&path, |file| {
        file.write_all(&vec![b'x'; 3 << 20])?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    })
    .unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    let text = error.to_string();
    assert!(text.contains("summary.json") && text.contains("no storage space"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["summary.json"]);
}

#[test]
fn what_killed_writers_left_is_removed_and_what_live_ones_write_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let own = std::process::id();
    let dead = format!(".a.json.{}-0.tmp", u32::MAX);
    let earlier = format!(".a.json.{own}-999999.tmp");
    for name in [dead.as_str(), &earlier, ".b.json.1-0.tmp", ".a.json.backup.tmp", ".a.json.1-0.tmp"] {
        fs::write(folder.path().join(name), b"half").unwrap();
    }
    write_atomically(&path, |file| file.write_all(b"whole")).unwrap();
    let names = names(folder.path());
    assert!(!names.contains(&earlier));
    if cfg!(target_os = "linux") {
        assert!(!names.contains(&dead));
    }
    assert_eq!(names.iter().filter(|name| name.starts_with(".b")).count(), 1, "another file's");
    assert!(names.iter().any(|name| name == ".a.json.1-0.tmp"), "process 1 lives");
    assert!(names.iter().any(|name| name == ".a.json.backup.tmp"), "not one of ours");
}

#[test]
fn writers_of_one_file_at_a_time_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    std::thread::scope(|scope| {
        for byte in 0..8u8 {
            let path = &path;
            scope.spawn(move || write_atomically(path, |file| file.write_all(&vec![byte; 1 << 20])).unwrap());
        }
    });
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    assert_eq!(names(folder.path()), ["a.bin"]);
}

#[test]
fn a_missing_folder_is_an_error_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/a.json");
    let text = write_atomically(&path, |_| Ok(())).unwrap_err().to_string();
    assert!(text.contains("missing/a.json"), "{text}");
}

#[test]
fn a_folder_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs");
    fs::create_dir(&path).unwrap();
    let text = write_atomically(&path, |file| file.write_all(b"x")).unwrap_err().to_string();
    assert!(text.contains("runs: "), "{text}");
    assert!(path.is_dir());
    assert_eq!(names(folder.path()), ["runs"]);
}

#[cfg(unix)]
#[test]
fn a_link_stays_and_what_it_leads_to_is_written() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (link, file) = (folder.path().join("a.jsonl"), elsewhere.path().join("b.jsonl"));
    fs::write(&file, b"old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_atomically(&link, |file| file.write_all(b"new")).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), file);
    assert_eq!(fs::read(&file).unwrap(), b"new");

    // The system's own device is not put at stake here.
    let null = folder.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    write_atomically(&null, |file| file.write_all(b"new")).unwrap();
    assert_eq!(fs::read_link(&null).unwrap().to_str(), Some("/dev/null"));
    assert_eq!(names(folder.path()), ["a.jsonl", "null"]);
    assert_eq!(names(elsewhere.path()), ["b.jsonl"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_written_to_and_stays() {
    use std::os::unix::fs::FileTypeExt;

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe).unwrap())
    };
    write_atomically(&pipe, |file| file.write_all(&vec![b'x'; 3 << 20])).unwrap();
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(reader.join().unwrap().len(), 3 << 20);
    assert_eq!(names(folder.path()), ["pipe"]);
}
