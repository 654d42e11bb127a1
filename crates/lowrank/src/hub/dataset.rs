//! Data sets of the Hub: their names, their configurations, and the Parquet files of their splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::options::HubOptions;
use super::repository::{ModelFolder, RepositoryKind, is_id, is_part, resolve_with};
use crate::{Error, Result};

/// Data sets that have a short name from the time before they had owners.
const SHORT: [(&str, &str); 9] = [
    ("ag_news", "fancyzhx/ag_news"),
    ("cifar10", "uoft-cs/cifar10"),
    ("cifar100", "uoft-cs/cifar100"),
    ("fashion_mnist", "zalandoresearch/fashion_mnist"),
    ("glue", "nyu-mll/glue"),
    ("imdb", "stanfordnlp/imdb"),
    ("mnist", "ylecun/mnist"),
    ("squad", "rajpurkar/squad"),
    ("squad_v2", "rajpurkar/squad_v2"),
];
/// The splits that are fetched, by the beginnings of their names.
const SPLITS: [&str; 5] = ["train", "valid", "val", "dev", "test"];

/// A data set's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetId {
    /// The repository.
    pub repository: String,
    /// Which of its configurations, where it has several.
    pub configuration: Option<String>,
}

impl DatasetId {
    /// What a name means: `squad`, `glue/sst2`, `rajpurkar/squad` or `nyu-mll/glue/sst2`; none if it cannot be one.
    pub fn parse(name: &str) -> Option<Self> {
        let short = |name: &str| {
            SHORT.iter().find(|(short, _)| *short == name).map(|(_, repository)| (*repository).to_owned())
        };
        let parts: Vec<&str> = name.split('/').collect();
        let (repository, configuration) = match parts.as_slice() {
            [name] => (short(name).unwrap_or_else(|| (*name).to_owned()), None),
            [name, configuration] if short(name).is_some() => (short(name)?, Some(*configuration)),
            [_, _] => (name.to_owned(), None),
            [owner, name, configuration] => (format!("{owner}/{name}"), Some(*configuration)),
            _ => return None,
        };
        let valid = is_id(&repository) && configuration.is_none_or(is_part);
        valid.then(|| Self { repository, configuration: configuration.map(str::to_owned) })
    }
}

/// A data set on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFolder {
    /// The name it was asked for by.
    pub name: String,
    /// The Parquet files of each split, in their order.
    pub splits: BTreeMap<String, Vec<PathBuf>>,
    /// Whether it came from the Hub.
    pub from_hub: bool,
}

impl DatasetFolder {
    /// The files of the first of these splits that there is.
    pub fn split(&self, names: &[&str]) -> Option<&[PathBuf]> {
        names.iter().find_map(|name| self.splits.get(*name)).map(Vec::as_slice)
    }
}

/// The data set of this name: a folder of Parquet files, or a repository of the Hub.
///
/// Asks the Hub as the environment says ([`HubOptions::from_env`]).
///
/// # Errors
/// As [`resolve_dataset_with`].
pub fn resolve_dataset(name: &str) -> Result<DatasetFolder> {
    resolve_dataset_with(name, &HubOptions::from_env())
}

/// The data set of this name, asking the Hub in this way.
///
/// # Errors
/// As [`resolve_with`]; and if the repository has no Parquet files, or several configurations of which none is named.
pub fn resolve_dataset_with(name: &str, options: &HubOptions) -> Result<DatasetFolder> {
    let ModelFolder { path, from_hub, .. } = resolve_with(name, RepositoryKind::Dataset, options)?;
    let id = DatasetId::parse(name).filter(|_| from_hub);
    let configuration = id.and_then(|id| id.configuration);
    let splits = files_of(&path, configuration.as_deref()).map_err(|reason| Error::file(&path, reason))?;
    let splits = splits.into_iter().map(|(split, files)| {
        let files = files.into_iter().map(|file| path.join(file)).collect();
        (split, files)
    });
    Ok(DatasetFolder { name: name.to_owned(), splits: splits.collect(), from_hub })
}

/// Whether a folder has the training split of a configuration, which is fetched last.
pub(super) fn is_complete(folder: &Path, configuration: Option<&str>) -> bool {
    files_of(folder, configuration).is_ok_and(|splits| splits.contains_key("train"))
}

