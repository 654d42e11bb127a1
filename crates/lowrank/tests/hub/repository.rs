use std::fs;
use std::sync::{Arc, Mutex};

use lowrank::hub::RepositoryKind::{Adapter, Configuration, Model};
use lowrank::hub::{Checkpoint, HubOptions, StoredDtype, TensorToWrite, resolve_with, write_safetensors};
use tempfile::TempDir;

use crate::direct::ran_without_proxy;
use crate::server::{Manners, Server};

pub const ID: &str = "owner/tiny.model";

pub fn options(server: &Server, cache: &TempDir) -> HubOptions {
    HubOptions {
        endpoint: server.endpoint.clone(),
        cache: cache.path().join("hub"),
        token: None,
        ..HubOptions::from_variables(|_| None)
    }
}

pub fn weights(key: &str, elements: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let bytes: Vec<u8> = (0..elements * 4).map(|i| (i % 251) as u8).collect();
    let tensor = TensorToWrite { name: key, dtype: StoredDtype::F32, shape: &[elements], bytes: &bytes };
    write_safetensors(&path, &[tensor], &[("format", "pt")]).unwrap();
    fs::read(path).unwrap()
}

pub fn model(manners: Manners) -> Server {
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{\"model_type\":\"bert\"}"),
        ("model.safetensors", &weights("a", 5000)),
        ("pytorch_model.bin", b"not wanted"),
        ("README.md", b"not wanted"),
        ("vocab.txt", b"[PAD]\n"),
    ];
    Server::start(ID, &files, manners)
}

pub fn failure(name: &str, kind: lowrank::hub::RepositoryKind, options: &HubOptions) -> String {
    let text = resolve_with(name, kind, options).unwrap_err().to_string();
    assert!(text.contains(name) && !text.contains('\n'), "one sentence that names it: {text}");
    text
}

#[test]
fn a_folder_is_itself() {
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let folder = TempDir::new().unwrap();
    let name = folder.path().to_str().unwrap();
    let resolved = resolve_with(name, Model, &options(&server, &cache)).unwrap();
    assert_eq!((resolved.path.as_path(), resolved.from_hub), (folder.path(), false));
    for name in ["./nowhere", "/nowhere", "a/b/c", "owner/..", "-x", "a--b", "no spaces", "tiny?x", ""] {
        let text = failure(name, Model, &options(&server, &cache));
        assert!(text.contains("no such folder"), "{text}");
    }
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    assert!(failure(file.to_str().unwrap(), Model, &options(&server, &cache)).contains("it is a file"));
    assert!(server.requests().is_empty(), "nobody was asked");
}

#[test]
fn a_model_is_downloaded_once_and_then_read_offline() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let on_download = move |d: lowrank::hub::Download<'_>| {
        record.lock().unwrap().push((d.file.to_owned(), d.done_bytes, d.all_bytes));
    };
    let mut options = HubOptions { on_download: Some(Arc::new(on_download)), ..options(&server, &cache) };
    let folder = resolve_with(ID, Model, &options).unwrap();
    assert!(folder.from_hub && folder.name == ID);
    assert_eq!(Checkpoint::open(&folder.path).unwrap().get("a").unwrap().shape, [5000]);
    assert!(folder.path.join("vocab.txt").is_file());
    assert!(!folder.path.join("pytorch_model.bin").exists());
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.starts_with("GET ") && !request.contains("Bearer")));
    assert!(!requests.iter().any(|request| request.contains("README")));
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let (_, done, all) = seen.iter().rfind(|(file, ..)| file == "model.safetensors").unwrap();
    assert!(done == all && *all > 20_000);

    // The places of Python's cache.
    let python = cache.path().join("hub/models--owner--tiny.model");
    assert_eq!(fs::read_to_string(python.join("refs/main")).unwrap(), "c0ffee00");
    assert_eq!(folder.path, python.join("snapshots/c0ffee00"));

    assert_eq!(resolve_with(ID, Model, &options).unwrap(), folder);
    assert_eq!(
        server.requests(),
        ["GET /api/models/owner/tiny.model/revision/main"],
        "only what is new is asked"
    );

    options.offline = true;
    assert_eq!(resolve_with(ID, Model, &options).unwrap(), folder);
    assert!(server.requests().is_empty());
}

