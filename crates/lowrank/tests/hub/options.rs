//! What the environment says of the Hub.

use std::fs;

use lowrank::hub::HubOptions;
use tempfile::TempDir;

#[test]
fn the_environment_is_that_of_huggingface_hub() {
    let from = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        HubOptions::from_variables(move |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    };
    let plain = from(&[("HOME", "/users/u")]);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache.to_str(), Some("/users/u/.cache/huggingface/hub"));
    assert_eq!((plain.token, plain.offline), (None, false));
    assert_eq!((plain.etag_timeout.as_secs(), plain.download_timeout.as_secs()), (10, 10));
    let patient = from(&[("HF_HUB_ETAG_TIMEOUT", "20"), ("HF_HUB_DOWNLOAD_TIMEOUT", " 60 ")]);
    assert_eq!((patient.etag_timeout.as_secs(), patient.download_timeout.as_secs()), (20, 60));
    assert_eq!(from(&[("HF_HUB_ETAG_TIMEOUT", "soon")]).etag_timeout.as_secs(), 10);
    assert_eq!(from(&[("XDG_CACHE_HOME", "/c")]).cache.to_str(), Some("/c/huggingface/hub"));
    assert_eq!(from(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).cache.to_str(), Some("/h/hub"));
    assert_eq!(from(&[("HF_HOME", "~/h"), ("HOME", "/users/u")]).cache.to_str(), Some("/users/u/h/hub"));
    assert_eq!(from(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/d")]).cache.to_str(), Some("/d"));
    assert_eq!(from(&[("HF_ENDPOINT", "http://mirror:1/")]).endpoint, "http://mirror:1");
    for (name, value, offline) in [
        ("HF_HUB_OFFLINE", "1", true),
        ("TRANSFORMERS_OFFLINE", "True", true),
        ("HF_HUB_OFFLINE", "0", false),
        ("HF_HUB_OFFLINE", "", false),
    ] {
        assert_eq!(from(&[(name, value)]).offline, offline, "{name}={value}");
    }

    let home = TempDir::new().unwrap();
    fs::write(home.path().join("token"), "hf_file\n").unwrap();
    fs::write(home.path().join("other"), "hf_other\n").unwrap();
    let (path, other) = (home.path().to_str().unwrap(), home.path().join("other"));
    assert_eq!(from(&[("HF_HOME", path)]).token.as_deref(), Some("hf_file"));
    assert_eq!(from(&[("HF_HOME", path), ("HF_TOKEN", " hf_env ")]).token.as_deref(), Some("hf_env"));
    let by_path = from(&[("HF_HOME", path), ("HF_TOKEN_PATH", other.to_str().unwrap())]);
    assert_eq!(by_path.token.as_deref(), Some("hf_other"));
}
