"""fixtures/initial: adapters that begin as a part of the base model's weights, as PEFT saves them both ways.

Without a head: PEFT loses what is saved whole when it converts.
"""

import contextlib
import io

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from cases import QV, batch, check_reloaded, load_base, perturb, save_adapter
from common import fresh, seed, write_tensors

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
