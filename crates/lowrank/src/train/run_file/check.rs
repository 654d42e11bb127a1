//! Ranges of a run's values, however the run was made.

use super::{KeepBest, Method, RunFile, Warmup};
use crate::data::tasks;
use crate::models::{Head, HeadStyle, LoadIn, Operands};
use crate::train::reading::Reading;
use crate::{Error, Result};

/// The names of the metrics.
const METRICS: [&str; 12] = [
    "accuracy",
    "f1",
    "matthews_correlation",
    "pearson",
    "spearmanr",
    "exact_match",
    "perplexity",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "loss",
];

/// `[CLS] token [SEP]`: a shorter example has no text.
const SHORTEST_LENGTH: usize = 3;

/// More pixels of black than any picture has beside it.
const MOST_BLACK: usize = 1 << 12;

impl RunFile {
    /// Checks that every value is in its range. Reading does this; a program that changes fields does it again.
    ///
    /// # Errors
    /// Names the first key whose value is out of range, or asks for something that this program does not do yet.
    pub fn check(&self) -> Result<()> {
        self.check_task()?;
        self.check_start()?;
        Reading::of(self).check(&self.task).map_err(|error| error.in_section("data"))?;
        if let HeadStyle::NormDropoutLinear { dropout } = self.head
            && !(0.0..1.0).contains(&dropout)
        {
            return Err(Error::setting("head_dropout", format!("{dropout} is not in 0..1")));
        }
        at_least("data.max_length", self.data.max_length, SHORTEST_LENGTH)?;
        if self.data.random_crop > MOST_BLACK {
            let reason =
                format!("it is {}; around a picture are at most {MOST_BLACK} pixels", self.data.random_crop);
            return Err(Error::setting("data.random_crop", reason));
        }
        let changes =
            [("data.random_crop", self.data.random_crop > 0), ("data.random_flip", self.data.random_flip)];
        if let Some((key, _)) = changes.iter().find(|(_, on)| *on)
            && tasks::head(&self.task)? != Head::ImageClassification
        {
            return Err(Error::setting(*key, format!("{} reads no images; leave it out", self.task)));
        }
        self.lora.check().map_err(|error| error.in_section("lora"))?;
        self.check_train()
    }

    fn check_start(&self) -> Result<()> {
        if self.method == Method::Full && self.init_adapter.is_some() {
            let reason = "training the whole model starts from no adapter; merge it first, or leave it out";
            return Err(Error::setting("init_adapter", reason));
        }
        if self.method == Method::Full && self.load_in == LoadIn::Int8 {
            let reason = "weights in 8 bits cannot be trained; method = \"full\" needs load_in = \"auto\"";
            return Err(Error::setting("load_in", reason));
        }
        if self.method == Method::Full && self.train.operands == Operands::Int8 {
            let reason =
                "whole numbers are for frozen weights; method = \"full\" trains them, leave it at \"auto\"";
            return Err(Error::setting("train.compute", reason));
        }
        Ok(())
    }

    fn check_task(&self) -> Result<()> {
        let task = self.task.as_str();
        if tasks::NAMES.contains(&task) {
            return Ok(());
        }
        Err(Error::unknown("task", task, tasks::NAMES))
    }

    fn check_train(&self) -> Result<()> {
        let train = &self.train;
        if train.max_steps == 0 {
            at_least("train.epochs", train.epochs, 1)?;
        }
        at_least("train.batch_size", train.batch_size, 1)?;
        at_least("train.gradient_accumulation", train.gradient_accumulation, 1)?;
        at_least("train.log_every", train.log_every, 1)?;
        if let (Some(compute), Some(dtype)) = (train.compute, train.dtype)
            && compute != dtype
        {
            let reason = "products of another type than train.dtype are not supported yet; leave it at auto";
            return Err(Error::setting("train.compute", reason));
        }
        let rate = train.learning_rate;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Error::setting("train.learning_rate", format!("it is {rate}; it must be above 0")));
        }
        for (key, value) in
            [("train.weight_decay", train.weight_decay), ("train.max_grad_norm", train.max_grad_norm)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::setting(key, format!("it is {value}; it must not be below 0")));
            }
        }
        let rates = [
            ("train.loraplus_lr_ratio".to_owned(), train.loraplus_lr_ratio),
            ("train.loraplus_lr_embedding".to_owned(), train.loraplus_lr_embedding),
        ];
        let by_pattern = train.learning_rate_pattern.iter();
        let by_pattern =
            by_pattern.map(|(pattern, rate)| (format!("train.learning_rate_pattern.{pattern:?}"), *rate));
        for (key, value) in rates.into_iter().chain(by_pattern) {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::setting(key, format!("it is {value}; it must be above 0")));
            }
        }
        match train.warmup {
            Warmup::Ratio(ratio) if !(0.0..=1.0).contains(&ratio) => {
                Err(Error::setting("train.warmup_ratio", format!("it is {ratio}; it must be from 0 to 1")))
            }
            _ => self.check_keep_best(),
        }
    }

    fn check_keep_best(&self) -> Result<()> {
        match &self.train.keep_best {
            KeepBest::Metric(name) if !METRICS.contains(&name.as_str()) => Err(Error::unknown(
                "metric in train.keep_best",
                name,
                METRICS.into_iter().chain(["auto", "last"]),
            )),
            _ => Ok(()),
        }
    }
}

fn at_least(key: &str, value: usize, least: usize) -> Result<()> {
    if value >= least {
        return Ok(());
    }
    Err(Error::setting(key, format!("it is {value}; it must be at least {least}")))
}
