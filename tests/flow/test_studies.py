"""Studies as Ray tasks on both stores: every cell, one that fails, and what a second run has left to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cells import run_cells
from pipeline.config import PoolOptions, parse_spec
from pipeline.storage import Storage
from pipeline.studies.curve import prepare_curve
from pipeline.studies.curve_report import write_curve
from pipeline.studies.spec import CurveSpec, SuiteSpec
from pipeline.studies.suite_checks import prepare_suite
from pipeline.studies.suite_report import write_suite
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.tiny import make_encoder, make_rows

POOL = PoolOptions(num_workers=1, cpus_per_worker=2, gpus_per_worker=0)
COMPUTE = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def write_splits(root_uri: str) -> None:
    helpers.write_table(make_rows(60, 1), join_uri(root_uri, "data", "train.parquet"))
    helpers.write_table(make_rows(30, 2), join_uri(root_uri, "data", "test.parquet"))


def read_table(uri: str) -> pa.Table:
    filesystem, path = Storage().open_arrow(uri)
    return pq.read_table(path, filesystem=filesystem, partitioning=None)


@pytest.mark.slow  # Ray's part of it is the suite's, below
def test_a_learning_curve_finishes_and_a_second_run_adds_only_what_is_new(
    root_uri: str, encoder: str, ray_local: None
) -> None:
    write_splits(root_uri)
    raw: dict[str, Any] = {
        "data": {"train": join_uri(root_uri, "data/train.parquet"), "test": join_uri(root_uri, "data/test.parquet")},
        "finetune": {"model": encoder, "max_length": 32, "training": {"min_steps": 30, "learning_rate": 2e-3}},
        "output": join_uri(root_uri, "curve"),
        "fractions": [0.5, 1.0],
        "seeds": [1],
        "scratch": {"min_steps": 40, "embedding_size": 16, "hidden_size": 16, "learning_rate": 1e-2},
        "compute": COMPUTE,
    }
    curve = prepare_curve(parse_spec(raw, CurveSpec, "study.yaml"), "study.yaml")
    assert run_cells("curve", curve.cells, POOL, 1) == {}
    text = write_curve(curve)
    rows = read_table(join_uri(root_uri, "curve", "curve.parquet")).to_pylist()
    assert {(row["method"], row["num_rows"]) for row in rows} == {
        (method, num_rows) for method in ("finetune", "frozen", "bilstm", "cnn", "tfidf") for num_rows in (30, 60)
    }
    assert all(row["accuracy"] > 0.4 for row in rows if row["num_rows"] == 60), rows  # chance is a third
    assert "missing" not in text

    more = prepare_curve(parse_spec({**raw, "seeds": [1, 2]}, CurveSpec, "study.yaml"), "study.yaml")
    left = [cell for cell in more.cells if more.store.read(cell.fingerprint) is None]
    assert sorted({cell.seed for cell in left}) == [2]
    assert len(left) == 10


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
def test_a_suite_goes_on_past_a_run_that_fails(root_uri: str, encoder: str, ray_local: None) -> None:
    write_splits(root_uri)
    test = {"uri": join_uri(root_uri, "data/test.parquet")}
    block = {"task": "text-classification", "data": {"train": join_uri(root_uri, "data/train.parquet")}}
    raw = {
        "output": join_uri(root_uri, "suite"),
        "seeds": [1],
        "defaults": {"model": encoder, "max_length": 32, "training": {"epochs": 8, "learning_rate": 2e-3}},
        "runs": [
            {"name": "diverges", "finetune": {**block, "training": {"learning_rate": 1e30}}, "test": test},
            {"name": "words", "finetune": block, "test": test, "metric": "accuracy"},
        ],
        "compute": COMPUTE,
    }
    suite = prepare_suite(parse_spec(raw, SuiteSpec, "study.yaml"), "study.yaml")
    failures = run_cells("suite", suite.cells, POOL, 1)
    assert list(failures) == ["diverges seed 1"]
    assert "TrainingError: the loss is" in failures["diverges seed 1"]
    assert "1 cells are missing" in write_suite(suite)
    (row,) = read_table(join_uri(root_uri, "suite", "suite.parquet")).to_pylist()
    assert (row["run"], row["seed"], row["num_test_rows"]) == ("words", 1, 30)
    assert row["value"] > 0.6  # chance is a third
    assert (Path(suite.cells[1].evaluation.bundle).name, row["trivial"]) == ("seed-1", pytest.approx(1 / 3))
    again = [cell.name for cell in suite.cells if cell.store.read(cell.fingerprint) is None]
    assert again == ["diverges seed 1"]
