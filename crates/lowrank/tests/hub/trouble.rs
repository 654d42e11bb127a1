//! A Hub that fails, and what the cache is good for then.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lowrank::Error;
use lowrank::hub::RepositoryKind::Model;
use lowrank::hub::{Checkpoint, Download, HubOptions, resolve_with};
use tempfile::TempDir;

use crate::direct::ran_without_proxy;
use crate::repository::{ID, failure, model, options, weights};
use crate::server::{Manners, Server};

#[test]
fn without_a_network_a_complete_copy_will_do() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let mut options = options(&server, &cache);
    let folder = resolve_with(ID, Model, &options).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    options.endpoint = format!("http://{closed}");
    assert_eq!(resolve_with(ID, Model, &options).unwrap(), folder);
    let text = failure("owner/other", Model, &options);
    assert!(text.contains("cannot be reached") && text.contains(&options.endpoint), "{text}");
}

#[test]
fn a_repository_that_is_not_there_is_an_error() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let text = failure("owner/other", Model, &options(&server, &cache));
    assert!(text.contains("no such repository"), "{text}");
    let server = model(Manners { answers: Some(503), ..Manners::default() });
    let text = failure(ID, Model, &options(&server, &cache));
    assert!(text.contains("503"), "{text}");
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners { breaks: 2, ..Manners::default() }), TempDir::new().unwrap());
    let folder = resolve_with(ID, Model, &options(&server, &cache)).unwrap();
    assert_eq!(fs::read(folder.path.join("model.safetensors")).unwrap(), weights("a", 5000));
    let ranges: Vec<_> =
        server.requests().into_iter().filter(|request| request.contains("model.safetensors")).collect();
    assert_eq!(ranges.iter().filter(|request| request.ends_with("bytes=0-")).count(), 1, "{ranges:?}");

    // A part that was whole when its writer was killed.
    let blob = fs::canonicalize(folder.path.join("model.safetensors")).unwrap();
    let part = blob.with_extension("part");
    fs::rename(&blob, &part).unwrap();
    let again = resolve_with(ID, Model, &options(&server, &cache)).unwrap();
    Checkpoint::open(again.path).unwrap();
    assert!(blob.is_file() && !part.exists());
}

#[test]
fn where_the_hub_is_out_of_order_or_refuses_a_complete_copy_will_do() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    let folder = resolve_with(ID, Model, &options).unwrap();
    let refused = HubOptions { token: Some("hf_wrong".to_owned()), ..options.clone() };
    for code in [401, 403, 429, 500, 503] {
        server.behave(Manners { answers: Some(code), ..Manners::default() });
        assert_eq!(resolve_with(ID, Model, &options).unwrap(), folder, "{code}");
        assert_eq!(resolve_with(ID, Model, &refused).unwrap(), folder, "{code}");
        assert!(failure("owner/other", Model, &options).contains(&code.to_string()));
    }
    // That there is no such repository any more is an answer.
    server.behave(Manners { answers: Some(404), ..Manners::default() });
    assert!(failure(ID, Model, &options).contains("no such repository"));
}

#[test]
fn a_part_of_a_newer_commit_is_no_copy() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    let old = resolve_with(ID, Model, &options).unwrap();
    server.commit("decaf000", "config.json", b"{\"model_type\":\"roberta\"}");
    server.behave(Manners { refuses: Some(("model.safetensors", 503)), ..Manners::default() });
    assert_eq!(resolve_with(ID, Model, &options).unwrap(), old);
    let offline = HubOptions { offline: true, ..options.clone() };
    assert_eq!(resolve_with(ID, Model, &offline).unwrap(), old, "as if nothing had been fetched");
    server.behave(Manners::default());
    assert_ne!(resolve_with(ID, Model, &options).unwrap(), old);
}

#[test]
fn a_first_download_that_the_hub_ends_is_no_copy() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners::default()), TempDir::new().unwrap());
    let options = options(&server, &cache);
    for hides_listing in [false, true] {
        server.behave(Manners { refuses: Some(("vocab.txt", 503)), hides_listing, ..Manners::default() });
        for _ in 0..2 {
            assert!(failure(ID, Model, &options).contains("503"));
        }
    }
    failure(ID, Model, &HubOptions { offline: true, ..options });
}

#[test]
fn a_hub_that_falls_silent_is_not_waited_for() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners { stalls: true, ..Manners::default() }), TempDir::new().unwrap());
    let time = Duration::from_millis(300);
    let patient = options(&server, &cache);
    let impatient = HubOptions { etag_timeout: time, download_timeout: time, ..patient.clone() };
    let text = failure(ID, Model, &impatient);
    assert!(text.contains("sent nothing of model.safetensors for"), "{text}");
    server.behave(Manners::default());
    let folder = went_on(&server, &patient);
    server.behave(Manners { silent: true, ..Manners::default() });
    assert_eq!(resolve_with(ID, Model, &impatient).unwrap().path, folder, "the copy will do");
}

#[test]
fn a_download_that_is_stopped_ends_at_once_and_is_gone_on_with() {
    if ran_without_proxy() {
        return;
    }
    let (server, cache) = (model(Manners { stalls: true, ..Manners::default() }), TempDir::new().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let on_download = move |download: Download<'_>| {
        assert_eq!(download.repository, ID);
        if download.file == "model.safetensors" && download.done_bytes > 0 {
            raised.store(true, Ordering::Relaxed);
        }
    };
    let stoppable =
        HubOptions { on_download: Some(Arc::new(on_download)), stop: Some(stop), ..options(&server, &cache) };
    let error = resolve_with(ID, Model, &stoppable).unwrap_err();
    assert!(matches!(error, Error::DownloadStopped { .. }), "{error}");
    assert!(error.to_string().contains("run this again"), "{error}");
    server.behave(Manners::default());
    went_on(&server, &options(&server, &cache));
}

/// Asks again, and checks that the weights were not fetched from their beginning.
fn went_on(server: &Server, options: &HubOptions) -> PathBuf {
    server.requests();
    let folder = resolve_with(ID, Model, options).unwrap().path;
    Checkpoint::open(&folder).unwrap();
    let requests = server.requests();
    assert!(!requests.iter().any(|request| request.ends_with("model.safetensors bytes=0-")), "{requests:?}");
    folder
}
