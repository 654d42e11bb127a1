//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors` under PEFT's keys.

mod binding;

use std::path::{Path, PathBuf};

use super::attach::{Plan, detach, plan_any_rank};
use super::config::{Init, LoraConfig};
use super::experts::{in_names_of_now, layer_of_expert};
use super::matcher::is_saved;
use super::peft_config;
use crate::hub::{Checkpoint, TensorView, to_tensor};
use crate::models::{Head, HeadStyle, ModelInfo};
use crate::nn::Module;
use crate::tape::{AdapterId, is_finite};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What PEFT puts before every name.
pub(crate) const PREFIX: &str = "base_model.model.";

/// The key in an adapter file of a tensor that [`for_each_leaf_mut`](super::for_each_leaf_mut) names.
pub fn peft_key(name: &str, plan: &Plan) -> String {
    if let Some((module, "bias")) = name.rsplit_once('.')
        && plan.linear(module).is_some()
    {
        return format!("{PREFIX}{module}.base_layer.bias");
    }
    format!("{PREFIX}{name}")
}

/// An adapter folder, opened.
pub struct AdapterFile {
    folder: PathBuf,
    config: LoraConfig,
    checkpoint: Checkpoint,
    head: Option<Head>,
}

impl AdapterFile {
    /// Opens the folder and reads its configuration and the header of its tensors.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the adapter is of a kind that is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let (config, task_type) = peft_config::read(folder)?;
        let checkpoint = Checkpoint::open_adapter(folder)?;
        let head = task_type.as_deref().and_then(Head::from_peft_task_type);
        Ok(Self { folder: folder.to_path_buf(), config, checkpoint, head })
    }

    /// The configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the adapter's model predicts, if the configuration says so.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// The width of the logits of the head that the adapter brings along, if it brings one.
    pub fn num_labels(&self) -> Option<usize> {
        ["classifier.weight", "classifier.out_proj.weight", "classifier.linear.weight", "score.weight"]
            .iter()
            .find_map(|name| self.checkpoint.get(&format!("{PREFIX}{name}")))
            .and_then(|view| view.shape.first().copied())
    }

    /// The layers of the head that the adapter brings along, where they are not Transformers' own: their names tell. How
    /// much it drops out in training nobody notes.
    pub fn head_style(&self) -> Option<HeadStyle> {
        HeadStyle::of_tensors(|name| self.checkpoint.get(&format!("{PREFIX}{name}")).is_some())
    }

    /// The configuration as it applies to a model: PEFT names every head that it knows, whether the model has it or
    /// not, and those that it has not are left out; what Transformers 4 called the layers of experts has the names of today.
    ///
    /// # Errors
    /// If a part of what is one layer today is meant without the others.
    pub fn config_for(&self, model: &dyn Module, info: &ModelInfo) -> Result<LoraConfig> {
        let mut config =
            in_names_of_now(model, info, &self.config, self.has_layers_of_experts(info))?.into_owned();
        config
            .modules_to_save
            .retain(|name| name != "score" && name != "classifier" || is_present(model, name));
        Ok(config)
    }

    /// Whether the layers of each expert have pairs of their own, as in Transformers 4.
    fn has_layers_of_experts(&self, info: &ModelInfo) -> bool {
        let Some(names) = info.experts else { return false };
        self.checkpoint.names().filter_map(layer_of_expert).any(|layer| names.stack_of(layer).is_some())
    }

    /// What the adapter changes in a model; shapes are enough. PEFT saves the head with an adapter that says what its model
    /// predicts, and without a word for that only if `modules_to_save` names it.
    ///
    /// # Errors
    /// If a target or a module to save matches nothing, or as [`AdapterFile::config_for`].
    pub fn plan(&self, model: &dyn Module, info: &ModelInfo) -> Result<Plan> {
        self.plan_with(model, info, &self.config_for(model, info)?)
    }

    /// As [`AdapterFile::plan`], of another configuration.
    pub(crate) fn plan_with(
        &self,
        model: &dyn Module,
        info: &ModelInfo,
        config: &LoraConfig,
    ) -> Result<Plan> {
        let headless = self.head.is_none().then(|| ModelInfo { head: Vec::new(), ..info.clone() });
        plan_any_rank(model, headless.as_ref().unwrap_or(info), config)
    }

    /// The same folder, of which pairs bind that began as a part of the weight, and what they began as is not looked
    /// for: for models without values.
    pub(crate) fn without_beginnings(mut self) -> Self {
        self.config.init_lora_weights = Init::Default;
        self
    }

    /// Puts the adapter on a model, frozen, in the place of one that was there under the same id. Every tensor of the
    /// file binds, and every layer that the configuration means gets its pair.
    ///
    /// # Errors
    /// Names the first tensor that binds to nothing, has another shape, or is missing. The model is then without the
    /// adapter.
    pub fn attach(&self, model: &mut dyn Module, info: &ModelInfo, adapter: AdapterId) -> Result<Plan> {
        let plan = self.plan(&*model, info)?;
        detach(model, adapter);
        let bound = self.bind(model, info, &plan, adapter);
        if bound.is_err() {
            detach(model, adapter);
        }
        bound.map(|()| plan)
    }

    /// The key in this file of the tensor that [`for_each_leaf_mut`](super::for_each_leaf_mut) names.
    pub fn key_of(&self, name: &str, info: &ModelInfo, plan: &Plan) -> String {
        let key = peft_key(name, plan);
        let path = key.strip_prefix(PREFIX).unwrap_or(&key);
        format!("{PREFIX}{}", self.name_of(path, info))
    }

    /// The name that this file has for a module or tensor: files of older versions of Transformers have older names.
    fn name_of(&self, path: &str, info: &ModelInfo) -> String {
        let Some(older) = info.older_name.map(|older| older(path)) else { return path.to_owned() };
        let within = |name: &str| {
            let inner = |key: &str| key.strip_prefix(PREFIX)?.strip_prefix(name).map(str::to_owned);
            self.checkpoint.names().filter_map(inner).any(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if !within(path) && within(&older) { older } else { path.to_owned() }
    }

    /// Other keys of the file that stand for the tensor at `key`: the copies that PEFT writes.
    pub fn aliases(&self, key: &str) -> Vec<String> {
        let path = key.strip_prefix(PREFIX).unwrap_or(key);
        let copies = copies_of(path, &["modules_to_save.default", "modules_to_save"]);
        copies.filter(|copy| self.checkpoint.get(copy).is_some()).collect()
    }

    fn tensor(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        let view: TensorView<'_> =
            self.checkpoint.get(key).ok_or_else(|| self.error(key, "it is missing from the adapter"))?;
        if view.shape != shape {
            let reason = format!("its shape is {:?} where the model has {shape:?}", view.shape);
            return Err(self.error(key, &reason));
        }
        let value = to_tensor(key, &view)?.to_dtype(DType::F32);
        if is_finite(&value) {
            Ok(value)
        } else {
            Err(self.error(key, "it holds a value that is not finite"))
        }
    }

    fn error(&self, key: &str, reason: &str) -> Error {
        Error::tensor(self.checkpoint.path(), key, reason)
    }
}

/// The keys under which PEFT writes a saved module's tensor a second time, and the one that it replaced: with the
/// adapter's name for a module of modules, without it for a layer.
fn copies_of<'a>(path: &'a str, kinds: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    path.match_indices('.').flat_map(move |(dot, _)| {
        kinds.iter().map(move |kind| format!("{PREFIX}{}.{kind}{}", &path[..dot], &path[dot..]))
    })
}

fn is_present(model: &dyn Module, module: &str) -> bool {
    let mut found = false;
    crate::nn::for_each_parameter(model, |path, _| {
        found |= path.rsplit_once('.').is_some_and(|(owner, _)| is_saved(owner, module));
    });
    found
}
