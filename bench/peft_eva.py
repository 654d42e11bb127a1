"""EVA's ranks and directions as PEFT finds them, beside those that `lowrank train` begins with.

    lowrank train --model DIR --task sst2 --train train.tsv --output OUT --limit 3200 --max-steps 1 --dtype f32 \
        --set lora.init_lora_weights=eva --set train.warmup_steps=5
    python bench/peft_eva.py --model DIR --train train.tsv --adapter OUT

The warm-up begins at 0, so that after one step `A` is what it began as.
"""

import argparse

import torch
from peft import EvaConfig, LoraConfig, get_eva_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main():
    parser = argparse.ArgumentParser()
    for name in ["model", "train", "adapter"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, default=3200)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2).eval()
    with open(arguments.train, encoding="utf-8") as file:
        texts = [line.rstrip("\n").split("\t")[0] for line in file][1 : arguments.limit + 1]
    batches = [
        dict(tokenizer(texts[at : at + 32], return_tensors="pt", padding=True, truncation=True, max_length=128))
        for at in range(0, len(texts), 32)
    ]
    eva = EvaConfig(rho=2.0, tau=0.99, use_label_mask=False)
    config = LoraConfig(r=8, target_modules=["query", "value"], init_lora_weights="eva", eva_config=eva)
    theirs = get_eva_state_dict(model, batches, config, show_progress_bar=False)
    ours = load_file(f"{arguments.adapter}/adapter_model.safetensors")
    for key, directions in sorted(theirs.items()):
        name = key.removesuffix(".weight")
        found = ours.get(f"base_model.model.{name}.lora_A.weight")
        if found is None:
            print(f"{name}: rank {len(directions)} and none")
            continue
        spans = [torch.linalg.qr(rows.float().T).Q for rows in (directions, found)]
        shared = (spans[0].T @ spans[1]).square().sum() / min(len(directions), len(found))
        print(f"{name}: ranks {len(directions)} and {len(found)}, shared {shared:.3f}")


if __name__ == "__main__":
    main()
