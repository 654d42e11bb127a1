"""fixtures/cases: an adapter as PEFT saves it, a batch, and the logits, loss and gradients that they give."""

import contextlib
import io
import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from common import fresh, seed, write_json, write_tensors

QV = ["query", "value"]
RAGGED = (11, 2, 7, 5)  # lengths in tokens: one fills the batch, one is short
EMBEDDINGS = ["word_embeddings", "position_embeddings", "token_type_embeddings"]


def make():
    adapter_cases()
    checkpoint_cases()
    input_cases()
    for activation in "gelu-new", "relu", "silu":
        plain_case(f"bert_activation_{activation}", f"bert-{activation}")


def adapter_cases():
    case("bert_query_value", "bert", r=8, lora_alpha=16, target_modules=QV, lora_dropout=0.1)
    case("bert_target_list", "bert", r=3, target_modules=["query", "key", "value", "dense"])
    case("bert_all_linear", "bert", r=4, lora_alpha=7, target_modules="all-linear")
    case("bert_regex", "bert", r=2, target_modules=r".*layer\.1\..*(query|value)")
    exclude = ["pooler.dense", "0.attention.self.value"]
    case("bert_exclude_list", "bert", r=4, target_modules=[*QV, "dense"], exclude_modules=exclude)
    case("bert_exclude_regex", "bert", r=4, target_modules="all-linear", exclude_modules=r".*layer\.0\..*")
    case("bert_gaussian", "bert", r=6, target_modules=QV, init_lora_weights="gaussian")
    # Of patterns that overlap the first decides; PEFT sorts them when it saves, so these are sorted.
    ranks = {"attention.self.value": 2, r"layer\.1\.attention\.self\..*": 5, "query": 6}
    alphas = {"0.attention.self.value": 3}
    case("bert_rank_pattern", "bert", r=4, target_modules=[*QV, "dense"], rank_pattern=ranks, alpha_pattern=alphas | {"dense": 16})
    case("bert_rslora_pattern", "bert", r=4, target_modules=QV, use_rslora=True, rank_pattern=ranks, alpha_pattern=alphas)
    case("bert_layer_number", "bert", r=4, target_modules=QV, layers_to_transform=1)
    case("bert_layer_numbers", "bert", r=4, target_modules=QV, layers_to_transform=[0], layers_pattern="layer")
    case("bert_lora_bias", "bert", r=4, lora_alpha=6, target_modules=[*QV, "dense"], lora_bias=True)
    tokens = [30, 12, 7, 0, 21, 15, 44, 18, 33, 9, 26]
    case("bert_tokens", "bert", r=2, target_modules=QV, trainable_token_indices={"word_embeddings": tokens})
    case("bert_dora", "bert", r=4, lora_alpha=6, target_modules=QV, use_dora=True)
    case("bert_dora_all_linear", "bert", r=3, target_modules="all-linear", use_dora=True, use_rslora=True, rank_pattern=ranks)
    case("roberta_dora_random", "roberta", r=3, target_modules=["query", "dense"], use_dora=True, init_lora_weights=False, bias="lora_only")
    case("bert_switch_a", "bert", inputs="bert_switch", r=4, target_modules=QV)
    case("bert_switch_b", "bert", inputs="bert_switch", r=7, lora_alpha=3, target_modules=["key", "intermediate.dense"])
    case("bert_save_layer_norm", "bert", r=4, target_modules=QV, modules_to_save=["classifier", "LayerNorm"])
    case("bert_save_word_embeddings", "bert", r=4, target_modules=QV, modules_to_save=["word_embeddings"])
    case("bert_save_embeddings", "bert", r=4, target_modules=QV, modules_to_save=["bert.embeddings"])
    everything = dict(bias="all", modules_to_save=["LayerNorm", *EMBEDDINGS])
    case("bert_save_everything", "bert", r=4, target_modules=QV, **everything)
    case("bert_regression", "bert-regression", r=4, target_modules=QV)
    case("roberta_query_value", "roberta", r=8, lora_alpha=16, target_modules=QV)
    case("roberta_all_linear", "roberta", r=4, target_modules="all-linear")
    case("roberta_bias_lora_only", "roberta", r=4, target_modules=QV, bias="lora_only")
    case("roberta_bias_all", "roberta", r=4, target_modules=QV, bias="all")
    case("roberta_rslora", "roberta", r=5, lora_alpha=3, target_modules=QV, use_rslora=True)
    case("roberta_regression", "roberta-regression", r=4, target_modules=QV)
    case("xlm_roberta_query_value", "xlm-roberta", r=8, lora_alpha=16, target_modules=QV)


