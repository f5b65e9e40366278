"""Training through Ray Train: two workers, of which one is killed, write the bundle of one that nothing happened to."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.config import PoolOptions, TrainingCompute, parse_spec
from pipeline.encoder.bundle import fetch_bundle
from pipeline.errors import TrainingError
from pipeline.finetune import loop, run
from pipeline.finetune.alone import train_alone
from pipeline.finetune.loop import LoopJob
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.run import run_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.step import StepResult
from pipeline.inference.evaluate import prepare_evaluation, run_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.patience import PATIENCE_S
from tests.tiny import make_encoder

GOOD, BAD = ("good", "great", "lovely"), ("bad", "awful", "dull")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder") / "tiny"
    make_encoder(directory)
    return directory


def write_split(uri: str, seed: int, num_rows: int) -> None:
    """Text whose label is decided by one word in it, and one row without a label."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(num_rows):
        label = rng.choice(["down", "up"])
        filler = rng.choices(["film", "phone", "the", "a", "it", "very", "day"], k=rng.randint(1, 20))
        texts.append(" ".join([rng.choice(GOOD if label == "up" else BAD), *filler]))
        labels.append(label)
    labels[3] = None  # type: ignore[call-overload]
    helpers.write_table(pa.table({"text": texts, "label": pa.array(labels, pa.string())}), uri)


def make_spec(root: str, encoder: Path, name: str, **training: Any) -> FinetuneSpec:
    # A loss that falls from step to step, not at once: sums in another order differ, and a cliff shows it.
    recipe = {"epochs": 2, "batch_rows": 16, "learning_rate": 2e-3, "head_reads": "first", **training}
    raw = {
        "task": "text-classification",
        "model": str(encoder),
        "data": {
            "train": join_uri(root, "train.parquet"),
            "validation": join_uri(root, "validation.parquet"),
            "max_bad_fraction": 0.05,
        },
        "output": join_uri(root, name),
        "max_length": 32,
        "training": recipe,
        "compute": {"precision": "fp32", "device": "cpu"},
    }
    return parse_spec(raw, FinetuneSpec, "test")


def prepare(root: str, encoder: Path, name: str, **training: Any) -> PreparedTraining:
    return prepare_training(make_spec(root, encoder, name, **training), "test")


def losses(run: PreparedTraining) -> list[float]:
    content = Storage().read_bytes(join_uri(run.spec.work_uri, run.run_name, "metrics.jsonl"))
    assert content is not None
    return [json.loads(line)["loss"] for line in content.decode().splitlines()]


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
def test_two_workers_one_of_them_killed_train_the_bundle_of_one_and_it_loads_and_evaluates(
    root_uri: str, encoder: Path, ray_local: None
) -> None:
    write_split(join_uri(root_uri, "train.parquet"), 1, 403)
    write_split(join_uri(root_uri, "validation.parquet"), 2, 101)
    run, alone = prepare(root_uri, encoder, "bundle", epochs=8), prepare(root_uri, encoder, "alone", epochs=8)
    info_alone = train_alone(alone, num_threads=1)[""]
    with _WorkerKiller(run) as killer:
        info = run_training(run, PoolOptions(num_workers=2, cpus_per_worker=1, gpus_per_worker=0))[""]

    assert killer.killed_pid is not None, "the kill must have happened while training was under way"
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-4, atol=1e-5)
    assert info.metrics["accuracy"] == info_alone.metrics["accuracy"]
    assert info.labels == ("down", "up")
    assert info.metrics["accuracy"] > 0.9, "one word decides the label; guessing gives 0.5"
    assert run.finished_bundles() == {"": info}
    assert prepare(root_uri, encoder, "bundle", learning_rate=1e-3).finished_bundles() is None

    bundle = fetch_bundle(run.spec.output, Storage())
    model = AutoModelForSequenceClassification.from_pretrained(bundle.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle.path)
    content = Storage().read_bytes(join_uri(root_uri, "validation.parquet"))
    rows = [row for row in pq.read_table(io.BytesIO(content or b"")).to_pylist() if row["label"]]
    with torch.inference_mode():
        predicted = [
            model.config.id2label[
                int(
                    model(**tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=32)).logits.argmax()
                )
            ]
            for row in rows
        ]
    accuracy = np.mean([label == row["label"] for label, row in zip(predicted, rows, strict=True)])
    assert info.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-9)

    spec = {"bundle": run.spec.output, "corpus": {"uri": join_uri(root_uri, "validation.parquet"), "shard_rows": 30}}
    evaluation = run_evaluation(prepare_evaluation(parse_spec(spec, EvaluateSpec, "test")), helpers.POOL)
    assert evaluation.num_rows == 100
    assert evaluation.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.slow
