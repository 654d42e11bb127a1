//! `[lora]` to PEFT's configuration, and back.

use toml::{Table, Value};

use super::RunFile;
use super::values::{Values, by_pattern, describe, number, wrong};
use crate::adapter::{Bias, Init, LoraConfig, Targets, TokenIndices};
use crate::nearest::nearest;
use crate::{Error, Result};

/// Values of `init_lora_weights`.
const INITS: &str = "true, false, \"gaussian\", \"orthogonal\", \"pissa\", \"pissa_niter_4\" (any number), \"olora\", \"loftq\", \"eva\"";
/// Those that PEFT has and this program does not have yet.
const LATER_INITS: [&str; 2] = ["corda", "lora_ga"];

pub(super) fn read(values: &Values) -> Result<LoraConfig> {
    check_loftq(values)?;
    Ok(LoraConfig {
        r: values.count("lora.r")?,
        lora_alpha: Some(values.number("lora.lora_alpha")?),
        lora_dropout: values.number("lora.lora_dropout")? as f32,
        target_modules: targets(values, "lora.target_modules")?,
        target_parameters: values.list("lora.target_parameters")?,
        exclude_modules: targets(values, "lora.exclude_modules")?,
        bias: bias(values)?,
        modules_to_save: values.list("lora.modules_to_save")?,
        rank_pattern: values.by_pattern("lora.rank_pattern", ("a whole number from 1", "16"), |value| {
            value.as_integer().and_then(|r| usize::try_from(r).ok())
        })?,
        alpha_pattern: values.by_pattern("lora.alpha_pattern", ("a number", "32"), number)?,
        trainable_token_indices: token_indices(values)?,
        layers_to_transform: numbers(values, "lora.layers_to_transform")?,
        layers_pattern: values.list("lora.layers_pattern")?,
        lora_bias: values.flag("lora.lora_bias")?,
        use_rslora: values.flag("lora.use_rslora")?,
        use_dora: values.flag("lora.use_dora")?,
        init_lora_weights: init(values)?,
        train_layer_norms: values.flag("lora.train_layer_norms")?,
        train_embeddings: values.flag("lora.train_embeddings")?,
    })
}

/// Keys that choose modules: two ways of choosing the same ones agree.
const CHOICES: [&str; 9] = [
    "target_modules",
    "target_parameters",
    "trainable_token_indices",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "train_layer_norms",
    "train_embeddings",
];

impl RunFile {
    /// Checks that what the run gives of `[lora]` is what the adapter to start from has; modules are not compared.
    ///
    /// # Errors
    /// Names the first key that differs.
    pub(in crate::train) fn agree_with(&self, file: &LoraConfig) -> Result<()> {
        let (mut given, mut theirs) = (Table::new(), Table::new());
        write(&self.lora, &mut given);
        write(file, &mut theirs);
        for key in self.lora_given.iter().filter(|key| !CHOICES.contains(&key.as_str())) {
            let (Some(given), Some(theirs)) = (given.get(key), theirs.get(key)) else { continue };
            if given != theirs {
                let reason =
                    format!("it is {given}, but init_adapter has {theirs}; leave it out to take that over");
                return Err(Error::setting(format!("lora.{key}"), reason));
            }
        }
        Ok(())
    }

    /// The configuration of the adapter to start from, with the modules that the run chooses itself.
    pub(in crate::train) fn given_over(&self, file: &LoraConfig) -> LoraConfig {
        let mut config = file.clone();
        for key in &self.lora_given {
            match key.as_str() {
                "target_modules" => config.target_modules.clone_from(&self.lora.target_modules),
                "target_parameters" => config.target_parameters.clone_from(&self.lora.target_parameters),
                "exclude_modules" => config.exclude_modules.clone_from(&self.lora.exclude_modules),
                "layers_to_transform" => {
                    config.layers_to_transform.clone_from(&self.lora.layers_to_transform);
                }
                "trainable_token_indices" => {
                    config.trainable_token_indices.clone_from(&self.lora.trainable_token_indices);
                }
                "layers_pattern" => config.layers_pattern.clone_from(&self.lora.layers_pattern),
                "modules_to_save" => config.modules_to_save.clone_from(&self.lora.modules_to_save),
                "train_layer_norms" => config.train_layer_norms = self.lora.train_layer_norms,
                "train_embeddings" => config.train_embeddings = self.lora.train_embeddings,
                _ => {}
            }
        }
        config
    }
}

