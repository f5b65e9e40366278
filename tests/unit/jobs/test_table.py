"""`bertmill table ...` on nights made without a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import NIGHT as SCORED_NIGHT
from tests.unit.inference.scoring import prepared, score_all
from tests.unit.jobs.command_line import Finished, assert_refused, run_command
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, publish, scored_row, write_shard


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two nights of four rows in two files each; on the second one label flips and one row is quarantined."""
    root = tmp_path / "scores"
    shards = [write_shard(root, NIGHT, f"s{i}", [scored_row("f", 2 * i), scored_row("f", 2 * i + 1)]) for i in (0, 1)]
    publish(root, NIGHT, *shards, run_id="run-a")
    first = write_shard(root, NEXT_NIGHT, "s0", [scored_row("f", 0, label="neutral"), scored_row("f", 1)])
    second = write_shard(root, NEXT_NIGHT, "s1", [scored_row("f", 2)], [scored_row("f", 3)])
    publish(root, NEXT_NIGHT, first, second, run_id="run-b")
    return root


def table_command(table: Path, command: str, *arguments: str) -> Finished:
    finished = run_command("table", command, str(table), *arguments)
    assert finished.exit_code == 0, finished.stderr
    return finished


def lines_with(finished: Finished, *words: str) -> list[str]:
    return [line for line in finished.stdout.splitlines() if all(word in line for word in words)]


def test_nights_are_one_line_each_with_their_columns(table: Path) -> None:
    finished = table_command(table, "nights")
    assert lines_with(finished, NIGHT, " 4 ", " 2 ", "m1")
    assert lines_with(finished, NEXT_NIGHT, " 3 ", " 1 ")
    assert "embedding list<" in finished.stdout


def test_history_is_one_line_a_version_and_nothing_is_cut_short(table: Path) -> None:
    finished = table_command(table, "history")
    assert lines_with(finished, NIGHT, "run-a", "+2 -0")
    assert lines_with(finished, NEXT_NIGHT, "run-b", " 3 ")
    assert "…" not in finished.stdout


def test_files_are_lines_that_other_readers_can_take(table: Path) -> None:
    printed = table_command(table, "files", "--date", NIGHT).stdout.splitlines()
    assert printed == [f"{table}/run_date={NIGHT}/s{i}-0.parquet" for i in (0, 1)]
    assert len(table_command(table, "files").stdout.splitlines()) == 4
    described: list[dict[str, Any]] = json.loads(table_command(table, "files", "--date", NIGHT, "--json").stdout)
    assert [item["uri"] for item in described] == printed
    assert [(item["num_rows"], item["run_date"]) for item in described] == [(2, NIGHT)] * 2
    assert [item["size_bytes"] for item in described] == [Path(uri).stat().st_size for uri in printed]


def test_a_night_whose_rows_a_snapshot_replaced_has_no_files_and_says_so(
    tmp_path: Path, bundle_directory: Path
) -> None:
    story = Story(tmp_path, bundle_directory, {"mode": "snapshot"})
    story.put("a", 20, 1)
    story.night(NIGHT)
    story.put("a", 20, 2)
    story.night(NEXT_NIGHT)
    finished = table_command(story.table, "files", "--date", NIGHT)
    assert finished.stdout == ""
    assert "later nights have replaced them" in finished.stderr
    assert table_command(story.table, "files", "--date", NEXT_NIGHT).stderr == ""


def test_diff_says_what_came_went_and_flipped(table: Path) -> None:
    finished = table_command(table, "diff", NIGHT, NEXT_NIGHT)
    assert f"only in {NIGHT}: 1" in finished.stdout
    assert "in both: 3, of which 2 unchanged in label, score, class_scores, embedding" in finished.stdout
    assert "  bad -> neutral: 1" in finished.stdout
    assert "embedding: cosine mean 1.000000" in finished.stdout
    found = json.loads(table_command(table, "diff", NIGHT, NEXT_NIGHT, "--json").stdout)
    assert found["labels"] == [{"column": "label", "num_changed_rows": 1, "flips": [["bad", "neutral", 1]]}]


def test_diff_says_what_it_does_not_compare(table: Path) -> None:
    assert "not compared" not in table_command(table, "diff", NIGHT, NEXT_NIGHT).stdout
    rows = [scored_row("f", row, label="neutral") for row in range(3)]
    publish(table, NEXT_NIGHT, write_shard(table, NEXT_NIGHT, "s2", rows), run_id="run-c", etags={"f": "v2"})
    finished = table_command(table, "diff", NIGHT, NEXT_NIGHT)
    assert "  3 rows of 1 rewritten files are not compared\n" in finished.stdout
    assert "label: 0 rows changed" in finished.stdout
    found = json.loads(table_command(table, "diff", NIGHT, NEXT_NIGHT, "--json").stdout)
    assert found["not_compared"] == {
        "num_rewritten_rows": 3,
        "num_rewritten_files": 1,
        "num_unknown_rows": 0,
        "num_unknown_files": 0,
    }


def test_vacuum_names_what_went_and_why_the_rest_stays(table: Path) -> None:
    lost = table / f"run_date={NIGHT}" / "lost.parquet"
    lost.write_bytes(b"123")
    os.utime(lost, (1, 1))
    dry = table_command(table, "vacuum", "--dry-run")
    assert f"run_date={NIGHT}/lost.parquet  3 bytes: no version" in dry.stdout
    assert "1 files would be removed" in dry.stdout
    assert lost.exists()
    wet = table_command(table, "vacuum")
    assert "1 files removed" in wet.stdout
    assert "kept 5: live" in wet.stdout
    assert not lost.exists()


