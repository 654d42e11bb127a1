"""SQuAD v1.1 with PyTorch + PEFT: the recipe of docs/tasks.md, to compare `lowrank train` with.

    python bench/peft_squad.py --model DIR --train train-v1.1.json --dev dev-v1.1.json --out OUT [--epochs 2] [--limit 2000]

Windows, positions and answers are those of Transformers' run_qa.py; batches are padded to their longest window, and
hold windows of like length, as Transformers' group_by_length has it. The model that PEFT wraps is called, because
PeftModelForQuestionAnswering drops token_type_ids on the way.
"""

import argparse
import collections
import json
import random
import re
import string
import time
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, get_linear_schedule_with_warmup


def read(path, limit=0):
    rows = []
    for article in json.load(open(path, encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                rows.append((qa["id"], qa["question"].lstrip(), paragraph["context"], qa["answers"]))
    return rows[:limit] if limit else rows


def windows(tokenizer, rows, max_length, stride):
    encoded = tokenizer(
        [row[1] for row in rows], [row[2] for row in rows], truncation="only_second", max_length=max_length,
        stride=stride, return_overflowing_tokens=True, return_offsets_mapping=True)
    examples = []
    for index, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        ids, offsets = encoded["input_ids"][index], encoded["offset_mapping"][index]
        sequence = encoded.sequence_ids(index)
        first = sequence.index(1)
        last = len(sequence) - 1 - sequence[::-1].index(1)
        answer = rows[sample][3][0]
        begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        start = stop = 0
        if offsets[first][0] <= begin and offsets[last][1] >= end:
            start, stop = first, last
            while start <= last and offsets[start][0] <= begin:
                start += 1
            while offsets[stop][1] >= end:
                stop -= 1
            start, stop = start - 1, stop + 1
        examples.append({
            "ids": ids, "types": encoded["token_type_ids"][index], "row": sample, "start": start, "stop": stop,
            "offsets": [place if part == 1 else None for place, part in zip(offsets, sequence)]})
    return examples


def batch(examples):
    longest = max(len(example["ids"]) for example in examples)
    pad = lambda key: torch.tensor([example[key] + [0] * (longest - len(example[key])) for example in examples])
    mask = torch.tensor([[1] * len(e["ids"]) + [0] * (longest - len(e["ids"])) for e in examples])
    return {"input_ids": pad("ids"), "token_type_ids": pad("types"), "attention_mask": mask}


def normalize(text):
    text = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def score(prediction, answers):
    def f1(one, other):
        one, other = normalize(one).split(), normalize(other).split()
        same = sum((collections.Counter(one) & collections.Counter(other)).values())
        return 2 * same / (len(one) + len(other)) if same else 0.0
    exact = max(float(normalize(prediction) == normalize(answer["text"])) for answer in answers)
    return exact, max(f1(prediction, answer["text"]) for answer in answers)


def grouped(examples, order, size):
    """A random order, sorted by length within each fifty batches; the batches are in random order again."""
    order.shuffle(examples)
    mega = [sorted(examples[at:at + 50 * size], key=lambda e: len(e["ids"])) for at in range(0, len(examples), 50 * size)]
    batches = [part[at:at + size] for part in mega for at in range(0, len(part), size)]
    order.shuffle(batches)
    return batches


@torch.no_grad()
def evaluate(model, rows, examples, size=64):
    model.eval()
    best = [(-1e9, "")] * len(rows)
    examples = sorted(examples, key=lambda example: len(example["ids"]))
    for at in range(0, len(examples), size):
        part = examples[at:at + size]
        output = model.base_model(**batch(part))
        for example, starts, ends in zip(part, output.start_logits.numpy(), output.end_logits.numpy()):
            length, context = len(example["ids"]), rows[example["row"]][2]
            starts, ends = starts[:length], ends[:length]
            for start in np.argsort(starts)[-1:-21:-1]:
                for end in np.argsort(ends)[-1:-21:-1]:
                    if end < start or end - start + 1 > 30 or None in (example["offsets"][start], example["offsets"][end]):
                        continue
                    value = float(starts[start] + ends[end])
                    if value > best[example["row"]][0]:
                        text = context[example["offsets"][start][0]:example["offsets"][end][1]]
                        best[example["row"]] = (value, text)
    scores = [score(text, row[3]) for row, (_, text) in zip(rows, best)]
    return 100 * np.mean([exact for exact, _ in scores]), 100 * np.mean([f1 for _, f1 in scores])


def main():
    parser = argparse.ArgumentParser()
    for name in ["model", "train", "dev", "out"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=2000, help="questions to evaluate on")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train_rows, dev_rows = read(arguments.train), read(arguments.dev, arguments.limit)
    train = windows(tokenizer, train_rows, 384, 128)
    dev = windows(tokenizer, dev_rows, 384, 128)
    config = LoraConfig(
        task_type=TaskType.QUESTION_ANS, r=arguments.rank, lora_alpha=2 * arguments.rank, lora_dropout=0.1,
        target_modules=["query", "key", "value", "dense"])
    model = get_peft_model(AutoModelForQuestionAnswering.from_pretrained(arguments.model), config)
    model.print_trainable_parameters()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.0)
    steps = arguments.epochs * -(-len(train) // arguments.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, -(-steps * 6 // 100), steps)
    print(f"{len(train)} training windows, {len(dev)} windows to evaluate on, {steps} steps", flush=True)
    order, begun, done, losses = random.Random(arguments.seed), time.time(), 0, []
    for _ in range(arguments.epochs):
        model.train()
        for part in grouped(train, order, arguments.batch_size):
            labels = {"start_positions": torch.tensor([example["start"] for example in part]),
                      "end_positions": torch.tensor([example["stop"] for example in part])}
            loss = model.base_model(**batch(part), **labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            done += 1
            if done % 25 == 0:
                print(f"step {done}/{steps} loss {np.mean(losses[-25:]):.4f} {time.time() - begun:.0f} s", flush=True)
    seconds = time.time() - begun
    exact, f1 = evaluate(model, dev_rows, dev)
    model.save_pretrained(arguments.out)
    result = {"exact_match": exact, "f1": f1, "train_loss": float(np.mean(losses[-100:])), "train_seconds": seconds}
    Path(arguments.out, "result.json").write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
