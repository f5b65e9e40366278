"""What the user can get wrong: exit code 2, a message with a remedy, no Ray, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.unit.jobs.command_line import assert_refused, run_command, write_spec

Raw = dict[str, Any]
Spoil = Callable[[Path], object]
JOBS = ("finetune", "score", "plan", "evaluate")


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> str:
    """Every job that takes a spec."""
    return str(request.param)


@pytest.fixture
def sound(job: str, request: pytest.FixtureRequest) -> tuple[Raw, Path]:
    """A sound spec for the job, and the directory of the rows it reads."""
    fixture = {"finetune": "train_raw", "evaluate": "evaluate_raw"}.get(job, "score_raw")
    raw: Raw = request.getfixturevalue(fixture)
    return raw, Path(raw["data"]["train"] if job == "finetune" else raw["corpus"]["uri"])


def run_spec(job: str, raw: Raw, tmp_path: Path, *arguments: str) -> Any:
    return run_command(job, write_spec(tmp_path / "spec.yaml", raw), *arguments)


def test_a_spec_that_is_not_there(job: str, tmp_path: Path) -> None:
    assert_refused(run_command(job, str(tmp_path / "no.yaml")), "no.yaml", "does not exist", "looked in")


def test_a_spec_with_several_mistakes_names_all_of_them(job: str, sound: tuple[Raw, Path], tmp_path: Path) -> None:
    raw, _ = sound
    del raw["model" if job == "finetune" else "bundle"]
    finished = run_spec(job, {**raw, "surprise": 1}, tmp_path, "--set", "compute.precision=fp8")
    assert_refused(finished, "surprise: is not a known field", "is missing", "compute.precision: holds 'fp8'")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (shutil.rmtree, ["nothing there", "check the path's spelling"]),
        (lambda rows: [path.unlink() for path in rows.iterdir()], ["nothing there"]),
        (lambda rows: [path.rename(path.with_suffix(".csv")) for path in rows.iterdir()], ["no Parquet file"]),
        (lambda rows: (rows / "part-0.parquet").write_bytes(b"PAR1 junk PAR1"), ["part-0.parquet", "not a readable"]),
        (
            lambda rows: pq.write_table(pa.table({"body": ["x"], "stars": [1]}), rows / "part-0.parquet"),
            ["body, stars"],
        ),
    ],
    ids=["missing", "empty", "no parquet", "corrupt", "missing column"],
)
def test_rows_that_cannot_be_read(
    job: str, sound: tuple[Raw, Path], tmp_path: Path, spoil: Spoil, expected: list[str]
) -> None:
    raw, rows = sound
    spoil(rows)
    assert_refused(run_spec(job, raw, tmp_path), str(rows), *expected)
    assert not (tmp_path / "output").exists()


def test_rows_that_are_not_there_at_all(job: str, sound: tuple[Raw, Path], tmp_path: Path) -> None:
    raw, rows = sound
    for path in rows.iterdir():
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert_refused(run_spec(job, raw, tmp_path), str(rows), "no rows in")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("job", ["score", "plan", "evaluate"], indirect=True)
def test_what_does_not_fit_the_bundle_is_told_under_the_name_of_the_spec(
    job: str, sound: tuple[Raw, Path], tmp_path: Path
) -> None:
    raw, _ = sound
    raw["corpus"]["inputs"] = {"body": "text"}
    finished = run_spec(job, raw, tmp_path)
    expected = f"error: {tmp_path}/spec.yaml: 1 problem\n- corpus.inputs: 'body' is no input; expected some of: text\n"
    assert (finished.exit_code, finished.stderr) == (2, expected)


def test_a_task_without_a_head_of_its_own_is_told_under_the_name_of_the_spec(
    tmp_path: Path, encoder_directory: Path
) -> None:
    raw = {"task": "masked-lm", "model": str(encoder_directory), "output": str(tmp_path / "output")}
    finished = run_spec("bundle", raw, tmp_path)
    assert finished.exit_code == 2
    assert finished.stderr.startswith(f"error: {tmp_path}/spec.yaml: 1 problem\n- task: 'masked-lm' has no head")


@pytest.mark.parametrize("job", ["finetune", "score", "evaluate"], indirect=True)
def test_a_gpu_that_is_not_there(
    job: str, sound: tuple[Raw, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finished = run_spec(job, sound[0], tmp_path, "--set", "compute.device=gpu")
    assert finished.exit_code == 2
    assert "compute.device is gpu, but this machine has no GPU that torch can use\n  -> " in finished.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("job", ["finetune", "score", "plan"], indirect=True)
def test_an_output_that_holds_something_else(job: str, sound: tuple[Raw, Path], tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    assert_refused(run_spec(job, sound[0], tmp_path), str(output), "thesis.tex", "empty this one")
    assert [path.name for path in output.rglob("*")] == ["thesis.tex"]


def test_labels_that_were_never_trained(train_raw: Raw, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["positive", "furious"]}), tmp_path / "held-out.parquet")
    train_raw["data"]["validation"] = str(tmp_path / "held-out.parquet")
    finished = run_spec("finetune", train_raw, tmp_path)
    assert_refused(finished, "labels never trained: 'furious'", "negative, neutral, positive")
    assert not (tmp_path / "output").exists()


def test_a_training_set_of_one_label(train_raw: Raw, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", "a"]}), tmp_path / "one.parquet")
    finished = run_spec("finetune", train_raw, tmp_path, "--set", f"data.train={tmp_path / 'one.parquet'}")
    assert finished.exit_code == 2
    assert "column 'label' holds the labels: a; expected two labels or more" in finished.stderr


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (shutil.rmtree, ["no such directory"]),
        (lambda model: [(model / name).unlink() for name in ("tokenizer.json", "vocab.txt")], ["a tokenizer"]),
        (lambda model: (model / "model.safetensors").unlink(), ["lacks model.safetensors"]),
    ],
    ids=["missing", "no tokenizer", "no weights"],
)
def test_an_encoder_that_cannot_be_used(train_raw: Raw, tmp_path: Path, spoil: Spoil, expected: list[str]) -> None:
    model = Path(shutil.copytree(train_raw["model"], tmp_path / "model"))
    spoil(model)
    assert_refused(run_spec("finetune", {**train_raw, "model": str(model)}, tmp_path), str(model), *expected)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("job", ["score", "plan", "evaluate"], indirect=True)
def test_a_directory_that_is_no_bundle(
    job: str, sound: tuple[Raw, Path], tmp_path: Path, encoder_directory: Path
) -> None:
    raw = {**sound[0], "bundle": str(encoder_directory)}
    assert_refused(run_spec(job, raw, tmp_path), "no bundle.json", "bertmill finetune")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("job", ["score", "plan"], indirect=True)
def test_a_night_that_is_no_date(job: str, sound: tuple[Raw, Path], tmp_path: Path) -> None:
    finished = run_spec(job, sound[0], tmp_path, "--date", "23.11.2026")
    assert finished.exit_code == 2
    assert "--date: '23.11.2026'; expected a date like 2026-11-23" in finished.stderr


@pytest.mark.parametrize("job", ["score", "plan"], indirect=True)
def test_a_kept_column_that_no_file_has(job: str, sound: tuple[Raw, Path], tmp_path: Path) -> None:
    finished = run_spec(job, sound[0], tmp_path, "--set", "corpus.keep=[id, domain]")
    assert_refused(finished, "no column 'domain'", "the file's columns are: id, text, label")


DATE = ("--date", "2026-11-23")
TABLE_COMMANDS = {
    "nights": (),
    "history": (),
    "files": (),
    "diff": ("2026-11-23", "2026-11-24"),
    "verify": DATE,
    "vacuum": (),
    "compact": DATE,
}


@pytest.mark.parametrize("command", TABLE_COMMANDS)
def test_a_table_that_is_not_there(command: str, tmp_path: Path) -> None:
    finished = run_command("table", command, str(tmp_path), *TABLE_COMMANDS[command])
    assert_refused(finished, str(tmp_path), "no Delta table there")


def test_a_traceback_is_shown_on_request(tmp_path: Path) -> None:
    finished = run_command("score", str(tmp_path / "no.yaml"), "--debug")
    assert finished.exit_code == 2
    assert "Traceback (most recent call last)" in finished.stderr
    assert "error: " in finished.stderr


def test_a_model_and_rows_that_are_both_wrong_are_told_together(
    job: str, sound: tuple[Raw, Path], tmp_path: Path
) -> None:
    raw, rows = sound
    shutil.rmtree(rows)
    model = "model" if job == "finetune" else "bundle"
    finished = run_spec(job, {**raw, model: str(tmp_path / "no-model")}, tmp_path)
    assert_refused(finished, "error: 2 problems\n", f"- {rows}: nothing there", f"- {tmp_path / 'no-model'}: no ")