def test_vacuum_takes_hours(table: Path) -> None:
    lost = table / f"run_date={NIGHT}" / "lost.parquet"
    lost.write_bytes(b"123")
    moment = lost.stat().st_mtime - 2 * 3_600
    os.utime(lost, (moment, moment))
    assert "kept 1: younger" in table_command(table, "vacuum", "--safety-hours", "3").stdout
    assert "1 files removed" in table_command(table, "vacuum", "--safety-hours", "1").stdout


def test_compact_merges_a_night_once(table: Path) -> None:
    first = table_command(table, "compact", "--date", NIGHT)
    assert f"compacted: night {NIGHT}" in first.stdout
    assert "files 2 -> 1 (2 merged)" in first.stdout
    assert "nothing to do" in table_command(table, "compact", "--date", NIGHT).stdout
    assert len(table_command(table, "files").stdout.splitlines()) == 3


def test_verify_finds_nothing_wrong_and_then_what_is(table: Path) -> None:
    finished = table_command(table, "verify", "--date", NEXT_NIGHT)
    assert "2 files, 3 rows read again" in finished.stdout
    assert "no problems" in finished.stdout
    (table / f"run_date={NEXT_NIGHT}" / "s0-0.parquet").unlink()
    broken = run_command("table", "verify", str(table), "--date", NEXT_NIGHT)
    assert broken.exit_code == 4
    assert "s0-0.parquet: is missing" in broken.stderr
    assert "num_scored_rows is 3, the files say 1" in broken.stderr
    assert "no problems" not in broken.stdout
    unscored = run_command("table", "verify", str(table), "--date", NEXT_NIGHT, "--bundle", str(table))
    assert unscored.exit_code == 4
    assert "s0-0.parquet: is missing" in unscored.stderr
    assert "scores were not checked" in unscored.stderr
    assert "no bundle.json" in unscored.stderr


def test_verify_scores_a_sample_again(score_raw: dict[str, Any], tmp_path: Path, bundle_directory: Path) -> None:
    from pipeline.inference.publish import publish_run

    run = prepared(bundle_directory, tmp_path / "corpus", tmp_path / "output", corpus={"shard_rows": 20})
    publish_run(run, score_all(run), "run-1", 0.0)
    arguments = ["--date", SCORED_NIGHT, "--bundle", str(bundle_directory), "--sample", "9"]
    finished = table_command(tmp_path / "output", "verify", *arguments)
    assert "9 rows scored again in fp32: label, score, class_scores, embedding, num_tokens" in finished.stdout
    assert "least cosine of embeddings: 1.0000" in finished.stdout
    assert "no problems" in finished.stdout
    registry = Registry(str(tmp_path / "registry"), Storage())
    registry.publish(str(bundle_directory), "sentiment")
    arguments = ["--date", SCORED_NIGHT, "--bundle", "models://sentiment@1", "--registry", registry.uri]
    finished = table_command(tmp_path / "output", "verify", *arguments)
    assert "rows scored again in fp32" in finished.stdout


@pytest.mark.parametrize("text", ["text", "=body", "text="])
def test_an_input_that_is_no_pair_is_refused(table: Path, bundle_directory: Path, text: str) -> None:
    finished = run_command(
        "table", "verify", str(table), "--date", NIGHT, "--bundle", str(bundle_directory), "--input", text
    )
    assert finished.exit_code == 2
    assert f"--input: {text!r}; expected INPUT=COLUMN" in finished.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("files", "--date", "2026-11-30"),
        ("compact", "--date", "2026-11-30"),
        ("verify", "--date", "2026-11-30"),
        ("diff", NIGHT, "2026-11-30"),
        ("beside", "--date", "2026-11-30", "--name", "next"),
    ],
)
def test_a_night_that_is_not_there_is_named_with_those_that_are(table: Path, arguments: tuple[str, ...]) -> None:
    finished = run_command("table", arguments[0], str(table), *arguments[1:])
    assert_refused(finished, f"{table}: no night 2026-11-30", f"{NIGHT}, {NEXT_NIGHT}")


@pytest.mark.parametrize(
    "words",
    [
        *(("table", name) for name in ("nights", "history", "files", "vacuum")),
        *(("table", name, "--date", NIGHT) for name in ("verify", "compact")),
        ("table", "diff", NIGHT, NEXT_NIGHT),
        ("history",),
        ("report", "--date", NIGHT),
    ],
    ids=" ".join,
)
def test_a_table_whose_log_is_damaged_is_refused(table: Path, words: tuple[str, ...]) -> None:
    command, *options = words
    place = 1 if command == "table" else 0
    (table / "_delta_log" / "00000000000000000000.json").write_text("no JSON")
    finished = run_command(command, *options[:place], str(table), *options[place:])
    assert_refused(finished, f"{table}: a Delta table whose log cannot be read", "restore its `_delta_log`")


@pytest.mark.parametrize("arguments", [("files", "--date", "23.11.2026"), ("diff", NIGHT, "yesterday")])
def test_a_night_that_is_no_date_is_refused(table: Path, arguments: tuple[str, ...]) -> None:
    finished = run_command("table", arguments[0], str(table), *arguments[1:])
    assert finished.exit_code == 2
    assert "expected a date like 2026-11-23" in finished.stderr
