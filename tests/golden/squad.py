"""fixtures/squad.json: windows, answers and scores of SQuAD, as Transformers' examples and the official scripts have them.

What is made of the public data in ../shared is stored as counts, places and hashes only; questions with texts are made
up here. The rules are those of run_qa.py and utils_qa.py (Transformers) and of evaluate-v1.1.py and evaluate-v2.0.py.
"""

import collections
import json
import random
import re
import string

import numpy as np
from transformers import BertTokenizerFast

from common import write_json
from tokenization import SHARED, roberta_tokenizer

DATA = SHARED / "data/squad"
LENGTHS = [(384, 128), (96, 24)]

CONTEXTS = [
    "Hello world. The film is not bad, it works well; a movie off the pace! Well worked, the world hello.",
    "the the the a a movie film it's not 中中 é off bad bad well pace the work",
    "  two  spaces\tand é中é  work , the a off hello . hello world ? well the bad movie 's pace work ed ing s a the "
    "film film film off off a hello world not bad it's well",
    "bad",
]
QUESTIONS = ["  hello film ?", "the pace", "a bad movie ' s world", "not well"]
NORMALIZE = [
    "The  Cat", "a an the", "theatre and anthem", "A. An; THE!", "the-end", "the_end", "don't", "U.S.", "café — thé",
    "“the” quoted", "‘a’ b", "a\u00a0b the\u2003c", "tabs\tand\nlines\x1c\x1d\x1e\x1f\x85x", "\u200bthe\u200b", "İSTANBUL",
    "ΣΊΣΥΦΟΣ ΑΣ Σ", "STRASSE ß ẞ", "the\u0301 an\u0308 a\u093e", "①a ²the Ⅷan a٣", "the中 中the an中", "$1,000.50 (£5)",
    "1/2 ½ the", "", " ", "...", "the", "a'an", "\ufeffthe", "𝐀 𝒕𝒉𝒆 the", "x·the·y", "Ⓐthe ⓣ", "the\u200dan", "Ǆ Ǆthe",
]
PAIRS = [
    ("the cat sat", "cat"), ("a b b c", "b b b"), ("one two", "two one"), ("", ""), ("the", "an"), ("", "x"), ("x", ""),
    ("...", "the"), ("Denver Broncos", "denver broncos!"), ("a b c d", "c d e f g"), ("x y z", "x"), ("É", "é"),
]


def make():
    write_json(
        "squad.json",
        {
            "windows": [windows(*which, *lengths) for which in tokenizers() for lengths in LENGTHS],
            "answers": list(answers()),
            "normalize": [[text, normalize(text)] for text in NORMALIZE],
            "pairs": [
                {"expected": a, "predicted": b, "v1": [int(same(a, b)), f1(a, b)], "v2": list(score_v2([a], b))}
                for a, b in PAIRS
            ],
            "published": published(),
            "thresholds": thresholds(),
        },
        depth=3,
    )


def tokenizers():
    bert, roberta = SHARED / "data/tokenizers/bert-uncased", SHARED / "data/tokenizers/roberta-base"
    yield bert, BertTokenizerFast(str(bert / "vocab.txt"), do_lower_case=True)
    yield roberta, roberta_tokenizer(roberta)


# Windows


def windows(folder, tokenizer, max_length, stride):
    """The windows of some questions: the longest, those with odd characters, some others."""
    files = []
    for name in ("train-subset-v1.1.json", "dev-v2.0.json"):
        questions = list(read(DATA / name))
        chosen = set(random.Random(name).sample(range(len(questions)), 14))
        chosen |= set(sorted(range(len(questions)), key=lambda row: -len(questions[row]["context"]))[:40:5])
        odd = [row for row, q in enumerate(questions) if any(ord(c) > 0xFFFF or "\u0300" < c < "\u036f" for c in q["context"])]
        chosen |= set(odd[:20:4])
        files.append({"file": f"data/squad/{name}", "questions": []})
        for row in sorted(chosen):
            made = [window(*each) for each in cut(tokenizer, questions[row], max_length, stride)]
            files[-1]["questions"].append([row, made])
    folder = str(folder.relative_to(SHARED))
    return {"tokenizer": folder, "max_length": max_length, "stride": stride, "files": files}


def window(ids, types, context, spans, answer):
    """Tokens, hashes of ids, types and spans, the context's begin and end, the answer's first and last token."""
    spans = [place for span in spans for place in span]
    return [len(ids), fnv(ids), fnv(types), *context, fnv(spans), *answer]


