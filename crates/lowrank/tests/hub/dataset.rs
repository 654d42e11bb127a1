use std::fs;

use lowrank::hub::{DatasetId, HubOptions, resolve_dataset_with};
use tempfile::TempDir;

use crate::direct::ran_without_proxy;
use crate::repository::options;
use crate::server::{Manners, Server};

const GLUE: &str = "datasets/nyu-mll/glue";

/// A repository of two configurations.
fn glue(manners: Manners) -> Server {
    let train: Vec<u8> = (0..9000u32).map(|at| (at % 251) as u8).collect();
    let files: [(&str, &[u8]); 7] = [
        ("README.md", b"---\n---\n"),
        ("sst2/train-00000-of-00002.parquet", &train),
        ("sst2/train-00001-of-00002.parquet", b"second"),
        ("sst2/validation-00000-of-00001.parquet", b"validation"),
        ("sst2/unsupervised-00000-of-00001.parquet", b"not wanted"),
        ("cola/train-00000-of-00001.parquet", b"not wanted"),
        ("glue.py", b"not wanted"),
    ];
    Server::start(GLUE, &files, manners)
}

fn failure(name: &str, options: &HubOptions) -> String {
    let text = resolve_dataset_with(name, options).unwrap_err().to_string();
    assert!(!text.contains('\n'), "one sentence: {text}");
    text
}

fn parsed(name: &str) -> Option<(String, Option<String>)> {
    DatasetId::parse(name).map(|id| (id.repository, id.configuration))
}

#[test]
fn short_names_are_those_of_the_hub() {
    let id = |repository: &str, configuration: Option<&str>| {
        Some((repository.to_owned(), configuration.map(str::to_owned)))
    };
    assert_eq!(parsed("glue/sst2"), id("nyu-mll/glue", Some("sst2")));
    assert_eq!(parsed("nyu-mll/glue/sst2"), id("nyu-mll/glue", Some("sst2")));
    assert_eq!(parsed("squad"), id("rajpurkar/squad", None));
    assert_eq!(parsed("squad_v2"), id("rajpurkar/squad_v2", None));
    assert_eq!(parsed("cifar10"), id("uoft-cs/cifar10", None));
    assert_eq!(parsed("mnist"), id("ylecun/mnist", None));
    assert_eq!(parsed("someone/glue"), id("someone/glue", None));
    assert_eq!(parsed("unknown"), id("unknown", None));
    for name in ["", "a/b/c/d", "glue/..", "glue/", "a b", "/glue", "x/../y", "owner/name/a b"] {
        assert_eq!(parsed(name), None, "{name}");
    }
}

#[test]
fn a_configuration_is_downloaded_once_and_then_read_offline() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (glue(Manners::default()), TempDir::new().unwrap());
    let mut options = options(&server, &cache);
    let found = resolve_dataset_with("glue/sst2", &options).unwrap();
    assert!(found.from_hub && found.name == "glue/sst2");
    assert_eq!(found.splits.keys().collect::<Vec<_>>(), ["train", "validation"]);
    let train = found.split(&["train"]).unwrap();
    assert_eq!(train.len(), 2);
    assert_eq!(fs::read(&train[0]).unwrap().len(), 9000);
    assert_eq!(fs::read(&train[1]).unwrap(), b"second");
    assert_eq!(found.split(&["dev", "validation"]).unwrap().len(), 1);
    assert!(found.split(&["test"]).is_none());
    // The places of Python's cache and of the Hub.
    let python = cache.path().join("hub/datasets--nyu-mll--glue/snapshots/c0ffee00");
    assert_eq!(train[0], python.join("sst2/train-00000-of-00002.parquet"));
    let requests = server.requests();
    assert!(requests.contains(&"GET /api/datasets/nyu-mll/glue/revision/main".to_owned()), "{requests:?}");
    let file = "/datasets/nyu-mll/glue/resolve/main/sst2/train-00000-of-00002.parquet";
    assert!(requests.iter().any(|request| request.contains(file)));
    assert!(
        !requests.iter().any(|request| {
            ["cola", "glue.py", "unsupervised"].iter().any(|other| request.contains(other))
        })
    );

    assert_eq!(resolve_dataset_with("nyu-mll/glue/sst2", &options).unwrap().splits, found.splits);
    assert_eq!(server.requests().len(), 1, "only what is new is asked");
    options.offline = true;
    assert_eq!(resolve_dataset_with("glue/sst2", &options).unwrap(), found);
    assert!(failure("glue/cola", &options).contains("not in the cache"));
    fs::remove_file(&train[1]).unwrap();
    assert!(failure("glue/sst2", &options).contains("not in the cache"), "a split lacks a file");
    assert!(server.requests().is_empty());
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (glue(Manners { breaks: 2, ..Manners::default() }), TempDir::new().unwrap());
    let found = resolve_dataset_with("glue/sst2", &options(&server, &cache)).unwrap();
    assert_eq!(fs::read(&found.splits["train"][0]).unwrap().len(), 9000);
    assert!(server.requests().iter().any(|request| request.contains("bytes=4500-")), "not from the start");
}