#[test]
fn a_configuration_comes_without_the_weights() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    let folder = resolve_with(ID, Configuration, &options).unwrap();
    assert!(folder.path.join("config.json").is_file() && folder.path.join("vocab.txt").is_file());
    assert!(!server.requests().iter().any(|request| request.contains("safetensors")));
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(resolve_with(ID, Configuration, &offline).unwrap(), folder);
    failure(ID, Model, &offline);

    let bare: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("pytorch_model.bin", b"x")];
    let (server, cache) = (Server::start(ID, &bare, Manners::default()), TempDir::new().unwrap());
    resolve_with(ID, Configuration, &self::options(&server, &cache)).unwrap();
}

#[test]
fn what_a_model_writes_with_comes_with_its_configuration() {
    if ran_without_proxy() {
        return;
    }
    let wanted = [
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
        "additional_chat_templates/tool_use.jinja",
    ];
    let files: Vec<(&str, &[u8])> =
        [("config.json", &b"{}"[..])].into_iter().chain(wanted.map(|name| (name, &b"x"[..]))).collect();
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let folder = resolve_with(ID, Configuration, &options(&server, &cache)).unwrap().path;
    for name in wanted {
        assert_eq!(fs::read(folder.join(name)).unwrap(), b"x", "{name}");
    }
}

#[test]
fn a_new_commit_is_fetched() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    let old = resolve_with(ID, Model, &options).unwrap();
    server.commit("decaf000", "config.json", b"{\"model_type\":\"roberta\"}");
    let new = resolve_with(ID, Model, &options).unwrap();
    assert_ne!(new.path, old.path);
    assert!(fs::read_to_string(new.path.join("config.json")).unwrap().contains("roberta"));
    assert!(fs::read_to_string(old.path.join("config.json")).unwrap().contains("bert"));
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(resolve_with(ID, Model, &offline).unwrap(), new);
}

#[test]
fn offline_without_a_copy_says_so() {
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let text = failure(ID, Model, &HubOptions { offline: true, ..options(&server, &cache) });
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("not in the cache"), "{text}");
    assert!(server.requests().is_empty());
}

#[test]
fn an_incomplete_copy_will_not_do_offline() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    let folder = resolve_with(ID, Model, &options).unwrap().path;
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    failure(ID, Model, &HubOptions { offline: true, ..options.clone() });
    // A link whose file was removed is fetched again.
    fs::remove_file(fs::canonicalize(folder.join("vocab.txt")).unwrap()).unwrap();
    let again = resolve_with(ID, Model, &options).unwrap().path;
    assert!(again.join("vocab.txt").is_file());
    Checkpoint::open(again).unwrap();
}

#[test]
fn a_token_is_sent_and_asked_for() {
    if ran_without_proxy() {
        return;
    }
    let server = model(Manners { token: Some("hf_secret"), ..Manners::default() });
    let cache = TempDir::new().unwrap();
    let mut options = options(&server, &cache);
    let text = failure(ID, Model, &options);
    assert!(text.contains("401") && text.contains("HF_TOKEN"), "{text}");
    options.token = Some("hf_wrong".to_owned());
    let text = failure(ID, Model, &options);
    assert!(text.contains("401") && text.contains("token") && !text.contains("hf_wrong"), "{text}");
    server.requests();
    options.token = Some("hf_secret".to_owned());
    resolve_with(ID, Model, &options).unwrap();
    assert!(server.requests().iter().all(|request| request.contains("Bearer hf_secret")));
    assert!(!format!("{options:?}").contains("hf_secret"));
}

#[test]
fn a_server_that_lists_no_files_is_asked_for_each() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) =
        (model(Manners { hides_listing: true, ..Manners::default() }), TempDir::new().unwrap());
    let folder = resolve_with(ID, Model, &options(&server, &cache)).unwrap();
    assert!(folder.path.join("vocab.txt").is_file());
    Checkpoint::open(folder.path).unwrap();
    let text = failure("owner/other", Model, &options(&server, &cache));
    assert!(text.contains("no such repository"), "{text}");
}

