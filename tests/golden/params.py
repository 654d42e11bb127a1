"""fixtures/params.json: what `print_trainable_parameters` says of whole models, which PyTorch makes on no memory."""

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from adapted import AUTO, PEFT_TASK
from cases import printed
from common import write_json

SHARED = os.environ.get("LOWRANK_SHARED") or Path(__file__).resolve().parents[3] / "shared"
CONFIGS = Path(SHARED) / "peers" / "configs"
CASES = [
    ("flan-t5-xxl", "seq2seq-lm", dict(r=16, target_modules=["q", "v"])),
    ("flan-t5-base", "seq2seq-lm", dict(r=16, target_modules=["q", "v"])),
    ("flan-t5-base", "seq2seq-lm", dict(r=8, target_modules="all-linear")),
    ("vit-base", "image-classification", dict(r=4, target_modules=["query", "value"], modules_to_save=["classifier"])),
    ("vit-base", "image-classification", dict(r=4, target_modules=["query", "value"])),
    ("smollm-135m", "causal-lm", dict(r=8, target_modules=["q_proj", "v_proj"])),
    ("smollm-135m", "causal-lm", dict(r=8, target_modules="all-linear")),
    ("roberta-base", "sequence-classification", dict(r=8, target_modules=["query", "value"])),
    ("roberta-base", "token-classification", dict(r=8, target_modules=["query", "value"])),
    ("roberta-base", "question-answering", dict(r=8, target_modules=["query", "value"])),
]
NAMES_OF_5 = {"query": "q_proj", "value": "v_proj"}


def make():
    write_json("params.json", [entry(*case) for case in CASES])


def entry(name, task, options):
    """`config` is relative to the folder of configurations that is shared beside the repository."""
    file = CONFIGS / f"{name}.json"
    with torch.device("meta"):
        model = AUTO[task].from_config(AutoConfig.from_pretrained(file))
        if json.loads(file.read_text()).get("tie_word_embeddings") is False and model.config.tie_word_embeddings:
            # Transformers 5 ties T5's head unless a checkpoint holds another, as that of flan-T5 does.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        given = dict(options)
        if task == "image-classification":
            given["target_modules"] = [NAMES_OF_5[target] for target in options["target_modules"]]
        adapted = get_peft_model(model, LoraConfig(task_type=PEFT_TASK[task], **given))
    trainable, total = adapted.get_nb_trainable_parameters()
    line = printed(adapted.print_trainable_parameters)
    facts = {"config": f"{name}.json", "task": task} | options
    return facts | {"peft_trainable_line": line, "trainable_params": trainable, "all_params": total}
