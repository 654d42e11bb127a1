//! Where the Hub is, where its files are kept, and who asks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::watch::{OnDownload, Watch, watch};

/// The public Hub.
const ENDPOINT: &str = "https://huggingface.co";
/// How long `huggingface_hub` waits.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How to ask the Hugging Face Hub.
#[derive(Clone)]
pub struct HubOptions {
    /// The Hub's address.
    pub endpoint: String,
    /// The folder of downloaded repositories, shared with Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// Who asks.
    pub token: Option<String>,
    /// Use what the cache has and ask nobody.
    pub offline: bool,
    /// How long the answer to what a repository holds may take.
    pub etag_timeout: Duration,
    /// How long the Hub may be silent within a download.
    pub download_timeout: Duration,
    /// Told of each piece of a download.
    pub on_download: Option<OnDownload>,
    /// Stops a download when it is raised.
    pub stop: Option<Arc<AtomicBool>>,
}

impl HubOptions {
    /// As the environment says, by the variables of `huggingface_hub`: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
    /// `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`; and with what [`watch_downloads`](super::watch_downloads) set.
    pub fn from_env() -> Self {
        let Watch { on_download, stop } = watch();
        Self { on_download, stop, ..Self::from_variables(|name| std::env::var(name).ok()) }
    }

    /// As these variables say.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let value =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
        let folder = |name: &str| value(name).map(|path| expand(&path, value("HOME").as_deref()));
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let user = value("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default();
            folder("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface")
        });
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = value("HF_TOKEN").or_else(|| value("HUGGING_FACE_HUB_TOKEN"));
        let is_set = |name: &str| {
            value(name)
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };
        let seconds = |name: &str| {
            let seconds = value(name).and_then(|value| value.parse().ok()).filter(|&seconds| seconds > 0);
            seconds.map_or(TIMEOUT, Duration::from_secs)
        };
        Self {
            endpoint: value("HF_ENDPOINT")
                .unwrap_or_else(|| ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token.or_else(|| read_token(&token_file)),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            etag_timeout: seconds("HF_HUB_ETAG_TIMEOUT"),
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
            on_download: None,
            stop: None,
        }
    }
}

impl fmt::Debug for HubOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("etag_timeout", &self.etag_timeout)
            .field("download_timeout", &self.download_timeout)
            .finish_non_exhaustive()
    }
}

fn expand(path: &str, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(home).join(rest),
        _ => PathBuf::from(path),
    }
}

fn read_token(path: &Path) -> Option<String> {
    let token = std::fs::read_to_string(path).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}