#[test]
fn large_files_elsewhere_are_followed() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners { redirects: true, ..Manners::default() }), TempDir::new().unwrap());
    let folder = resolve_with(ID, Model, &options(&server, &cache)).unwrap();
    Checkpoint::open(folder.path).unwrap();
    assert!(server.requests().iter().any(|request| request.contains("/elsewhere/model.safetensors")));
}

#[test]
fn shards_are_fetched_by_their_index() {
    if ran_without_proxy() {
        return;
    }
    let index = br#"{"weight_map":{"a":"one.safetensors","b":"deep/two.safetensors"}}"#;
    let (one, two) = (weights("a", 3), weights("b", 4));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("one.safetensors", &one),
        ("deep/two.safetensors", &two),
        ("tokenizer.json", b"{}"),
    ];
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let mut online = options(&server, &cache);
    let folder = resolve_with(ID, Model, &online).unwrap();
    assert_eq!(Checkpoint::open(&folder.path).unwrap().names().len(), 2);
    online.offline = true;
    assert_eq!(resolve_with(ID, Model, &online).unwrap(), folder);

    files.remove(2);
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let text = failure(ID, Model, &options(&server, &cache));
    assert!(text.contains("no one.safetensors"), "{text}");

    files[1].1 = br#"{"weight_map":{"a":"../../../../one.safetensors"}}"#;
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let text = failure(ID, Model, &options(&server, &cache));
    assert!(text.contains("not in its folder"), "{text}");
}

#[test]
fn repositories_of_another_kind_are_told_apart() {
    if ran_without_proxy() {
        return;
    }
    let adapter: [(&str, &[u8]); 2] =
        [("adapter_config.json", b"{}"), ("adapter_model.safetensors", &weights("a", 3))];
    let (server, cache) = (Server::start(ID, &adapter, Manners::default()), TempDir::new().unwrap());
    let mut online = options(&server, &cache);
    let folder = resolve_with(ID, Adapter, &online).unwrap();
    Checkpoint::open_adapter(&folder.path).unwrap();
    let text = failure(ID, Model, &online);
    assert!(text.contains("it is an adapter, not a model"), "{text}");
    online.offline = true;
    assert_eq!(resolve_with(ID, Adapter, &online).unwrap(), folder);
    failure(ID, Model, &online);

    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let text = failure(ID, Adapter, &options(&server, &cache));
    assert!(text.contains("it is a model, not an adapter"), "{text}");

    let pickled: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("pytorch_model.bin", b"x")];
    let (server, cache) = (Server::start(ID, &pickled, Manners::default()), TempDir::new().unwrap());
    let text = failure(ID, Model, &options(&server, &cache));
    assert!(text.contains("pytorch_model.bin, which is not read"), "{text}");
}

/// An adapter of old comes as the pickle that it is, and is found again without the Hub.
#[test]
fn an_adapter_that_is_no_safetensors_is_fetched_too() {
    if ran_without_proxy() {
        return;
    }
    let files: [(&str, &[u8]); 2] = [("adapter_config.json", b"{}"), ("adapter_model.bin", b"pickle")];
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let mut options = options(&server, &cache);
    let folder = resolve_with(ID, Adapter, &options).unwrap().path;
    assert_eq!(fs::read(folder.join("adapter_model.bin")).unwrap(), b"pickle");
    options.offline = true;
    assert_eq!(resolve_with(ID, Adapter, &options).unwrap().path, folder);
}

#[test]
fn an_adapter_comes_with_the_summary_of_its_run() {
    if ran_without_proxy() {
        return;
    }
    let summary: &[u8] = br#"{"labels":["rotten","fresh"]}"#;
    let files: [(&str, &[u8]); 4] = [
        ("adapter_config.json", b"{}"),
        ("adapter_model.safetensors", &weights("a", 3)),
        ("summary.json", summary),
        ("metrics.jsonl", b"not wanted"),
    ];
    let (server, cache) = (Server::start(ID, &files, Manners::default()), TempDir::new().unwrap());
    let folder = resolve_with(ID, Adapter, &options(&server, &cache)).unwrap().path;
    assert_eq!(fs::read(folder.join("summary.json")).unwrap(), summary);
    assert!(!folder.join("metrics.jsonl").exists());
}