def cut(tokenizer, question, max_length, stride):
    output = tokenizer(
        question["question"].lstrip(),
        question["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    for number, ids in enumerate(output["input_ids"]):
        places = [place for place, part in enumerate(output.sequence_ids(number)) if part == 1]
        begin, end = places[0], places[-1] + 1
        spans = output["offset_mapping"][number][begin:end]
        cls = ids.index(tokenizer.cls_token_id)
        answer = locate(question["answers"], spans, begin, cls)
        yield ids, output["token_type_ids"][number], (begin, end), spans, answer


def locate(answers, spans, begin, cls):
    """As run_qa.py, but for one thing: a start in the last token of a window does not go on over the padding."""
    if not answers:
        return cls, cls
    start, end = answers[0]["answer_start"], answers[0]["answer_start"] + len(answers[0]["text"])
    if spans[0][0] > start or spans[-1][1] < end:
        return cls, cls
    first = max(place for place, span in enumerate(spans) if all(s[0] <= start for s in spans[: place + 1]))
    last = min(place for place, span in enumerate(spans) if all(s[1] >= end for s in spans[place:]))
    return begin + first, begin + last


def fnv(words):
    value = 0xCBF29CE484222325
    for word in words:
        value = (value ^ word) * 0x100000001B3 % 2**64
    return f"{value:016x}"


# Answers


def answers():
    """Made-up logits on made-up questions, with what utils_qa.py makes of them."""
    tokenizer = BertTokenizerFast("tokenizers/wordpiece-uncased/vocab.txt", do_lower_case=True)
    dice = np.random.default_rng(4)
    options = [
        {"max_length": 64, "stride": 8, "v2": False, "n_best": 20, "max_answer_length": 30, "threshold": 0.0},
        {"max_length": 24, "stride": 6, "v2": False, "n_best": 20, "max_answer_length": 4, "threshold": 0.0},
        {"max_length": 24, "stride": 6, "v2": True, "n_best": 20, "max_answer_length": 30, "threshold": 0.0},
        {"max_length": 24, "stride": 6, "v2": True, "n_best": 3, "max_answer_length": 30, "threshold": -1.5},
        {"max_length": 32, "stride": 9, "v2": True, "n_best": 4, "max_answer_length": 2, "threshold": 2.0},
        {"max_length": 32, "stride": 9, "v2": True, "n_best": 1, "max_answer_length": 1, "threshold": 0.0},
        {"max_length": 32, "stride": 9, "v2": False, "n_best": 1, "max_answer_length": 1, "threshold": 0.0},
    ]
    for option in options:
        questions = []
        for context in CONTEXTS:
            for text in QUESTIONS:
                question = {"question": text, "context": context, "answers": []}
                made = list(cut(tokenizer, question, option["max_length"], option["stride"]))
                logits = [np.round(dice.normal(size=(2, len(ids))) * 3, 3).astype(np.float32) for ids, *_ in made]
                for of_window in logits:  # so that no answer is the best one in about a half
                    of_window[:, 0] += np.float32(4.0)
                spans = [((begin, end), spans) for _, _, (begin, end), spans, _ in made]
                said = [[[round(float(v), 3) for v in row] for row in of_window] for of_window in logits]
                logits = [np.array(of_window, dtype=np.float32) for of_window in said]
                questions.append({"question": text, "context": context, "logits": said} | answer(context, spans, logits, option))
        yield {"options": option, "questions": questions}


def answer(context, windows, logits, option):
    found, null = [], None
    for ((begin, end), spans), (starts, ends) in zip(windows, logits):
        nothing = {"place": (0, 0), "start": starts[0], "end": ends[0], "score": starts[0] + ends[0]}
        if null is None or nothing["score"] < null["score"]:
            null = nothing
        best_ends = best(ends, option["n_best"])
        for first in best(starts, option["n_best"]):
            for last in best_ends:
                inside = begin <= first < end and begin <= last < end
                if inside and 0 <= last - first < option["max_answer_length"]:
                    place = spans[first - begin][0], spans[last - begin][1]
                    score = starts[first] + ends[last]
                    found.append({"place": place, "start": starts[first], "end": ends[last], "score": score})
    if option["v2"]:
        found.append(null)
    found = sorted(found, key=lambda one: one["score"], reverse=True)[: option["n_best"]]
    if option["v2"] and all(one["place"] != (0, 0) for one in found):
        found.append(null)
    for one in found:
        one["text"] = context[slice(*one["place"])]
    if not found or len(found) == 1 and found[0]["text"] == "":
        zero = np.float32(0.0)
        found.insert(0, {"text": "empty", "start": zero, "end": zero, "score": zero})
    weights = np.exp(np.array([one["score"] for one in found]) - max(one["score"] for one in found))
    n_best = [
        [one["text"], round(float(one["start"]), 3), round(float(one["end"]), 3), round(float(weight), 7)]
        for one, weight in zip(found, weights / weights.sum())
    ]
    if not option["v2"]:
        return {"text": found[0]["text"], "null_odds": None, "n_best": n_best}
    some = next(one for one in found if one["text"])
    odds = null["score"] - some["start"] - some["end"]
    text = "" if odds > option["threshold"] else some["text"]
    return {"text": text, "null_odds": float(odds), "n_best": n_best}


def best(logits, count):
    return np.argsort(logits, kind="stable")[::-1][:count].tolist()


# Scores


def normalize(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def same(expected, predicted):
    return normalize(expected) == normalize(predicted)


def f1(expected, predicted):
    expected, predicted = normalize(expected).split(), normalize(predicted).split()
    shared = sum((collections.Counter(expected) & collections.Counter(predicted)).values())
    if shared == 0:
        return 0
    precision, recall = shared / len(predicted), shared / len(expected)
    return (2 * precision * recall) / (precision + recall)


def score_v2(answers, predicted):
    answers = [text for text in answers if normalize(text)] or [""]

    def of_one(expected):
        if normalize(expected) and normalize(predicted):
            return f1(expected, predicted)
        return int(normalize(expected) == normalize(predicted))

    return max(int(same(text, predicted)) for text in answers), max(of_one(text) for text in answers)


def evaluate_v1(questions, predictions):
    exact = total = 0
    for question in questions:
        if question["id"] not in predictions:
            continue
        texts, predicted = [one["text"] for one in question["answers"]], predictions[question["id"]]
        exact += max(same(text, predicted) for text in texts)
        total += max(f1(text, predicted) for text in texts)
    missing = sum(question["id"] not in predictions for question in questions)
    return {"exact_match": 100.0 * exact / len(questions), "f1": 100.0 * total / len(questions), "missing": missing}


def evaluate_v2(questions, predictions, sure=None, threshold=1.0):
    raw = [score_v2([one["text"] for one in q["answers"]], predictions[q["id"]]) for q in questions]
    has = [bool(q["answers"]) for q in questions]
    scores = [
        (float(not some),) * 2 if sure and sure[row] > threshold else raw[row] for row, some in enumerate(has)
    ]

    def part(rows):
        rows = list(rows)
        return {key: 100.0 * sum(scores[row][i] for row in rows) / len(rows) for i, key in enumerate(("exact", "f1"))} | {
            "total": len(rows)
        }

    rows = range(len(questions))
    result = {"all": part(rows)}
    result["has_answer"] = part(row for row in rows if has[row])
    result["no_answer"] = part(row for row in rows if not has[row])
    if sure:
        for i, key in enumerate(("exact", "f1")):
            now = top = has.count(False)
            where = 0.0
            for row in sorted(rows, key=lambda row: sure[row]):
                now += raw[row][i] if has[row] else -bool(predictions[questions[row]["id"]])
                if now > top:
                    top, where = now, sure[row]
            result[f"best_{key}"], result[f"best_{key}_threshold"] = 100.0 * top / len(questions), where
    return result


def published():
    v1, v2 = list(read(DATA / "dev-v1.1.json")), list(read(DATA / "dev-v2.0.json"))
    result = {}
    for name in ("v1.1-bert-ensemble", "v1.1-logreg"):
        result[name] = evaluate_v1(v1, json.loads((DATA / f"preds/{name}.json").read_text()))
    name = "v2.0-bert-single"
    result[name] = evaluate_v2(v2, json.loads((DATA / f"preds/{name}.json").read_text()))
    return result


def thresholds():
    """Made-up probabilities that know something of the truth, on the published predictions."""
    questions = list(read(DATA / "dev-v2.0.json"))
    predictions = json.loads((DATA / "preds/v2.0-bert-single.json").read_text())
    sure = [row * 7919 % 997 / 997 * 0.7 + (0.0 if q["answers"] else 0.3) for row, q in enumerate(questions)]
    return [{"threshold": t} | evaluate_v2(questions, predictions, sure, t) for t in (1.0, 0.5, 0.25)]


def read(path):
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield question | {"context": paragraph["context"]}