fn targets(values: &Values, key: &str) -> Result<Option<Targets>> {
    match values.get(key) {
        Some(Value::String(text)) => Ok(match text.as_str() {
            "" => None,
            "all-linear" => Some(Targets::AllLinear),
            pattern => Some(Targets::Pattern(pattern.to_owned())),
        }),
        Some(Value::Array(_)) => {
            let names = values.list(key)?;
            Ok((!names.is_empty()).then_some(Targets::Names(names)))
        }
        Some(other) => Err(wrong(key, other, "a list of names, a regular expression, or \"all-linear\"")),
        None => Ok(None),
    }
}

/// A list of whole numbers; none where it is empty.
fn numbers(values: &Values, key: &str) -> Result<Option<Vec<usize>>> {
    let wanted = "a list of numbers of layers, from 0";
    let items = match values.get(key) {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(key, other, wanted)),
    };
    let number = |item: &Value| {
        let number = item.as_integer().and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| Error::setting(key, format!("it holds {}; it is {wanted}", describe(item))))
    };
    Ok(Some(items.iter().map(number).collect::<Result<Vec<_>>>()?).filter(|numbers| !numbers.is_empty()))
}

/// A list of entries, or one for each table; none where it is empty.
fn token_indices(values: &Values) -> Result<Option<TokenIndices>> {
    let key = "lora.trainable_token_indices";
    let wanted = "a list of token ids, from 0, or a table such as {\"embed_tokens\" = [5, 6]}";
    let list = |key: &str, value: &Value| -> Result<Vec<u32>> {
        let Value::Array(items) = value else { return Err(wrong(key, value, wanted)) };
        let index = |item: &Value| {
            let index = item.as_integer().and_then(|index| u32::try_from(index).ok());
            index.ok_or_else(|| Error::setting(key, format!("it holds {}; it is {wanted}", describe(item))))
        };
        items.iter().map(index).collect()
    };
    match values.get(key) {
        None => Ok(None),
        Some(Value::Table(tables)) => {
            let read =
                |(name, value): (&String, &Value)| Ok((name.clone(), list(&format!("{key}.{name}"), value)?));
            let mut tables: Vec<(String, Vec<u32>)> = tables.iter().map(read).collect::<Result<_>>()?;
            tables.retain(|(_, indices)| !indices.is_empty());
            Ok((!tables.is_empty()).then_some(TokenIndices::OfTables(tables)))
        }
        Some(value) => {
            let indices = list(key, value)?;
            Ok((!indices.is_empty()).then_some(TokenIndices::OfInput(indices)))
        }
    }
}

fn token_indices_value(indices: Option<&TokenIndices>) -> Value {
    let list =
        |indices: &[u32]| Value::Array(indices.iter().map(|id| Value::Integer((*id).into())).collect());
    match indices {
        None => Value::Array(Vec::new()),
        Some(TokenIndices::OfInput(indices)) => list(indices),
        Some(TokenIndices::OfTables(tables)) => {
            Value::Table(tables.iter().map(|(name, indices)| (name.clone(), list(indices))).collect())
        }
    }
}

fn bias(values: &Values) -> Result<Bias> {
    const WORDS: [(&str, Bias); 3] =
        [("none", Bias::None), ("all", Bias::All), ("lora_only", Bias::LoraOnly)];
    let bias = values.choice("lora.bias", &WORDS)?;
    match (values.flag("lora.train_biases")?, bias) {
        (true, Bias::LoraOnly) => {
            let reason = "true means all biases, but lora.bias is \"lora_only\"; give one of the two";
            Err(Error::setting("lora.train_biases", reason))
        }
        (true, _) => Ok(Bias::All),
        (false, bias) => Ok(bias),
    }
}

fn init(values: &Values) -> Result<Init> {
    let key = "lora.init_lora_weights";
    let later = |word: &str| Err(Error::setting(key, format!("{word} is not supported yet; {INITS} are")));
    match values.get(key) {
        None | Some(Value::Boolean(true)) => Ok(Init::Default),
        Some(Value::Boolean(false)) => Ok(Init::Random),
        Some(Value::String(word)) if LATER_INITS.iter().any(|known| word.starts_with(known)) => {
            later(&format!("{word:?}"))
        }
        Some(Value::String(word)) => {
            Init::of_word(word).ok_or_else(|| Error::setting(key, format!("{word:?} is not one of {INITS}")))
        }
        Some(other) => Err(wrong(key, other, INITS)),
    }
}

