//! The tasks of language models.

use std::path::{Path, PathBuf};

use super::{LanguageOptions, completions, conversations, documents, source_targets};
use crate::data::chat::ChatTemplate;
use crate::data::dataset::Dataset;
use crate::data::language::{
    self, CausalDataset, PromptDataset, RewritingDataset, Seq2SeqDataset, Seq2SeqLengths, SourceTarget,
};
use crate::data::reader::Reader;
use crate::data::tasks::files::{self, together};
use crate::data::tasks::{PreviewedExample, Task, TaskInfo, TaskOptions};
use crate::models::Head;
use crate::{Error, Result};

/// The task whose examples are documents.
pub(in crate::data::tasks) const TEXT: &str = "text";

/// The names of all in a run file.
pub(in crate::data::tasks) const NAMES: [&str; 6] =
    [TEXT, "prompt-completion", "messages", "text2text", "summarization", "translation"];

/// The task of this name, if it is one of a language model.
pub(in crate::data::tasks) fn open(name: &str, options: &TaskOptions<'_>) -> Option<LanguageTask> {
    let (rows, metrics): (_, &[_]) = match name {
        TEXT => (Some(Rows::Documents), &["perplexity"]),
        "prompt-completion" => (Some(Rows::Completions), &["perplexity"]),
        "messages" => (Some(Rows::Conversations), &["perplexity"]),
        "text2text" => (None, &["rougeL", "rouge1", "rouge2", "bleu"]),
        "summarization" => (None, &["rougeL", "rouge1", "rouge2"]),
        "translation" => (None, &["bleu"]),
        _ => return None,
    };
    let info = TaskInfo {
        name: name.to_owned(),
        head: head(name)?,
        labels: Vec::new(),
        num_labels: 0,
        positive: 0,
        regression: false,
        main_metric: metrics[0],
        metrics: metrics.to_vec(),
    };
    Some(LanguageTask {
        info,
        rows,
        options: LanguageOptions {
            columns: options.columns.clone(),
            source_prefix: options.source_prefix.clone(),
            ..Default::default()
        },
    })
}

/// The head that the task of this name needs.
pub(in crate::data::tasks) fn head(name: &str) -> Option<Head> {
    match name {
        TEXT | "prompt-completion" | "messages" => Some(Head::CausalLm),
        "text2text" | "summarization" | "translation" => Some(Head::Seq2SeqLm),
        _ => None,
    }
}

/// What a row of a decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Documents,
    Completions,
    Conversations,
}

/// A task of a language model.
pub(in crate::data::tasks) struct LanguageTask {
    info: TaskInfo,
    /// Absent for an encoder-decoder, which reads pairs.
    rows: Option<Rows>,
    options: LanguageOptions,
}

