"""A case of any task: an adapter as PEFT saves it, a batch, and the outputs, loss and gradients that they give.

Outputs and losses are those of `lowrank forward`: zero at padded positions, and over real tokens only.
"""

import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from cases import perturb, plain, printed, save_adapter, unplain_keys
from common import add_modules, fresh, seed, write_json, write_tensors

AUTO = {
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "image-classification": AutoModelForImageClassification,
    "seq2seq-lm": AutoModelForSeq2SeqLM,
    "causal-lm": AutoModelForCausalLM,
}
PEFT_TASK = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "image-classification": None,  # PEFT has none: the recipe names the classifier in modules_to_save
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "causal-lm": "CAUSAL_LM",
}
RAGGED = (11, 2, 7, 5)  # lengths in tokens: one fills the batch, one is short


def load_base(model_name, task, num_labels=None):
    options = {"num_labels": num_labels} if num_labels else {}
    if model_name.startswith(("mixtral", "qwen2-moe", "qwen3-moe")):
        options["experts_implementation"] = "eager"  # PyTorch's products in groups know no f64
    seed(model_name)
    return AUTO[task].from_pretrained(f"models/{model_name}", dtype=torch.float32, **options)


def case(name, model_name, task, inputs, *, num_labels=None, facts=(), call=(), **options):
    """Makes an adapter on `model_name`, moves it off its start, saves it with PEFT and writes what it gives.

    `options` are LoraConfig's, `call` more arguments of the model, `facts` more of case.json. Returns the model and
    the case's folder.
    """
    path = fresh(f"cases/{name}")
    base = load_base(model_name, task, num_labels)
    inputs = inputs(base.config)
    seed(name)
    model = get_peft_model(base, LoraConfig(task_type=PEFT_TASK[task], **options))
    trainable_line = printed(model.print_trainable_parameters)
    perturb(model)
    save_adapter(model, path / "adapter")

    outputs, gradients = run(model, task, inputs, call)
    bf16 = bf16_errors(model, task, inputs, call, outputs, gradients)
    saved = load_file(path / "adapter" / "adapter_model.safetensors")
    aliases, ignored = unplain_keys(saved, gradients)
    own = base.state_dict()  # PEFT writes the base's own embeddings where they are targets
    assert all(torch.equal(saved[k], own[k.removeprefix("base_model.model.")]) for k in ignored if ".base_layer." in k)
    again = PeftModel.from_pretrained(load_base(model_name, task, num_labels), path / "adapter").eval()
    for key, tensor in forward(again, task, inputs, call).items():
        assert torch.allclose(tensor, outputs[key], atol=1e-6), (name, key)

    expected = outputs | {f"grad.{key}": g for key, g in gradients.items()}
    assert all(torch.isfinite(tensor).all() for tensor in expected.values()), name
    write_tensors(path / "inputs.safetensors", inputs)
    write_tensors(path / "expected.safetensors", expected)
    trainable, total = model.get_nb_trainable_parameters()
    adapted = {
        "peft_trainable_line": trainable_line,
        "trainable_params": trainable,
        "all_params": total,
        "targets": [n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")],
        "aliases": aliases,
        "ignored": ignored,
        "pytorch_bf16_error": bf16,
    }
    write_json(path / "case.json", case_facts(model_name, task, base, inputs) | dict(facts) | adapted)
    return model, path


def plain_case(name, model_name, task, inputs, *, facts=()):
    """A model alone: outputs and loss. Returns the outputs."""
    path = fresh(f"cases/{name}")
    model = load_base(model_name, task).eval()
    inputs = inputs(model.config)
    outputs = forward(model, task, inputs)
    write_tensors(path / "inputs.safetensors", inputs)
    write_tensors(path / "expected.safetensors", outputs)
    write_json(path / "case.json", case_facts(model_name, task, model, inputs) | dict(facts))
    return outputs


def case_facts(model_name, task, model, inputs):
    facts = {"model": model_name, "task": task}
    if task.endswith("classification"):
        facts["num_labels"] = model.config.num_labels
    if task != "image-classification":
        facts["padding"] = padding_of(inputs.get("attention_mask"))
    return facts


def padding_of(mask):
    if mask is None or mask.all():
        return "none"
    return "right" if mask[:, 0].all() else "left"


def forward(model, task, inputs, call=()):
    """The outputs under Transformers' names, and the loss: of the plain call with no more than `inputs`."""
    given = dict(inputs)
    if task == "question-answering":
        starts, ends = given.pop("start_positions"), given.pop("end_positions")
    elif task in ("token-classification", "causal-lm"):
        labels = given.pop("labels")
    # PEFT's own forward for spans loses token_type_ids on its way; the model that it wraps reads them.
    if task == "question-answering" and isinstance(model, PeftModel):
        model = model.base_model
    output = model(**given, **dict(call))
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]) if "input_ids" in inputs else None)
    if task == "question-answering":
        spans = {"start_logits": output.start_logits, "end_logits": output.end_logits}
        losses = [span_loss(logits, real, p) for logits, p in zip(spans.values(), (starts, ends))]
        return {name: logits * real for name, logits in spans.items()} | {"loss": sum(losses) / 2}
    if task == "token-classification":
        return {"logits": output.logits * real[..., None], "loss": mean_loss(output.logits, labels)}
    if task == "causal-lm":
        targets = torch.where((real[:, 1:] * real[:, :-1]).bool(), labels[:, 1:], -100)
        return {"logits": output.logits * real[..., None], "loss": mean_loss(output.logits[:, :-1], targets)}
    if task == "seq2seq-lm":
        real = inputs["labels"].ne(-100).flip(1).cumsum(1).flip(1).gt(0)  # up to the last label
        return {"logits": output.logits * real[..., None], "loss": output.loss}
    return {"logits": output.logits, "loss": output.loss}


