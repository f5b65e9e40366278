"""The benchmark: turns, ratios, and a race over a tiny encoder in which everyone makes the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import parse_spec
from pipeline.errors import CorpusError, InputError, SpecError
from pipeline.studies.benchmark.rounds import Contender, Timing, speed_ratio, take_turns
from pipeline.studies.benchmark.run import run_benchmark
from pipeline.studies.benchmark.spec import BenchmarkSpec
from tests.tiny import make_rows


def test_everyone_runs_once_unmeasured_and_then_in_turns_to_and_fro() -> None:
    calls: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda: calls.append(name) or len(calls))  # type: ignore[func-returns-value]

    timings = take_turns([contender("a"), contender("b")], rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [(timing.name, len(timing.seconds), timing.result) for timing in timings] == [("a", 3, 7), ("b", 3, 8)]
    calls.clear()
    take_turns([contender("a"), contender("b")], rounds=1, warm_up=False)
    assert calls == ["a", "b"]


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = Timing("us", (1.0, 2.0, 4.0), None), Timing("them", (3.0, 4.0, 4.0), None)
    assert speed_ratio(ours, theirs) == (1.0, 2.0, 3.0)
    assert speed_ratio(ours, ours) == (1.0, 1.0, 1.0)


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    for name, seed in (("train", 1), ("validation", 2)):
        pq.write_table(make_rows(24, seed), tmp_path / f"{name}.parquet")
    data = {"train": str(tmp_path / "train.parquet"), "validation": str(tmp_path / "validation.parquet")}
    return {
        "model": str(encoder_directory),
        "max_length": 32,
        "texts": {"uri": data["train"], "rows": 10},
        "training": {
            "tiny": {
                "model": str(encoder_directory),
                "data": data,
                "max_length": 32,
                "training": {"epochs": 1, "batch_rows": 8},
                "compute": {"device": "cpu", "precision": "fp32"},
            }
        },
        "rounds": 1,
        "output": str(tmp_path / "out"),
        "compute": {"device": "cpu", "precision": "fp32"},
    }


def test_a_race_is_written_down_and_all_embed_alike(raw: dict[str, Any], tmp_path: Path) -> None:
    text = run_benchmark(parse_spec(raw, BenchmarkSpec, "test"), num_threads=1)
    assert (tmp_path / "out" / "benchmark.md").read_text() == text
    lines = pq.read_table(tmp_path / "out" / "benchmark.parquet").to_pylist()
    assert {line["race"] for line in lines} == {"embed 10 texts", "fine-tune tiny"}
    assert [line["contender"] for line in lines if line["race"] == "fine-tune tiny"] == [
        *("bertmill", "Hugging Face Trainer, group_by_length", "Hugging Face Trainer, random"),
    ]
    for line in lines:
        assert line["tokens_per_s"] > 0
        assert line["ratio_lowest"] <= line["ratio_median"] <= line["ratio_highest"]
        if line["race"].startswith("embed") and line["quality"] is not None:
            assert line["quality"] > (0.999 if "bfloat16" not in line["contender"] else 0.9), line["contender"]
    assert next(line["quality"] for line in lines if "bare" in line["contender"]) is None


def test_a_benchmark_of_nothing_is_refused(raw: dict[str, Any]) -> None:
    empty = {name: value for name, value in raw.items() if name not in ("texts", "training")}
    with pytest.raises(SpecError, match="nothing to measure"):
        parse_spec(empty, BenchmarkSpec, "test")


def test_texts_and_validation_rows_must_be_there(raw: dict[str, Any], tmp_path: Path) -> None:
    no_text = {**raw, "texts": {**raw["texts"], "column": "body"}, "training": {}}
    with pytest.raises(CorpusError, match="column 'body' cannot be read"):
        run_benchmark(parse_spec(no_text, BenchmarkSpec, "test"), num_threads=1)
    pq.write_table(pa.table({"text": pa.nulls(3, pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(CorpusError, match="holds no text"):
        run_benchmark(
            parse_spec({**no_text, "texts": {"uri": str(tmp_path / "empty.parquet")}}, BenchmarkSpec, "test"), 1
        )
    del raw["training"]["tiny"]["data"]["validation"]
    with pytest.raises(InputError, match="no validation rows"):
        run_benchmark(parse_spec({**raw, "texts": None}, BenchmarkSpec, "test"), num_threads=1)
