//! A folder with a tiny model, its tokeniser, and data for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The model's vocabulary: as many words as `tests/golden` gave it.
const WORDS: [&str; 12] =
    ["good", "bad", "film", "a", "the", "very", "not", "plot", "actor", "was", "is", "dull"];

pub struct Workshop {
    folder: TempDir,
}

/// What a run of the binary left behind.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Workshop {
    /// A model `model/`, files `train.tsv` and `dev.tsv` for SST-2, and a run file `run.toml`.
    pub fn new() -> Self {
        Self::of("models/bert")
    }

    /// The same with another of the golden models that read words.
    pub fn of(source: &str) -> Self {
        let workshop = Self { folder: tempfile::tempdir().unwrap() };
        let model = workshop.path("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(golden(source).join(name), model.join(name)).unwrap();
        }
        let config: Value =
            serde_json::from_str(&fs::read_to_string(model.join("config.json")).unwrap()).unwrap();
        let size = config["vocab_size"].as_u64().unwrap() as usize;
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
        let fillers = (0..).map(|number| format!("filler{number}"));
        let vocabulary = special.into_iter().chain(WORDS.map(str::to_owned)).chain(fillers).take(size);
        workshop.write("model/vocab.txt", &(vocabulary.collect::<Vec<_>>().join("\n") + "\n"));
        workshop.write("train.tsv", &table(40));
        workshop.write("dev.tsv", &table(10));
        workshop.write("run.toml", RUN);
        workshop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The binary, to be run in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hub"));
        command
    }

    /// The binary, to be run in the folder, asking this Hub.
    pub fn online(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint);
        // It asks them for this machine's own servers too.
        for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// Runs what must succeed.
    pub fn succeed(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran
    }
}

const RUN: &str = "\
model = \"model\"
task = \"sst2\"
output = \"out\"

[data]
train = \"train.tsv\"
validation = \"dev.tsv\"

[lora]
r = 2
lora_dropout = 0.1

[train]
epochs = 2
batch_size = 8
learning_rate = 1e-2
";

/// Sentences whose label is in one word.
fn table(rows: usize) -> String {
    let mut text = "sentence\tlabel\n".to_owned();
    for row in 0..rows {
        let (word, label) = [("good", 1), ("bad", 0), ("dull", 0)][row % 3];
        let noun = ["film", "plot", "actor"][row / 3 % 3];
        text += &format!("the {noun} was {}{word}\t{label}\n", ["", "very "][row % 2]);
    }
    text
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }
}

impl Ran {
    /// The last line of standard output, which is JSON under `--json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fixtures").join(name)
}
