from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import parse_spec
from pipeline.errors import SeveralErrors, SpecError
from pipeline.studies.spec import SuiteSpec
from pipeline.studies.suite import PreparedSuite
from pipeline.studies.suite_report import write_suite
from tests.tiny import make_rows
from tests.unit.finetune.test_ready import save_trained
from tests.unit.studies.studying import make_suite, suite_raw, write_splits


@pytest.fixture(autouse=True)
def _splits(tmp_path: Path) -> None:
    write_splits(tmp_path, num_rows=120)
    pairs = {"text_a": ["good film", "bad"], "text_b": ["great film", "seven"], "score": [5.0, 1.0]}
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")


def bundle_run(directory: Path, encoder: Path) -> dict[str, Any]:
    block = {"model": str(encoder), "max_length": 32}
    return {"name": "as-is", "bundle": block, "test": {"uri": str(directory / "pairs.parquet"), "label": "score"}}


def fingerprints(suite: PreparedSuite) -> list[str]:
    return [cell.fingerprint for cell in suite.cells]


def test_a_training_is_a_cell_for_each_seed_and_a_bundle_is_one(tmp_path: Path, encoder_directory: Path) -> None:
    runs = [*suite_raw(tmp_path, encoder_directory)["runs"], bundle_run(tmp_path, encoder_directory)]
    suite = make_suite(tmp_path, encoder_directory, runs=runs)
    assert [cell.name for cell in suite.cells] == ["words seed 1", "words seed 2", "as-is"]
    assert len(set(fingerprints(suite))) == 3
    assert [run.metric for run in suite.runs] == ["macro_f1", "spearman"]
    assert [run.num_train_rows for run in suite.runs] == [120, None]
    assert not (tmp_path / "suite").exists()


def test_defaults_are_below_a_runs_own_fields(tmp_path: Path, encoder_directory: Path) -> None:
    (run,) = suite_raw(tmp_path, encoder_directory)["runs"]
    block = {**run["finetune"], "training": {"epochs": 2}, "max_length": 16}
    suite = make_suite(tmp_path, encoder_directory, runs=[{**run, "finetune": block}])
    spec = suite.cells[1].work.spec  # type: ignore[union-attr]
    assert (spec.max_length, spec.training.epochs, spec.training.learning_rate, spec.training.seed) == (16, 2, 2e-3, 2)
    assert spec.output == str(tmp_path / "suite" / "words" / "seed-2")


def test_pairs_without_a_score_are_a_search(tmp_path: Path, encoder_directory: Path) -> None:
    run = {**bundle_run(tmp_path, encoder_directory), "test": {"uri": str(tmp_path / "pairs.parquet")}}
    (prepared,) = make_suite(tmp_path, encoder_directory, runs=[run]).runs
    assert (prepared.metric, prepared.trivial) == ("ndcg@10", None)
    cell = prepared.cells[0]
    cell.run(num_threads=1)
    result = cell.store.read(cell.fingerprint)
    assert result is not None
    assert 0 < result.metrics[prepared.metric] <= 1
    with pytest.raises(SpecError, match="'spearman' is not one of its task's; expected one of: mrr@10, ndcg@10"):
        make_suite(tmp_path, encoder_directory, runs=[{**run, "metric": "spearman"}])


def test_a_checkpoint_with_a_head_is_measured_as_its_task(tmp_path: Path) -> None:
    labels = ("negative", "neutral", "positive")
    save_trained(tmp_path / "trained", "AutoModelForSequenceClassification", labels)
    block = {"model": str(tmp_path / "trained"), "task": "text-classification", "max_length": 32}
    run = {"name": "as-is", "bundle": block, "test": {"uri": str(tmp_path / "test.parquet")}}
    (prepared,) = make_suite(tmp_path, tmp_path, runs=[run]).runs
    assert (prepared.task, prepared.metric) == ("text-classification", "macro_f1")
    cell = prepared.cells[0]
    cell.run(num_threads=1)
    result = cell.store.read(cell.fingerprint)
    assert result is not None
    assert (result.num_test_rows, result.metrics.keys() >= {"macro_f1", "accuracy"}) == (30, True)
    with pytest.raises(SpecError, match=r"run as-is: 1 problem\n- task: 'masked-lm' has no head of its own"):
        make_suite(tmp_path, tmp_path, runs=[{**run, "bundle": {**block, "task": "masked-lm"}}])
    pairs = {**block, "task": "pair-classification", "long_text": "window", "stride": 4}
    with pytest.raises(SpecError, match=r"long_text: window, for the pairs of task pair-classification"):
        make_suite(tmp_path, tmp_path, runs=[{**run, "bundle": pairs}])


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"cpus_per_run": 2}, True),
        ({"output": "/elsewhere"}, True),
        ({"compute": {"precision": "bf16", "device": "cpu"}}, False),
    ],
)
def test_a_cell_is_done_again_when_what_decides_it_changes(
    changes: dict[str, Any], is_same: bool, tmp_path: Path, encoder_directory: Path
) -> None:
    before = fingerprints(make_suite(tmp_path, encoder_directory))
    after = fingerprints(make_suite(tmp_path, encoder_directory, **changes))
    assert (before == after) == is_same


