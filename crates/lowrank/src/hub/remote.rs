//! Fetching a repository of the Hub into the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo};

use super::checkpoint::{ADAPTER_FILE, INDEX_FILE, MODEL_FILE, shard_names};
use super::options::{Download, HubOptions, OnDownload};
use super::repository::RepositoryKind;
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What a model may have beside its configuration and weights.
const EXTRAS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "preprocessor_config.json",
];
/// How often a download that breaks off is taken up again.
const TRIES: usize = 4;

/// A repository and how to reach it.
pub(super) struct Remote<'a> {
    id: &'a str,
    kind: RepositoryKind,
    options: &'a HubOptions,
    cache: PathBuf,
}

/// Files of one commit, fetched into one folder.
struct Snapshot<'a> {
    remote: &'a Remote<'a>,
    api: ApiRepo,
    /// The files that the repository has, where the Hub lists them.
    listed: Option<BTreeSet<String>>,
    /// Known from the listing, or from the first file.
    folder: Option<PathBuf>,
}

impl<'a> Remote<'a> {
    pub fn new(id: &'a str, kind: RepositoryKind, options: &'a HubOptions) -> Result<Self> {
        let cache = std::path::absolute(&options.cache).map_err(Error::io(&options.cache))?;
        Ok(Self { id, kind, options, cache })
    }

    /// The folder of the repository's newest commit, complete.
    pub fn fetch(&self) -> Result<PathBuf> {
        if self.options.offline {
            return self.cached().ok_or_else(|| {
                self.error(format!(
                    "no such folder, and not in the cache {}; HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the \
                     Hub was not asked",
                    self.cache.display()
                ))
            });
        }
        match self.download() {
            Err(Failure::Unreachable(reason)) => self.cached().ok_or_else(|| {
                self.error(format!(
                    "no such folder, the Hub at {} cannot be reached ({reason}), and the cache {} has no copy",
                    self.options.endpoint,
                    self.cache.display()
                ))
            }),
            Err(Failure::Other(reason)) => Err(self.error(reason)),
            Ok(folder) => Ok(folder),
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::Hub { id: self.id.to_owned(), reason }
    }

    fn repo(&self) -> Repo {
        Repo::model(self.id.to_owned())
    }

    fn cache_repo(&self) -> CacheRepo {
        Cache::new(self.cache.clone()).repo(self.repo())
    }

    fn repository_folder(&self) -> PathBuf {
        self.cache.join(self.repo().folder_name())
    }

    /// The cache's folder of the last commit that was seen, if all that is needed is in it.
    fn cached(&self) -> Option<PathBuf> {
        let config = match self.kind {
            RepositoryKind::Model | RepositoryKind::Configuration => CONFIG,
            RepositoryKind::Adapter => ADAPTER_CONFIG,
        };
        let folder = self.cache_repo().get(config)?.parent()?.to_path_buf();
        let has = |name: &str| folder.join(name).is_file();
        let complete = match self.kind {
            RepositoryKind::Configuration => true,
            RepositoryKind::Adapter => has(ADAPTER_FILE),
            RepositoryKind::Model if has(MODEL_FILE) => true,
            RepositoryKind::Model => {
                shard_names(&folder.join(INDEX_FILE)).is_ok_and(|names| names.iter().all(|name| has(name)))
            }
        };
        complete.then_some(folder)
    }

    fn download(&self) -> Result<PathBuf, Failure> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.options.endpoint.clone())
            .with_token(self.options.token.clone())
            .with_progress(false)
            .with_user_agent("lowrank", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.failure(error, ""))?
            .repo(self.repo());
        let mut snapshot = Snapshot { remote: self, api, listed: None, folder: None };
        let commit = snapshot.list()?;
        match self.kind {
            RepositoryKind::Model => snapshot.fetch_model()?,
            RepositoryKind::Configuration => snapshot.fetch_configuration()?,
            RepositoryKind::Adapter => snapshot.fetch_adapter()?,
        }
        if let Some(commit) = commit {
            // So that offline runs find this commit even if every file of it was here already.
            self.cache_repo().create_ref(&commit).map_err(|error| Failure::Other(error.to_string()))?;
        }
        snapshot.folder.ok_or_else(|| Failure::Other("it holds no files".to_owned()))
    }

    fn failure(&self, error: ApiError, file: &str) -> Failure {
        let ApiError::RequestError(error) = error else {
            return Failure::Other(format!("the download of {file} failed: {error}"));
        };
        match *error {
            ureq::Error::Transport(error) => Failure::Unreachable(error.to_string()),
            ureq::Error::Status(code @ (401 | 403), _) if self.options.token.is_some() => {
                Failure::Other(format!(
                    "the Hub refuses it to this token ({code}): it does not exist, or the token may not read it"
                ))
            }
            ureq::Error::Status(code @ (401 | 403), _) => Failure::Other(format!(
                "no such folder, and the Hub refuses it ({code}): it does not exist, or it is private or gated and \
                 needs a token in HF_TOKEN"
            )),
            ureq::Error::Status(404, _) => Failure::Other(format!(
                "no such folder, and {} has no such repository, or no {file} in it",
                self.options.endpoint
            )),
            ureq::Error::Status(code, response) => Failure::Other(format!(
                "the Hub answers {code} {} when asked for {file}",
                response.status_text()
            )),
        }
    }
}

/// Why nothing was fetched.
enum Failure {
    /// No answer: the cache may do.
    Unreachable(String),
    Other(String),
}

