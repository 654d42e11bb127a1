//! A repository of the Hub, and what the cache has of it.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo};

use super::checkpoint::{ADAPTER_FILE, INDEX_FILE, MODEL_FILE, shard_names};
use super::options::HubOptions;
use super::repository::RepositoryKind;
use super::snapshot::{ADAPTER_CONFIG, CONFIG, Snapshot};
use crate::{Error, Result};

/// A repository and how to reach it.
pub(super) struct Remote<'a> {
    id: &'a str,
    kind: RepositoryKind,
    pub options: &'a HubOptions,
    cache: PathBuf,
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

    pub fn repository_folder(&self) -> PathBuf {
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
        let mut snapshot = Snapshot::new(self, api);
        let commit = snapshot.list()?;
        snapshot.fetch(self.kind)?;
        if let Some(commit) = commit {
            // So that offline runs find this commit even if every file of it was here already.
            self.cache_repo().create_ref(&commit).map_err(|error| Failure::Other(error.to_string()))?;
        }
        snapshot.into_folder().ok_or_else(|| Failure::Other("it holds no files".to_owned()))
    }

    pub fn failure(&self, error: ApiError, file: &str) -> Failure {
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
pub(super) enum Failure {
    /// No answer: the cache may do.
    Unreachable(String),
    Other(String),
}
