//! Models of the Hub, on loopback.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::server::{Manners, Server};
use super::workshop::{Ran, Workshop};

fn tiny(workshop: &Workshop, manners: Manners) -> Server {
    let names = ["config.json", "model.safetensors", "vocab.txt"];
    let files = names.map(|name| (name, workshop.read(&format!("model/{name}"))));
    Server::start("owner/tiny", &files.each_ref().map(|(name, bytes)| (*name, bytes.as_slice())), manners)
}

#[test]
fn without_a_terminal_each_file_that_is_downloaded_has_a_line() {
    let workshop = Workshop::new();
    let server = tiny(&workshop, Manners { breaks: 1, ..Manners::default() });
    let ask = |arguments: &[&str]| {
        let ran = Ran::from(workshop.online(&server.endpoint, arguments).output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let told = |line: &&str| line.starts_with("downloading owner/tiny: ");
        ran.stderr.lines().filter(told).map(str::to_owned).collect::<Vec<_>>()
    };
    let size = |name: &str| workshop.read(&format!("model/{name}")).len();
    let lines = ask(&["params", "--model", "owner/tiny"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(size("config.json") < 1000);
    assert_eq!(lines[0], format!("downloading owner/tiny: config.json, {} B", size("config.json")));
    assert!(lines[1].contains("vocab.txt"), "{lines:?}");
    let train = ["train", "run.toml", "--json", "--set", "model=owner/tiny"];
    let lines = ask(&train);
    assert!(lines.len() == 1 && lines[0].contains("model.safetensors"), "{lines:?}");
    assert!(ask(&["data", "preview", "run.toml", "--set", "model=owner/tiny"]).is_empty());
}

#[cfg(unix)]
#[test]
fn the_first_ctrl_c_ends_a_download_which_is_gone_on_with_later() {
    let workshop = Workshop::new();
    let server = tiny(&workshop, Manners { stalls: true, ..Manners::default() });
    let arguments = ["train", "run.toml", "--set", "model=owner/tiny"];
    let mut child = workshop
        .online(&server.endpoint, &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("downloading owner/tiny: ")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let last = lines.last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{last}");
    assert!(last.contains("what has come is kept: run this again"), "{last}");
    server.behave(Manners::default());
    let ran = Ran::from(workshop.online(&server.endpoint, &arguments).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}
