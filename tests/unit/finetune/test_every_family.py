"""Every family on every task it supports: trained, bundled, loaded again and scored, with tiny random networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ComputeConfig, parse_spec
from pipeline.corpus.reader import input_column
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.predictor import load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.storage import Storage
from tests.unit.encoder.families import FAMILIES

WORDS = ("good", "bad")
NUM_ROWS = 24


def rows() -> pa.Table:
    """Rows for every task; what is to be learned is which word stands in the text."""
    chosen = [WORDS[number % 2] for number in range(NUM_ROWS)]
    texts = [f"the film was {word}" for word in chosen]
    answers = [{"text": [word], "answer_start": [text.index(word)]} for word, text in zip(chosen, texts, strict=True)]
    return pa.table(
        {
            "text": texts,
            "other": [f"{word} film" for word in chosen],
            "question": ["was the film"] * NUM_ROWS,
            "label": chosen,
            "labels": [[word] for word in chosen],
            "score": [float(word == "good") for word in chosen],
            "tokens": [text.split() for text in texts],
            "tags": [["O", "B-film", "O", f"B-{word}"] for word in chosen],
            "answers": answers,
        }
    )


HEADS: dict[str, dict[str, Any]] = {
    "tone": {"task": "text-classification"},
    "pair": {"task": "pair-classification", "inputs": {"text_a": "text", "text_b": "other"}},
    "many": {"task": "multi-label"},
    "alike": {"task": "similarity", "inputs": {"text_a": "text", "text_b": "other"}},
    "tags": {"task": "token-classification", "inputs": {"text": "tokens"}},
    "asked": {"task": "question-answering", "inputs": {"context": "text"}},
    "near": {"task": "embedding", "inputs": {"text_a": "text", "text_b": "other"}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_and_scored_on_every_task(family: str, tmp_path: Path) -> None:
    FAMILIES[family].network("AutoModel").save_pretrained(tmp_path / "encoder")
    FAMILIES[family].tokenizer().save_pretrained(tmp_path / "encoder")
    pq.write_table(rows(), tmp_path / "rows.parquet")
    data = {"train": str(tmp_path / "rows.parquet"), "validation": str(tmp_path / "rows.parquet")}
    raw = {
        "model": str(tmp_path / "encoder"),
        "output": str(tmp_path / "bundles"),
        "heads": {
            name: {"task": head["task"], "data": {**data, "inputs": head.get("inputs", {})}}
            for name, head in HEADS.items()
        },
        "max_length": 24,
        "stride": 4,
        "training": {"epochs": 2, "batch_rows": 32, "learning_rate": 5e-3},
        "compute": {"precision": "fp32", "device": "cpu"},
    }
    infos = train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)
    assert infos.keys() == HEADS.keys()
    assert all(np.isfinite(list(info.metrics.values())).all() for info in infos.values())
    table = rows()
    for name, info in infos.items():
        source = TextSource(tuple(info.inputs[key] for key in info.inputs), are_words=name == "tags")
        uri, compute = {"": str(tmp_path / "bundles" / name)}, ComputeConfig(precision="fp32", device="cpu")
        predictor = load_predictor(ModelSource(uri, {"": source}, compute, 1, Storage()))
        member = predictor.members[""]
        found = predictor.predict(as_read(table, source), {"": source})[""]
        assert found.outputs.finite.all()
        columns = member.task.decode(found.outputs, found.examples, member.learned)
        fields = member.task.output_fields()
        assert [(len(column), column.type) for column in columns] == [(NUM_ROWS, field.type) for field in fields]
        assert found.outputs.embeddings.shape == (NUM_ROWS, 32)


def as_read(table: pa.Table, source: TextSource) -> pa.Table:
    """Texts as `read_shard` gives them: lists of words joined by spaces."""
    columns = {}
    for name in source.columns:
        values = table[name].to_pylist()
        joined = [" ".join(value) if isinstance(value, list) else value for value in values]
        columns[input_column(name)] = pa.chunked_array([pa.array(joined, pa.large_string())])
    return pa.table(columns)