fn files_of(folder: &Path, configuration: Option<&str>) -> Result<Splits, String> {
    let mut names = Vec::new();
    list(folder, "", 0, &mut names);
    split_files(names.iter().map(String::as_str), configuration)
}

/// The files below a folder, as far down as a data set's may be.
fn list(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let name = format!("{prefix}{name}");
        if path.is_file() {
            names.push(name);
        } else if depth < 3 {
            list(&path, &format!("{name}/"), depth + 1, names);
        }
    }
}

/// The names of each split's files, in their order.
pub(super) type Splits = BTreeMap<String, Vec<String>>;

/// The Parquet files among a repository's that belong to a configuration, or to its only one.
///
/// # Source
/// The names that `datasets` gives when it writes to the Hub: `CONFIG/SPLIT-00000-of-00001.parquet`, where the default
/// configuration's folder is `data`; and `CONFIG/SPLIT/0000.parquet`, of the Hub's own conversion.
pub(super) fn split_files<'n>(
    names: impl Iterator<Item = &'n str>,
    configuration: Option<&str>,
) -> Result<Splits, String> {
    let mut files: Vec<Shard> = names.filter_map(Shard::parse).collect();
    if files.is_empty() {
        return Err(
            "it has no Parquet files of a train, validation or test split, as data sets on the Hub do"
                .to_owned(),
        );
    }
    let configurations: BTreeSet<&str> = files.iter().map(|file| file.configuration.as_str()).collect();
    let listed = configurations.iter().copied().collect::<Vec<_>>().join(", ");
    let chosen = match configuration {
        Some(name) if configurations.contains(name) => name,
        Some(name) => return Err(format!("it has no configuration {name:?}; it has {listed}")),
        None => match configurations.first() {
            Some(only) if configurations.len() == 1 => only,
            _ if configurations.contains(DEFAULT) => DEFAULT,
            _ => {
                return Err(format!(
                    "it has the configurations {listed}; write one of them after its name and a slash"
                ));
            }
        },
    };
    let chosen = chosen.to_owned();
    files.retain(|file| file.configuration == chosen);
    files.sort_by(|a, b| (&a.split, a.number, &a.name).cmp(&(&b.split, b.number, &b.name)));
    let mut splits = Splits::new();
    for file in &files {
        splits.entry(file.split.clone()).or_default().push(file.name.clone());
    }
    for (split, names) in &splits {
        let of = files.iter().filter(|file| file.split == *split).find_map(|file| file.of);
        if let Some(of) = of.filter(|of| *of != names.len()) {
            return Err(format!("its split {split} has {} files of {of}", names.len()));
        }
    }
    Ok(splits)
}

/// The configuration of files that lie in `data` or in no folder.
const DEFAULT: &str = "default";

/// A file of a split.
struct Shard {
    name: String,
    configuration: String,
    split: String,
    number: usize,
    /// How many of them there are, where the name tells.
    of: Option<usize>,
}

impl Shard {
    fn parse(name: &str) -> Option<Self> {
        let parts: Option<Vec<&str>> = Path::new(name)
            .components()
            .map(|part| match part {
                Component::Normal(part) => part.to_str(),
                _ => None,
            })
            .collect();
        let parts = parts?;
        let (file, folders) = parts.split_last()?;
        let stem = file.strip_suffix(".parquet")?;
        let known = |split: &str| SPLITS.iter().any(|known| split.starts_with(known));
        let within = folders.split_last().filter(|(split, _)| known(split));
        let (split, number, of, folders) = match (stem.parse(), within) {
            (Ok(number), Some((split, folders))) => (*split, number, None, folders),
            _ => {
                let mut words = stem.split('-');
                let split = words.next()?;
                let number = words.next().and_then(|word| word.parse().ok());
                let of = words.nth(1).and_then(|word| word.parse().ok()).filter(|_| stem.contains("-of-"));
                (split, number.unwrap_or(0), of, folders)
            }
        };
        let configuration = match folders {
            [] | ["data"] => DEFAULT.to_owned(),
            folders => folders.join("/"),
        };
        known(split).then(|| Self {
            name: name.to_owned(),
            configuration,
            split: split.to_owned(),
            number,
            of,
        })
    }
}
