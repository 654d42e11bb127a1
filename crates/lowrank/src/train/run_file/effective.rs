//! A run back to the text of a run file.

use std::collections::BTreeMap;
use std::path::{Path, absolute};

use lowrank_kernels::Compute;
use toml::{Table, Value};

use crate::data::tasks::{self, is_hub_id};
use crate::models::{HeadStyle, Operands};

use super::{EvalEvery, KeepBest, RunFile, Warmup, lora, values};

impl RunFile {
    /// The text that stands for this run: that which it was read from, as long as that says the same, else
    /// [`RunFile::to_toml`].
    pub fn text(&self) -> String {
        let same = |text: &&String| {
            Self::from_toml(text, &self.source.folder).is_ok_and(|run| run.to_toml() == self.to_toml())
        };
        self.source.text.as_ref().filter(same).cloned().unwrap_or_else(|| self.to_toml())
    }

    /// The effective run: every key, also those that have their default. Paths are absolute, so that the text means
    /// the same in any folder.
    pub fn to_toml(&self) -> String {
        let mut top = values::defaults();
        // In the order of the documentation: the required keys first.
        let mut table = Table::new();
        let mut set = |key: &str, value: Value| table.insert(key.to_owned(), value);
        set("model", text(&self.portable(&self.model)));
        set("task", text(&self.task));
        set("output", path(&self.output));
        set(
            "init_adapter",
            text(&self.init_adapter.as_deref().map(|name| self.portable(name)).unwrap_or_default()),
        );
        let method = super::Method::NAMES.iter().find(|(_, method)| *method == self.method);
        set("method", text(method.map_or("lora", |(name, _)| name)));
        set("load_in", text(self.load_in.name()));
        if let HeadStyle::NormDropoutLinear { dropout } = self.head {
            set("head", text("norm-dropout-linear"));
            set("head_dropout", Value::Float(shortest(dropout)));
        }
        let mut sections = values::SECTIONS.map(|name| match top.remove(name) {
            Some(Value::Table(section)) => (name, section),
            _ => (name, Table::new()),
        });
        for (key, value) in top {
            table.entry(key).or_insert(value);
        }
        let [(_, data), (_, lora), (_, train)] = &mut sections;
        self.write_data(data);
        lora::write(&self.lora, lora);
        if self.init_adapter.is_some() {
            // The adapter says the rest.
            lora.retain(|key, _| self.lora_given.iter().any(|given| given == key));
        }
        self.write_train(train);
        for (name, section) in sections {
            table.insert(name.to_owned(), Value::Table(section));
        }
        // A table of plain values has nothing that TOML could not express.
        toml::to_string(&table).unwrap_or_default()
    }

    /// The settings that decide the result, by their keys. Where things lie, how often the run tells of itself
    /// and what is kept for backward is not among them.
    pub fn decisive_settings(&self) -> BTreeMap<String, String> {
        const OTHER: [&str; 11] = [
            "model",
            "init_adapter",
            "output",
            "data.train",
            "data.validation",
            "train.log_every",
            "train.save_every",
            "train.save_total_limit",
            "train.gradient_checkpointing",
            "train.compute",
            "train.dtype",
        ];
        let mut settings = BTreeMap::new();
        let table: Table = toml::from_str(&self.to_toml()).unwrap_or_default();
        for (key, value) in table {
            match value {
                Value::Table(section) => {
                    settings.extend(
                        section.into_iter().map(|(name, v)| (format!("{key}.{name}"), v.to_string())),
                    );
                }
                value => {
                    settings.insert(key, value.to_string());
                }
            }
        }
        settings.retain(|key, _| !OTHER.contains(&key.as_str()));
        // Of types of rows, what they come to mean on the machine decides.
        let in_int8 = self.train.operands == Operands::Int8;
        settings.insert("train.compute".to_owned(), if in_int8 { "int8" } else { "as dtype" }.to_owned());
        settings
    }

    /// The absolute path of a folder, any other name as it is.
    fn portable(&self, name: &str) -> String {
        let folder = self.source.folder.join(name);
        let folder = folder.is_dir().then(|| absolute(&folder).ok()).flatten();
        folder.map_or_else(|| name.to_owned(), |folder| folder.to_string_lossy().into_owned())
    }

