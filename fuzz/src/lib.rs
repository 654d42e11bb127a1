//! What reads bytes that others wrote, one function for each kind of file: what libFuzzer runs, and the tests with it.

pub mod seeds;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lowrank::adapter::convert::{AdapterForm, ConvertOptions, convert};
use lowrank::adapter::{AdapterFile, tools};
use lowrank::analysis::{RankOptions, Side, Tolerance, rank};
use lowrank::data::chat::message;
use lowrank::data::image::{ImageProcessor, read_picture};
use lowrank::data::{ChatTemplate, Reader as Examples, TaskOptions, Tokenizer, squad, tasks};
use lowrank::hub::{Checkpoint, to_tensor};
use lowrank::models::{self, HeadSpec, Model};
use lowrank::tape::AdapterId;
use lowrank::tensor::DType;
use lowrank::train::RunFileBuilder;
use lowrank::{Error, Result};

/// A reader of one kind of file.
pub struct Reader {
    /// What the target is called.
    pub name: &'static str,
    /// The file that the bytes are put into.
    pub file: &'static str,
    /// Files beside it, by their paths under the golden fixtures.
    pub beside: &'static [(&'static str, &'static str)],
    /// Reads it.
    pub read: fn(&Path) -> Result<()>,
}

/// All of them.
pub const READERS: &[Reader] = &[
    Reader { name: "safetensors", file: "model.safetensors", beside: &[], read: checkpoint },
    Reader { name: "index", file: "model.safetensors.index.json", beside: SHARDS, read: checkpoint },
    Reader { name: "pickle", file: "adapter_model.bin", beside: &[], read: pickle },
    Reader { name: "adapter", file: "adapter_model.safetensors", beside: CONFIGURATION, read: adapter },
    Reader { name: "adapter_config", file: "adapter_config.json", beside: WEIGHTS, read: adapter },
    Reader { name: "kohya", file: "kohya.safetensors", beside: &[], read: kohya },
    Reader { name: "loralib", file: "loralib.bin", beside: &[], read: loralib },
    Reader { name: "mlx", file: "adapters.safetensors", beside: MLX_CONFIGURATION, read: mlx },
    Reader { name: "mlx_config", file: "adapter_config.json", beside: MLX_WEIGHTS, read: mlx },
    Reader { name: "model_config", file: "config.json", beside: &[], read: model_config },
    Reader { name: "run_file", file: "run.toml", beside: &[], read: run_file },
    Reader { name: "tokenizer", file: "tokenizer.json", beside: &[], read: tokenizer },
    Reader { name: "tokenizer_config", file: "tokenizer_config.json", beside: TOKENIZER, read: tokenizer },
    Reader { name: "chat_template", file: "chat_template.jinja", beside: TOKENS, read: chat_template },
    Reader { name: "jsonl", file: "rows.jsonl", beside: &[], read: jsonl },
    Reader { name: "csv", file: "rows.csv", beside: &[], read: table },
    Reader { name: "tsv", file: "rows.tsv", beside: &[], read: table },
    Reader { name: "parquet", file: "rows.parquet", beside: &[], read: table },
    Reader { name: "squad", file: "squad.json", beside: &[], read: squad },
    Reader { name: "picture", file: "picture", beside: &[], read: picture },
    Reader { name: "processor", file: "preprocessor_config.json", beside: &[], read: processor },
];

const SHARDS: &[(&str, &str)] = &[
    ("model-00001-of-00002.safetensors", "models/bert-bare-bf16-sharded/model-00001-of-00002.safetensors"),
    ("model-00002-of-00002.safetensors", "models/bert-bare-bf16-sharded/model-00002-of-00002.safetensors"),
];
const CONFIGURATION: &[(&str, &str)] =
    &[("adapter_config.json", "cases/bert_query_value/adapter/adapter_config.json")];
const WEIGHTS: &[(&str, &str)] =
    &[("adapter_model.safetensors", "cases/bert_query_value/adapter/adapter_model.safetensors")];
