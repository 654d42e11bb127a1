//! A repository of the Hub, and what the cache has of it.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, CacheRepo, Repo};

use super::attend::Broken;
use super::checkpoint::{ADAPTER_FILE, INDEX_FILE, MODEL_FILE, PICKLED_ADAPTER_FILE, shard_names};
use super::dataset;
use super::options::HubOptions;
use super::repository::{ADAPTER_CONFIG, MODEL_CONFIG, RepositoryKind};
use super::snapshot::Snapshot;
use crate::{Error, Result};

/// A repository and how to reach it.
pub(super) struct Remote<'a> {
    pub id: &'a str,
    kind: RepositoryKind,
    /// Of a data set: which of its configurations.
    pub configuration: Option<&'a str>,
    pub options: &'a HubOptions,
    cache: PathBuf,
}

impl<'a> Remote<'a> {
    pub fn new(id: &'a str, kind: RepositoryKind, options: &'a HubOptions) -> Result<Self> {
        let cache = std::path::absolute(&options.cache).map_err(Error::io(&options.cache))?;
        Ok(Self { id, kind, configuration: None, options, cache })
    }

    pub fn of_configuration(self, configuration: Option<&'a str>) -> Self {
        Self { configuration, ..self }
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
        // Looked at before anything is fetched: a part of a newer commit is no copy.
        let copy = self.cached();
        let failure = match self.download() {
            Ok(folder) => return Ok(folder),
            Err(failure) => failure,
        };
        if let Some(commit) = copy.as_ref().and_then(|copy| copy.file_name()?.to_str()) {
            // The first file of a newer commit has moved the reference, by which offline runs find the copy.
            let _ = self.cache_repo().create_ref(commit);
        }
        match failure {
            Failure::NoAnswer(reason) => copy.ok_or_else(|| self.error(reason)),
            Failure::Final(reason) => Err(self.error(reason)),
            Failure::Stopped => Err(Error::DownloadStopped { id: self.id.to_owned() }),
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::Hub { id: self.id.to_owned(), reason }
    }

    fn repo(&self) -> Repo {
        match self.kind {
            RepositoryKind::Dataset => Repo::dataset(self.id.to_owned()),
            _ => Repo::model(self.id.to_owned()),
        }
    }

    fn cache_repo(&self) -> CacheRepo {
        Cache::new(self.cache.clone()).repo(self.repo())
    }

    pub fn repository_folder(&self) -> PathBuf {
        self.cache.join(self.repo().folder_name())
    }

    /// The cache's folder of the last commit that was seen, if all that is needed is in it.
    fn cached(&self) -> Option<PathBuf> {
        // A file that every copy has, if there is one of that name.
        let config = match self.kind {
            RepositoryKind::Model | RepositoryKind::Configuration => MODEL_CONFIG,
            RepositoryKind::Adapter => ADAPTER_CONFIG,
            RepositoryKind::Dataset => "",
        };
        let found = self.cache_repo().get(config)?;
        let folder = if config.is_empty() { found } else { found.parent()?.to_path_buf() };
        let has = |name: &str| folder.join(name).is_file();
        let complete = match self.kind {
            RepositoryKind::Configuration => true,
            RepositoryKind::Adapter => has(ADAPTER_FILE) || has(PICKLED_ADAPTER_FILE),
            RepositoryKind::Dataset => dataset::is_complete(&folder, self.configuration),
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
            .map_err(|error| self.failure(Broken::Failed(error), ""))?
            .repo(self.repo());
        let mut snapshot = Snapshot::new(self, api);
        let commit = snapshot.list()?;
        snapshot.fetch(self.kind)?;
        if let Some(commit) = commit {
            // So that offline runs find this commit even if every file of it was here already.
            self.cache_repo().create_ref(&commit).map_err(|error| Failure::Final(error.to_string()))?;
        }
        snapshot.into_folder().ok_or_else(|| Failure::Final("it holds no files".to_owned()))
    }

    /// What an error means for a repository of which `file` was asked.
    ///
    /// # Source
    /// `huggingface_hub.file_download`: where the request for a file's metadata fails, a copy in the cache will do.
    pub fn failure(&self, error: Broken, file: &str) -> Failure {
        let error = match error {
            Broken::Stopped => return Failure::Stopped,
            Broken::Silent(time) => {
                return Failure::NoAnswer(format!(
                    "the Hub at {} sent nothing of {file} for {} s, and the cache {} has no copy; what has come is \
                     kept: run this again to go on",
                    self.options.endpoint,
                    time.as_secs_f64(),
                    self.cache.display()
                ));
            }
            Broken::Failed(ApiError::RequestError(error)) => *error,
            // Not the Hub's answer: what a portal or a proxy says in its place.
            Broken::Failed(
                error
                @ (ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_)),
            ) => {
                return Failure::NoAnswer(format!("what is answered for {file} is not of a Hub: {error}"));
            }
            Broken::Failed(error) => {
                return Failure::Final(format!("the download of {file} failed: {error}"));
            }
        };
        match error {
            ureq::Error::Transport(error) => Failure::NoAnswer(format!(
                "no such folder, the Hub at {} cannot be reached ({error}), and the cache {} has no copy",
                self.options.endpoint,
                self.cache.display()
            )),
            ureq::Error::Status(404, _) => Failure::Final(format!(
                "no such folder, and {} has no such repository, or no {file} in it",
                self.options.endpoint
            )),
            ureq::Error::Status(code @ (401 | 403), _) => Failure::NoAnswer(match self.options.token {
                Some(_) => format!(
                    "the Hub refuses it to this token ({code}): it does not exist, or the token may not read it"
                ),
                None => format!(
                    "no such folder, and the Hub refuses it ({code}): it does not exist, or it is private or gated \
                     and needs a token in HF_TOKEN"
                ),
            }),
            ureq::Error::Status(code, response) => Failure::NoAnswer(format!(
                "the Hub answers {code} {} when asked for {file}",
                response.status_text()
            )),
        }
    }
}

/// Why nothing was fetched.
pub(super) enum Failure {
    /// Nothing was said of the repository: a copy in the cache will do.
    NoAnswer(String),
    /// What was said holds, whatever is in the cache.
    Final(String),
    /// The caller wants no more of it.
    Stopped,
}