    fn write_data(&self, table: &mut Table) {
        let data = &self.data;
        let columns: Table =
            data.columns.iter().map(|(role, column)| (role.to_owned(), text(column))).collect();
        table.remove("columns");
        let mut rows = Table::new();
        rows.insert("train".to_owned(), path(&data.train));
        rows.insert("validation".to_owned(), data.validation.as_deref().map_or_else(|| text(""), path));
        rows.insert("max_length".to_owned(), count(data.max_length));
        if data.stride != tasks::usual_length(&self.task).1 {
            rows.insert("stride".to_owned(), count(data.stride));
        }
        rows.insert("source_prefix".to_owned(), text(&data.source_prefix));
        rows.insert("packing".to_owned(), Value::Boolean(data.packing));
        rows.insert("limit".to_owned(), count(data.limit));
        rows.insert("strict".to_owned(), Value::Boolean(data.strict));
        rows.insert("random_crop".to_owned(), count(data.random_crop));
        rows.insert("random_flip".to_owned(), Value::Boolean(data.random_flip));
        if !columns.is_empty() {
            rows.insert("columns".to_owned(), Value::Table(columns));
        }
        *table = rows;
    }

    fn write_train(&self, table: &mut Table) {
        let train = &self.train;
        let mut set = |key: &str, value: Value| table.insert(key.to_owned(), value);
        set("epochs", count(train.epochs));
        set("max_steps", count(train.max_steps));
        set("batch_size", count(train.batch_size));
        set("gradient_accumulation", count(train.gradient_accumulation));
        set("learning_rate", Value::Float(train.learning_rate));
        set("weight_decay", Value::Float(train.weight_decay));
        let schedule = super::ScheduleKind::NAMES.iter().find(|(_, kind)| *kind == train.lr_schedule);
        set("lr_schedule", text(schedule.map_or("linear", |(name, _)| name)));
        match train.warmup {
            Warmup::Ratio(ratio) => set("warmup_ratio", Value::Float(ratio)),
            Warmup::Steps(steps) => {
                set("warmup_ratio", Value::Float(0.0));
                set("warmup_steps", count(steps))
            }
        };
        set("max_grad_norm", Value::Float(train.max_grad_norm));
        set("loraplus_lr_ratio", Value::Float(train.loraplus_lr_ratio));
        set("loraplus_lr_embedding", Value::Float(train.loraplus_lr_embedding));
        let rates = values::by_pattern(&train.learning_rate_pattern, |rate| Value::Float(*rate));
        set("learning_rate_pattern", rates);
        set("gradient_checkpointing", Value::Boolean(train.gradient_checkpointing));
        let in_int8 = train.operands == Operands::Int8;
        set("compute", if in_int8 { text("int8") } else { compute(train.compute) });
        set("shuffle", Value::Boolean(train.shuffle));
        set("seed", Value::Integer(train.seed.cast_signed()));
        set("dtype", compute(train.dtype));
        set(
            "eval_every",
            match train.eval_every {
                EvalEvery::Epoch => text("epoch"),
                EvalEvery::Steps(steps) => count(steps),
            },
        );
        set("save_every", count(train.save_every));
        set("save_total_limit", count(train.save_total_limit));
        set("log_every", count(train.log_every));
        set(
            "keep_best",
            match &train.keep_best {
                KeepBest::Auto => text("auto"),
                KeepBest::Last => text("last"),
                KeepBest::Metric(name) => text(name),
            },
        );
        set("patience", count(train.patience));
    }
}

/// The decimal that a person wrote: 0.1, not 0.10000000149.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn count(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

fn path(path: &Path) -> Value {
    if is_hub_id(path) {
        return text(&path.to_string_lossy());
    }
    text(&absolute(path).unwrap_or_else(|_| path.to_path_buf()).to_string_lossy())
}

fn compute(compute: Option<Compute>) -> Value {
    text(match compute {
        None => "auto",
        Some(Compute::F32) => "f32",
        Some(Compute::Bf16) => "bf16",
    })
}
