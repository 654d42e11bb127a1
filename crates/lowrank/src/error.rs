//! The error of this crate: what was wrong, where, and what would be right.

use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, one sentence each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {}", path.display(), crate::error::in_words(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file does not hold what its place promises.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A row of a data file cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    Row {
        /// The data file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: usize,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A tensor of a weight or adapter file is missing, unknown or of the wrong shape.
    #[error("{}: tensor {}: {reason}", path.display(), key.escape_debug())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's key in it.
        key: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A setting is out of range or contradicts another.
    #[error("{key}: {reason}")]
    Setting {
        /// The setting's name, as its user writes it.
        key: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A name that nothing has; the nearest names are offered.
    #[error("unknown {what} {name:?}{}", crate::error::did_you_mean(nearest))]
    UnknownName {
        /// What kind of name it is: "key", "target module", "task".
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// Names that exist and look like it, the nearest first.
        nearest: Vec<String>,
    },
    /// A run file holds a setting that is wrong.
    #[error("{}: {source}", path.display())]
    RunFile {
        /// The run file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// An adapter that does not go with the model that it was to be put on, or with other adapters.
    #[error("{}{source}", crate::error::unless_named(adapter, source))]
    Unsuitable {
        /// The adapter: a folder, or a Hub id.
        adapter: String,
        /// Why it does not.
        source: Box<Self>,
    },
    /// What went wrong with one of several adapters that are trained at once.
    #[error("{adapter}: {source}")]
    OfAdapter {
        /// The adapter's name.
        adapter: String,
        /// What it is.
        source: Box<Self>,
    },
    /// Shapes, types or places that do not go together: a mistake in the calling program.
    #[error("{0}")]
    Usage(String),
    /// A number that is not finite came up in training.
    #[error("step {step}: {tensor} is not finite; {advice}")]
    NotFinite {
        /// The optimiser step, counted from 1.
        step: usize,
        /// The first tensor that went wrong.
        tensor: String,
        /// What to do.
        advice: String,
    },
    /// The model hub could not be asked, or refused.
    #[error("{id}: {reason}")]
    Hub {
        /// The repository's id.
        id: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// A download from the model hub was stopped by the flag that does so.
    #[error("{id}: stopped before all of it was downloaded; what has come is kept: run this again to go on")]
    DownloadStopped {
        /// The repository's id.
        id: String,
    },
    /// The work was interrupted. A run that had begun has written a checkpoint and can be resumed.
    #[error("interrupted{}", crate::error::after(*step))]
    Interrupted {
        /// The last finished step; 0: none of this run.
        step: usize,
    },
}

impl Error {
    /// An [`Error::Io`] at `path`; for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::File`].
    pub fn file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An [`Error::Row`].
    pub fn row(path: impl AsRef<Path>, line: usize, reason: impl Into<String>) -> Self {
        Self::Row { path: path.as_ref().to_path_buf(), line, reason: reason.into() }
    }

    /// An [`Error::Tensor`].
    pub fn tensor(path: impl AsRef<Path>, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.as_ref().to_path_buf(), key: key.into(), reason: reason.into() }
    }

    /// An [`Error::Setting`].
    pub fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), reason: reason.into() }
    }

    /// The same error, with the run file that caused it; an error that names a file already stays as it is.
    #[must_use]
    pub fn in_run_file(self, path: impl AsRef<Path>) -> Self {
        match self {
            Self::Setting { .. } | Self::UnknownName { .. } => {
                Self::RunFile { path: path.as_ref().to_path_buf(), source: Box::new(self) }
            }
            other => other,
        }
    }

    /// The same error, its setting's name completed with the section of the run file that holds it.
    #[must_use]
    pub fn in_section(self, section: &str) -> Self {
        match self {
            Self::Setting { key, reason } => Self::Setting { key: format!("{section}.{key}"), reason },
            other => other,
        }
    }

    /// An [`Error::Unsuitable`], where the reason is not that a file cannot be read.
    #[must_use]
    pub fn unsuitable(self, adapter: impl Into<String>) -> Self {
        match self {
            Self::Io { .. } | Self::Unsuitable { .. } => self,
            source => Self::Unsuitable { adapter: adapter.into(), source: Box::new(source) },
        }
    }

    /// The same error, with the name of the adapter that it is of. An interruption is of all.
    #[must_use]
    pub fn of_adapter(self, name: &str) -> Self {
        match self {
            Self::Interrupted { .. } => self,
            source => Self::OfAdapter { adapter: name.to_owned(), source: Box::new(source) },
        }
    }

    /// Whether the user asked for something wrong, rather than the work failed.
    pub fn is_usage(&self) -> bool {
        if let Self::OfAdapter { source, .. } = self {
            return source.is_usage();
        }
        matches!(
            self,
            Self::Setting { .. } | Self::UnknownName { .. } | Self::RunFile { .. } | Self::Unsuitable { .. }
        )
    }

    /// An [`Error::UnknownName`] that offers the candidates nearest to `name`.
    pub fn unknown<'a>(
        what: &'static str,
        name: impl Into<String>,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let name = name.into();
        let nearest = crate::nearest::nearest(&name, candidates);
        Self::UnknownName { what, name, nearest }
    }
}

/// The adapter's name before a reason that does not begin with it.
fn unless_named(adapter: &str, reason: &Error) -> String {
    if reason.to_string().starts_with(adapter) { String::new() } else { format!("{adapter}: ") }
}

/// What the system says of a wrong path, and what would be right.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "No such file or folder".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder, where a file is needed".to_owned(),
        io::ErrorKind::NotADirectory => {
            "it, or a part of its path, is a file, where a folder is needed".to_owned()
        }
        io::ErrorKind::PermissionDenied => "the permissions of the file system do not allow it".to_owned(),
        _ => error.to_string(),
    }
}

fn after(step: usize) -> String {
    if step == 0 { String::new() } else { format!(" after step {step}; the checkpoint is written") }
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}