def test_other_test_rows_are_other_cells(tmp_path: Path, encoder_directory: Path) -> None:
    before = fingerprints(make_suite(tmp_path, encoder_directory))
    pq.write_table(make_rows(33, 3), tmp_path / "test.parquet")
    assert not set(before) & set(fingerprints(make_suite(tmp_path, encoder_directory)))


def test_cells_train_measure_and_make_one_table(tmp_path: Path, encoder_directory: Path) -> None:
    (run,) = suite_raw(tmp_path, encoder_directory)["runs"]
    run = {**run, "metric": "accuracy", "reference": {"value": 0.9, "source": "a paper"}}
    runs = [run, bundle_run(tmp_path, encoder_directory)]
    suite = make_suite(tmp_path, encoder_directory, runs=runs)
    assert write_suite(suite) == ""
    first, _, as_is = suite.cells
    first.run(num_threads=1)
    as_is.run(num_threads=1)
    result = first.store.read(first.fingerprint)
    assert result is not None
    assert result.metrics["accuracy"] > 0.6  # chance is a third
    assert result.num_test_rows == 30
    assert result.train_s is not None
    assert result.train_s > 0
    assert result.tokens_per_s is not None
    assert result.tokens_per_s > 0

    text = write_suite(suite)
    words, embedding = [line.split("|") for line in text.splitlines() if line.startswith(("| words", "| as-is"))]
    assert [part.strip() for part in words[2:10]] == [
        "text-classification",
        "120",
        "30",
        "accuracy",
        f"{result.metrics['accuracy']:.3f}",
        "1",
        "0.333 (always negative)",
        "0.9",
    ]
    assert [part.strip() for part in embedding[3:5]] == ["-", "2"]
    assert "- words: a paper" in text
    assert "1 cells are missing" in text
    assert (tmp_path / "suite" / "suite.md").read_text() == text
    table = pq.read_table(tmp_path / "suite" / "suite.parquet").to_pylist()
    assert [(row["run"], row["seed"], row["value"]) for row in table] == [
        ("words", 1, result.metrics["accuracy"]),
        ("as-is", None, table[1]["value"]),
    ]
    assert dict(table[0]["metrics"]) == result.metrics


def test_a_bundle_that_is_there_is_measured_and_not_trained_again(tmp_path: Path, encoder_directory: Path) -> None:
    cell = make_suite(tmp_path, encoder_directory).cells[0]
    cell.run(num_threads=1)
    before = cell.store.read(cell.fingerprint)
    weights = tmp_path / "suite" / "words" / "seed-1" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    cell.run(num_threads=1)
    after = cell.store.read(cell.fingerprint)
    assert before is not None
    assert after is not None
    assert after.metrics == before.metrics
    assert (after.train_s, after.tokens_per_s) == (None, None)
    assert weights.stat().st_mtime_ns == written


def test_mistakes_of_all_runs_are_said_at_once_and_by_name(tmp_path: Path, encoder_directory: Path) -> None:
    (run,) = suite_raw(tmp_path, encoder_directory)["runs"]
    runs = [
        {**run, "name": "one", "finetune": {**run["finetune"], "epochs": 3}},
        {**run, "name": "two", "metric": "bleu"},
        {**run, "name": "three", "test": {"uri": str(tmp_path / "nowhere")}},
        {**bundle_run(tmp_path, encoder_directory), "name": "four", "bundle": {"model": str(tmp_path / "none")}},
        {**run, "name": "five", "finetune": {**run["finetune"], "output": "x", "training": {"seed": 1}}},
        {**run, "name": "six", "test": {**run["test"], "inputs": {"title": "text"}}},
        run,
    ]
    with pytest.raises(SeveralErrors, match="6 problems") as caught:
        make_suite(tmp_path, encoder_directory, runs=runs)
    said = str(caught.value)
    for words in (
        "run one: 1 problem\n- epochs: is not a known field",
        "run two: 1 problem\n- metric: 'bleu' is not one of its task's; expected one of: accuracy, macro_f1, mcc",
        "run three: ",
        "nowhere: nothing there",
        "run four: ",
        "none: no such directory",
        "run five: 2 problems\n- output: has no place in a study",
        "- training.seed: has no place in a study",
        "run six: 1 problem\n- test.inputs: 'title' is no input",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": {"model": "m"}}, "a run has either a finetune or a bundle block"),
        ({"finetune": None}, "a run has either a finetune or a bundle block"),
        ({"name": "a/b"}, "runs.0.name: holds 'a/b'"),
        ({"reference": {"value": 1}}, "runs.0.reference.source: is missing"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    raw = suite_raw(tmp_path, tmp_path)
    raw["runs"] = [{**raw["runs"][0], **changes}]
    with pytest.raises(SpecError, match=message):
        parse_spec(raw, SuiteSpec, "study.yaml")


def test_two_runs_of_one_name_and_doubled_seeds_are_refused(tmp_path: Path) -> None:
    raw = suite_raw(tmp_path, tmp_path, seeds=[3, 3])
    raw["runs"] *= 2
    with pytest.raises(SpecError, match=r"(?s)two runs are called words.*a seed stands there twice"):
        parse_spec(raw, SuiteSpec, "study.yaml")
