"""Embeddings evaluated on labelled pairs, against plain transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification

from pipeline.errors import CorpusError
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.tasks.base import Evaluation
from tests.tiny import make_bundle, make_rows, tiny_config
from tests.unit.inference.bundles import write
from tests.unit.tasks.searching import slow_metrics

LEFT = make_rows(40, 1)["text"].to_pylist()
RIGHT = make_rows(40, 2)["text"].to_pylist()
LEFT[7:10] = LEFT[:3]
RIGHT[20:23] = RIGHT[4:7]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "bundle", "embedding")
    return tmp_path / "bundle"


def evaluate(bundle: Path, rows: pa.Table, label: str | None = None, **corpus: Any) -> Evaluation:
    (bundle.parent / "rows").mkdir(exist_ok=True)
    pq.write_table(rows, bundle.parent / "rows" / "a.parquet", row_group_size=8)
    raw = {
        "bundle": str(bundle),
        "corpus": {"uri": str(bundle.parent / "rows"), **corpus},
        "label": label,
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    return evaluate_alone(prepare_evaluation(EvaluateSpec.model_validate(raw)), num_threads=1)


def embed(bundle: Path, texts: list[str]) -> np.ndarray:
    tokenizer, encoder = AutoTokenizer.from_pretrained(bundle), AutoModel.from_pretrained(bundle).eval()
    with torch.no_grad():
        inputs = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in texts]
        return np.stack([encoder(**one)[0][0].mean(dim=0).numpy() for one in inputs])


def searched(bundle: Path, left: list[str], right: list[str]) -> dict[str, float]:
    queries, documents = sorted(set(left)), sorted(set(right))
    relevant = [{documents.index(b): 1.0 for a, b in zip(left, right, strict=True) if a == one} for one in queries]
    return slow_metrics(embed(bundle, queries), embed(bundle, documents), relevant)


@pytest.mark.parametrize("shard_rows", [8, 1_000])
def test_pairs_without_scores_are_a_search(bundle: Path, shard_rows: int) -> None:
    found = evaluate(bundle, pa.table({"text_a": LEFT, "text_b": RIGHT}), shard_rows=shard_rows)
    assert found.num_rows == 40
    assert found.metrics == pytest.approx(searched(bundle, LEFT, RIGHT), abs=1e-6)
    assert 0 < found.metrics["recall@10"] < 1


@pytest.mark.parametrize("shard_rows", [8, 1_000])
def test_pairs_with_scores_are_ordered(bundle: Path, shard_rows: int) -> None:
    truth = np.random.default_rng(0).random(40)
    rows = pa.table({"text_a": LEFT, "text_b": RIGHT, "how_near": truth})
    found = evaluate(bundle, rows, label="how_near", shard_rows=shard_rows)
    left, right = embed(bundle, LEFT), embed(bundle, RIGHT)
    cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert found.num_rows == 40
    assert found.metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, cosines).statistic, abs=1e-6)
    assert found.metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, cosines).statistic, abs=1e-5)


def test_columns_go_by_the_names_in_the_spec(bundle: Path) -> None:
    rows = pa.table({"question": LEFT, "answer": RIGHT})
    found = evaluate(bundle, rows, inputs={"text_a": "question", "text_b": "answer"})
    assert found.metrics == pytest.approx(searched(bundle, LEFT, RIGHT), abs=1e-6)


def test_rows_without_one_of_their_texts_are_left_out(bundle: Path) -> None:
    left: list[str | None] = [None if row in (3, 5) else text for row, text in enumerate(LEFT)]
    right = [" " if row in (5, 11) else text for row, text in enumerate(RIGHT)]
    kept = [row for row in range(40) if row not in (3, 5, 11)]
    rows = pa.table({"text_a": left, "text_b": right})
    found = evaluate(bundle, rows, max_bad_fraction=0.1)
    assert found.num_rows == 37
    expected = searched(bundle, [LEFT[row] for row in kept], [RIGHT[row] for row in kept])
    assert found.metrics == pytest.approx(expected, abs=1e-6)
    with pytest.raises(CorpusError, match="3 of 40 rows have no usable text") as caught:
        evaluate(bundle, rows, max_bad_fraction=0.05)
    for row, reason in ((3, "text is null"), (5, "text is null"), (11, "text is blank")):
        assert f"a.parquet row {row}: {reason}" in caught.value.message


@pytest.mark.parametrize("label", [None, "score"])
def test_a_shard_without_usable_rows_adds_nothing(bundle: Path, label: str | None) -> None:
    left: list[str | None] = [*LEFT[:8], *[None] * 8, *LEFT[16:]]
    rows = pa.table({"text_a": left, "text_b": RIGHT, "score": np.arange(40.0)})
    whole = evaluate(bundle, rows, label, max_bad_fraction=0.5)
    parts = evaluate(bundle, rows, label, max_bad_fraction=0.5, shard_rows=8)
    assert whole.num_rows == parts.num_rows == 32
    assert parts.metrics == pytest.approx(whole.metrics, abs=1e-6)


def test_no_usable_pair_at_all_is_an_error(bundle: Path) -> None:
    rows = pa.table({"text_a": pa.array([None, None], pa.string()), "text_b": ["x", "y"]})
    with pytest.raises(CorpusError, match="2 of 2 rows have no usable text"):
        evaluate(bundle, rows, max_bad_fraction=1.0)


SPANS: Any = {"text": ["good"], "answer_start": [0]}


@pytest.mark.parametrize(
    ("task", "label", "reason"),
    [
        ("multi-label", "good", "expected lists: the names of a row's labels"),
        ("multi-label", 0.5, "expected lists: the names of a row's labels"),
        ("multi-label", [SPANS], "Unsupported cast"),
        ("text-classification", ["good"], "expected one label, text or a number"),
        ("similarity", [0.5], "Unsupported cast from list"),
        ("embedding", [0.5], "Unsupported cast from list"),
        ("question-answering", "good", "expected struct<text: list<string>"),
        ("question-answering", [SPANS], "expected struct<text: list<string>"),
    ],
)
def test_a_target_of_another_type_is_refused_before_ray(tmp_path: Path, task: str, label: Any, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"column 'told' is .*, of no use to task {task}: {reason}"):
        prepare_evaluation(_told(tmp_path, task, label))


@pytest.mark.parametrize("task", ["similarity", "embedding"])
def test_text_that_is_no_number_is_refused_where_it_is_read(tmp_path: Path, task: str) -> None:
    assert evaluate_alone(prepare_evaluation(_told(tmp_path, task, "0.5")), num_threads=1).num_rows == 2
    run = prepare_evaluation(_told(tmp_path, task, "high"))
    with pytest.raises(CorpusError, match=rf"column 'told' is string, of no use to task {task}: Failed to parse"):
        evaluate_alone(run, num_threads=1)


def _told(root: Path, task: str, label: Any) -> EvaluateSpec:
    """A bundle of a task, and two rows with that label in `told`."""
    if task in ("multi-label", "similarity"):
        labels, inputs = (("a", "b"), ("text",)) if task == "multi-label" else ((), ("text_a", "text_b"))
        network = BertForSequenceClassification(tiny_config(labels or ("x",))).eval()
        fields: Any = {
            "inputs": {name: name for name in inputs},
            "options": {} if labels else {"low": 0.0, "high": 1.0},
        }
        make_bundle(root / "told", labels, network=network, task=task, **fields)
    else:
        write(root / "told", task)
    texts = {name: ["good film", "bad film"] for name in ("text", "title", "text_a", "text_b")}
    pq.write_table(pa.table({**texts, "told": [label, label]}), root / "told.parquet")
    raw = {
        "bundle": str(root / "told"),
        "corpus": {"uri": str(root / "told.parquet")},
        "label": "told",
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    return EvaluateSpec.model_validate(raw)


def test_the_digest_is_of_which_rows_were_judged_however_they_are_cut(bundle: Path) -> None:
    whole = evaluate(bundle, pa.table({"text_a": LEFT, "text_b": RIGHT}))
    corpus = {"uri": str(bundle.parent / "rows"), "shard_rows": 8}
    spec = EvaluateSpec.model_validate({"bundle": str(bundle), "corpus": corpus, "compute": {"device": "cpu"}})
    run = prepare_evaluation(spec)
    assert len(run.shards) > 1
    assert evaluate_alone(replace(run, shards=run.shards[::-1]), num_threads=1).rows_digest == whole.rows_digest
    fewer = replace(run, shards=run.shards[1:])
    assert evaluate_alone(fewer, num_threads=1).rows_digest not in ("", whole.rows_digest)
