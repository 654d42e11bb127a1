//! What a run file says, and what is said about a wrong one.

use std::fs;

use super::*;
use crate::adapter::{Bias, Init, Targets};
use crate::models::Operands;

const LEAST: &str = "model = \"m\"\ntask = \"sst2\"\noutput = \"out\"\ndata.train = \"train.tsv\"\n";

fn read(text: &str) -> Result<RunFile> {
    RunFile::from_toml(text, "runs")
}

/// The least run file with one more setting.
fn with(assignment: &str) -> Result<RunFile> {
    let mut builder = RunFileBuilder::from_toml(LEAST, "runs")?;
    builder.set(assignment)?;
    builder.build()
}

fn message(result: Result<RunFile>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn products_of_another_type_than_the_rows_are_refused() {
    let text =
        "model='m'\ntask='sst2'\noutput='o'\ndata.train='t.tsv'\ntrain.compute='bf16'\ntrain.dtype='f32'";
    let error = read(text).unwrap_err().to_string();
    assert!(error.contains("train.compute"), "{error}");
}

#[test]
fn the_least_run_file_has_the_documented_defaults() {
    let run = read(LEAST).unwrap();
    assert_eq!((run.model.as_str(), run.task.as_str()), ("m", "sst2"));
    assert_eq!(run.output, Path::new("runs/out"));
    assert_eq!((run.init_adapter.as_ref(), run.method, run.lora_given.len()), (None, Method::Lora, 0));
    let data = DataSection {
        train: "runs/train.tsv".into(),
        validation: None,
        columns: Columns::default(),
        max_length: 128,
        stride: 0,
        source_prefix: String::new(),
        packing: true,
        random_crop: 0,
        random_flip: false,
        limit: 0,
        strict: false,
    };
    assert_eq!(run.data, data);
    let train = TrainSection {
        epochs: 3,
        max_steps: 0,
        batch_size: 32,
        gradient_accumulation: 1,
        learning_rate: 5e-4,
        weight_decay: 0.0,
        lr_schedule: ScheduleKind::Linear,
        warmup: Warmup::Ratio(0.06),
        max_grad_norm: 1.0,
        loraplus_lr_ratio: 1.0,
        loraplus_lr_embedding: 1e-6,
        learning_rate_pattern: Vec::new(),
        gradient_checkpointing: false,
        compute: None,
        operands: Operands::Rows,
        shuffle: true,
        seed: 42,
        dtype: None,
        eval_every: EvalEvery::Epoch,
        save_every: 0,
        save_total_limit: 2,
        log_every: 10,
        keep_best: KeepBest::Auto,
        patience: 0,
    };
    assert_eq!(run.train, train);
    let lora = &run.lora;
    assert_eq!((lora.r, lora.lora_alpha, lora.lora_dropout, lora.bias), (8, Some(8.0), 0.0, Bias::None));
    assert_eq!((&lora.target_modules, &lora.exclude_modules), (&None, &None));
    assert!(lora.modules_to_save.is_empty() && !lora.use_rslora);
    assert!(lora.rank_pattern.is_empty() && lora.alpha_pattern.is_empty());
    assert!(lora.layers_to_transform.is_none() && lora.layers_pattern.is_empty());
    assert!(matches!(lora.init_lora_weights, Init::Default));
    assert!(!lora.train_layer_norms && !lora.train_embeddings);
}

#[test]
fn every_key_can_be_given() {
    let run = read(
        r#"
        model = "roberta-base"
        task = "text-classification"
        output = "/abs/out"
        method = "full"
        load_in = "auto"
        head = "default"
        [data]
        train = "../a.jsonl"
        validation = "b.jsonl"
        columns = { text = "review", text_pair = "", label = "stars" }
        max_length = 64
        limit = 100
        strict = true
        [lora]
        r = 4
        lora_alpha = 16.5
        lora_dropout = 0.1
        target_modules = ["query", "self.value"]
        target_parameters = ["query.weight"]
        exclude_modules = ".*layer\\.0\\..*"
        bias = "lora_only"
        modules_to_save = ["pooler"]
        rank_pattern = {"layer.1.*query" = 16, "query" = 2}
        alpha_pattern = {"value" = 3}
        trainable_token_indices = {"word_embeddings" = [7, 3]}
        layers_to_transform = [0, 1]
        layers_pattern = ["layer"]
        use_rslora = true
        use_dora = true
        init_lora_weights = "gaussian"
        train_layer_norms = true
        train_embeddings = true
        [train]
        epochs = 2
        max_steps = 7
        batch_size = 8
        gradient_accumulation = 4
        learning_rate = 1
        weight_decay = 0.01
        lr_schedule = "cosine"
        warmup_steps = 5
        max_grad_norm = 0
        loraplus_lr_ratio = 16
        loraplus_lr_embedding = 1e-5
        learning_rate_pattern = {"layer.0" = 1e-4, "classifier" = 1}
        gradient_checkpointing = true
        compute = "bf16"
        shuffle = false
        seed = 7
        dtype = "bf16"
        eval_every = 50
        save_every = 25
        save_total_limit = 1
        log_every = 1
        keep_best = "f1"
        patience = 3
        "#,
    )
    .unwrap();
    assert_eq!(run.output, Path::new("/abs/out"));
    assert_eq!(run.data.train, Path::new("runs/../a.jsonl"));
    assert_eq!(run.data.columns.text.as_deref(), Some("review"));
    assert_eq!(run.data.columns.text_pair.as_deref(), Some(""), "an empty name says that there is no pair");
    assert_eq!(run.lora.target_modules, Some(Targets::Names(vec!["query".into(), "self.value".into()])));
    assert_eq!(run.lora.exclude_modules, Some(Targets::Pattern(r".*layer\.0\..*".into())));
    assert_eq!(run.lora.target_parameters, ["query.weight"]);
    assert_eq!((run.lora.bias, run.lora.lora_dropout), (Bias::LoraOnly, 0.1));
    assert_eq!(run.lora.rank_pattern, [("layer.1.*query".to_owned(), 16), ("query".to_owned(), 2)]);
    assert_eq!(run.lora.alpha_pattern, [("value".to_owned(), 3.0)]);
    assert_eq!(run.lora.layers_to_transform, Some(vec![0, 1]));
    assert_eq!(run.lora.layers_pattern, ["layer"]);
    assert_eq!((run.train.warmup, run.train.eval_every), (Warmup::Steps(5), EvalEvery::Steps(50)));
    assert_eq!((run.train.compute, run.train.dtype), (Some(Compute::Bf16), Some(Compute::Bf16)));
    assert!(run.train.gradient_checkpointing);
    assert_eq!((run.train.loraplus_lr_ratio, run.train.loraplus_lr_embedding), (16.0, 1e-5));
    let rates = [("layer.0".to_owned(), 1e-4), ("classifier".to_owned(), 1.0)];
    assert_eq!(run.train.learning_rate_pattern, rates);
    assert_eq!(run.compute(), Compute::Bf16);
    assert_eq!(run.train.keep_best, KeepBest::Metric("f1".into()));
    assert_eq!((run.method, run.train.learning_rate, run.lora_given.is_empty()), (Method::Full, 1.0, false));

    let again = read(&run.to_toml()).unwrap();
    assert_eq!(again.to_toml(), run.to_toml(), "the effective run says the same");
    assert_eq!((again.data.limit, again.train.clone()), (100, run.train.clone()));
    assert_eq!(format!("{:?}", again.lora), format!("{:?}", run.lora));
}

#[test]
fn the_flags_of_the_original_write_up_become_pefts() {
    assert_eq!(with("lora.train_biases=true").unwrap().lora.bias, Bias::All);
    let both = format!("{LEAST}[lora]\nbias = \"lora_only\"\ntrain_biases = true");
    assert!(message(read(&both)).contains("give one of the two"));
}

#[test]
fn an_override_is_toml_or_a_bare_word_or_names() {
    let names = |names: &[&str]| Some(Targets::Names(names.iter().map(|name| (*name).to_owned()).collect()));
    let targets = |text: &str| with(&format!("lora.target_modules={text}")).unwrap().lora.target_modules;
    assert_eq!(targets(r#"["query"]"#), names(&["query"]));
    assert_eq!(targets("query, value"), names(&["query", "value"]));
    assert_eq!(targets("query"), names(&["query"]));
    assert_eq!(targets("all-linear"), Some(Targets::AllLinear));
    assert_eq!(targets(".*(query|value)"), Some(Targets::Pattern(".*(query|value)".into())));
    assert_eq!(targets("''"), None);
    assert_eq!(with("train.max_steps = 100").unwrap().train.max_steps, 100);
    assert_eq!(with("train.lr_schedule=cosine").unwrap().train.lr_schedule, ScheduleKind::Cosine);
    assert_eq!(with("data.columns.text=review").unwrap().data.columns.text.as_deref(), Some("review"));
    assert_eq!(
        with("model=1e5").err().unwrap().to_string(),
        "model: it is the number 100000; it must be a string"
    );
    assert_eq!(with("model='1e5'").unwrap().model, "1e5");
}

#[test]
fn a_mistake_is_one_sentence_with_its_key_and_what_is_right() {
    for (assignment, expected) in [
        ("train.lerning_rate=1", r#"unknown key "train.lerning_rate"; did you mean train.learning_rate?"#),
        ("learning_rate=1", r#"unknown key "learning_rate"; did you mean train.learning_rate?"#),
        ("epoch=1", r#"unknown key "epoch"; did you mean train.epochs?"#),
        ("tarin.epochs=1", r#"unknown key "tarin.epochs"; did you mean train.epochs?"#),
        ("lora.rank.x=1", r#"unknown key "lora.rank.x""#),
        ("modle=x", r#"unknown key "modle"; did you mean model?"#),
        ("train=1", "train: it is the whole number 1; it is a section, written [train]"),
        ("data.columns.txt=a", r#"unknown key "data.columns.txt"; did you mean data.columns.text?"#),
        ("data.columns=a", "data.columns: it is the string \"a\"; it must be a table such as"),
        ("train.max_steps", "train.max_steps: no value is given; write it as train.max_steps=100"),
        ("train.batch_size='32'", "train.batch_size: it is the string \"32\"; it must be a whole number"),
        ("train.batch_size=0", "train.batch_size: it is 0; it must be at least 1"),
        ("train.batch_size=-1", "train.batch_size: it is -1; it must not be below 0"),
        ("train.epochs=0", "train.epochs: it is 0; it must be at least 1"),
        ("train.epochs=1.5", "train.epochs: it is the number 1.5; it must be a whole number"),
        ("train.gradient_accumulation=0", "train.gradient_accumulation: it is 0"),
        ("train.learning_rate=0", "train.learning_rate: it is 0; it must be above 0"),
        ("train.learning_rate=nan", "train.learning_rate: it is NaN; it must be above 0"),
        ("train.weight_decay=-0.1", "train.weight_decay: it is -0.1; it must not be below 0"),
        ("train.max_grad_norm=inf", "train.max_grad_norm: it is inf"),
        ("train.warmup_ratio=6", "train.warmup_ratio: it is 6; it must be from 0 to 1"),
        ("train.lr_schedule=poly", r#"train.lr_schedule: "poly" is not one of linear, cosine, constant"#),
        ("train.dtype=f16", r#"train.dtype: "f16" is not one of auto, f32, bf16"#),
        ("train.eval_every=0", "train.eval_every: it is 0"),
        ("train.eval_every=never", "train.eval_every: it is the string \"never\"; it must be \"epoch\""),
        ("train.keep_best=acuracy", "unknown metric in train.keep_best \"acuracy\"; did you mean accuracy?"),
        ("train.shuffle=1", "train.shuffle: it is the whole number 1; it must be true or false"),
        ("data.max_length=2", "data.max_length: it is 2; it must be at least 3"),
        ("task=sst", r#"unknown task "sst"; did you mean sst2"#),
        ("method=dora", r#"method: "dora" is not one of lora, full"#),
        ("lora.r=0", "lora.r: it is 0; a rank is at least 1"),
        ("lora.rank_pattern={\"query\" = 0}", "lora.rank_pattern: \"query\" is 0; a rank is at least 1"),
        ("lora.rank_pattern=4", "lora.rank_pattern: it is the whole number 4; it must be a table"),
        ("lora.alpha_pattern={\"query\" = \"a\"}", "lora.alpha_pattern.\"query\": it is the string"),
        ("lora.layers_to_transform=[-1]", "lora.layers_to_transform: it holds the whole number -1"),
        ("lora.lora_alpha=0", "lora.lora_alpha: 0 is not above 0"),
        ("lora.lora_dropout=1.0", "lora.lora_dropout: 1 is not in 0..1"),
        ("lora.bias=some", r#"lora.bias: "some" is not one of none, all, lora_only"#),
        (
            "lora.target_modules=3",
            "lora.target_modules: it is the whole number 3; it must be a list of names",
        ),
        ("lora.modules_to_save=[1]", "lora.modules_to_save: it holds the whole number 1"),
        ("lora.init_lora_weights=xavier", "lora.init_lora_weights: \"xavier\" is not one of true"),
        ("lora.loftq_config=5", "lora.loftq_config: it is the whole number 5; it must be a table"),
        ("lora.loftq_config.loftq_iter=0", "lora.loftq_config.loftq_iter: it is the whole number 0"),
        (
            "lora.loftq_config={loftq_iters = 5}",
            "unknown key \"lora.loftq_config.loftq_iters\"; did you mean lora.loftq_config.loftq_iter or",
        ),
        ("output=''", "output: it is empty"),
        ("train.loraplus_lr_ratio=0", "train.loraplus_lr_ratio: it is 0; it must be above 0"),
    ] {
        let text = message(with(assignment));
        assert!(text.starts_with(expected), "{assignment}: {text}");
        assert!(!text.contains('\n'), "{assignment}: one line");
    }
}

#[test]
fn what_is_not_built_yet_is_refused_rather_than_ignored() {
    for assignment in ["lora.init_lora_weights=lora_ga", "lora.init_lora_weights=corda"] {
        let text = message(with(assignment));
        assert!(text.contains("not supported yet"), "{assignment}: {text}");
    }
}

/// The base model in 8 bits is the same for all adapters, so LoftQ has the step that does not change it, and no other.
#[test]
fn loftq_has_one_step_and_eight_bits() {
    for assignment in ["lora.loftq_config={}", "lora.loftq_config={loftq_iter = 1, loftq_bits = 8}"] {
        with(assignment).unwrap();
    }
    for assignment in ["lora.loftq_config={loftq_iter = 5}", "lora.loftq_config.loftq_iter=5"] {
        let text = message(with(assignment));
        assert!(
            text.starts_with("lora.loftq_config.loftq_iter: it is 5: each step after the first"),
            "{text}"
        );
    }
    let text = message(with("lora.loftq_config={loftq_bits = 4}"));
    assert!(text.starts_with("lora.loftq_config.loftq_bits: it is 4: the base model is in 8 bits"), "{text}");
}

#[test]
fn what_is_required_is_asked_for() {
    let text = message(read("model = \"m\""));
    assert_eq!(text, "task: it is missing; model, task, output and data.train are required");
}

#[test]
fn steps_stand_in_for_the_ratio_of_the_warm_up() {
    assert_eq!(with("train.warmup_steps=0").unwrap().train.warmup, Warmup::Steps(0));
    assert_eq!(with("train.warmup_ratio=0").unwrap().schedule(100).warmup_steps, 0);
    assert_eq!(with("train.seed=1").unwrap().schedule(101).warmup_steps, 7);
    let both = format!("{LEAST}[train]\nwarmup_ratio = 0.1\nwarmup_steps = 5");
    assert!(message(read(&both)).starts_with("train.warmup_steps: it is 5, and train.warmup_ratio is 0.1"));
}

#[test]
fn errors_name_the_run_file_unless_an_override_made_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let write = |text: &str| fs::write(&path, text).unwrap();
    let said = |result: Result<RunFile>| message(result).replace(&path.display().to_string(), "RUN");

    write(&format!("{LEAST}[train]\nlerning_rate = 1"));
    assert!(said(RunFile::read(&path)).starts_with("RUN: unknown key \"train.lerning_rate\""));
    write(&format!("{LEAST}[train]\nbatch_size = 0"));
    let error = RunFile::read(&path).unwrap_err();
    assert!(error.is_usage());
    assert!(said(Err(error)).starts_with("RUN: train.batch_size: it is 0"));
    write("model = \"m\"\ntask = = 1\n");
    assert!(said(RunFile::read(&path)).starts_with("RUN: line 2, column 8: not TOML: "));
    fs::write(&path, b"model = \"m\"\n# \xff\n").unwrap();
    assert_eq!(said(RunFile::read(&path)), "RUN:2: it is not UTF-8");

    write(LEAST);
    let mut builder = RunFileBuilder::read(&path).unwrap();
    builder.set("train.batch_size=0").unwrap();
    assert_eq!(said(builder.build()), "train.batch_size: it is 0; it must be at least 1");
}

#[test]
fn the_copy_is_the_text_itself_until_something_overrides_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let text = format!("# mine\n{LEAST}");
    fs::write(&path, &text).unwrap();
    let mut run = RunFile::read(&path).unwrap();
    assert_eq!(run.text(), text);
    run.train.epochs = 1;
    let copy = RunFile::from_toml(&run.text(), "elsewhere").unwrap();
    assert_eq!((copy.train.epochs, copy.model.as_str()), (1, "m"));
    assert_eq!(copy.output, folder.path().join("out"), "its paths hold in any folder");
}

#[test]
fn a_model_is_a_folder_beside_the_run_file_or_an_id() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("m")).unwrap();
    let run = RunFile::from_toml(LEAST, folder.path()).unwrap();
    assert_eq!(Path::new(&run.model_source()), folder.path().join("m"));
    assert_eq!(run.model, "m", "kept as written");
    assert_eq!(read(LEAST).unwrap().model_source(), "m");
}

#[test]
fn the_readme_shows_every_default() {
    let defaults = include_str!("defaults.toml");
    let keys = &defaults[defaults.find("init_adapter").unwrap()..];
    assert!(include_str!("../../../../../README.md").contains(keys.trim_end()));
}

#[test]
fn an_entry_of_a_pattern_can_be_set_and_goes_before_those_of_the_file() {
    let file = format!("{LEAST}[lora]\nrank_pattern = {{\"query\" = 4, \"value\" = 2}}\n");
    let run = |assignments: &[&str]| {
        let mut builder = RunFileBuilder::from_toml(&file, "").unwrap();
        for assignment in assignments {
            builder.set(assignment).unwrap();
        }
        builder.build().unwrap()
    };
    let ranks = |assignment: &str| -> Vec<(String, usize)> { run(&[assignment]).lora.rank_pattern };
    let pairs = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
        pairs.iter().map(|(pattern, r)| ((*pattern).to_owned(), *r)).collect()
    };
    assert_eq!(ranks("lora.rank_pattern={\"query\"=16}"), pairs(&[("query", 16)]));
    assert_eq!(ranks("lora.rank_pattern.value=16"), pairs(&[("value", 16), ("query", 4)]));
    let first = pairs(&[("layer.0.*query", 16), ("query", 4), ("value", 2)]);
    assert_eq!(ranks("lora.rank_pattern.\"layer.0.*query\" = 16"), first);
    assert_eq!(ranks("lora.rank_pattern.layer.0.*query=16"), first);
    let run = run(&["lora.alpha_pattern.query=32", "train.learning_rate_pattern.classifier=1e-3"]);
    assert_eq!(run.lora.alpha_pattern, [("query".to_owned(), 32.0)]);
    assert_eq!(run.train.learning_rate_pattern, [("classifier".to_owned(), 1e-3)]);
}

#[test]
fn int8_is_a_type_of_operands_beside_that_of_the_rows() {
    let run = with("train.compute=int8").unwrap();
    assert_eq!((run.train.operands, run.train.compute), (Operands::Int8, None));
    assert!(run.to_toml().contains("compute = \"int8\""));
    assert_eq!(with("train.compute=auto").unwrap().train.operands, Operands::Rows);
    assert_eq!(message(with("train.dtype=int8")), "train.dtype: \"int8\" is not one of auto, f32, bf16");
    let wrong = message(with("train.compute=int9"));
    assert_eq!(wrong, "train.compute: \"int9\" is not one of auto, f32, bf16, int8");
    let full = format!("{LEAST}method = \"full\"\n[train]\ncompute = \"int8\"");
    assert!(message(read(&full)).starts_with("train.compute: whole numbers are for frozen weights"));
}
