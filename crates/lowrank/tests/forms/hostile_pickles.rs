//! Files that `torch.save` did not write, or not to load tensors: each is refused with the reason, none runs.

use std::fs;

use lowrank::hub::Checkpoint;

use crate::form;

/// An archive of stored entries, with what its directory says of them.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = file.len() as u32;
        let sizes = [0, data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        let names = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        file.extend([b"PK\x03\x04", &[0; 10][..], &sizes, &names, name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02", &[0; 12][..], &sizes, &names, &[0; 10], &at.to_le_bytes()].concat());
        directory.extend(name.as_bytes());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let place = [directory.len() as u32, file.len() as u32].map(u32::to_le_bytes).concat();
    file.extend([&directory[..], b"PK\x05\x06", &[0; 4], &count, &count, &place, &[0; 2]].concat());
    file
}

/// The error of a file, which is one sentence.
fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.bin");
    fs::write(&path, bytes).unwrap();
    let text = Checkpoint::open_adapter(folder.path()).unwrap_err().to_string();
    assert!(text.contains("adapter_model.bin") && !text.contains('\n'), "{text}");
    text
}

/// That of a pickle beside a storage `0` of eight bytes.
fn refused_pickle(pickle: &[u8]) -> String {
    refused(&archive(&[("x/data.pkl", pickle), ("x/data/0", &[1; 8])]))
}

/// A tensor `w`: of a storage said to have `elements`, at `offset`, with these sizes and strides.
fn tensor(elements: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |number: i32| [b"J", &number.to_le_bytes()[..]].concat();
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let tuple = |sizes: &[i32]| {
        [b"(".to_vec(), sizes.iter().flat_map(|size| int(*size)).collect(), b"t".to_vec()].concat()
    };
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(elements),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89NtRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn the_helper_writes_what_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.bin");
    let pickle = tensor(2, 0, &[2], &[1]);
    fs::write(&path, archive(&[("x/data.pkl", &pickle), ("x/data/0", &[1; 8])])).unwrap();
    assert_eq!(Checkpoint::open_file(&path).unwrap().get("w").unwrap().bytes, [1; 8]);
}

#[test]
fn a_pickle_that_would_run_something_is_refused_by_its_name() {
    let text = refused(&fs::read(form("harmful.bin")).unwrap());
    assert!(text.contains("posix.system") && text.contains("nothing of it was run"), "{text}");
    for (module, name) in
        [("builtins", "eval"), ("os", "system"), ("torch", "load"), ("torch._utils", "_rebuild_tensor_v3")]
    {
        let text = refused_pickle(format!("c{module}\n{name}\n(tR.").as_bytes());
        assert!(text.contains(&format!("{module}.{name}")), "{text}");
    }
}

#[test]
fn what_is_no_tensor_is_named() {
    let text = refused(&fs::read(form("mixed.bin")).unwrap());
    assert!(text.contains("\"epoch\" in it is no tensor"), "{text}");
    for pickle in [&b"N."[..], b"K\x01.", b"].", b")."] {
        assert!(refused_pickle(pickle).contains("no dictionary"));
    }
}

#[test]
fn files_of_old_say_what_to_do() {
    let text = refused(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.");
    assert!(text.contains("before 1.6") && text.contains("save it again"), "{text}");
    assert!(refused(b"pickle").contains("not a PyTorch file of tensors"));
    assert!(refused(b"").contains("incomplete"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = fs::read(form("module.bin")).unwrap();
    for length in 0..whole.len() {
        refused(&whole[..length]);
    }
    let pickle = tensor(2, 0, &[2], &[1]);
    for length in 0..pickle.len() {
        refused_pickle(&pickle[..length]);
    }
}

/// Whatever byte is changed, there is an answer; where it is accepted, it lies in what nothing here reads.
#[test]
fn no_changed_byte_makes_it_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.bin");
    let whole = fs::read(form("module.bin")).unwrap();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            fs::write(&path, bytes).unwrap();
            let Ok(file) = Checkpoint::open_file(&path) else { continue };
            for name in file.names() {
                let view = file.get(name).unwrap();
                let elements: usize = view.shape.iter().product();
                assert_eq!(Some(view.bytes.len()), view.dtype.bytes().map(|size| size * elements));
            }
        }
    }
}

#[test]
fn sizes_that_lie_are_refused_with_the_tensor() {
    let huge = i32::MAX;
    for (elements, offset, shape, strides, reason) in [
        (3, 0, &[2][..], &[1][..], "said to hold 3 elements, but has 8 bytes"),
        (huge, 0, &[2], &[1], "elements, but has 8 bytes"),
        (2, 1, &[2], &[1], "leaves its storage"),
        (2, 0, &[2], &[2], "leaves its storage"),
        (2, 0, &[3], &[1], "more elements than its storage"),
        (2, 0, &[huge, huge, huge], &[0, 0, 0], "more elements than its storage"),
        (2, 0, &[1, 2], &[1, huge], "leaves its storage"),
    ] {
        let text = refused_pickle(&tensor(elements, offset, shape, strides));
        assert!(text.contains("tensor w") && text.contains(reason), "{text}");
    }
    assert!(refused_pickle(&tensor(2, -1, &[2], &[1])).contains("a size in it is -1"));
    assert!(refused_pickle(&tensor(2, 0, &[2], &[1, 1])).contains("another number of strides"));
    assert!(refused_pickle(&tensor(2, 0, &[1; 65], &[1; 65])).contains("65 dimensions"));
    let text = refused(&archive(&[("x/data.pkl", &tensor(2, 0, &[2], &[1]))]));
    assert!(text.contains("x/data/0") && text.contains("not in the file"), "{text}");
    let big = archive(&[("x/data.pkl", b"}."), ("x/byteorder", b"big")]);
    assert!(refused(&big).contains("big-endian"));
}

#[test]
fn neither_nesting_nor_repetition_costs_more_than_the_file_is_long() {
    // Lists in lists, tuples in tuples: more than any stack of calls would hold.
    let million = 1 << 20;
    assert!(
        refused_pickle(&[vec![b']'; million], vec![b'a'; million - 1], b".".to_vec()].concat())
            .contains("no dictionary")
    );
    assert!(
        refused_pickle(&[b"N".to_vec(), vec![0x85; million], b".".to_vec()].concat())
            .contains("no dictionary")
    );
    assert!(refused_pickle(&[vec![b'('; million], b".".to_vec()].concat()).contains("damaged"));
    // Each holds the one before twice: 2^1000 of them, if they were copied.
    let doubled = [b"N".to_vec(), b"q\x00h\x00\x86".repeat(1000), b".".to_vec()].concat();
    assert!(refused_pickle(&doubled).contains("no dictionary"));
    assert!(refused_pickle(b"Nr\xff\xff\xff\xff.").contains("no dictionary"));
    assert!(refused_pickle(b"X\xff\xff\xff\xffabc.").contains("damaged"));
    assert!(refused_pickle(b"h\x05.").contains("damaged"));
    assert!(refused_pickle(b"}\x93.").contains("the instruction 0x93"));
    assert!(refused_pickle(b"\x80\x05}.").contains("protocol 5"));
}

/// One storage shown again and again in another order would be copied each time.
#[test]
fn tensors_that_show_the_same_elements_without_end_are_refused() {
    let one = tensor(4, 0, &[2, 2], &[1, 2]);
    let inner = &one[3..one.len() - 2];
    let mut pickle = b"\x80\x02}".to_vec();
    for number in 0..1000u32 {
        let key = format!("{number:04}");
        pickle.extend([b"X\x04\0\0\0", key.as_bytes()].concat());
        pickle.extend(&inner[6..]);
        pickle.push(b's');
    }
    pickle.push(b'.');
    let file = archive(&[("x/data.pkl", &pickle), ("x/data/0", &[1; 16])]);
    // As long as the elements are few beside the file, nothing is said.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w.bin"), &file).unwrap();
    assert_eq!(Checkpoint::open_file(folder.path().join("w.bin")).unwrap().names().len(), 1000);
    let side = 200;
    let turned = tensor(side * side, 0, &[side, side], &[1, side]);
    let inner = &turned[3 + 6..turned.len() - 2];
    let mut pickle = b"\x80\x02}".to_vec();
    for key in ["a", "b", "c", "d"] {
        pickle.extend([b"X\x01\0\0\0", key.as_bytes(), inner, b"s"].concat());
    }
    pickle.push(b'.');
    let elements = vec![0; (side * side * 4) as usize];
    let text = refused(&archive(&[("x/data.pkl", &pickle), ("x/data/0", &elements)]));
    assert!(text.contains("again and again"), "{text}");
}

/// Of an archive beyond 4 GB, the last record says that the numbers are in another one.
#[test]
fn the_directory_of_a_large_archive_is_found() {
    let mut file = archive(&[("x/data.pkl", &tensor(2, 0, &[2], &[1])), ("x/data/0", &[1; 8])]);
    let end = file.len() - 22;
    let wide =
        |at: usize| u64::from(u32::from_le_bytes(*file[end + at..].first_chunk().unwrap())).to_le_bytes();
    let (size, start) = (wide(12), wide(16));
    let at = (end as u64).to_le_bytes();
    file.truncate(end);
    file.extend([b"PK\x06\x06", &[0; 36][..], &size, &start, b"PK\x06\x07", &[0; 4], &at, &[0; 4]].concat());
    file.extend([b"PK\x05\x06", &[0; 4][..], &[0xff; 12], &[0; 2]].concat());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.bin");
    fs::write(&path, &file).unwrap();
    assert_eq!(Checkpoint::open_file(&path).unwrap().get("w").unwrap().bytes, [1; 8]);
    let record = file.windows(4).position(|bytes| bytes == b"PK\x06\x06").unwrap();
    file[record + 48..record + 56].fill(0xff);
    assert!(refused(&file).contains("directory"));
}

#[test]
fn archives_that_lie_are_refused() {
    let good = archive(&[("x/data.pkl", b"}."), ("x/data/0", &[0; 8])]);
    let end = good.len() - 22;
    let change = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert!(refused(&change(end + 16, &[0xff, 0xff, 0xff, 0x7f])).contains("beyond its end"));
    assert!(refused(&change(end + 16, &[0xff; 4])).contains("directory is missing"));
    let first = good.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    assert!(refused(&change(first + 10, &[8])).contains("compressed"));
    assert!(refused(&change(first + 8, &[1])).contains("encrypted"));
    assert!(refused(&change(first + 24, &[0xff, 0xff, 0xff, 0x7f])).contains("not inside the file"));
    assert!(refused(&change(first + 42, &[3])).contains("not inside the file"));
    assert!(refused(&change(first, b"PK\x09\x09")).contains("damaged"));
    assert!(refused(&archive(&[("x/a", b"")])).contains("no data.pkl"));
    assert!(refused(&archive(&[("x/data.pkl", b"}."), ("x/data.pkl", b"}.")])).contains("two entries"));
}