impl Snapshot<'_> {
    /// Asks which files there are, and of which commit. A server that does not tell is asked file by file.
    fn list(&mut self) -> Result<Option<String>, Failure> {
        match self.api.info() {
            Ok(info) => {
                let commit = Path::new(&info.sha);
                if commit.file_name() != Some(commit.as_os_str()) {
                    return Err(Failure::Other(format!("the Hub names {:?} as its commit", info.sha)));
                }
                self.listed = Some(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect());
                self.folder = Some(self.remote.repository_folder().join("snapshots").join(commit));
                Ok(Some(info.sha))
            }
            Err(ApiError::RequestError(error)) if matches!(*error, ureq::Error::Transport(_)) => {
                Err(self.remote.failure(ApiError::RequestError(error), "its files"))
            }
            Err(_) => Ok(None),
        }
    }

    fn fetch_model(&mut self) -> Result<(), Failure> {
        // The weights are last: a copy that has them is complete.
        self.fetch_configuration()?;
        if !self.fetch(MODEL_FILE)? {
            let pickled = "its weights are not safetensors, only pytorch_model.bin, which is not read";
            let others = [("pytorch_model.bin", pickled), ("pytorch_model.bin.index.json", pickled)];
            let index = self.require(INDEX_FILE, "it has no safetensors weights", &others)?;
            let shards = shard_names(&index).map_err(|error| Failure::Other(error.to_string()))?;
            for shard in &shards {
                self.require(shard, "its index names a shard that is missing", &[])?;
            }
        }
        Ok(())
    }

    fn fetch_configuration(&mut self) -> Result<(), Failure> {
        self.require(CONFIG, "it is not a model", &[(ADAPTER_CONFIG, "it is an adapter, not a model")])?;
        for extra in EXTRAS {
            self.fetch(extra)?;
        }
        Ok(())
    }

    fn fetch_adapter(&mut self) -> Result<(), Failure> {
        self.require(ADAPTER_CONFIG, "it is not an adapter", &[(CONFIG, "it is a model, not an adapter")])?;
        let pickled = "its weights are not safetensors, only adapter_model.bin, which is not read";
        self.require(ADAPTER_FILE, "it has no safetensors weights", &[("adapter_model.bin", pickled)])?;
        Ok(())
    }

    /// Fetches a file that must be there; what to say if it is not, and if one of `others` is there instead.
    fn require(&mut self, file: &str, absent: &str, others: &[(&str, &str)]) -> Result<PathBuf, Failure> {
        if self.fetch(file)? {
            return Ok(self.path(file).unwrap_or_default());
        }
        let listed = self.listed.as_ref();
        let other = others.iter().find(|(other, _)| listed.is_some_and(|listed| listed.contains(*other)));
        let reason = other.map_or(absent, |(_, reason)| reason);
        Err(Failure::Other(format!("{reason} (no {file})")))
    }

    fn path(&self, file: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(file))
    }

    /// Fetches a file unless it is here; false if the repository has none.
    fn fetch(&mut self, file: &str) -> Result<bool, Failure> {
        if self.listed.as_ref().is_some_and(|listed| !listed.contains(file)) {
            return Ok(false);
        }
        if self.path(file).is_some_and(|path| path.is_file()) {
            return Ok(true);
        }
        if let Some(dangling) = self.path(file).filter(|path| path.is_symlink()) {
            let _ = fs::remove_file(dangling);
        }
        let path = match self.download(file) {
            Ok(path) => path,
            // The first file tells whether there is a repository at all; of the others each may be absent.
            Err(error) if self.folder.is_some() && is_status(&error, 404) => return Ok(false),
            Err(error) => return Err(self.remote.failure(error, file)),
        };
        let depth = Path::new(file).components().count();
        let folder = path.ancestors().nth(depth).unwrap_or(&path).to_path_buf();
        match &self.folder {
            Some(expected) if *expected != folder => {
                Err(Failure::Other("it changed while it was being downloaded: try again".to_owned()))
            }
            _ => {
                self.folder = Some(folder);
                Ok(true)
            }
        }
    }

    /// Downloads a file, going on where an earlier try broke off.
    fn download(&self, file: &str) -> Result<PathBuf, ApiError> {
        let mut tries = 0;
        loop {
            let report =
                Report { file, done: 0, all: 0, on_download: self.remote.options.on_download.clone() };
            let result = self.api.download_with_progress(file, report);
            tries += 1;
            match &result {
                Err(ApiError::IoError(_)) if tries < TRIES => {}
                // A part that is whole already, or longer than the file is now, cannot be gone on with.
                Err(error)
                    if tries < TRIES
                        && (matches!(error, ApiError::InvalidResume) || is_status(error, 416)) =>
                {
                    self.remove_parts();
                }
                _ => return result,
            }
        }
    }

    fn remove_parts(&self) {
        let blobs = self.remote.repository_folder().join("blobs");
        for entry in fs::read_dir(blobs).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "part") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn is_status(error: &ApiError, code: u16) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::Status(c, _) if c == code))
}

/// Passes on how far a download has come.
struct Report<'f> {
    file: &'f str,
    done: u64,
    all: u64,
    on_download: Option<OnDownload>,
}

impl Progress for Report<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.all) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if let Some(on_download) = &self.on_download {
            on_download(Download { file: self.file, done_bytes: self.done, all_bytes: self.all });
        }
    }

    fn finish(&mut self) {}
}
