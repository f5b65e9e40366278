"""Small studies for tests: specs on tiny encoders and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import parse_spec
from pipeline.studies.curve import PreparedCurve, prepare_curve
from pipeline.studies.spec import CurveSpec, SuiteSpec
from pipeline.studies.suite import PreparedSuite
from pipeline.studies.suite_checks import prepare_suite
from pipeline.studies.tune import PreparedTune
from pipeline.studies.tune_checks import prepare_tune
from pipeline.studies.tune_spec import TuneSpec
from tests.tiny import make_rows


def write_splits(directory: Path, num_rows: int = 60) -> None:
    """`train.parquet` and `test.parquet`, whose labels can be learned."""
    pq.write_table(make_rows(num_rows, 1), directory / "train.parquet")
    pq.write_table(make_rows(30, 2), directory / "test.parquet")


def curve_raw(directory: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """A sound learning-curve spec; `write_splits` makes its rows."""
    return {
        "data": {"train": str(directory / "train.parquet"), "test": str(directory / "test.parquet")},
        "finetune": {
            "model": str(encoder),
            "max_length": 32,
            "training": {"epochs": 1, "min_steps": 30, "learning_rate": 2e-3},
        },
        "output": str(directory / "curve"),
        "fractions": [0.5, 1.0],
        "seeds": [1, 2],
        "scratch": {"min_steps": 40, "embedding_size": 16, "hidden_size": 16, "learning_rate": 1e-2},
        "compute": {"device": "cpu", "precision": "fp32"},
        **changes,
    }


def make_curve(directory: Path, encoder: Path, **changes: Any) -> PreparedCurve:
    return prepare_curve(parse_spec(curve_raw(directory, encoder, **changes), CurveSpec, "study.yaml"), "study.yaml")


def suite_raw(directory: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """A sound suite of one training."""
    training = {"task": "text-classification", "data": {"train": str(directory / "train.parquet")}}
    return {
        "output": str(directory / "suite"),
        "seeds": [1, 2],
        "defaults": {"model": str(encoder), "max_length": 32, "training": {"epochs": 8, "learning_rate": 2e-3}},
        "runs": [{"name": "words", "finetune": training, "test": {"uri": str(directory / "test.parquet")}}],
        "compute": {"device": "cpu", "precision": "fp32"},
        **changes,
    }


def make_suite(directory: Path, encoder: Path, **changes: Any) -> PreparedSuite:
    return prepare_suite(parse_spec(suite_raw(directory, encoder, **changes), SuiteSpec, "study.yaml"), "study.yaml")


def tune_raw(directory: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """A sound search; `write_splits` makes its rows."""
    data = {"train": str(directory / "train.parquet"), "validation": str(directory / "test.parquet")}
    return {
        "output": str(directory / "tune"),
        "trials": 2,
        "finetune": {
            "task": "text-classification",
            "model": str(encoder),
            "max_length": 32,
            "data": data,
            "training": {"epochs": 3, "batch_rows": 16, "head_start": "random"},
        },
        "space": {"training.learning_rate": {"choice": [5e-3, 1e-9]}},
        "compute": {"device": "cpu", "precision": "fp32"},
        **changes,
    }


def make_tune(directory: Path, encoder: Path, **changes: Any) -> PreparedTune:
    return prepare_tune(parse_spec(tune_raw(directory, encoder, **changes), TuneSpec, "study.yaml"), "study.yaml")
