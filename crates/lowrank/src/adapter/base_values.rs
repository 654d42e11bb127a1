//! The base model's value of a parameter, also where it is another one's name.

use std::collections::BTreeMap;

use crate::Result;
use crate::nn::{Module, for_each_parameter};
use crate::tape::{Leaf, Parameter};

/// The base model's values of the parameters that others have, too: found once, for a model that is changed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct BaseValues(BTreeMap<String, Leaf>);

impl BaseValues {
    /// Those of a model.
    pub fn of(model: &dyn Module) -> Self {
        let mut shared = BTreeMap::new();
        for_each_parameter(model, |_, parameter| {
            shared.extend(parameter.shares().map(|name| (name.to_owned(), None)));
        });
        for_each_parameter(model, |path, parameter| {
            if let Some(value) = shared.get_mut(path) {
                *value = parameter.base().cloned();
            }
        });
        Self(shared.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// The value of a parameter: its own, or that of the one whose name it is.
    pub fn find<'a>(&'a self, parameter: &'a Parameter) -> Option<&'a Leaf> {
        parameter.base().or_else(|| self.0.get(parameter.shares()?))
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// If it has none.
    pub fn get<'a>(&'a self, parameter: &'a Parameter) -> Result<&'a Leaf> {
        match self.find(parameter) {
            Some(value) => Ok(value),
            None => parameter.active(None),
        }
    }
}
