//! Sources and targets as a data set for encoder-decoders, measured by what the model writes.

use super::example::{Rows, SourceTarget};
use super::seq2seq::{Seq2SeqDataset, Seq2SeqLengths};
use crate::data::batch::{Batch, TokenRows};
use crate::data::batches::Pass;
use crate::data::collector::{Collector, Outputs, Prediction, Scores};
use crate::data::dataset::{Dataset, no_such_row};
use crate::data::example::Labels;
use crate::data::metrics::{Bleu, Rouge};
use crate::data::reader::Reader;
use crate::data::tasks::TaskInfo;
use crate::data::tokenizer::Tokenizer;
use crate::fnv::Fnv;
use crate::{Error, Result};

/// Sources with their targets, each side at most as long as the longest allowed.
pub struct RewritingDataset {
    data: Seq2SeqDataset,
    /// The targets as they are in the file; empty where they are to be predicted.
    references: Vec<String>,
    /// Whether each row has the source of the one before it.
    repeats: Vec<bool>,
    tokenizer: Tokenizer,
    start: u32,
    longest: usize,
}

impl RewritingDataset {
    /// Tokenises sources and targets for a model.
    ///
    /// # Errors
    /// As [`Seq2SeqDataset::new`]; if the model's configuration does not say what an answer begins with.
    pub fn new(reader: &Reader, rows: Rows<SourceTarget>) -> Result<Self> {
        let start = reader.info.decoder_start_token_id.ok_or_else(|| {
            let reason = "its config.json has no decoder_start_token_id, which every answer begins with";
            Error::file(&reader.folder, reason)
        })?;
        let longest = reader.max_length;
        let lengths = Seq2SeqLengths { source: longest, target: longest };
        let data = Seq2SeqDataset::new(reader.tokenizer()?, &rows, lengths)?;
        reader.check_vocabulary(data.largest_id())?;
        let pairs = rows.rows.windows(2).map(|pair| pair[0].source == pair[1].source);
        let repeats = std::iter::once(false).chain(pairs).take(rows.rows.len()).collect();
        let references = rows.rows.into_iter().map(|row| row.target.unwrap_or_default()).collect();
        let tokenizer = reader.tokenizer()?.clone();
        Ok(Self { data, references, repeats, tokenizer, start, longest })
    }
}

impl Dataset for RewritingDataset {
    fn len(&self) -> usize {
        self.data.len()
    }

    fn gather(&self, rows: &[u32], first: usize, _: Option<Pass>) -> Result<Batch> {
        let (mut sources, mut targets) = (TokenRows::default(), TokenRows::default());
        let mut labels = Vec::new();
        for &row in rows {
            let example = self.data.get(row as usize).ok_or_else(|| no_such_row(row, self.len()))?;
            sources.push(example.source, &[]);
            let Some((_, before)) = example.target.split_last() else { continue };
            targets.push(&[&[self.start], before].concat(), &[]);
            labels.extend(example.target.iter().map(|&id| i64::from(id)));
        }
        if targets.sequences() < sources.sequences() {
            return Batch::of_tokens(sources, Labels::None, first);
        }
        Ok(Batch::of_tokens(sources, Labels::Tokens(labels), first)?.with_target(targets))
    }

    /// FNV-1a over the tokens, and over what is measured against: references as they are written, and which are of one
    /// source.
    fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.add_word(self.data.fingerprint());
        for (reference, repeats) in self.references.iter().zip(&self.repeats) {
            hash.add_word(u64::from(*repeats));
            hash.add_text(reference);
        }
        hash.0
    }

    fn tokens(&self) -> usize {
        let (sources, targets) = self.data.tokens();
        sources + targets
    }

    fn lengths(&self) -> Vec<usize> {
        self.data.iter().map(|example| example.source.len() + example.target.len()).collect()
    }

    fn collector<'a>(&'a self, task: &'a TaskInfo) -> Box<dyn Collector + 'a> {
        Box::new(Written { data: self, task, texts: Vec::with_capacity(self.len()) })
    }

    fn truncated(&self) -> usize {
        self.data.truncated()
    }
}

/// The collector of what is written for each source.
struct Written<'a> {
    data: &'a RewritingDataset,
    task: &'a TaskInfo,
    texts: Vec<String>,
}

impl Collector for Written<'_> {
    fn add(&mut self, _: &[u32], _: &Batch, outputs: Outputs<'_>) -> Result<()> {
        for written in outputs.written {
            self.texts.push(self.data.tokenizer.decode(written, true)?.trim().to_owned());
        }
        Ok(())
    }

    /// Neighbouring rows of one source have as many references for what is written once.
    fn scores(&self, loss: f64) -> Result<Scores> {
        let references = &self.data.references;
        if self.texts.len() != references.len() {
            let (texts, rows) = (self.texts.len(), references.len());
            return Err(Error::Usage(format!("{texts} texts were written for {rows} rows")));
        }
        let (mut rouge, mut bleu) = (Rouge::default(), Bleu::default());
        let starts: Vec<usize> = (0..references.len()).filter(|&row| !self.data.repeats[row]).collect();
        for (place, &start) in starts.iter().enumerate() {
            let end = starts.get(place + 1).copied().unwrap_or(references.len());
            rouge.add(&self.texts[start], &references[start..end]);
            bleu.add(&self.texts[start], &references[start..end]);
        }
        let all = rouge.scores().into_iter().chain([("bleu", bleu.score()), ("loss", loss)]);
        let named = all.filter(|(name, _)| *name == "loss" || self.task.metrics.contains(name));
        Ok(named.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn predictions(&self) -> Result<Vec<Prediction>> {
        let rows = self.data.data.iter().zip(&self.texts);
        Ok(rows.map(|(row, text)| Prediction::Text { line: row.line, text: text.clone() }).collect())
    }

    fn writes(&self) -> Option<usize> {
        Some(self.data.longest)
    }

    fn reads_logits(&self) -> bool {
        false
    }
}
