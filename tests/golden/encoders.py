"""DistilBERT, and token classification and question answering on DistilBERT, BERT and RoBERTa."""

import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForTokenClassification,
)

from adapted import RAGGED, case, classes, tokens, unmasked, write_modules
from cases import EMBEDDINGS
from models import ROBERTA, SMALL, save

DISTILBERT = dict(vocab_size=79, dim=30, n_heads=3, n_layers=2, hidden_dim=46, max_position_embeddings=40)
SMALL_ROBERTA = ROBERTA | dict(vocab_size=59, hidden_size=28, num_attention_heads=2, intermediate_size=38)
QV = ["query", "value"]
DISTIL_QV = ["q_lin", "v_lin"]
SEQUENCE, TOKEN, SPAN = "sequence-classification", "token-classification", "question-answering"


def make():
    save("distilbert", DistilBertForSequenceClassification, DistilBertConfig, **DISTILBERT, num_labels=3)
    save("distilbert-mlm", DistilBertForMaskedLM, DistilBertConfig, **DISTILBERT | dict(activation="relu"))
    save("distilbert-qa", DistilBertForQuestionAnswering, DistilBertConfig, **DISTILBERT)
    save("bert-token", BertForTokenClassification, BertConfig, **SMALL, num_labels=5)
    save("bert-qa", BertForQuestionAnswering, BertConfig, **SMALL)
    save("roberta-token", RobertaForTokenClassification, RobertaConfig, **SMALL_ROBERTA, num_labels=5)
    save("roberta-qa", RobertaForQuestionAnswering, RobertaConfig, **SMALL_ROBERTA)
    sequence_cases()
    token_cases()
    span_cases()
    write_modules(
        {"distilbert": ("distilbert", SEQUENCE), "distilbert:token-classification": ("distilbert-mlm", TOKEN)}
        | {"distilbert-qa": ("distilbert-qa", SPAN), "bert-token": ("bert-token", TOKEN), "bert-qa": ("bert-qa", SPAN)}
        | {"roberta-token": ("roberta-token", TOKEN), "roberta-qa": ("roberta-qa", SPAN)}
    )


def sequence_cases():
    """Of whole sequences: right-padded only, as the first column is what the head reads."""

    def one(name, model, **options):
        case(name, model, SEQUENCE, lambda config: classes(tokens(name, config), config), **options)

    one("distilbert_query_value", "distilbert", r=4, lora_alpha=8, target_modules=DISTIL_QV)
    # PEFT takes `classifier` for `pre_classifier` too, saves it whole, and fails where it is also a target.
    all_linear = dict(target_modules="all-linear", exclude_modules=["pre_classifier"])
    one("distilbert_all_linear", "distilbert", r=3, **all_linear)
    one("distilbert_bias_all", "distilbert", r=2, target_modules=DISTIL_QV, bias="all")
    one("distilbert_mlm", "distilbert-mlm", num_labels=4, r=4, target_modules=DISTIL_QV)
    one("distilbert_regression", "distilbert-mlm", num_labels=1, r=2, target_modules=["lin1", "lin2"])
    one("bert_adapted_embeddings", "bert", r=3, target_modules=["value", *EMBEDDINGS])
    one("bert_dora_embeddings", "bert", r=3, target_modules=["value", *EMBEDDINGS], use_dora=True)
    one("roberta_adapted_embeddings", "roberta", r=3, target_modules=["value", *EMBEDDINGS[:2]])


def token_cases():
    def one(name, model, padding="right", lengths=RAGGED, **options):
        case(name, model, TOKEN, lambda config: token_labels(tokens(name, config, lengths, padding), config), **options)

    for padding in "right", "left":
        one(f"distilbert_token_{padding}", "distilbert-mlm", padding, num_labels=5, r=3, target_modules=DISTIL_QV)
        one(f"bert_token_{padding}", "bert-token", padding, r=3, target_modules=QV)
        one(f"roberta_token_{padding}", "roberta-token", padding, r=3, target_modules=QV)
    # Under "all-linear" PEFT knows the head of a whole sequence alone: it would adapt this one and fail to save it.
    all_linear = dict(target_modules="all-linear", exclude_modules=["classifier"])
    one("bert_token_all_linear", "bert-token", r=2, **all_linear)
    one("bert_token_bare_bf16", "bert-bare-bf16-sharded", num_labels=7, r=3, target_modules=[*QV, "dense"])


def span_cases():
    def one(name, model, padding="right", lengths=RAGGED, pair=False, mask=True, **options):
        def inputs(config):
            batch = span_positions(tokens(name, config, lengths, padding))
            if pair:
                second = torch.arange(max(lengths)) >= torch.tensor([length // 3 for length in lengths])[:, None]
                batch["token_type_ids"] = second.long() * batch["attention_mask"]
            return batch if mask else unmasked(batch)

        case(name, model, SPAN, inputs, **options)

    for padding in "right", "left":
        one(f"distilbert_qa_{padding}", "distilbert-qa", padding, r=3, target_modules=DISTIL_QV)
        one(f"bert_qa_{padding}", "bert-qa", padding, r=3, target_modules=QV)
        one(f"roberta_qa_{padding}", "roberta-qa", padding, r=3, target_modules=QV)
    all_linear = dict(target_modules="all-linear", exclude_modules=["qa_outputs"])
    one("bert_qa_pair", "bert-qa", pair=True, r=3, **all_linear)
    one("bert_qa_bare_bf16", "bert-bare-bf16-sharded", r=3, target_modules=QV, bias="lora_only")
    one("roberta_qa_mlm_f16", "roberta-mlm-f16", r=3, target_modules=[*QV, "dense"])
    one("distilbert_qa_mlm", "distilbert-mlm", lengths=(9, 9), mask=False, r=3, target_modules=DISTIL_QV)


def token_labels(inputs, config):
    """A label for each token, but none for padding, for the first token (a special one) and for a few others."""
    mask = inputs["attention_mask"].bool()
    labels = torch.randint(config.num_labels, mask.shape)
    labels[torch.rand(mask.shape) < 0.2] = -100
    labels[torch.arange(len(mask)), mask.int().argmax(1)] = -100
    labels[0, 3] = 1
    return inputs | {"labels": torch.where(mask, labels, -100)}


def span_positions(inputs):
    """Columns of real tokens; the second start and the third end lie beyond the batch, where nothing counts."""
    mask = inputs["attention_mask"]
    first, width = mask.argmax(1), mask.shape[1]
    starts = first + (torch.rand(len(mask)) * mask.sum(1)).long()
    ends = first + mask.sum(1) - 1 - (torch.rand(len(mask)) * 2).long().clamp(max=mask.sum(1) - 1)
    starts[1] = width
    ends[2:3] = width + 4
    return inputs | {"start_positions": starts, "end_positions": ends}