def checkpoint_cases():
    """Base models that have no classifier of their own: the adapter brings it, and its number of labels."""
    case("bert_bare_bf16_sharded", "bert-bare-bf16-sharded", num_labels=3, r=4, target_modules=QV)
    case("bert_pretraining_legacy", "bert-pretraining-legacy", r=4, target_modules=QV)
    # Without a pooler: Transformers draws one, which is worth nothing unless the adapter brings it.
    case("bert_mlm", "bert-mlm", r=4, target_modules=[*QV, "dense"], modules_to_save=["bert.pooler"])
    case("roberta_mlm_f16", "roberta-mlm-f16", r=4, target_modules=QV)


def input_cases():
    """Batches of other forms."""
    case("bert_no_padding", "bert", (9, 9, 9), r=4, target_modules=QV)
    case("bert_pair", "bert", (13, 6, 9), pair=True, r=4, target_modules=QV, modules_to_save=["token_type_embeddings"])
    case("bert_single", "bert", (10,), with_mask=False, r=4, target_modules=QV)
    case("bert_regression_single", "bert-regression", (8,), r=4, target_modules=QV)
    case("roberta_single", "roberta", (10,), with_mask=False, r=4, target_modules=QV)
    case("roberta_longest", "roberta", (38, 1), r=4, target_modules=QV)
    # A padding token that is attended to stops the count of positions, and has no gradient in PyTorch's embedding.
    case("roberta_pad_inside", "roberta", pad_inside=True, r=4, target_modules=QV, modules_to_save=EMBEDDINGS[:2])


def case(name, model_name, lengths=RAGGED, *, inputs=None, num_labels=None, **options):
    """Makes an adapter on `model_name`, moves it off its start, saves it with PEFT and writes what it gives.

    `options` are `batch`'s and LoraConfig's. Cases with the same `inputs` have the same batch.
    """
    path = fresh(f"cases/{name}")
    batch_options = {key: options.pop(key) for key in ("pair", "with_mask", "pad_inside") if key in options}
    base = load_base(model_name, num_labels)
    inputs = batch(inputs or name, base.config, lengths, **batch_options)
    seed(name)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **options))
    trainable_line = printed(model.print_trainable_parameters)
    perturb(model)
    save_adapter(model, path / "adapter")

    output, gradients = run(model, inputs)
    bf16 = bf16_errors(model, inputs, output, gradients)
    saved = load_file(path / "adapter" / "adapter_model.safetensors")
    aliases, ignored = unplain_keys(saved, gradients)
    check_reloaded(path / "adapter", load_base(model_name, num_labels), inputs, output)

    write_tensors(path / "inputs.safetensors", inputs)
    expected = {"logits": output.logits, "loss": output.loss}
    write_tensors(path / "expected.safetensors", expected | {f"grad.{key}": g for key, g in gradients.items()})
    trainable, total = model.get_nb_trainable_parameters()
    targets = [name.removeprefix("base_model.model.") for name, m in model.named_modules() if hasattr(m, "lora_A")]
    write_json(
        path / "case.json",
        {
            "model": model_name,
            "num_labels": base.config.num_labels,
            "peft_trainable_line": trainable_line,
            "trainable_params": trainable,
            "all_params": total,
            "targets": targets,
            "aliases": aliases,
            "ignored": ignored,
            "pytorch_bf16_error": bf16,
        },
    )


