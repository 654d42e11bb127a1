//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors` under PEFT's keys.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::attach::{Plan, detach, for_each_leaf_mut, plan_any_rank};
use super::config::{LoraConfig, Targets};
use super::layers::Adapted;
use super::matcher::{is_saved, is_suffix, is_within};
use super::peft_config;
use super::targets::target_modules;
use crate::hub::{ADAPTER_FILE, Checkpoint, TensorView, Tensors, to_tensor, write_tensors};
use crate::models::{Head, HeadStyle, ModelInfo};
use crate::nn::{
    Module, for_each_embedding_mut, for_each_linear, for_each_linear_mut, for_each_parameter_mut,
};
use crate::tape::{AdapterId, Leaf, Lora, is_finite};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What PEFT puts before every name.
pub(crate) const PREFIX: &str = "base_model.model.";

/// The key in an adapter file of a tensor that [`for_each_leaf_mut`] names.
pub fn peft_key(name: &str, plan: &Plan) -> String {
    if let Some((module, "bias")) = name.rsplit_once('.')
        && plan.linear(module).is_some()
    {
        return format!("{PREFIX}{module}.base_layer.bias");
    }
    format!("{PREFIX}{name}")
}

/// Every tensor of an adapter under its key in the file.
pub fn tensors(model: &mut dyn Module, adapter: AdapterId, plan: &Plan) -> Tensors {
    let mut tensors = Tensors::new();
    for_each_leaf_mut(model, adapter, |name, leaf| {
        tensors.insert(peft_key(name, plan), leaf.value().to_dtype(DType::F32));
    });
    tensors
}

/// Writes an adapter folder; the same adapter gives the same bytes.
///
/// # Errors
/// If a file cannot be written.
pub fn save(
    model: &mut dyn Module,
    info: &ModelInfo,
    adapter: AdapterId,
    plan: &Plan,
    config: &LoraConfig,
    base_model: &str,
    folder: &Path,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_tensors(&folder.join(ADAPTER_FILE), &tensors(model, adapter, plan))?;
    let saved = names_for_peft(&plan.modules_to_save, plan);
    // PEFT writes what its last layer needed; when it loads, it goes by the layer.
    let mut transposed = false;
    for_each_linear(&*model, |path, linear| {
        if plan.linear(path).is_some() {
            transposed = linear.weight.is_transposed();
        }
    });
    let targets: Vec<&str> = plan.targets.paths().collect();
    let meaning = peft_config::Meaning {
        targets: &targets,
        modules_to_save: &saved,
        base_model,
        task_type: info.kind.peft_task_type(),
        auto_mapping: (info.kind == Head::ImageClassification).then(|| {
            let family = info.base_prefix;
            (&*info.architecture, format!("transformers.models.{family}.modeling_{family}"))
        }),
        fan_in_fan_out: transposed,
    };
    let config = in_names_of_now(&*model, info, plan, config);
    peft_config::write(folder, &peft_config::to_json(&config, &meaning))
}

/// The configuration in the names that the modules have in the newest Transformers, which alone PEFT finds there: as it
/// is if these say the same, else with the layers that it came to mean.
fn in_names_of_now<'c>(
    model: &dyn Module,
    info: &ModelInfo,
    plan: &Plan,
    config: &'c LoraConfig,
) -> Cow<'c, LoraConfig> {
    let now = ModelInfo { older_name: None, ..info.clone() };
    let means_the_plan =
        |config: &LoraConfig| target_modules(model, &now, config).is_ok_and(|found| found == plan.targets);
    if info.older_name.is_none() || means_the_plan(config) {
        return Cow::Borrowed(config);
    }
    let layers = || plan.targets.linears.iter().chain(&plan.targets.embeddings);
    let own_ranks = layers().filter(|layer| layer.r != config.r).map(|layer| (layer.path.clone(), layer.r));
    let own_alphas = layers().filter(|layer| layer.lora_alpha != config.lora_alpha);
    let own_alphas = own_alphas.filter_map(|layer| Some((layer.path.clone(), layer.lora_alpha?)));
    let named = |names: Vec<String>| LoraConfig {
        target_modules: Some(Targets::Names(names)),
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        rank_pattern: own_ranks.clone().collect(),
        alpha_pattern: own_alphas.clone().collect(),
        ..config.clone()
    };
    let all: Vec<String> = plan.targets.paths().map(str::to_owned).collect();
    let mut last: Vec<String> =
        all.iter().map(|path| path.rsplit('.').next().unwrap_or(path).to_owned()).collect();
    last.sort_unstable();
    last.dedup();
    let short = named(last);
    Cow::Owned(if means_the_plan(&short) { short } else { named(all) })
}

