//! How much memory there is to plan with.

use std::fs::read_to_string;

/// The memory that this process may still take: what the system has available (`MemAvailable`), or what is left of its
/// control group's limit where that is less. None where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let system = meminfo(&read_to_string("/proc/meminfo").ok()?)?;
    Some(left_of_groups().map_or(system, |group| group.min(system)))
}

fn meminfo(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the tightest control group of this process leaves, in either version of the interface.
fn left_of_groups() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // A limit may stand at any level above; inside a container the path may not be there at all.
        let mut path = path.trim_end_matches('/');
        loop {
            let number =
                |name: &str| read_to_string(format!("{root}{path}/{name}")).ok()?.trim().parse::<u64>().ok();
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                let left = limit.saturating_sub(usage);
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:   12345 kB\n"), Some(12345 * 1024));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn something_is_available() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
