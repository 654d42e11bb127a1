//! Where bytes come from: the buffer pool and mapped files.

mod available;
mod mapped;
pub mod pool;

pub use available::available_bytes;
pub use mapped::MappedFile;
pub use pool::Buffer;

/// The most memory this process has held at once (`VmHWM`), in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
