//! A Hub that fails, and what the cache is good for then.

use lowrank::hub::RepositoryKind::Model;
use lowrank::hub::{HubOptions, resolve_with};
use tempfile::TempDir;

use crate::repository::{ID, failure, model, options};
use crate::server::Manners;

#[test]
fn where_the_hub_is_out_of_order_or_refuses_a_complete_copy_will_do() {
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