def plain_case(name, model_name):
    """A model alone: logits and loss."""
    path = fresh(f"cases/{name}")
    model = load_base(model_name)
    inputs = batch(name, model.config, RAGGED)
    output = model.eval()(**inputs)
    write_tensors(path / "inputs.safetensors", inputs)
    write_tensors(path / "expected.safetensors", {"logits": output.logits, "loss": output.loss})
    write_json(path / "case.json", {"model": model_name, "num_labels": model.config.num_labels})


def load_base(model_name, num_labels=None):
    options = {"num_labels": num_labels} if num_labels else {}
    seed(model_name)
    return AutoModelForSequenceClassification.from_pretrained(f"models/{model_name}", dtype=torch.float32, **options)


def batch(name, config, lengths, *, pair=False, with_mask=True, pad_inside=False):
    seed(f"batch {name}")
    size, width = len(lengths), max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, config.vocab_size, (size, width))  # 0..4 are the special tokens
    inputs = {"input_ids": torch.where(mask.bool(), ids, config.pad_token_id)}
    if pad_inside:
        inputs["input_ids"][0, 4] = config.pad_token_id
    if with_mask:
        inputs["attention_mask"] = mask
    if pair:
        second = torch.arange(width) >= torch.tensor([(2 * length) // 3 for length in lengths])[:, None]
        inputs["token_type_ids"] = second.long() * mask
    if config.num_labels == 1:
        inputs["labels"] = 2 * torch.randn(size)
    else:
        inputs["labels"] = (torch.arange(size) + 1) % config.num_labels
    return inputs


@torch.no_grad()
def perturb(model):
    """An adapter as training leaves it: B is not zero, and what is saved whole is not what the base holds."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))


def save_adapter(model, path):
    model.save_pretrained(path)
    (path / "README.md").unlink()


def run(model, inputs):
    """The output in evaluation mode, and the loss's gradient under the keys of the adapter file."""
    model.eval().zero_grad()
    output = model(**inputs)
    output.loss.backward()
    gradients = {plain(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    return output, gradients


def bf16_errors(model, inputs, output, gradients):
    """How far PyTorch's own bf16 autocast is from f32: relative L2 error of the logits and of the whole gradient."""
    gradients = {key: g.clone() for key, g in gradients.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rough_gradients = run(model, inputs)
    off = sum((rough_gradients[key].float() - g).square().sum() for key, g in gradients.items())
    whole = sum(g.square().sum() for g in gradients.values())
    logits = (rough.logits.float() - output.logits).norm() / output.logits.norm()
    return {"logits": round(logits.item(), 4), "gradient": round((off / whole).sqrt().item(), 4)}


def plain(name):
    """The key under which PEFT saves a trainable parameter: its name without the adapter's."""
    name = re.sub(r"\.modules_to_save\.default\.", ".", name).replace("_vector.default.weight", "_vector")
    return re.sub(r"\.default$", "", name.replace(".default.", "."))


def unplain_keys(saved, gradients):
    """The keys that PEFT writes besides the plain ones under bias="all": second names, and the base's own values."""
    extra = sorted(saved.keys() - gradients.keys())
    assert saved.keys() >= gradients.keys() and all(g is not None for g in gradients.values())
    aliases = {k: re.sub(r"\.modules_to_save(\.default)?\.", ".", k) for k in extra if ".modules_to_save." in k}
    assert all(torch.equal(saved[key], saved[same]) for key, same in aliases.items())
    ignored = [key for key in extra if ".original_module." in key or ".base_layer." in key]
    assert len(aliases) + len(ignored) == len(extra)
    return aliases, ignored


def check_reloaded(adapter, base, inputs, output):
    again = PeftModel.from_pretrained(base, adapter).eval()(**inputs)
    assert torch.allclose(again.logits, output.logits, atol=1e-6), adapter


def printed(function):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        function()
    return text.getvalue().strip()
