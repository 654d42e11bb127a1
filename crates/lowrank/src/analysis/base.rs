//! The base model in whose spectra an adapter's updates are placed.

use std::collections::BTreeMap;

use super::matrix::Matrix;
use super::place::{Place, place_in_spectrum};
use super::product::Product;
use crate::hub::{self, Checkpoint, RepositoryKind};
use crate::models::{self, HeadSpec, Keys, ModelInfo, join_rows};
use crate::nn::for_each_parameter;
use crate::{Error, Result};

/// The weights of a base model, found under the names of modules.
pub(super) struct Base {
    checkpoint: Checkpoint,
    info: ModelInfo,
    /// Parameters that are other names of one.
    ties: BTreeMap<String, &'static str>,
}

impl Base {
    /// Opens a model folder or a repository of the Hub.
    pub fn open(name: &str) -> Result<Self> {
        let folder = hub::resolve(name, RepositoryKind::Model)?.path;
        let config = models::read_config(&folder)?;
        // Shapes alone: the architecture knows under which names its weights may be stored.
        let kind = config.head.unwrap_or(config.usual_head());
        let model = models::from_config(&config, HeadSpec::new(kind, config.labels.len()))?;
        let mut ties = BTreeMap::new();
        for_each_parameter(&*model, |path, parameter| {
            ties.extend(parameter.tie().map(|target| (path.to_owned(), target)));
        });
        Ok(Self { checkpoint: Checkpoint::open(&folder)?, info: model.info().clone(), ties })
    }

    /// Where an update of a module lies in the spectrum of its weight.
    pub fn place(&self, module: &str, update: &Product<'_>, fan_in_fan_out: bool) -> Result<Place> {
        let name = format!("{module}.weight");
        let keys = Keys::new(&self.info, &self.checkpoint);
        let own = keys.find_all(&name);
        let tied = || self.ties.get(&name).and_then(|target| keys.find(target));
        let joined;
        let base = match &own[..] {
            [(key, view)] => Matrix::from_view(key, view)?,
            [_, ..] => {
                joined = join_rows(&own)?;
                Matrix::from_tensor(&name, &joined)?
            }
            [] => {
                let (key, view) = tied().ok_or_else(|| {
                    let reason =
                        "the base model does not hold it; name the model that the adapter was trained on";
                    Error::tensor(self.checkpoint.path(), &name, reason)
                })?;
                Matrix::from_view(&key, &view)?
            }
        };
        let turned = [update.columns(), update.rows()] == [base.rows(), base.columns()];
        let square = update.rows() == update.columns();
        // GPT-2 stores its weights as `[inputs, outputs]`.
        if turned && (!square || fan_in_fan_out && !update.is_transposed()) {
            return place_in_spectrum(&update.clone().transposed(), &base);
        }
        place_in_spectrum(update, &base)
    }
}
