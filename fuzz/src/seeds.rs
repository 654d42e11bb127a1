//! Small files that are as they should be, from which others are made.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixtures;

/// No larger file is a seed: most changes of one would be in its numbers.
const LARGEST: u64 = 32 << 10;

/// The seeds of a reader.
pub fn of(reader: &str) -> Vec<Vec<u8>> {
    let texts = texts(reader).iter().map(|text| text.as_bytes().to_vec());
    let (folder, ends) = place(reader);
    let mut files = Vec::new();
    if !ends.is_empty() {
        find(&fixtures().join(folder), ends, &mut files);
    }
    files.sort();
    files.into_iter().filter_map(|file| fs::read(file).ok()).chain(texts).collect()
}

/// Where seeds lie under the fixtures, and how their names end.
fn place(reader: &str) -> (&'static str, &'static [&'static str]) {
    match reader {
        "safetensors" => ("", &["write_up.safetensors", "types.safetensors", "kohya.safetensors"]),
        "index" => ("models/bert-bare-bf16-sharded", &["model.safetensors.index.json"]),
        "pickle" => ("forms", &[".bin"]),
        "adapter" => ("cases/bert_query_value", &["adapter_model.safetensors"]),
        "adapter_config" => ("cases", &["adapter_config.json"]),
        "kohya" => ("forms", &["kohya_t5.safetensors", "kohya.safetensors"]),
        "loralib" => ("forms", &["loralib.bin"]),
        "mlx" => ("forms/mlx", &["adapters.safetensors"]),
        "mlx_config" => ("forms/mlx", &["adapter_config.json"]),
        "model_config" => ("models", &["/config.json"]),
        "tokenizer" => ("", &["tokenizer.json"]),
        "tokenizer_config" => ("", &["tokenizer_config.json"]),
        "chat_template" => ("chat", &["chat_template.jinja"]),
        "parquet" => ("parquet", &[".parquet"]),
        "picture" => ("images", &[".png", ".jpg", ".webp"]),
        "processor" => ("images/processors", &["preprocessor_config.json"]),
        _ => ("", &[]),
    }
}

fn find(folder: &Path, ends: &[&str], files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let small = entry.metadata().is_ok_and(|data| data.len() <= LARGEST);
        if path.is_dir() {
            find(&path, ends, files);
        } else if small && ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
            files.push(path);
        }
    }
}

fn texts(reader: &str) -> &'static [&'static str] {
    match reader {
        "run_file" => &[
            "model = \"roberta-base\"\ntask = \"sst2\"\noutput = \"runs/sst2\"\nload_in = \"int8\"\n[data]\n\
             train = \"train.tsv\"\nvalidation = \"dev.tsv\"\ncolumns = {text = \"review\"}\nmax_length = 99\n\
             [lora]\nr = 8\nlora_alpha = 16\ntarget_modules = [\"query\", \"value\"]\nlora_dropout = 0.1\n\
             rank_pattern = {\"layer.0.*query\" = 16}\ninit_lora_weights = \"pissa_niter_4\"\n\
             [train]\nepochs = 3\nlearning_rate = 5e-4\nlearning_rate_pattern = {\"layer.0\" = 1e-4}\n\
             seed = 9223372036854775807\neval_every = 10\nkeep_best = \"accuracy\"\n",
        ],
        "chat_template" => &[
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}\n{{ message.content | trim }}\
             {% if loop.last and add_generation_prompt %}{{ bos_token * 2 }}{% endif %}{% endfor %}",
            "{% macro m(x, n=3) %}{% for i in range(n) %}{{ x.split(' ')[-1:] }}{% endfor %}{% endmacro %}\
             {%- set ns = namespace(a=[]) %}{{ m('a b') | tojson(indent=2) }}{{ raise_exception('no') }}",
        ],
        "jsonl" => &[
            "{\"text\": \"a film\", \"label\": \"good\"}\n{\"text\": \"a plot\", \"label\": \"bad\"}\n",
            "{\"text\": [\"a\", \"film\"], \"tokens\": [\"a\", \"film\"], \"tags\": [\"O\", \"B-X\"], \"label\": 1}\n",
            "{\"prompt\": \"Who?\", \"completion\": \"I.\", \"source\": \"a\", \"target\": \"b\"}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Ho\"}]}\n",
        ],
        "csv" => &[
            "text,label\n\"a \"\"good\"\", film\",1\na plot,0\n",
            "id,text,text_pair,label\n7,\"two\nlines\",b,0.5\n8,c,d,1.5\n",
        ],
        "tsv" => &["text\tlabel\na film\tgood\n\"a plot\tbad\n", "sentence\tlabel\r\na film\t1\r\n"],
        "squad" => &[
            "{\"version\": \"v2.0\", \"data\": [{\"title\": \"t\", \"paragraphs\": [{\"context\": \"Ünter a tree\", \
             \"qas\": [{\"id\": \"1\", \"question\": \"Where?\", \"answers\": [{\"text\": \"tree\", \"answer_start\": 8}], \
             \"is_impossible\": false}, {\"id\": \"2\", \"question\": \"Who?\", \"answers\": []}]}]}]}",
        ],
        _ => &[],
    }
}