def span_loss(logits, real, positions):
    """The softmax covers no padding; a position at or beyond the batch's width is no target."""
    masked = logits.masked_fill(~real.bool(), -torch.inf)
    return cross_entropy(masked, positions.clamp(0, logits.shape[1]), ignore_index=logits.shape[1])


def mean_loss(logits, labels):
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def run(model, task, inputs, call=()):
    """The outputs in evaluation mode, and the loss's gradient under the keys of the adapter file."""
    model.eval().zero_grad()
    outputs = forward(model, task, inputs, call)
    outputs["loss"].backward()
    return outputs, {plain(name): p.grad for name, p in model.named_parameters() if p.requires_grad}


def bf16_errors(model, task, inputs, call, outputs, gradients):
    """How far PyTorch's own bf16 autocast is from f32: relative L2 error of the outputs and of the whole gradient."""
    gradients = {key: g.clone() for key, g in gradients.items()}
    names = [name for name in outputs if name != "loss"]

    def rough():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, rough_gradients = run(model, task, inputs, call)
        return (
            relative([rough[name] for name in names], [outputs[name] for name in names]),
            relative([rough_gradients[key] for key in gradients], list(gradients.values())),
        )

    errors = [rough()]
    if task == "seq2seq-lm" or getattr(model.config, "num_experts", None):
        # One run tells little: T5 does not scale its scores (0.03 to 0.25 were seen of one case), and a row's experts are
        # others where their logits are near each other. The largest of many whose weights are moved by as much as rounding
        # moves them.
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.manual_seed(0)
        for _ in range(24):
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(kept[name] * (1 + (2 * torch.rand_like(p) - 1) * 2**-9))
            errors.append(rough())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(kept[name])
    return {what: max(error[place] for error in errors) for place, what in enumerate(["logits", "gradient"])}


def relative(rough, exact):
    off = sum((r.float() - e).square().sum() for r, e in zip(rough, exact))
    return round((off / sum(e.square().sum() for e in exact)).sqrt().item(), 4)


