"""What a cascade would give, from labelled rows; against both bundles asked by plain transformers, row by row."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from jobs.evaluation_printing import evaluation_as_json, print_evaluation
from pipeline.errors import CorpusError, SpecError
from pipeline.inference.cascade_trial import CascadeEvaluation, TrialJob, prepare_trial
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from tests.tiny import LABELS, make_rows
from tests.unit.inference.bundles import write

NUM_ROWS = 60


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """Labelled texts in two files, and two bundles that disagree about them."""
    write(tmp_path / "large", "text-classification")
    write(tmp_path / "small", "text-classification", encoder_seed=9)
    labels = np.random.default_rng(0).choice(LABELS, NUM_ROWS).tolist()
    rows = make_rows(NUM_ROWS, 3).drop_columns(["label"]).append_column("label", pa.array(labels))
    (tmp_path / "rows").mkdir()
    pq.write_table(rows.slice(0, 45), tmp_path / "rows" / "a.parquet", row_group_size=10)
    pq.write_table(rows.slice(45), tmp_path / "rows" / "b.parquet")
    return rows


def spec(root: Path, min_scores: list[float], **blocks: Any) -> EvaluateSpec:
    raw = {
        "bundle": str(root / "large"),
        "cascade": {"first": str(root / "small"), "min_scores": min_scores},
        "corpus": {"uri": str(root / "rows"), "shard_rows": 10},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    return EvaluateSpec.model_validate({**raw, **blocks})


def tried(spec: EvaluateSpec) -> CascadeEvaluation:
    """The trial, without Ray."""
    run = prepare_trial(spec)
    job: TrialJob = pickle.loads(pickle.dumps(run.job(num_threads=1)))  # as it goes to a worker
    worker = job.build()
    return run.conclude(pa.concat_tables([worker.process(shard) for shard in run.last.shards]))


def ask(bundle: Path, texts: list[str]) -> np.ndarray:
    """Each text's probabilities."""
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    network = AutoModelForSequenceClassification.from_pretrained(bundle).eval()
    with torch.no_grad():
        inputs = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in texts]
        return np.stack([network(**one).logits[0].softmax(dim=0).numpy() for one in inputs])


def test_each_level_has_the_answers_of_the_bundle_that_is_sure(tmp_path: Path, rows: pa.Table) -> None:
    texts, truth = rows["text"].to_pylist(), np.array([LABELS.index(label) for label in rows["label"].to_pylist()])
    small, large = (ask(tmp_path / name, texts) for name in ("small", "large"))
    scores = np.sort(small.max(axis=1))
    between = [float(scores[place : place + 2].mean()) for place in (14, 29, 49)]
    found = tried(spec(tmp_path, between))
    assert (small.argmax(axis=1) != large.argmax(axis=1)).any(), "the bundles must disagree"
    assert [level.min_score for level in found.levels] == [None, *reversed(between), 0.0]
    expected = [(0.0, large)]
    for level in [*reversed(between), 0.0]:
        is_kept = small.max(axis=1) >= level
        expected.append((float(is_kept.mean()), np.where(is_kept[:, None], small, large)))
    for level, (share, answers) in zip(found.levels, expected, strict=True):
        assert level.kept_share == pytest.approx(share)
        assert level.metrics["accuracy"] == pytest.approx((answers.argmax(axis=1) == truth).mean())
        loss = -np.log(answers[np.arange(len(truth)), truth]).mean()
        assert level.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert len({level.metrics["loss"] for level in found.levels}) == len(found.levels)


def test_the_ends_are_both_bundles_alone_and_time_grows_between(tmp_path: Path, rows: pa.Table) -> None:
    asked = spec(tmp_path, [0.4, 0.5, 0.6])
    found = tried(asked)
    large, small = (
        evaluate_alone(prepare_evaluation(asked.model_copy(update={"bundle": str(tmp_path / name)})), num_threads=1)
        for name in ("large", "small")
    )
    assert (found.num_rows, found.confusion.labels) == (NUM_ROWS, LABELS)
    assert found.metrics == pytest.approx(large.metrics)
    assert found.levels[0].metrics == pytest.approx(large.metrics)
    assert found.levels[-1].metrics == pytest.approx(small.metrics)
    assert found.levels[0].time_share == 1.0
    spent = [level.time_share for level in found.levels[1:]]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] > 0


def test_people_and_programs_read_every_level(
    tmp_path: Path, rows: pa.Table, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    found = tried(spec(tmp_path, [0.5]))
    print_evaluation(found, "60 rows")
    printed = capsys.readouterr().out
    for word in ("60 of 60 rows", "bundle alone", "share of the large one's time", "0.5", "100.0%", "macro_f1"):
        assert word in printed
    levels: Any = evaluation_as_json(found)["cascade"]
    assert [level["min_score"] for level in levels] == [None, 0.5, 0.0]
    assert levels[0]["metrics"] == found.metrics


def test_what_cannot_be_tried_says_why(tmp_path: Path, rows: pa.Table) -> None:
    write(tmp_path / "pairs", "pair-classification")
    with pytest.raises(SpecError, match=r"cascade\.first: pair-classification"):
        prepare_trial(spec(tmp_path, [0.5], cascade={"first": str(tmp_path / "pairs")}, corpus=_titled(tmp_path, rows)))
    named = {"uri": str(tmp_path / "rows"), "inputs": {"text": "text"}}  # an input that only one of the tasks has
    with pytest.raises(SpecError, match=r"c\.yaml: 1 problem\n- cascade\.first: pair-classification; "):
        prepare_trial(spec(tmp_path, [0.5], cascade={"first": str(tmp_path / "pairs")}, corpus=named), "c.yaml")
    write(tmp_path / "other", "text-classification", inputs={"text": "title"})
    with pytest.raises(SpecError, match=r"cascade\.first: reads title; expected what `bundle` reads, text"):
        prepare_trial(spec(tmp_path, [0.5], cascade={"first": str(tmp_path / "other")}, corpus=_titled(tmp_path, rows)))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        spec(tmp_path, [1.5])
    with pytest.raises(ValidationError, match="a cascade is tried on labelled rows"):
        spec(tmp_path, [0.5], corpus=None, retrieval={"queries": "q", "documents": "d", "relevance": "r"})
    unknown = rows.drop_columns(["label"]).append_column("label", pa.array(["?"] * NUM_ROWS))
    pq.write_table(unknown, tmp_path / "unknown.parquet")
    with pytest.raises(CorpusError, match="unknown to the bundle"):
        tried(spec(tmp_path, [0.5], corpus={"uri": str(tmp_path / "unknown.parquet")}))


def _titled(root: Path, rows: pa.Table) -> dict[str, str]:
    pq.write_table(rows.append_column("title", rows["text"]), root / "titled.parquet")
    return {"uri": str(root / "titled.parquet")}
