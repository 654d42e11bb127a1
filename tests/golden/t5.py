"""T5 and flan-T5: sequence to sequence, and generation."""

import json

import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from adapted import RAGGED, case, tokens, unmasked, write_generations, write_modules
from common import fresh, randomise, seed, write_tensors
from models import build, save

T5 = dict(
    vocab_size=61, d_model=22, d_kv=5, num_heads=3, d_ff=30, num_layers=2, num_decoder_layers=1,
    relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0,
)  # fmt: skip
FLAN = T5 | dict(num_layers=1, num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
TASK = "seq2seq-lm"
TARGETS = (4, 9, 1, 6)  # lengths of the targets of the sources of RAGGED
PROMPTS = [[9, 30, 12, 44, 7, 1], [21, 1], [50, 33, 8, 1]]
BEAMS = [
    {"num_beams": 1},
    {"num_beams": 3},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 2, "length_penalty": 0.6, "early_stopping": True},
]


def make():
    save("t5", T5ForConditionalGeneration, T5Config, **T5)
    save_t5_legacy()
    save_flan_t5()
    both("t5_query_value", "t5", r=4, lora_alpha=8, target_modules=["q", "v"])
    one("t5_all_linear", "t5", r=2, target_modules="all-linear")
    one("t5_left", "t5", padding="left", r=4, target_modules=["q", "v"])
    one("t5_decoder_input_ids", "t5", explicit=True, r=4, target_modules=["k", "o", "wi"])
    one("t5_single", "t5", (10,), (7,), r=4, target_modules=["q", "v"])
    one("t5_legacy", "t5-legacy", r=3, target_modules=["q", "v"])
    one("t5_cross_attention", "t5", r=3, target_modules=r"decoder\..*EncDecAttention\.(q|k|v|o)")
    one("t5_embeddings", "t5", r=2, target_modules=["q", "embed_tokens", "lm_head"])
    # Transformers 5.23 makes a cache of `num_layers`, and fails where the decoder has more of them.
    both("flan_t5_query_value", "flan-t5", use_cache=False, r=4, lora_alpha=8, target_modules=["q", "v"])
    one("flan_t5_all_linear", "flan-t5", r=2, target_modules="all-linear")
    some = [30, 12, 7, 0, 21, 15, 44, 18, 33, 9, 26]
    # Not of flan-t5: there PEFT puts these rows in the place of the separate head's as well, from the first step on.
    one("t5_tokens", "t5", r=2, target_modules=["q"], trainable_token_indices=some)
    one("flan_t5_dora", "flan-t5", r=2, target_modules=["q", "o", "wi_0"], use_dora=True)
    one("flan_t5_left", "flan-t5", padding="left", r=3, target_modules=["wi_0", "wi_1", "wo"])
    one("flan_t5_long", "flan-t5", (31, 3), (2, 28), r=2, target_modules=["q", "v"])
    one("flan_t5_saved_by_5", "flan-t5-saved-by-5", r=2, target_modules=["q", "v"], modules_to_save=["lm_head"])
    write_modules({"t5": ("t5", TASK), "flan-t5": ("flan-t5", TASK)})


def one(name, model, lengths=RAGGED, targets=TARGETS, padding="right", explicit=False, **options):
    def inputs(config):
        batch = tokens(name, config, lengths, padding)
        if batch["attention_mask"].all():
            batch = unmasked(batch)
        return batch | pairs(config, targets, explicit)

    return case(name, model, TASK, inputs, **options)


def both(name, model, use_cache=True, **options):
    """A case with what it generates."""
    adapted, path = one(name, model, **options)
    write_generations(path, model, TASK, adapted, PROMPTS, BEAMS, max_new_tokens=12, use_cache=use_cache)


def pairs(config, lengths, explicit):
    """Targets, ended by -100; the first of them has one inside, too, which the decoder reads as padding."""
    labels = torch.randint(5, config.vocab_size, (len(lengths), max(lengths)))
    labels[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = -100
    labels[0, 1] = -100
    if not explicit:
        return {"labels": labels}
    return {"labels": labels, "decoder_input_ids": torch.randint(5, config.vocab_size, labels.shape)}


def save_t5_legacy():
    """What t5-small is on the Hub: the embeddings three times over, and a bias that the model does not have."""
    path = fresh("models/t5-legacy")
    model = build(path.name, T5ForConditionalGeneration, T5Config, **T5)
    tensors = {name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    bias = tensors["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.randn_like(bias)
    write_tensors(path / "model.safetensors", tensors)
    write_config_of_4(path, T5)


def save_flan_t5():
    """A head of its own, under a configuration of Transformers 4, and as Transformers 5 saves that again."""
    path = fresh("models/flan-t5")
    model = build(path.name, T5ForConditionalGeneration, T5Config, **FLAN)
    seed("flan-t5 lm_head")
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    randomise(model.lm_head)
    tensors = {name: t for name, t in model.state_dict().items() if ".embed_tokens." not in name}
    write_tensors(path / "model.safetensors", tensors)
    write_config_of_4(path, FLAN)
    again = T5ForConditionalGeneration.from_pretrained(path)
    assert again.lm_head.weight is not again.shared.weight
    again.save_pretrained(fresh("models/flan-t5-saved-by-5"))
    config = json.loads(open("models/flan-t5-saved-by-5/config.json").read())
    assert config["tie_word_embeddings"] and not config["scale_decoder_outputs"]
    assert not torch.equal(*(load_file(path / "model.safetensors")[f"{n}.weight"] for n in ("shared", "lm_head")))


def write_config_of_4(path, sizes):
    config = dict(
        architectures=["T5ForConditionalGeneration"],
        dropout_rate=0.1,
        eos_token_id=1,
        initializer_factor=1.0,
        is_encoder_decoder=True,
        layer_norm_epsilon=1e-06,
        model_type="t5",
        n_positions=512,
        output_past=True,
        pad_token_id=0,
        torch_dtype="float32",
        transformers_version="4.23.1",
        use_cache=True,
    )
    (path / "config.json").write_text(json.dumps(config | sizes, indent=2, sort_keys=True) + "\n")
