"""fixtures/parquet: small files as pyarrow and Hugging Face's `datasets` write them, and rows.json, what is in them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common import fresh, write_json

SENTENCES = ["a film of quiet power", "", "it's \"bad\"\n, isn't it", "ein schönes Stück", "tab\there", "so so"] * 3
LABELS = [1, 0, 0, 1, 1, 0] * 3
SCORES = [3.8, 0.0, 5.0, 2.25, 1.0, 0.6] * 3


def make():
    path = fresh("parquet")
    features = {"sentence": {"dtype": "string", "_type": "Value"}, "label": class_label("negative", "positive")}
    table = pa.table({"sentence": SENTENCES, "label": LABELS, "idx": list(range(len(LABELS)))})
    write(path / "snappy.parquet", table, features, compression="snappy")
    write(path / "plain.parquet", table, features, compression="none", use_dictionary=False, row_group_size=5)
    write(path / "pages.parquet", table, features, compression="snappy", data_page_version="2.0", row_group_size=7)
    write(path / "brotli.parquet", table, features, compression="brotli")
    scores = pa.table({"sentence1": SENTENCES, "sentence2": SENTENCES[::-1], "label": pa.array(SCORES, pa.float32())})
    write(path / "scores.parquet", scores, {}, compression="snappy")
    nulls = pa.table({"text": ["a", None, "c"], "label": ["x", "y", None]})
    write(path / "nulls.parquet", nulls, {}, compression="snappy")
    write_json(path / "rows.json", {"sentences": SENTENCES, "labels": LABELS, "scores": SCORES}, depth=1)

    names = ["rgb_small.png", "grey.png", "photo.jpg", "rgba.png"]
    images = [{"bytes": (Path("images") / name).read_bytes(), "path": name} for name in names]
    features = {"img": {"_type": "Image"}, "label": class_label("ant", "bee", "cow")}
    write(path / "images.parquet", pa.table({"img": images, "label": [2, 0, 1, 2]}), features, compression="snappy")


def class_label(*names):
    return {"names": list(names), "_type": "ClassLabel"}


def write(path, table, features, **options):
    """With the note that `datasets` makes of its columns."""
    note = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pq.write_table(table.replace_schema_metadata(note), path, **options)