def test_two_workers_that_share_the_weights_train_the_same_bundle(
    tmp_path: Path, encoder: Path, ray_local: None
) -> None:
    write_split(str(tmp_path / "train.parquet"), 1, 203)
    write_split(str(tmp_path / "validation.parquet"), 2, 51)
    whole, sharded = prepare(str(tmp_path), encoder, "whole"), prepare(str(tmp_path), encoder, "sharded")
    compute = sharded.spec.compute.model_copy(update={"data_parallel": "fsdp"})
    sharded = replace(sharded, spec=sharded.spec.model_copy(update={"compute": compute}))
    info = train_alone(whole, num_threads=1)[""]
    info_sharded = run_training(sharded, PoolOptions(num_workers=2, cpus_per_worker=1, gpus_per_worker=0))[""]
    np.testing.assert_allclose(losses(sharded), losses(whole), rtol=1e-4)
    assert info_sharded.metrics["accuracy"] == info.metrics["accuracy"]
    ours, theirs = (load_file(Path(run.spec.output) / "model.safetensors") for run in (sharded, whole))
    assert ours.keys() == theirs.keys()
    for name in (name for name in theirs if not name.endswith(".key.bias")):  # their gradients are rounding alone
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_killed_worker_resumes_and_ends_with_the_same_weights(tmp_path: Path, encoder: Path, ray_local: None) -> None:
    write_split(str(tmp_path / "train.parquet"), 1, 400)
    write_split(str(tmp_path / "validation.parquet"), 2, 51)
    undisturbed = prepare(str(tmp_path), encoder, "undisturbed", epochs=12)
    disturbed = prepare(str(tmp_path), encoder, "disturbed", epochs=12)
    train_alone(undisturbed, num_threads=1)
    with _WorkerKiller(disturbed) as killer:
        run_training(disturbed, helpers.POOL)

    assert killer.killed_pid is not None, "the kill must have happened while training was under way"
    assert losses(disturbed) == losses(undisturbed)
    ours, theirs = (load_file(Path(run.spec.output) / "model.safetensors") for run in (disturbed, undisturbed))
    for name, weights in theirs.items():
        np.testing.assert_array_equal(ours[name], weights, err_msg=name)


def fail_on_rank_1(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs, around bertmill's own function: rank 1 alone cannot use what step 3 gives it."""
    planned = loop._planned_step

    def planned_step(job: LoopJob, optimizer: torch.optim.Optimizer, step: int) -> StepResult:
        if job.rank == 1 and step == 3:
            with Path(f"{config['run'].spec.output}.failed").open("a") as file:
                file.write("once\n")
            raise ValueError("no use for row 7")
        return planned(job, optimizer, step)

    loop._planned_step = planned_step
    run._train_on_worker(config)


def test_an_error_on_one_rank_alone_ends_all_at_once_and_is_not_tried_again(
    tmp_path: Path, encoder: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(str(tmp_path / "train.parquet"), 1, 203)
    write_split(str(tmp_path / "validation.parquet"), 2, 51)
    monkeypatch.setattr(run, "_train_on_worker", fail_on_rank_1)
    started_s = time.monotonic()
    with pytest.raises(TrainingError, match=r"failed on rank 1: ValueError: no use for row 7\n  -> --debug") as raised:
        run_training(prepare(str(tmp_path), encoder, "bundle"), PoolOptions(2, 1, 0))
    assert time.monotonic() - started_s < PATIENCE_S, "torch has the other rank wait for 1,800 s"
    assert "in planned_step" in str(raised.value.__cause__)
    assert (tmp_path / "bundle.failed").read_text() == "once\n"


class _WorkerKiller(threading.Thread):
    """kill -9 of a training worker as soon as the run's first checkpoint is complete; until the context ends."""

    def __init__(self, run: PreparedTraining) -> None:
        super().__init__(daemon=True)
        self._place = join_uri(run.spec.work_uri, run.run_name)
        self._is_over = threading.Event()
        self.killed_pid: int | None = None

    def __enter__(self) -> _WorkerKiller:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            if any(item.uri.endswith("/COMPLETE") for item in Storage().list_objects(self._place)):
                for process in psutil.Process().children(recursive=True):
                    if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        self.killed_pid = process.pid
                        return


def test_precision_of_compute_config_is_part_of_the_run(tmp_path: Path, encoder: Path) -> None:
    write_split(str(tmp_path / "train.parquet"), 1, 50)
    write_split(str(tmp_path / "validation.parquet"), 2, 20)
    spec = make_spec(str(tmp_path), encoder, "bundle")
    other = spec.model_copy(update={"compute": TrainingCompute(precision="bf16")})
    assert prepare_training(spec, "test").run_name != prepare_training(other, "test").run_name