const MLX_CONFIGURATION: &[(&str, &str)] = &[("adapter_config.json", "forms/mlx/adapter_config.json")];
const MLX_WEIGHTS: &[(&str, &str)] = &[("adapters.safetensors", "forms/mlx/adapters.safetensors")];
const TOKENIZER: &[(&str, &str)] = &[("tokenizer.json", "chat/chatml/tokenizer.json")];
const TOKENS: &[(&str, &str)] = &[("tokenizer_config.json", "chat/llama3/tokenizer_config.json")];

/// The reader of this name.
pub fn reader(name: &str) -> &'static Reader {
    READERS.iter().find(|reader| reader.name == name).expect("a name of READERS")
}

/// Has the bytes read in a folder of this thread's own. An error must name a file; a panic goes on.
pub fn run(reader: &Reader, bytes: &[u8]) -> Result<(), String> {
    thread_local!(static ROOM: RefCell<Option<(tempfile::TempDir, BTreeSet<&'static str>)>> = const { RefCell::new(None) });
    let path = ROOM.with_borrow_mut(|room| {
        let (room, made) = room
            .get_or_insert_with(|| (tempfile::tempdir().expect("a folder for the files"), BTreeSet::new()));
        let folder = room.path().join(reader.name);
        if made.insert(reader.name) {
            fs::create_dir(&folder).expect("the folder is new");
            for (name, fixture) in reader.beside {
                fs::copy(fixtures().join(fixture), folder.join(name)).expect("the fixture is there");
            }
        }
        folder.join(reader.file)
    });
    // To write over a file has some file systems wait for the disk.
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).expect("the file can be written");
    let read = (reader.read)(&path).map_err(|error| error.to_string());
    if let Err(text) = &read {
        let named = [reader.file].into_iter().chain(reader.beside.iter().map(|(name, _)| *name));
        assert!(named.into_iter().any(|name| text.contains(name)), "no file is named: {text}");
        assert!(!text.contains('\n'), "not one line: {text:?}");
    }
    read
}

/// The folder of the golden fixtures.
pub fn fixtures() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut found = folders.map(|folder| folder.join("tests/golden/fixtures")).filter(|path| path.is_dir());
    found.next().expect("the fixtures lie in the repository")
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn read_all(checkpoint: &Checkpoint) -> Result<()> {
    for name in checkpoint.names() {
        if let Some(view) = checkpoint.get(name) {
            // A type that nothing computes with is no mistake of the file.
            drop(to_tensor(name, &view));
        }
    }
    Ok(())
}

fn checkpoint(path: &Path) -> Result<()> {
    read_all(&Checkpoint::open(folder_of(path))?)
}

fn pickle(path: &Path) -> Result<()> {
    read_all(&Checkpoint::open_adapter(folder_of(path))?)
}

/// An adapter is put on a model, validated, shown, and analysed.
fn adapter(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let name = folder.to_string_lossy();
    let _ = tools::validate(&name).to_string();
    let _ = tools::inspect(&name).map(|inspection| inspection.to_string());
    let options = RankOptions {
        file: folder,
        tensors: &[],
        tolerance: Tolerance::Usual,
        energy: 0.9,
        approximate: None,
        with: None,
        side: Side::Right,
        base: None,
    };
    let _ = rank(&options, &|_, _| ()).map(|report| report.to_string());
    let mut model = bert()?;
    let info = model.info().clone();
    let attached = AdapterFile::open(folder)?.attach(&mut *model, &info, AdapterId(0));
    attached.map(drop).map_err(|error| error.unsuitable(path.to_string_lossy()))
}

fn bert() -> Result<Box<dyn Model>> {
    let config = models::read_config(&fixtures().join("models/bert"))?;
    let mut model = models::from_config(&config, HeadSpec::new(config.usual_head(), config.labels.len()))?;
    // With values, as norms and parts of weights are made of them.
    models::initialise(&mut *model, 1, DType::F32)?;
    Ok(model)
}

fn kohya(path: &Path) -> Result<()> {
    converted(path, path, Some("models/t5"))
}

fn loralib(path: &Path) -> Result<()> {
    converted(path, path, None)
}

fn mlx(path: &Path) -> Result<()> {
    converted(path, folder_of(path), None)
}

fn converted(path: &Path, input: &Path, model: Option<&str>) -> Result<()> {
    let out = folder_of(path).join("out");
    if out.exists() {
        fs::remove_dir_all(&out).map_err(Error::io(&out))?;
    }
    let (input, model) = (input.to_string_lossy(), model.map(|model| fixtures().join(model)));
    let model = model.as_ref().map(|model| model.to_string_lossy());
    let options = ConvertOptions {
        input: &input,
        out: &out,
        to: AdapterForm::Peft,
        model: model.as_deref(),
        lora_alpha: Some(16.0),
        enable_lora: &[true, false, true],
    };
    convert(&options).map(drop).map_err(|error| error.unsuitable(path.to_string_lossy()))
}

fn model_config(path: &Path) -> Result<()> {
    let config = models::read_config(folder_of(path))?;
    let head = HeadSpec::new(config.head.unwrap_or(config.usual_head()), config.labels.len());
    models::from_config(&config, head).map(drop).map_err(|error| Error::file(path, error.to_string()))
}

fn run_file(path: &Path) -> Result<()> {
    for (_, run) in RunFileBuilder::read(path)?.build_all()? {
        let (text, whole) = (run.text(), run.to_toml());
        assert!(!text.is_empty() && !whole.is_empty());
    }
    Ok(())
}

fn tokenizer(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let tokenizer = Tokenizer::from_folder(folder)?;
    for text in ["", "The film was good.", "Ünïcode \u{1f600}\u{200d} 中文\0"] {
        let ids = tokenizer.encode(text, None, 16).map_err(|error| Error::file(path, error.to_string()))?;
        drop(tokenizer.decode(&ids.ids, false));
    }
    chat_template(path)
}

fn chat_template(path: &Path) -> Result<()> {
    let Some(template) = ChatTemplate::from_folder(folder_of(path))? else { return Ok(()) };
    let messages =
        [("system", "Be kind."), ("user", "Hi!"), ("assistant", "Hello {{ there }}"), ("user", "Bye.")];
    let messages = messages.map(|(role, content)| message(role, content));
    drop(template.render(&messages, None, true)?);
    template.render_answers(&messages, None, &["<|im_end|>".to_owned()]).map(drop)
}

/// Rows of all kinds that JSON lines may be.
fn jsonl(path: &Path) -> Result<()> {
    let rows = ["text", "prompt-completion", "messages", "text2text", "token-classification"];
    let mut wrong = None;
    for read in rows.map(|task| examples(task, path)).into_iter().chain([table(path)]) {
        match read {
            // A file is of one kind.
            Ok(()) => return Ok(()),
            Err(error) => wrong = Some(error),
        }
    }
    wrong.map_or(Ok(()), Err)
}

fn table(path: &Path) -> Result<()> {
    examples("text-classification", path)
}

/// The examples of a file whose texts become tokens.
fn examples(task: &str, path: &Path) -> Result<()> {
    let options = TaskOptions { training_file: Some(path), ..TaskOptions::default() };
    let mut info = bert()?.info().clone();
    (info.vocab_size, info.eos_token_ids, info.decoder_start_token_id) = (1 << 20, vec![0], Some(0));
    let reader = Examples::new(&fixtures().join("chat/chatml"), &info, 32);
    tasks::open(task, &options)?.dataset(&[path.to_path_buf()], 0, true, &reader).map(drop)
}

fn squad(path: &Path) -> Result<()> {
    for (version, purpose) in [
        (squad::Version::V1, squad::Purpose::Train),
        (squad::Version::V2, squad::Purpose::Evaluate),
        (squad::Version::V2, squad::Purpose::Predict),
    ] {
        drop(squad::read(path, &squad::ReadOptions { version, purpose, limit: 0, strict: false })?);
    }
    Ok(())
}

fn picture(path: &Path) -> Result<()> {
    read_picture(path).map(drop)
}

fn processor(path: &Path) -> Result<()> {
    let processor = ImageProcessor::read(folder_of(path))?;
    let picture = read_picture(fixtures().join("images/rgb_small.png"))?;
    drop(processor.shape(&picture));
    Ok(())
}
