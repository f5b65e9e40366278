"""The benchmark: turns, ratios, and a race over a tiny encoder in which everyone makes the same thing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ComputeConfig, parse_spec
from pipeline.errors import ComputeError, CorpusError, InputError, SpecError
from pipeline.inference.spec import ScoreSpec
from pipeline.studies.benchmark import run as benchmark_run
from pipeline.studies.benchmark.bundles import answer_of, tag_spans
from pipeline.studies.benchmark.head_work import share_alike
from pipeline.studies.benchmark.plain import best_places
from pipeline.studies.benchmark.rounds import Contender, Lap, Timing, find_fastest, speed_ratio, take_turns
from pipeline.studies.benchmark.run import Jobs, run_benchmark
from pipeline.studies.benchmark.spec import BenchmarkSpec
from pipeline.studies.benchmark.start_up import Commands, describe_start
from tests.tiny import make_rows


def _no_session(compute: ComputeConfig) -> NoReturn:
    raise AssertionError("a race without nights opened a session")


NO_JOBS = Jobs(_no_session, Commands((), ()))


def test_everyone_runs_once_unmeasured_and_then_in_turns_to_and_fro() -> None:
    calls: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(name, lambda: calls.append(name) or len(calls))  # type: ignore[func-returns-value]

    timings = take_turns("race", [contender("a"), contender("b")], rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [(timing.name, len(timing.seconds), timing.result) for timing in timings] == [("a", 3, 7), ("b", 3, 8)]
    calls.clear()
    take_turns("race", [contender("a"), contender("b")], rounds=1, warm_up=False)
    assert calls == ["a", "b"]


def test_each_turn_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    take_turns("race", [Contender("a", lambda: Lap(1.5, 0.0)), Contender("b", lambda: Lap(2.0, 0.0))], rounds=1)
    told = capsys.readouterr().err.splitlines()
    assert [line.split("; ")[1] for line in told] == ["a, unmeasured", "b, unmeasured", "a, 1.5 s", "b, 2.0 s"]
    assert told[0].startswith("race: 1/4 turns, ")
    assert "s left" in told[2]
    assert told[3].startswith("race: 4/4 turns; ")


def test_a_contender_may_tell_its_start_apart() -> None:
    (timing,) = take_turns("race", [Contender("a", lambda: Lap(seconds=2.5, before_s=9.0))], rounds=2)
    assert timing.seconds == (2.5, 2.5)


def test_a_nights_start_is_told_step_by_step(tmp_path: Path) -> None:
    command = tmp_path / "command.py"
    command.write_text(
        "import json, pathlib, sys, time, yaml\n"
        "spec = yaml.safe_load(pathlib.Path(sys.argv[-3]).read_text())\n"
        "assert sys.argv[-2:] == ['--date', '2000-01-01'] and spec['output']['uri'].endswith('scores-0'), spec\n"
        "names = ['imported_s', 'planned_s', 'ray_s', 'first_shard_began_s', 'first_shard_ended_s']\n"
        "print('said before')\n"
        "print(json.dumps({name: time.time() + 100 * place for place, name in enumerate(names)}))\n"
    )
    raw = {"bundle": "bundle", "corpus": {"uri": "corpus"}, "output": {"uri": str(tmp_path / "scores")}}
    commands = Commands((sys.executable, str(command)), (sys.executable, str(command)))
    table = describe_start(parse_spec(raw, ScoreSpec, "test"), "2000-01-01", commands, rounds=1)
    for step in (
        "plan",
        "Ray starts",
        "a worker starts and loads the model",
        "first shard is read, scored and written",
    ):
        assert re.search(rf"\| {step} +\| +100\.0 \|", table), step
    command.write_text("raise SystemExit('no room')")
    with pytest.raises(ComputeError, match="no room"):
        describe_start(parse_spec(raw, ScoreSpec, "test"), "2000-01-01", commands, rounds=1)


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = Timing("us", (1.0, 2.0, 4.0), None), Timing("them", (3.0, 4.0, 4.0), None)
    assert speed_ratio(ours, theirs) == (1.0, 2.0, 3.0)
    assert speed_ratio(ours, ours) == (1.0, 1.0, 1.0)


def test_the_fastest_is_found_by_its_better_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.studies.benchmark.rounds.time.perf_counter", lambda: clock[0])
    costs = {8: iter([9.0, 1.0, 5.0]), 16: iter([0.0, 2.0, 2.0]), 32: iter([0.0, 4.0, 0.5])}

    def spend(rows: int) -> None:
        clock[0] += next(costs[rows])

    assert find_fastest({rows: lambda rows=rows: spend(rows) for rows in costs}) == 32  # type: ignore[misc]


def test_tags_and_answers_by_rule() -> None:
    text = "it saw 12 ships of Nelson, they say"
    found = [(text[span["start"] : span["end"]], span["label"]) for span in tag_spans(text)]
    assert found == [("it", "PRONOUN"), ("12", "NUMBER"), ("Nelson", "CAPITAL"), ("they", "PRONOUN")]
    assert answer_of(text) == {"text": ["Nelson"], "answer_start": [19]}
    assert answer_of("...") == {"text": [], "answer_start": []}


def test_the_best_span_ends_where_it_begins_or_later_and_is_not_long() -> None:
    logits = np.zeros((2, 40, 2), np.float32)
    logits[0, 7, 0], logits[0, 5, 1], logits[0, 9, 1] = 9, 9, 3  # the highest end is before the highest start
    logits[1, 2, 0], logits[1, 39, 1], logits[1, 20, 1] = 9, 9, 3  # and here too far behind it
    places, scores = best_places(logits)
    assert places.tolist() == [[7, 9], [2, 20]]
    assert scores.tolist() == [12, 12]
    assert share_alike(["a", "b"], ["a", "c"]) == 0.5


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    for name, seed in (("train", 1), ("validation", 2)):
        pq.write_table(make_rows(24, seed), tmp_path / f"{name}.parquet")
    data = {"train": str(tmp_path / "train.parquet"), "validation": str(tmp_path / "validation.parquet")}
    return {
        "model": str(encoder_directory),
        "max_length": 96,
        "texts": {"uri": data["train"], "rows": 12, "label": "label"},
        "heads": {"rows": 10, "training_rows": 12},
        "training": {
            "tiny": {
                "model": str(encoder_directory),
                "data": data,
                "max_length": 32,
                "training": {"epochs": 1, "batch_rows": 8},
            }
        },
        "rounds": 1,
        "output": str(tmp_path / "out"),
        "compute": {"device": "cpu", "precision": "fp32"},
    }


def test_a_race_is_written_down_and_all_embed_alike(raw: dict[str, Any], tmp_path: Path) -> None:
    text = run_benchmark(parse_spec(raw, BenchmarkSpec, "test"), 1, NO_JOBS)
    assert (tmp_path / "out" / "benchmark.md").read_text() == text
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    lines = pq.read_table(tmp_path / "out" / "benchmark.parquet").to_pylist()
    heads = [f"{task}, 10 texts" for task in ("text-classification", "token-classification", "question-answering")]
    assert {line["race"] for line in lines} == {"embed 12 texts", *heads, "fine-tune tiny"}
    for line in lines:
        if line["race"] in heads:
            assert line["quality"] == 1.0, line
    assert [line["contender"] for line in lines if line["race"] == "fine-tune tiny"] == [
        *("bertmill", "bertmill, head from random weights, as theirs"),
        *("Hugging Face Trainer, group_by_length", "Hugging Face Trainer, random"),
    ]
    for line in lines:
        assert line["tokens_per_s"] > 0
        assert line["ratio_lowest"] <= line["ratio_median"] <= line["ratio_highest"]
        if line["race"].startswith("embed") and line["quality"] is not None:
            assert line["quality"] > (0.999 if "bfloat16" not in line["contender"] else 0.9), line["contender"]
    assert next(line["quality"] for line in lines if "bare" in line["contender"]) is None


def test_trainings_take_compute_and_storage_from_the_benchmark(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(benchmark_run, "prepare_training", lambda spec, source: seen.append(spec) or stop())  # type: ignore[func-returns-value]

    def stop() -> None:
        raise InputError("seen", "nothing")

    raw = {**raw, "texts": None, "heads": None, "storage": {"region": "here"}}
    for given in ({}, {"compute": {"batch_tokens": 64}}):
        raw["training"]["tiny"].update(given)
        with pytest.raises(InputError, match="seen"):
            run_benchmark(parse_spec(raw, BenchmarkSpec, "test"), 1, NO_JOBS)
    assert [spec.compute.precision for spec in seen] == ["fp32", "fp32"]
    assert [spec.compute.batch_tokens for spec in seen] == ["auto", 64]
    assert seen[0].storage.region == "here"


def test_heads_need_labels(raw: dict[str, Any]) -> None:
    del raw["texts"]["label"]
    with pytest.raises(SpecError, match=r"texts\.label"):
        parse_spec(raw, BenchmarkSpec, "test")


def test_nights_need_a_bundle_of_heads(raw: dict[str, Any]) -> None:
    raw = {**raw, "heads": None, "end_to_end": {"at": "somewhere"}}
    with pytest.raises(SpecError, match="`end_to_end` scores with a bundle of `heads`"):
        parse_spec(raw, BenchmarkSpec, "test")


def test_a_benchmark_of_nothing_is_refused(raw: dict[str, Any]) -> None:
    empty = {name: value for name, value in raw.items() if name not in ("texts", "training")}
    with pytest.raises(SpecError, match="nothing to measure"):
        parse_spec(empty, BenchmarkSpec, "test")


def test_texts_and_validation_rows_must_be_there(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["heads"] = None
    no_text = {**raw, "texts": {**raw["texts"], "column": "body"}, "training": {}}
    with pytest.raises(CorpusError, match="column 'body' and 'label' cannot be read"):
        run_benchmark(parse_spec(no_text, BenchmarkSpec, "test"), 1, NO_JOBS)
    pq.write_table(pa.table({"text": pa.nulls(3, pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(CorpusError, match="holds no text"):
        run_benchmark(
            parse_spec({**no_text, "texts": {"uri": str(tmp_path / "empty.parquet")}}, BenchmarkSpec, "test"),
            1,
            NO_JOBS,
        )
    del raw["training"]["tiny"]["data"]["validation"]
    with pytest.raises(InputError, match="no validation rows"):
        run_benchmark(parse_spec({**raw, "texts": None}, BenchmarkSpec, "test"), 1, NO_JOBS)