/// PEFT's `loftq_config`, of which there is what `load_in = "int8"` can be: 8 bits, and one step. Each step more would
/// quantise `W − B·A` in the place of `W`.
fn check_loftq(values: &Values) -> Result<()> {
    let key = "lora.loftq_config";
    let table = match values.get(key) {
        None => return Ok(()),
        Some(Value::Table(table)) => table,
        Some(other) => return Err(wrong(key, other, "a table such as {loftq_iter = 1}")),
    };
    for (name, value) in table {
        let full = format!("{key}.{name}");
        let (right, reason) = match name.as_str() {
            "loftq_iter" => (
                1,
                "each step after the first changes the 8 bits of the base model as well, which then is neither what \
                 load_in = \"int8\" makes of it nor one that other adapters can share; 1 is supported",
            ),
            "loftq_bits" => (8, "the base model is in 8 bits; leave it out"),
            _ => {
                let near = nearest(name, ["loftq_iter", "loftq_bits"]);
                let near = near.iter().map(|name| format!("{key}.{name}")).collect();
                return Err(Error::UnknownName { what: "key", name: full, nearest: near });
            }
        };
        match value {
            Value::Integer(number) if *number == right => {}
            Value::Integer(number) if *number > 0 => {
                return Err(Error::setting(full, format!("it is {number}: {reason}")));
            }
            other => return Err(wrong(&full, other, "a whole number from 1")),
        }
    }
    Ok(())
}

/// Writes a configuration into the table of `[lora]`. A distribution of a program's own has no word: it is called
/// `custom`, which no run file can ask for.
pub(super) fn write(config: &LoraConfig, table: &mut Table) {
    let mut set = |key: &str, value: Value| table.insert(key.to_owned(), value);
    set("r", Value::Integer(config.r as i64));
    set("lora_alpha", Value::Float(config.lora_alpha.unwrap_or(config.r as f64)));
    set("lora_dropout", Value::Float(config.lora_dropout.to_string().parse().unwrap_or_default()));
    set("target_modules", targets_value(config.target_modules.as_ref()));
    set("target_parameters", strings(&config.target_parameters));
    set("exclude_modules", targets_value(config.exclude_modules.as_ref()));
    set("bias", Value::String(config.bias.as_str().to_owned()));
    set("modules_to_save", strings(&config.modules_to_save));
    set("rank_pattern", by_pattern(&config.rank_pattern, |r| Value::Integer(*r as i64)));
    set("alpha_pattern", by_pattern(&config.alpha_pattern, |alpha| Value::Float(*alpha)));
    set("trainable_token_indices", token_indices_value(config.trainable_token_indices.as_ref()));
    let layers = config.layers_to_transform.iter().flatten();
    set("layers_to_transform", Value::Array(layers.map(|layer| Value::Integer(*layer as i64)).collect()));
    set("layers_pattern", strings(&config.layers_pattern));
    set("lora_bias", Value::Boolean(config.lora_bias));
    set("use_rslora", Value::Boolean(config.use_rslora));
    set("use_dora", Value::Boolean(config.use_dora));
    let init = match (config.init_lora_weights.word(), &config.init_lora_weights) {
        (Some(word), _) => Value::String(word),
        (None, Init::Custom { .. }) => Value::String("custom".to_owned()),
        (None, init) => Value::Boolean(!matches!(init, Init::Random)),
    };
    set("init_lora_weights", init);
    set("train_layer_norms", Value::Boolean(config.train_layer_norms));
    set("train_embeddings", Value::Boolean(config.train_embeddings));
}

fn targets_value(targets: Option<&Targets>) -> Value {
    match targets {
        None => Value::Array(Vec::new()),
        Some(Targets::Names(names)) => strings(names),
        Some(Targets::Pattern(pattern)) => Value::String(pattern.clone()),
        Some(Targets::AllLinear) => Value::String("all-linear".to_owned()),
    }
}

fn strings(items: &[String]) -> Value {
    Value::Array(items.iter().cloned().map(Value::String).collect())
}
