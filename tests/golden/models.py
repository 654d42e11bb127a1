"""fixtures/models: tiny random base models, as Transformers 5 saves them and as older checkpoints look."""

import json

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from common import add_modules, fresh, randomise, seed, write_tensors

BERT = dict(
    vocab_size=83,
    hidden_size=36,
    num_attention_heads=3,
    num_hidden_layers=2,
    intermediate_size=52,
    max_position_embeddings=40,
)
ROBERTA = BERT | dict(
    vocab_size=71, hidden_size=40, num_attention_heads=5, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
    bos_token_id=0, eos_token_id=2,
)  # fmt: skip
SMALL = BERT | dict(vocab_size=61, hidden_size=24, num_attention_heads=2, intermediate_size=44)
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}


def make():
    bert = BertForSequenceClassification, BertConfig
    roberta = RobertaForSequenceClassification, RobertaConfig
    xlm_roberta = XLMRobertaForSequenceClassification, XLMRobertaConfig
    save("bert", *bert, **BERT)
    save("bert-mlm", BertForMaskedLM, BertConfig, **SMALL)
    save("bert-regression", *bert, **SMALL, num_labels=1)
    save("bert-no-dropout", *bert, **SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for activation in "gelu_new", "relu", "silu":
        save(f"bert-{activation.replace('_', '-')}", *bert, **SMALL, hidden_act=activation)
    save("roberta", *roberta, **ROBERTA, id2label=NLI, label2id={label: i for i, label in NLI.items()})
    save("roberta-regression", *roberta, **ROBERTA, num_labels=1, problem_type="regression")
    save("xlm-roberta", *xlm_roberta, **ROBERTA)
    save_bert_bare_bf16()
    save_bert_pretraining_legacy()
    save_roberta_mlm_f16()
    whole = AutoModelForSequenceClassification.from_pretrained
    add_modules({name: whole(f"models/{name}") for name in ("bert", "roberta", "xlm-roberta")})


def build(name, model, config, **sizes):
    seed(name)
    model = model(config(**sizes))
    randomise(model)
    return model


def save(name, model, config, **sizes):
    build(name, model, config, **sizes).save_pretrained(fresh(f"models/{name}"))


def save_bert_bare_bf16():
    """Keys without `bert.`, bfloat16, in shards, under a configuration of Transformers 4."""
    path = fresh("models/bert-bare-bf16-sharded")
    model = build(path.name, BertModel, BertConfig, **SMALL).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="16KB")
    assert len(list(path.glob("model-*.safetensors"))) in (2, 3)
    write_config(path, "BertModel", "bert", "bfloat16", SMALL, pad_token_id=0, type_vocab_size=2, layer_norm_eps=1e-12)


def save_bert_pretraining_legacy():
    """What bert-base-uncased is on the Hub: `gamma` and `beta` in the norms, and the two pre-training heads."""
    path = fresh("models/bert-pretraining-legacy")
    model = build(path.name, BertForPreTraining, BertConfig, **SMALL)
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("cls.predictions.decoder.")
    }
    write_tensors(path / "model.safetensors", tensors)
    write_config(
        path, "BertForPreTraining", "bert", None, SMALL, pad_token_id=0, type_vocab_size=2, layer_norm_eps=1e-12
    )


def save_roberta_mlm_f16():
    """What roberta-base is on the Hub: an `lm_head`, an unused pooler, a `position_ids` buffer, and no classifier."""
    path = fresh("models/roberta-mlm-f16")
    model = build(path.name, RobertaForMaskedLM, RobertaConfig, **ROBERTA)
    pooler = build(path.name + " pooler", RobertaModel, RobertaConfig, **ROBERTA).pooler
    tensors = {name: t for name, t in model.state_dict().items() if not name.startswith("lm_head.decoder.")}
    tensors |= {f"roberta.pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    tensors["roberta.embeddings.position_ids"] = torch.arange(ROBERTA["max_position_embeddings"])[None]
    write_tensors(path / "model.safetensors", tensors)
    write_config(path, "RobertaForMaskedLM", "roberta", "float16", ROBERTA)


def write_config(path, architecture, model_type, torch_dtype, sizes, **more):
    """A config.json of the Transformers 4 kind: `torch_dtype`, `_name_or_path`, `position_embedding_type`."""
    config = dict(
        _name_or_path=f"someone/{path.name}",
        architectures=[architecture],
        attention_probs_dropout_prob=0.1,
        gradient_checkpointing=False,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        initializer_range=0.02,
        model_type=model_type,
        position_embedding_type="absolute",
        transformers_version="4.8.2",
        use_cache=True,
    )
    if torch_dtype:
        config["torch_dtype"] = torch_dtype
    (path / "config.json").write_text(json.dumps(config | sizes | more, indent=2, sort_keys=True) + "\n")
