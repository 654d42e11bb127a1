//! Fetching the files of one commit into the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::api::sync::{ApiError, ApiRepo};

use super::attend::{Broken, attend};
use super::checkpoint::{ADAPTER_FILE, INDEX_FILE, MODEL_FILE, PICKLED_ADAPTER_FILE, shard_names};
use super::dataset::split_files;
use super::remote::{Failure, Remote};
use super::repository::{
    ADAPTER_CONFIG, CHAT_TEMPLATES, MODEL_CONFIG, READER_FILES, RepositoryKind, SUMMARY_FILE,
};
use super::watch::Download;

/// How often a download that breaks off is taken up again.
const TRIES: usize = 4;

/// Files of one commit, fetched into one folder.
pub(super) struct Snapshot<'a> {
    remote: &'a Remote<'a>,
    api: Arc<ApiRepo>,
    /// The files that the repository has, where the Hub lists them.
    listed: Option<BTreeSet<String>>,
    /// Known from the listing, or from the first file.
    folder: Option<PathBuf>,
}

impl<'a> Snapshot<'a> {
    pub fn new(remote: &'a Remote<'a>, api: ApiRepo) -> Self {
        Self { remote, api: Arc::new(api), listed: None, folder: None }
    }

    /// The folder of what was fetched; none if nothing was.
    pub fn into_folder(self) -> Option<PathBuf> {
        self.folder
    }

    /// Fetches all files that this kind of repository needs.
    pub fn fetch(&mut self, kind: RepositoryKind) -> Result<(), Failure> {
        match kind {
            RepositoryKind::Model => self.fetch_model(),
            RepositoryKind::Configuration => self.fetch_configuration(),
            RepositoryKind::Adapter => self.fetch_adapter(),
            RepositoryKind::Dataset => self.fetch_dataset(),
        }
    }

    /// Asks which files there are, and of which commit. A server that does not tell is asked file by file.
    pub fn list(&mut self) -> Result<Option<String>, Failure> {
        let (options, api) = (self.remote.options, Arc::clone(&self.api));
        match attend(options, options.etag_timeout, |_, _| {}, move |_| api.info()) {
            Ok(info) => {
                let commit = Path::new(&info.sha);
                if commit.file_name() != Some(commit.as_os_str()) {
                    return Err(Failure::Final(format!("the Hub names {:?} as its commit", info.sha)));
                }
                self.listed = Some(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect());
                self.folder = Some(self.remote.repository_folder().join("snapshots").join(commit));
                Ok(Some(info.sha))
            }
            // The first file's answer tells what is the matter.
            Err(Broken::Failed(error)) if !is_transport(&error) => Ok(None),
            Err(broken) => Err(self.remote.failure(broken, "the list of its files")),
        }
    }

    fn fetch_model(&mut self) -> Result<(), Failure> {
        // The weights are last: a copy that has them is complete.
        self.fetch_configuration()?;
        if !self.fetch_file(MODEL_FILE)? {
            let pickled = "its weights are not safetensors, only pytorch_model.bin, which is not read";
            let others = [("pytorch_model.bin", pickled), ("pytorch_model.bin.index.json", pickled)];
            let index = self.require(INDEX_FILE, "it has no safetensors weights", &others)?;
            let shards = shard_names(&index).map_err(|error| Failure::Final(error.to_string()))?;
            for shard in &shards {
                self.require(shard, "its index names a shard that is missing", &[])?;
            }
        }
        Ok(())
    }

    fn fetch_configuration(&mut self) -> Result<(), Failure> {
        self.require(
            MODEL_CONFIG,
            "it is not a model",
            &[(ADAPTER_CONFIG, "it is an adapter, not a model")],
        )?;
        for name in READER_FILES {
            self.fetch_file(name)?;
        }
        // These have names of their own, which only a list of the files tells.
        let listed = self
            .listed
            .iter()
            .flatten()
            .filter(|file| Path::new(file).parent() == Some(CHAT_TEMPLATES.as_ref()));
        for file in listed.cloned().collect::<Vec<_>>() {
            self.fetch_file(&file)?;
        }
        Ok(())
    }

    fn fetch_adapter(&mut self) -> Result<(), Failure> {
        self.require(
            ADAPTER_CONFIG,
            "it is not an adapter",
            &[(MODEL_CONFIG, "it is a model, not an adapter")],
        )?;
        self.fetch_file(SUMMARY_FILE)?;
        if !self.fetch_file(ADAPTER_FILE)? {
            let absent = "it has no adapter_model.safetensors, and nothing in its place";
            self.require(PICKLED_ADAPTER_FILE, absent, &[])?;
        }
        Ok(())
    }

    fn fetch_dataset(&mut self) -> Result<(), Failure> {
        // Asked for in any case: where there is no list of files, the answer tells why.
        self.fetch_file("README.md")?;
        let Some(listed) = &self.listed else {
            let reason = "the Hub does not list its files, by which those of a data set are found";
            return Err(Failure::Final(reason.to_owned()));
        };
        let listed = listed.iter().map(String::as_str);
        let mut splits = split_files(listed, self.remote.configuration).map_err(Failure::Final)?;
        // The training split is last: a copy that has it is complete.
        let train = splits.remove("train");
        for file in splits.into_values().chain(train).flatten() {
            self.require(&file, "its list names a file that is missing", &[])?;
        }
        Ok(())
    }

    /// Fetches a file that must be there; what to say if it is not, and if one of `others` is there instead.
    fn require(&mut self, file: &str, absent: &str, others: &[(&str, &str)]) -> Result<PathBuf, Failure> {
        if self.fetch_file(file)? {
            return Ok(self.path(file).unwrap_or_default());
        }
        let listed = self.listed.as_ref();
        let other = others.iter().find(|(other, _)| listed.is_some_and(|listed| listed.contains(*other)));
        let reason = other.map_or(absent, |(_, reason)| reason);
        Err(Failure::Final(format!("{reason} (no {file})")))
    }

    fn path(&self, file: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(file))
    }

    /// Fetches a file unless it is here; false if the repository has none.
    fn fetch_file(&mut self, file: &str) -> Result<bool, Failure> {
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
                Err(Failure::Final("it changed while it was being downloaded: try again".to_owned()))
            }
            _ => {
                self.folder = Some(folder);
                Ok(true)
            }
        }
    }

    /// Downloads a file, going on where an earlier try broke off.
    fn download(&self, file: &str) -> Result<PathBuf, Broken> {
        let Remote { id: repository, options, .. } = *self.remote;
        let on_piece = |done_bytes, all_bytes| {
            if let Some(on_download) = &options.on_download {
                on_download(Download { repository, file, done_bytes, all_bytes });
            }
        };
        // The question where the file is, and the one for the file itself.
        let patience = options.etag_timeout + options.download_timeout;
        let mut tries = 0;
        loop {
            let (api, name) = (Arc::clone(&self.api), file.to_owned());
            let result =
                attend(options, patience, on_piece, move |report| api.download_with_progress(&name, report));
            tries += 1;
            match &result {
                Err(Broken::Failed(ApiError::IoError(_))) if tries < TRIES => {}
                // A part that is whole already, or longer than the file is now, cannot be gone on with.
                Err(Broken::Failed(ApiError::InvalidResume)) if tries < TRIES => self.remove_parts(),
                Err(broken) if tries < TRIES && is_status(broken, 416) => self.remove_parts(),
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

fn is_status(broken: &Broken, code: u16) -> bool {
    let Broken::Failed(ApiError::RequestError(error)) = broken else { return false };
    matches!(**error, ureq::Error::Status(answered, _) if answered == code)
}

fn is_transport(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::Transport(_)))
}
