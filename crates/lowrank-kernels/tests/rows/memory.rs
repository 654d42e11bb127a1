use std::io::Write;

use lowrank_kernels::memory::{Buffer, MappedFile, peak_rss_bytes, pool};

#[test]
fn a_buffer_is_aligned_and_reused() {
    for bytes in [1, 64, 1000, 65_536, 3 << 20] {
        let mut buffer = Buffer::uninit(bytes);
        assert_eq!(buffer.len(), bytes);
        let slice = buffer.as_mut_slice::<u8>();
        assert_eq!((slice.len(), slice.as_ptr().align_offset(64)), (bytes, 0));
        slice.fill(7);
        drop(buffer);
        assert!(Buffer::zeroed(bytes).as_slice::<u8>().iter().all(|&byte| byte == 0));
    }
    assert!(Buffer::uninit(0).as_slice::<f32>().is_empty());
    assert_eq!(Buffer::zeroed(40).as_slice::<f32>(), [0.0; 10]);
}

#[test]
fn the_pool_counts_what_it_holds() {
    // A size that no other test uses: they share the pool.
    let bytes = 41 << 20;
    let held = Buffer::uninit(bytes);
    let address = held.as_slice::<u8>().as_ptr();
    assert!(pool::statistics().allocated_bytes >= bytes);
    drop(held);
    assert!(pool::statistics().free_bytes >= bytes);
    let smaller = Buffer::uninit(bytes - (8 << 20));
    assert_eq!(smaller.as_slice::<u8>().as_ptr(), address, "the smallest free block that fits is taken");
    let tiny = Buffer::uninit(bytes / 4);
    assert_ne!(tiny.as_slice::<u8>().as_ptr(), address);
    drop((smaller, tiny));
    pool::trim();
    assert!(pool::statistics().free_bytes < bytes);
}

#[test]
fn released_pages_of_a_file_can_be_read_again() {
    let path = std::env::temp_dir().join(format!("lowrank-mapped-{}", std::process::id()));
    let content: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::File::create(&path).expect("a temporary file").write_all(&content).expect("a temporary file");
    let file = MappedFile::open(&path).expect("a temporary file");
    assert_eq!(&file[..], content);
    file.release(100..30_000);
    file.release(40_000..usize::MAX);
    assert_eq!(&file[..], content);
    std::fs::write(&path, []).expect("a temporary file");
    drop(file);
    assert!(MappedFile::open(&path).expect("a temporary file").is_empty());
    std::fs::remove_file(&path).expect("a temporary file");
    assert!(MappedFile::open(&path).is_err());
}

#[test]
fn peak_memory_is_known_on_linux() {
    assert!(!cfg!(target_os = "linux") || peak_rss_bytes() > 1 << 20);
}