/// PEFT wraps every module whose name ends with an entry, even one inside another that it wrapped, and then cannot
/// load its own file. An entry that would lead to that is written as the layers inside it.
fn names_for_peft(modules_to_save: &[String], plan: &Plan) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in modules_to_save {
        let inside: BTreeSet<&str> = plan
            .replaced
            .iter()
            .filter_map(|path| path.rsplit_once('.').map(|(module, _)| module))
            .filter(|module| is_within(module, name) && !is_suffix(module, name))
            .collect();
        let nested = inside.iter().any(|module| modules_to_save.iter().any(|entry| module.ends_with(entry)));
        let written: Vec<&str> = if nested { inside.into_iter().collect() } else { vec![name] };
        for name in written {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
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
    /// not, and those that it has not are left out.
    pub fn config_for(&self, model: &dyn Module) -> LoraConfig {
        let mut config = self.config.clone();
        config
            .modules_to_save
            .retain(|name| name != "score" && name != "classifier" || is_present(model, name));
        config
    }

    /// What the adapter changes in a model; shapes are enough.
    ///
    /// # Errors
    /// If a target or a module to save matches nothing.
    pub fn plan(&self, model: &dyn Module, info: &ModelInfo) -> Result<Plan> {
        plan_any_rank(model, info, &self.config_for(model))
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

    fn bind(&self, model: &mut dyn Module, info: &ModelInfo, plan: &Plan, adapter: AdapterId) -> Result<()> {
        let mut unused: BTreeSet<String> = self.checkpoint.names().map(str::to_owned).collect();
        let mut result = Ok(());
        for_each_linear_mut(model, |path, linear| {
            if let Some(layer) = plan.linear(path).filter(|_| result.is_ok()) {
                let key = |part: &str| self.key_of(&format!("{path}.{part}"), info, plan);
                let keys = ["lora_A.weight", "lora_B.weight"].map(key);
                let bias = layer.lora_bias.then(|| key("lora_B.bias"));
                let sizes = [linear.inputs(), linear.outputs()];
                let dropout = self.config.lora_dropout;
                result = self.pair(keys, layer, sizes, adapter, &mut unused).and_then(|pair| {
                    let bias = bias.map(|key| {
                        unused.remove(&key);
                        self.tensor(&key, &sizes[1..]).map(Leaf::frozen)
                    });
                    linear.lora.push(Lora { dropout, bias: bias.transpose()?, ..pair });
                    Ok(())
                });
            }
        });
        result?;
        let mut result = Ok(());
        for_each_embedding_mut(model, |path, embedding| {
            if let Some(layer) = plan.embedding(path).filter(|_| result.is_ok()) {
                let key = |part: &str| self.key_of(&format!("{path}.{part}"), info, plan);
                let keys = ["lora_embedding_A", "lora_embedding_B"].map(key);
                let sizes = [embedding.entries(), embedding.width()];
                result =
                    self.pair(keys, layer, sizes, adapter, &mut unused).map(|pair| embedding.lora.push(pair));
            }
        });
        result?;
        let mut result = Ok(());
        for_each_parameter_mut(model, |path, parameter| {
            if result.is_err() {
                return;
            }
            let replaced = plan.replaced.iter().any(|name| name == path);
            let key = self.key_of(path, info, plan);
            let base_layer = base_layer_key(path, info, plan);
            let path = &self.name_of(path, info);
            if replaced {
                result = self
                    .tensor(&key, parameter.file_shape().dims())
                    .map(|value| parameter.from_file(value))
                    .and_then(|value| parameter.set_replacement(adapter, Leaf::frozen(value)));
                unused.remove(&key);
            }
            if result.is_ok() {
                result = self.account_for_copies(path, parameter.file_shape().dims(), &mut unused);
            }
            if let Some(key) = base_layer.filter(|key| result.is_ok() && unused.remove(key)) {
                result = self.tensor(&key, parameter.file_shape().dims()).map(|_| ());
            }
        });
        result?;
        match unused.first() {
            None => Ok(()),
            Some(key) => Err(self.error(key, "it binds to nothing in the model")),
        }
    }

    /// The key in this file of the tensor that [`for_each_leaf_mut`] names.
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

    /// `A` and `B` at these keys, without dropout.
    fn pair(
        &self,
        [a, b]: [String; 2],
        &Adapted { r, scaling, .. }: &Adapted,
        [inputs, outputs]: [usize; 2],
        adapter: AdapterId,
        unused: &mut BTreeSet<String>,
    ) -> Result<Lora> {
        let mut leaf = |key: &str, shape: [usize; 2]| {
            unused.remove(key);
            self.tensor(key, &shape).map(Leaf::frozen)
        };
        let (a, b) = (leaf(&a, [r, inputs])?, leaf(&b, [outputs, r])?);
        Ok(Lora { adapter, a, b, bias: None, scaling, dropout: 0.0 })
    }

    /// Checks the copies that PEFT also writes, and takes them off the list.
    fn account_for_copies(&self, path: &str, shape: &[usize], unused: &mut BTreeSet<String>) -> Result<()> {
        let kinds = ["modules_to_save.default", "modules_to_save", "original_module"];
        copies_of(path, &kinds)
            .filter(|key| unused.remove(key))
            .try_for_each(|key| self.tensor(&key, shape).map(|_| ()))
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

/// The key under which PEFT writes the base model's own weight of a word table or of the layer before a language model's
/// logits, where that is adapted: its `save_embedding_layers`.
fn base_layer_key(path: &str, info: &ModelInfo, plan: &Plan) -> Option<String> {
    let module = path.strip_suffix(".weight")?;
    let output = info.output == Some(module) && plan.linear(module).is_some();
    (plan.embedding(module).is_some() || output).then(|| format!("{PREFIX}{module}.base_layer.weight"))
}

fn is_present(model: &dyn Module, module: &str) -> bool {
    let mut found = false;
    crate::nn::for_each_parameter(model, |path, _| {
        found |= path.rsplit_once('.').is_some_and(|(owner, _)| is_saved(owner, module));
    });
    found
}
