from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder.bundle import fetch_bundle
from pipeline.encoder.loading import load_tokenizer
from pipeline.finetune.labelled import read_usable
from pipeline.finetune.loop import train
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.worker import MetricsLog, build_job, token_cache_job, write_result
from pipeline.storage import Storage
from tests.tiny import LABELS, write_corpus
from tests.unit.finetune.training import Notes

STATUS = TrainingStatus(10, 30, 0, 0.5, 1e-4, 1.0, 100.0, 0.1)


@pytest.fixture
def run(tmp_path: Path, encoder_directory: Path) -> PreparedTraining:
    """A prepared run whose token cache is filled."""
    write_corpus(tmp_path / "train")
    raw = {
        "task": "text-classification",
        "model": str(encoder_directory),
        "data": {"train": str(tmp_path / "train"), "validation": str(tmp_path / "train" / "part-0.parquet")},
        "output": str(tmp_path / "bundle"),
        "pooling": "max",
        "normalize": False,
        "max_length": 24,
        "training": {"epochs": 1, "learning_rate": 1e-3},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    run = prepare_training(FinetuneSpec.model_validate(raw), "spec.yaml")
    for head in run.heads:
        writer = token_cache_job(run, head, 1).build()
        for shard in head.train.shards:
            writer.process(shard)
    return run


def lines_of(run: PreparedTraining) -> list[dict[str, Any]]:
    text = Path(run.spec.work_uri, run.run_name, "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_rank_builds_the_same_network(run: PreparedTraining) -> None:
    torch.manual_seed(5)
    (first, _), (second, _) = build_job(run, 0, 1), build_job(run, 0, 1)
    left, right = first.context.network.state_dict(), second.context.network.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert first.context.joined.network("").config.id2label == dict(enumerate(LABELS))
    (head,) = first.context.heads
    assert (head.name, len(head.data), first.plan.num_rows, first.learned[""].labels) == ("", 60, 60, LABELS)
    validation = first.validation[""]
    assert len(validation.targets) == validation.examples.tokens.num_rows == 20


def test_the_recipe_may_ask_for_layers_to_be_computed_again(run: PreparedTraining) -> None:
    recipe = run.spec.training.model_copy(update={"gradient_checkpointing": True})
    asked = replace(run, spec=run.spec.model_copy(update={"training": recipe}))
    encoders = [build_job(each, 0, 1)[0].context.joined.encoder for each in (run, asked)]
    assert [encoder.is_gradient_checkpointing for encoder in encoders] == [False, True]


def test_training_ends_in_a_bundle_that_says_how_it_was_made(run: PreparedTraining, tmp_path: Path) -> None:
    job, tokenizer = build_job(run, 0, 1)
    judgements = train(job, Notes(tmp_path / "notes").hooks())
    written = write_result(run, job.context.joined, tokenizer, judgements)
    bundle = fetch_bundle(run.spec.output, Storage())
    info = bundle.info
    metrics = judgements[""].evaluation.metrics
    assert metrics
    assert (info.metrics, info.labels, info.inputs) == (metrics, LABELS, {"text": "text"})
    assert (info.pooling, info.normalize, info.max_length) == ("max", False, 24)
    assert (info.run_fingerprint, info.data_fingerprint) == (run.fingerprint, run.data_fingerprint)
    assert run.finished_bundles() == written == {"": info}


def test_metrics_are_written_when_an_epoch_ends(run: PreparedTraining) -> None:
    log = MetricsLog(run)
    log.add(STATUS)
    assert not Path(run.spec.work_uri, run.run_name).exists()
    log.add(replace(STATUS, step=15, validation={"accuracy": 0.5}))
    assert [line["step"] for line in lines_of(run)] == [10, 15]
    assert lines_of(run)[1]["validation"] == {"accuracy": 0.5}


def test_steps_done_again_replace_their_figures(run: PreparedTraining) -> None:
    first = MetricsLog(run)
    for step in (10, 20, 30):
        first.add(replace(STATUS, step=step, loss=1.0))
    first.flush()
    second = MetricsLog(run)
    second.resume()
    second.add(replace(STATUS, step=20, loss=2.0))
    second.flush()
    assert [(line["step"], line["loss"]) for line in lines_of(run)] == [(10, 1.0), (20, 2.0)]


def test_resuming_without_an_earlier_log_starts_a_new_one(run: PreparedTraining) -> None:
    log = MetricsLog(run)
    log.resume()
    log.add(STATUS)
    log.flush()
    assert [line["step"] for line in lines_of(run)] == [10]


def test_training_rows_are_found_again_in_the_data(run: PreparedTraining) -> None:
    """Row numbers count usable rows in shard order; places name the file and the row as the reader counts it."""
    job, _ = build_job(run, 0, 1)
    (head,) = run.heads
    texts = {}
    for shard in head.train.shards:
        usable = read_usable(shard, head.train, head.task, head.train.learned, run.storage)
        for place, text in zip(usable.places.to_pylist(), usable.texts[0].to_pylist(), strict=True):
            texts[place["source_file"], place["source_row"]] = text
    assert len(texts) == 60
    (data,) = [part.data for part in job.context.heads]
    tokenizer = load_tokenizer(run.encoder)
    for row in (0, 19, 20, 59):
        (found,) = job.locate(np.array([row]))
        file, _, number = found.partition(" rows ")
        assert tokenizer(texts[file, int(number)])["input_ids"] == data.rows.row(row).tolist()
    files = [place.partition(" rows ")[0] for place in job.locate(np.arange(60))]
    assert len(files) == len(set(files)) == 3
