//! Tests that ask servers of this machine, where the environment names a proxy.

use std::process::Command;
use std::{env, thread};

/// The variables that name one to `hf-hub`, for every address: it does not read `NO_PROXY`.
const PROXIES: [&str; 6] =
    ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// Where there is a proxy, runs the calling test again in a process without it, and says that it did.
pub fn ran_without_proxy() -> bool {
    if PROXIES.iter().all(|name| env::var_os(name).is_none()) {
        return false;
    }
    let thread = thread::current();
    let test = thread.name().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    for name in PROXIES {
        command.env_remove(name);
    }
    let output = command.args(["--exact", test]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    true
}