impl LanguageTask {
    /// The labelled examples of a decoder.
    fn causal(&self, rows: Rows, files: &[PathBuf], limit: usize, reader: &Reader) -> Result<CausalDataset> {
        let (tokenizer, options) = (reader.tokenizer()?, &self.options);
        let (length, strict) = (reader.max_length, reader.strict);
        let data = match rows {
            Rows::Documents => {
                let read = |path: &Path, limit| documents(path, options, limit);
                let rows = in_turn(files, limit, read)?;
                rows.iter()
                    .map(|rows| {
                        CausalDataset::from_documents(tokenizer, rows, length, reader.packing, strict)
                    })
                    .collect::<Result<Vec<_>>>()?
            }
            Rows::Conversations => {
                let template = chat_template(&reader.folder)?;
                let read = |path: &Path, limit| conversations(path, options, limit);
                let rows = in_turn(files, limit, read)?;
                rows.iter()
                    .map(|rows| CausalDataset::from_conversations(tokenizer, &template, rows, length, strict))
                    .collect::<Result<Vec<_>>>()?
            }
            Rows::Completions => {
                let read = |path: &Path, limit| completions(path, options, limit);
                let rows = in_turn(files, limit, read)?;
                rows.iter()
                    .map(|rows| CausalDataset::from_completions(tokenizer, rows, length, strict))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        let data = together(data, CausalDataset::append)?;
        reader.check_vocabulary(data.largest_id())?;
        if data.is_empty() {
            let reason = format!(
                "no row leaves anything to learn in the {length} tokens of data.max_length; the {} rows have no answer, \
                 or too long a prompt",
                data.skipped
            );
            return Err(Error::file(files.first().map_or(Path::new(""), PathBuf::as_path), reason));
        }
        Ok(data)
    }

    /// The prompts of a decoder.
    fn prompts(&self, rows: Rows, files: &[PathBuf], limit: usize, reader: &Reader) -> Result<PromptDataset> {
        let options = LanguageOptions { unlabelled: true, ..self.options.clone() };
        let prompts = match rows {
            Rows::Conversations => {
                let template = chat_template(&reader.folder)?;
                let rows = in_turn(files, limit, |path, limit| conversations(path, &options, limit))?;
                rows.iter()
                    .map(|rows| PromptDataset::from_conversations(reader, &template, rows))
                    .collect::<Result<Vec<_>>>()?
            }
            Rows::Documents => {
                let reason = "\"text\" has no prompts to answer; prompt-completion and messages have, and lowrank generate \
                              writes on from a text";
                return Err(Error::setting("task", reason));
            }
            Rows::Completions => {
                let rows = in_turn(files, limit, |path, limit| completions(path, &options, limit))?;
                rows.iter()
                    .map(|rows| PromptDataset::from_completions(reader, rows))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        together(prompts, PromptDataset::append)
    }

    /// The sources and targets of an encoder-decoder.
    fn pairs(&self, files: &[PathBuf], limit: usize, labelled: bool) -> Result<language::Rows<SourceTarget>> {
        let options = LanguageOptions { unlabelled: !labelled, ..self.options.clone() };
        let rows = in_turn(files, limit, |path, limit| source_targets(path, &options, limit))?;
        let mut pairs = together(rows, |all, more| all.rows.extend(more.rows))?;
        if !labelled {
            pairs.rows.iter_mut().for_each(|row| row.target = None);
        }
        Ok(pairs)
    }
}

/// What `read` makes of the first `limit` rows (0: all) of several files.
fn in_turn<T>(
    files: &[PathBuf],
    limit: usize,
    read: impl Fn(&Path, usize) -> Result<language::Rows<T>>,
) -> Result<Vec<language::Rows<T>>> {
    files::in_turn(files, limit, read, |rows| rows.rows.len())
}

/// The chat template of a model folder, which conversations need.
pub(crate) fn chat_template(folder: &Path) -> Result<ChatTemplate> {
    ChatTemplate::from_folder(folder)?.ok_or_else(|| {
        let reason = "it has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), without \
                      which no conversation can be written; prompts need none";
        Error::file(folder, reason)
    })
}

impl Task for LanguageTask {
    fn info(&self) -> &TaskInfo {
        &self.info
    }

    fn dataset(
        &self,
        files: &[PathBuf],
        limit: usize,
        labelled: bool,
        reader: &Reader,
    ) -> Result<Box<dyn Dataset>> {
        Ok(match (self.rows, labelled) {
            (None, _) => Box::new(RewritingDataset::new(reader, self.pairs(files, limit, labelled)?)?),
            (Some(rows), true) => Box::new(self.causal(rows, files, limit, reader)?),
            (Some(rows), false) => Box::new(self.prompts(rows, files, limit, reader)?),
        })
    }

    fn preview(&self, path: &Path, count: usize, reader: &Reader) -> Result<Vec<PreviewedExample>> {
        let (tokenizer, longest) = (reader.tokenizer()?, reader.max_length);
        let Some(rows) = self.rows else {
            let rows = self.pairs(&[path.to_path_buf()], count, true)?;
            let lengths = Seq2SeqLengths { source: longest, target: longest };
            let data = Seq2SeqDataset::new(tokenizer, &rows, lengths)?;
            let examples = data.iter().map(|example| {
                let ids = [example.source, example.target].concat();
                Ok(PreviewedExample {
                    line: example.line,
                    text: tokenizer.decode(example.source, false)?,
                    text_pair: Some(tokenizer.decode(example.target, false)?),
                    tokens: tokenizer.tokens(&ids),
                    trained: (0..ids.len()).map(|place| place >= example.source.len()).collect(),
                    truncated: example.truncated,
                    ids,
                    ..PreviewedExample::default()
                })
            });
            return examples.collect();
        };
        let data = self.causal(rows, &[path.to_path_buf()], count, reader)?;
        let examples = data.iter().take(count).map(|example| {
            Ok(PreviewedExample {
                line: example.line,
                text: tokenizer.decode(example.ids, false)?,
                tokens: tokenizer.tokens(example.ids),
                ids: example.ids.to_vec(),
                trained: example.targets.to_vec(),
                truncated: example.truncated,
                ..PreviewedExample::default()
            })
        });
        examples.collect()
    }
}
