"""fixtures/training: runs of a dozen steps, and the learning rates of whole schedules.

All runs start from `start/` and see the batches of `inputs.safetensors`; dropout is 0 everywhere.
"""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from cases import batch, load_base, perturb, plain, save_adapter
from common import fresh, seed, write_json, write_tensors

MODEL = "bert-no-dropout"
LENGTHS = [(9, 4, 6, 2), (7, 7, 3, 5), (12, 1, 8, 8), (5, 10)]  # of the batches, in turn
SCHEDULES = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}
RUN = dict(steps=12, warmup_steps=3, learning_rate=0.02, weight_decay=0.01, max_grad_norm=1.0)


def make():
    path = fresh("training")
    seed("training")
    base = load_base(MODEL)
    batches = [batch(f"training {step}", base.config, LENGTHS[step % len(LENGTHS)]) for step in range(RUN["steps"])]
    write_tensors(path / "inputs.safetensors", {f"step{i}.{k}": t for i, b in enumerate(batches) for k, t in b.items()})
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, target_modules=["query", "value"])
    model = get_peft_model(base, config)
    perturb(model)
    save_adapter(model, path / "start")
    for schedule in "linear", "cosine":
        train(path, schedule, schedule, batches)
    # PEFT decays no biases under LoRA+.
    train(path, "loraplus", "linear", batches, loraplus_lr_ratio=4.0, weight_decay=0.0)
    write_json(path / "schedules.json", [table(name, warmup) for name in SCHEDULES for warmup in (0, 3)], depth=1)


def train(path, name, schedule, batches, **changes):
    run = RUN | changes
    model = PeftModel.from_pretrained(load_base(MODEL), path / "start", is_trainable=True).train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    options = dict(lr=run["learning_rate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=run["weight_decay"])
    if "loraplus_lr_ratio" in run:
        ratio = run["loraplus_lr_ratio"]
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, loraplus_lr_ratio=ratio, **options)
    else:
        optimizer = torch.optim.AdamW(trainable.values(), **options)
    scheduler = SCHEDULES[schedule](optimizer, run["warmup_steps"], run["steps"])
    log = []
    for inputs in batches:
        loss = model(**inputs).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable.values(), run["max_grad_norm"])
        log.append({"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": scheduler.get_last_lr()[0]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    write_tensors(path / f"{name}.safetensors", {plain(key): p for key, p in trainable.items()})
    write_json(path / f"{name}.json", {"model": MODEL, "lr_schedule": schedule} | run | {"log": log})


def table(name, warmup, total=20, learning_rate=0.001):
    """The learning rate that each of `total` steps uses."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    scheduler = SCHEDULES[name](optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return {
        "lr_schedule": name,
        "warmup_steps": warmup,
        "steps": total,
        "learning_rate": learning_rate,
        "learning_rates": rates,
    }
