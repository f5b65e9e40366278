"""A search under Ray Tune: the worse trial is stopped, the one that explodes is told, and a second run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import PoolOptions, parse_spec
from pipeline.studies.run import make_scheduler, run_trials
from pipeline.studies.tune import PreparedTune
from pipeline.studies.tune_checks import prepare_tune
from pipeline.studies.tune_spec import TuneSpec
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.tiny import make_encoder, make_rows

POOL = PoolOptions(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)  # one trial after the other
GOOD, IDLE, EXPLODING = 5e-3, 1e-9, 1e30


def make_tune(root_uri: str, encoder: str, **changes: Any) -> PreparedTune:
    raw = {
        "output": join_uri(root_uri, "tune"),
        "trials": 3,
        "seed": 1,
        "scheduler": "asha",
        "finetune": {
            "task": "text-classification",
            "model": encoder,
            "max_length": 32,
            "data": {name: join_uri(root_uri, f"data/{name}.parquet") for name in ("train", "validation")},
            "training": {"epochs": 4, "batch_rows": 16, "head_start": "random", "head_reads": "first"},
        },
        "space": {"training.learning_rate": {"choice": [GOOD, IDLE, EXPLODING]}},
        "compute": {"device": "cpu", "precision": "fp32"},
        **changes,
    }
    return prepare_tune(parse_spec(raw, TuneSpec, "study.yaml"), "study.yaml")


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
def test_asha_stops_the_worse_trial_and_knows_it_in_the_next_run(
    root_uri: str, tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> None:
    encoder = make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    helpers.write_table(make_rows(60, 1), join_uri(root_uri, "data", "train.parquet"))
    helpers.write_table(make_rows(30, 2), join_uri(root_uri, "data", "validation.parquet"))
    tune = make_tune(root_uri, encoder)
    order = [trial.point["training.learning_rate"] for trial in tune.trials]
    assert order.index(GOOD) < order.index(IDLE)  # the first of a rung is never stopped
    assert run_trials(tune, POOL) == {}

    ended = make_tune(root_uri, encoder)
    assert ended.pending == []
    records = {trial.point["training.learning_rate"]: ended.records[trial.number] for trial in ended.trials}
    assert {rate: record.state for rate, record in records.items()} == {
        GOOD: "finished",
        IDLE: "stopped",
        EXPLODING: "diverged",
    }
    assert len(records[GOOD].history) == 4
    assert len(records[IDLE].history) < 4
    assert records[IDLE].history[0].metrics["macro_f1"] < records[GOOD].history[0].metrics["macro_f1"]
    assert [
        trial.point["training.learning_rate"] for trial in make_tune(root_uri, encoder, scheduler="none").pending
    ] == [IDLE]

    worse = {"evaluations": 1, "figure": 0.0}
    scheduler, newcomer = make_scheduler(ended), tune.trials[0]
    trial: Any = type("Newcomer", (), {"trial_id": newcomer.name})()
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, worse) == "STOP"