def tokens(name, config, lengths=RAGGED, padding="right"):
    """Random ids, padded with the model's padding token, and their mask."""
    seed(f"batch {name}")
    width = max(lengths)
    columns = torch.arange(width) if padding == "right" else torch.arange(width - 1, -1, -1)
    mask = (columns < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, config.vocab_size, (len(lengths), width))  # 0..4 are the special tokens
    return {"input_ids": torch.where(mask.bool(), ids, config.pad_token_id or 0), "attention_mask": mask}


def unmasked(inputs):
    assert inputs["attention_mask"].all()
    return {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}


def classes(inputs, config):
    """With a label for each sequence."""
    size = len(inputs["input_ids"])
    labels = 2 * torch.randn(size) if config.num_labels == 1 else (torch.arange(size) + 1) % config.num_labels
    return inputs | {"labels": labels}


def next_tokens(inputs, unlabelled=3):
    """With the tokens themselves as labels, but for padding and the first tokens of the first sequence."""
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    first = inputs["attention_mask"][0].argmax()
    labels[0, first : first + unlabelled] = -100
    return inputs | {"labels": labels}


def write_modules(found):
    """Adds to modules.json a model with the head of a task."""
    add_modules({key: load_base(model_name, task) for key, (model_name, task) in found.items()})


def write_generations(path, model_name, task, adapted, prompts, runs, *, max_new_tokens=10, use_cache=True):
    """generation.json: what the base model and the adapted one go on with, greedily or by beams.

    `eos_token_id` is chosen so that it ends some sequences and not all. Every prompt gives the same alone, and in f64.
    """
    models = {"base": load_base(model_name, task).eval(), "adapter": adapted.eval()}
    pad = models["base"].config.pad_token_id or 0
    for model in models.values():
        model.generation_config.eos_token_id = None
    options = dict(max_new_tokens=max_new_tokens, pad_token_id=pad, do_sample=False, use_cache=use_cache)

    def generate(model, prompts, **more):
        with torch.no_grad():
            return trimmed(model.generate(**padded(prompts, pad, task), **options | more), task, prompts, more)

    eos = ending_token(generate(models["adapter"], prompts))
    found = []
    for name in models:
        for more in runs:
            outputs = generate(models[name], prompts, eos_token_id=eos, **more)
            assert outputs == [generate(models[name], [p], eos_token_id=eos, **more)[0] for p in prompts], path
            found.append({"model": name} | more | {"outputs": outputs})
    exact = [generate(models[f["model"]].double(), prompts, eos_token_id=eos, **m) for f, m in zip(found, runs * 2)]
    assert exact == [f["outputs"] for f in found], f"{path}: rounding decides a token"
    facts = {"prompts": prompts, "max_new_tokens": max_new_tokens, "eos_token_id": eos, "pad_token_id": pad}
    write_json(path / "generation.json", facts | {"runs": found}, depth=3)


def padded(prompts, pad, task):
    """Decoders are padded on the left, the sources of an encoder-decoder on the right."""
    width = max(map(len, prompts))
    rows = [([pad] * (width - len(p)), p) for p in prompts]
    order = (lambda fill, p: p + fill) if task == "seq2seq-lm" else (lambda fill, p: fill + p)
    ids = [order(fill, p) for fill, p in rows]
    mask = [order([0] * len(fill), [1] * len(p)) for fill, p in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def trimmed(ids, task, prompts, more):
    """The new tokens alone, up to and with the first end-of-sequence token."""
    skip = 1 if task == "seq2seq-lm" else max(map(len, prompts))
    eos = more.get("eos_token_id")
    rows = [row[skip:] for row in ids.tolist()]
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def ending_token(outputs):
    """A token that ends some of these sequences in their middle, and not all of them."""
    for row in outputs:
        for token in row[2:-2]:
            if token not in row[:2] and 0 < sum(token in other for other in outputs) < len(outputs):
                return token
    raise AssertionError(f"no token ends some of {outputs}")


def renamed(key, pairs):
    for pattern, new in pairs:
        key = re.sub(pattern, new, key)
    return key