#[test]
fn what_a_repository_lacks_is_said() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (glue(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    assert!(failure("glue", &options).contains("the configurations cola, sst2"));
    let text = failure("glue/sst", &options);
    assert!(text.contains("no configuration \"sst\"; it has cola, sst2"), "{text}");
    assert!(failure("squad", &options).contains("no such repository"));
    assert!(failure("a/b/c/d", &options).contains("not the id of a Hub data set"));

    let bare: [(&str, &[u8]); 2] = [("README.md", b"x"), ("data.csv", b"x")];
    let server = Server::start("datasets/owner/bare", &bare, Manners::default());
    let text = failure("owner/bare", &HubOptions { endpoint: server.endpoint.clone(), ..options.clone() });
    assert!(text.contains("no Parquet files"), "{text}");

    let torn: [(&str, &[u8]); 1] = [("data/train-00000-of-00002.parquet", b"x")];
    let server = Server::start("datasets/owner/torn", &torn, Manners::default());
    let text = failure("owner/torn", &HubOptions { endpoint: server.endpoint.clone(), ..options.clone() });
    assert!(text.contains("train has 1 files of 2"), "{text}");

    let hidden = glue(Manners { hides_listing: true, ..Manners::default() });
    let text = failure("glue/sst2", &HubOptions { endpoint: hidden.endpoint.clone(), ..options.clone() });
    assert!(text.contains("does not list its files"), "{text}");
}

#[test]
fn files_outside_of_the_repository_are_not_fetched() {
    if ran_without_proxy() {
        return;
    }
    let files: [(&str, &[u8]); 3] = [
        ("../../../train-00000-of-00001.parquet", b"x"),
        ("/train.parquet", b"x"),
        ("data/validation.parquet", b"fine"),
    ];
    let (server, cache) =
        (Server::start("datasets/owner/odd", &files, Manners::default()), TempDir::new().unwrap());
    let found = resolve_dataset_with("owner/odd", &options(&server, &cache)).unwrap();
    assert_eq!(found.splits.keys().collect::<Vec<_>>(), ["validation"]);
}

#[test]
fn a_folder_is_read_by_the_same_names() {
    let (folder, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in [
        "data/train-00001-of-00002-abc123.parquet",
        "data/train-00000-of-00002-def456.parquet",
        "default/test/0001.parquet",
        "default/test/0000.parquet",
        "val.parquet",
        "notes.parquet",
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let options = HubOptions { cache: cache.path().to_owned(), ..HubOptions::from_variables(|_| None) };
    let found = resolve_dataset_with(folder.path().to_str().unwrap(), &options).unwrap();
    let names = |split: &str| {
        let files = found.splits[split].iter();
        files
            .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("train"),
        ["data/train-00000-of-00002-def456.parquet", "data/train-00001-of-00002-abc123.parquet"]
    );
    assert_eq!(names("test"), ["default/test/0000.parquet", "default/test/0001.parquet"]);
    assert_eq!(names("val"), ["val.parquet"]);
    assert!(!found.from_hub && found.splits.len() == 3);
}
