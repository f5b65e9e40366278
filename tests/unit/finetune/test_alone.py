"""Training and evaluating in one process, without Ray."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config import parse_spec
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from tests.tiny import make_encoder, make_rows


def test_a_bundle_trained_alone_learns_and_evaluates_to_the_figures_it_was_given(tmp_path: Path) -> None:
    make_encoder(tmp_path / "encoder")
    pq.write_table(make_rows(200, 1), tmp_path / "train.parquet")
    pq.write_table(make_rows(100, 2), tmp_path / "held-out.parquet")
    compute = {"precision": "fp32"}  # of what bf16 cannot decide, an evaluation asks fp32
    raw = {
        "task": "text-classification",
        "model": str(tmp_path / "encoder"),
        "data": {"train": str(tmp_path / "train.parquet"), "validation": str(tmp_path / "held-out.parquet")},
        "output": str(tmp_path / "bundle"),
        "training": {"learning_rate": 1e-3, "epochs": 10},
        "compute": compute,
    }
    trained = train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "spec"), "spec"), num_threads=1)[""]
    assert trained.metrics["accuracy"] > 0.6  # chance is a third
    asked = {
        "bundle": str(tmp_path / "bundle"),
        "corpus": {"uri": str(tmp_path / "held-out.parquet")},
        "compute": compute,
    }
    found = evaluate_alone(prepare_evaluation(parse_spec(asked, EvaluateSpec, "spec")), num_threads=1)
    assert found.num_rows == 100
    assert found.metrics == pytest.approx(trained.metrics)
