"""fixtures/metrics.json: predictions, labels, and the metrics of GLUE on them.

The formulas are those of scikit-learn and SciPy, whose values they were compared with. `null`: SciPy gives NaN.
"""

import zlib

import numpy as np

from common import write_json

CLASSES = {
    "mixed": ([0, 1, 1, 0, 1, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 1, 0, 1, 1, 0]),
    "perfect": ([0, 1, 1, 0, 1], [0, 1, 1, 0, 1]),
    "all_wrong": ([1, 0, 0, 1], [0, 1, 1, 0]),
    "constant_zero_predictions": ([0, 0, 0, 0, 0], [0, 1, 0, 1, 1]),
    "constant_one_predictions": ([1, 1, 1, 1], [0, 1, 0, 1]),
    "constant_labels": ([0, 1, 0, 1], [1, 1, 1, 1]),
    "no_positive_anywhere": ([0, 0, 0], [0, 0, 0]),
    "all_positive_everywhere": ([1, 1, 1], [1, 1, 1]),
    "one_example": ([1], [0]),
    "three_classes": ([0, 1, 2, 2, 1, 0, 2, 1, 0, 0, 2], [0, 2, 2, 1, 1, 0, 2, 0, 0, 1, 2]),
    "three_classes_one_unseen": ([0, 1, 1, 0, 0, 1], [0, 1, 2, 2, 0, 1]),
}
VALUES = {
    "linear": ([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]),
    "monotone": ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 8.0, 27.0, 64.0, 125.0]),
    "reversed": ([3.0, 2.0, 1.0], [0.5, 1.5, 4.0]),
    "ties": ([1.0, 2.0, 2.0, 3.0, 0.0, 2.0], [0.0, 2.5, 2.5, 5.0, 0.0, 1.25]),
    "large_offset": ([10000.001, 10000.004, 10000.002, 10000.009], [0.1, 0.3, 0.4, 0.9]),
    "two_examples": ([0.25, 0.75], [5.0, 1.0]),
    "constant_predictions": ([2.5, 2.5, 2.5], [1.0, 2.0, 3.0]),
    "constant_labels": ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]),
    "one_example": ([1.0], [2.0]),
}


def make():
    random = np.random.default_rng(zlib.crc32(b"metrics"))
    labels = random.integers(0, 2, 60)
    CLASSES["random"] = np.where(random.random(60) < 0.7, labels, 1 - labels).tolist(), labels.tolist()
    scores = np.round(random.uniform(0, 5, 60) * 5) / 5  # as STS-B's: many ties
    VALUES["random"] = np.round(scores + random.normal(0, 1, 60), 3).tolist(), scores.tolist()
    write_json(
        "metrics.json",
        {
            "classification": [entry(name, p, t, classification(p, t)) for name, (p, t) in CLASSES.items()],
            "regression": [entry(name, p, t, regression(p, t)) for name, (p, t) in VALUES.items()],
        },
    )


def entry(name, predictions, labels, values):
    return {"name": name, "predictions": predictions, "labels": labels} | values


def classification(predictions, labels):
    p, t = np.array(predictions), np.array(labels)
    values = {"accuracy": float(np.mean(p == t)), "matthews_correlation": matthews(p, t)}
    if max(*p, *t) <= 1:
        hits, wrong = int(np.sum((p == 1) & (t == 1))), int(np.sum(p != t))
        values["f1"] = 2 * hits / (2 * hits + wrong) if hits + wrong else 0.0
    return values


def matthews(p, t):
    """The correlation of two partitions (Gorodkin 2004); 0 where either is constant."""
    count, classes = len(p), range(max(*p, *t) + 1)
    predicted, true = (np.array([np.sum(v == c) for c in classes]) for v in (p, t))
    covariance = int(np.sum(p == t)) * count - int(predicted @ true)
    spread = int(count**2 - predicted @ predicted) * int(count**2 - true @ true)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


def regression(predictions, labels):
    return {"pearson": pearson(predictions, labels), "spearmanr": pearson(ranks(predictions), ranks(labels))}


def pearson(x, y):
    x, y = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
    spread = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / spread, -1, 1)) if spread else None


def ranks(values):
    """Ranks from 1; equal values share the mean of theirs."""
    values = np.array(values)
    return [float(np.sum(values < v) + (np.sum(values == v) + 1) / 2) for v in values]
