"""Bundles of three tasks on one encoder, trained on the spot: what the races over heads and whole nights score with.

Labels of texts are the sample's own. Tags and answers are made by rule, so that no other data is needed: numbers,
pronouns and capitalised words are tagged, and the answer to the only question is the longest word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import parse_spec
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage

CLASSIFICATION, TAGGING, ANSWERING = "text-classification", "token-classification", "question-answering"
QUESTION = "Which word is the longest?"
_TAGS = {
    "NUMBER": re.compile(r"\d+"),
    "PRONOUN": re.compile(r"\b(?:i|you|he|she|it|we|they)\b", re.IGNORECASE),
    "CAPITAL": re.compile(r"(?<=[a-z,] )[A-Z][a-z]+"),
}
_RECIPE = {"epochs": 1, "batch_rows": 32, "learning_rate": 2e-4}


@dataclass(frozen=True)
class BundleOrder:
    """What is to be trained.

    Attributes:
        encoder: A directory.
        texts: Strings [R].
        labels: Of any type [R].
        max_length: Tokens kept of each text.
        compute: Block of a spec.
        num_threads: Cores.
    """

    encoder: str
    texts: pa.ChunkedArray
    labels: pa.ChunkedArray
    max_length: int
    compute: Mapping[str, Any]
    num_threads: int


def train_bundles(order: BundleOrder, folder: Path) -> dict[str, Path]:
    """Train the three heads together and write a bundle of each below a local folder; task -> bundle."""
    names = {CLASSIFICATION: "labels", TAGGING: "tags", ANSWERING: "answers"}
    texts = order.texts.to_pylist()
    tables = {
        CLASSIFICATION: pa.table({"text": order.texts, "label": order.labels}),
        TAGGING: pa.table({"text": texts, "tags": [tag_spans(text) for text in texts]}),
        ANSWERING: pa.table(
            {"question": [QUESTION] * len(texts), "context": texts, "answers": [answer_of(text) for text in texts]}
        ),
    }
    heads = {}
    for task, table in tables.items():
        uri = str(folder / f"{names[task]}.parquet")
        write_parquet(table, uri, {}, Storage())
        heads[names[task]] = {"task": task, "data": {"train": uri}}
    raw = {
        "model": order.encoder,
        "heads": heads,
        "output": str(folder / "bundles"),
        "max_length": order.max_length,
        "stride": stride_of(order.max_length),
        "training": _RECIPE,
        "compute": order.compute,
    }
    source = "the benchmark's bundles"
    train_alone(prepare_training(parse_spec(raw, FinetuneSpec, source), source), order.num_threads)
    return {task: folder / "bundles" / name for task, name in names.items()}


def stride_of(max_length: int) -> int:
    """Tokens that windows of one long context share."""
    return max_length // 8


def tag_spans(text: str) -> list[dict[str, Any]]:
    """What is tagged in a text, in its order; of two kinds that meet, the first in the list above."""
    spans: list[dict[str, Any]] = []
    for label, pattern in _TAGS.items():
        for found in pattern.finditer(text):
            if all(found.end() <= span["start"] or found.start() >= span["end"] for span in spans):
                spans.append({"start": found.start(), "end": found.end(), "label": label})
    return sorted(spans, key=lambda span: int(span["start"]))


def answer_of(text: str) -> dict[str, list[Any]]:
    """The first of the longest words, as SQuAD writes an answer; none if there is no word."""
    words = list(re.finditer(r"\w+", text))
    if not words:
        return {"text": [], "answer_start": []}
    longest = max(words, key=lambda word: word.end() - word.start())
    return {"text": [longest.group()], "answer_start": [longest.start()]}
