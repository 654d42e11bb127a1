"""fixtures/initial: adapters that begin as a part of the base model's weights, as PEFT saves them both ways, and one that
begins along the directions of its layers' inputs.

Without a head: PEFT loses what is saved whole when it converts.
"""

import contextlib
import io

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.eva import SVDHook
from transformers import AutoModelForTokenClassification

from cases import QV, batch, check_reloaded, load_base, perturb, save_adapter
from common import fresh, seed, write_json, write_tensors

OPTIONS = {
    "pissa": dict(r=3, lora_alpha=5, target_modules=[*QV, "intermediate.dense"], init_lora_weights="pissa"),
    # PEFT converts these apart alone.
    "pissa_rslora": dict(r=3, target_modules=QV, init_lora_weights="pissa", use_rslora=True),
    "pissa_pattern": dict(r=3, target_modules=QV, init_lora_weights="pissa", rank_pattern={"value": 2}),
    "olora": dict(r=3, lora_alpha=5, target_modules=[*QV, "intermediate.dense"], init_lora_weights="olora"),
}


def make():
    for name, options in OPTIONS.items():
        one(name, **options)
    eva()


def one(name, **options):
    path = fresh(f"initial/{name}")
    base = load_base("bert")
    inputs = batch(f"initial {name}", base.config, (11, 2, 7, 5))
    plain = base.eval()(**inputs).logits
    seed(name)
    model = get_peft_model(base, LoraConfig(**options))
    assert torch.allclose(model.eval()(**inputs).logits, plain, atol=1e-5)
    start = {key: value.clone() for key, value in model.state_dict().items() if ".lora_" in key}
    # What PEFT asks for: the beginning, under a configuration that does not change the base model again.
    model.peft_config["default"].init_lora_weights = True
    with contextlib.redirect_stdout(io.StringIO()):
        model.save_pretrained("initial/beginning")
    model.peft_config["default"].init_lora_weights = options["init_lora_weights"]
    perturb(model)
    logits = model.eval()(**inputs).logits
    save_adapter(model, path / "as_it_is")
    model.save_pretrained(path / "plain", path_initial_model_for_weight_conversion="initial/beginning")
    (path / "plain" / "README.md").unlink()
    fresh("initial/beginning").rmdir()
    check_reloaded(path / "plain", load_base("bert"), inputs, type("Output", (), {"logits": logits})())
    again = PeftModel.from_pretrained(load_base("bert"), path / "as_it_is").eval()(**inputs)
    assert torch.allclose(again.logits, logits, atol=1e-5), path
    write_tensors(path / "inputs.safetensors", inputs)
    start = {key.replace(".default", ""): value for key, value in start.items()}
    write_tensors(path / "expected.safetensors", {"logits": logits} | start)


def eva():
    """The beginning that PEFT finds in batches that it takes again and again, and which of these passes each layer saw.

    PEFT's decomposition is a random sketch of four times the rank, which here is as wide as most layers, and so is
    exact there. A head on tokens: of one on sequences, lowrank computes the first tokens alone above the last attention.
    """
    path = fresh("initial/eva")
    base = AutoModelForTokenClassification.from_pretrained("models/bert-token", dtype=torch.float32).eval()
    batches = [batch(f"eva {at}", base.config, (11, 2, 7, 5, 9, 12, 3, 8)) for at in range(2)]
    # Directions of random rows are nearly equal in strength: with more that differs, none would ever settle.
    ids = batches[0]["input_ids"].clone()
    ids[0, 1] = batches[1]["input_ids"][0, 1]
    batches[1]["input_ids"] = ids
    for at, inputs in enumerate(batches):
        del inputs["labels"]
        write_tensors(path / f"inputs_{at}.safetensors", inputs)
    targets = [*QV, "output.dense"]
    config = LoraConfig(r=9, lora_alpha=5, target_modules=targets, init_lora_weights="eva", eva_config=EvaConfig())
    seed("eva")
    model = get_peft_model(base, config)
    # PEFT looks at one batch first, to learn which layers read the same.
    passes, hooks, seen = [-2], {}, {}
    base.register_forward_pre_hook(lambda *_: passes.append(passes[-1] + 1))
    take = SVDHook.__call__

    def noted(hook, *arguments):
        name = hook.name.removeprefix("base_model.model.")
        hooks[name] = hook
        seen.setdefault(name, []).append(passes[-1])
        return take(hook, *arguments)

    SVDHook.__call__ = noted
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    SVDHook.__call__ = take
    seen |= {name.replace("query", "value"): at for name, at in seen.items() if "query" in name}
    # Ranks do not hang on rounding. The first layer of several that read the same gets what is left for one alone.
    of_layers = [hook for name, hook in hooks.items() for _ in range(1 + ("query" in name))]
    shares = [share for hook in of_layers for share in hook.svd.explained_variance_ratio_.tolist()]
    last = sorted(shares, reverse=True)[9 * len(seen) - 1]
    assert all(share == last or abs(share / last - 1) > 0.001 for share in shares)
    assert len(set(map(len, seen.values()))) > 1 and len(set(model.peft_config["default"].rank_pattern.values())) > 2
    save_adapter(model, path / "adapter")
    write_json(path / "case.json", {"passes_seen": seen})
