"""`bertmill submit` with input that is wrong, refused before any cluster is asked, or with nothing left to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.remote.attempts import DIGEST_KEY, Wanted
from jobs.remote.project import spec_as_yaml
from jobs.remote.states import RemoteJob
from pipeline.config import load_spec
from pipeline.inference.spec import ScoreSpec
from pipeline.registry.aliases import Alias
from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.tiny import make_bundle, write_corpus
from tests.unit.jobs.command_line import assert_refused, run_command, write_spec


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["nightly"], "--date: is missing for nightly"),
        (["score", "--date", "yesterday"], "'yesterday'"),
        (["nightly", "--date", "2026-11-23", "--name", "a b"], "--name: 'a b'"),
        (["nightly", "--date", "2026-11-23", "--pip", "no-such-package"], "no-such-package: not in"),
        (["nightly", "--date", "2026-11-23", "--set", "corpus.url=x"], "corpus.url: is not a known field"),
        (["evaluate"], "output: is not a known field"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, score_raw: dict[str, Any], options: list[str], expected: str) -> None:
    job, *rest = options
    finished = run_command("submit", job, write_spec(tmp_path / "score.yaml", score_raw), *rest)
    assert finished.exit_code == 2
    assert expected in finished.stderr
    assert finished.stdout == ""


def test_a_job_without_nights_takes_no_date(tmp_path: Path, train_raw: dict[str, Any]) -> None:
    spec = write_spec(tmp_path / "train.yaml", train_raw)
    finished = run_command("submit", "finetune", spec, "--date", "2026-11-23")
    assert "finetune has no nights" in finished.stderr


@pytest.mark.parametrize(("model", "is_refused"), [("./bert", True), ("~/bert", True), ("owner/bert", False)])
def test_a_model_of_this_directory_is_refused(
    tmp_path: Path, train_raw: dict[str, Any], model: str, is_refused: bool
) -> None:
    spec = write_spec(tmp_path / "train.yaml", {**train_raw, "model": model})
    said = f"model: {model} is looked for in this directory; expected a URI that the cluster can read"
    assert_refused(run_command("submit", "finetune", spec), said if is_refused else "no address of a cluster is given")


def test_a_model_s_name_that_is_a_directory_here_and_relative_data_of_a_block_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "bert").mkdir(parents=True)
    finetune = {"model": "owner/bert", "task": "text-classification", "data": {"train": ["rows", "s3://bucket/rows"]}}
    raw = {"runs": [{"name": "a", "finetune": finetune, "test": {"uri": "rows"}}], "output": "s3://bucket/suite"}
    finished = run_command("submit", "suite", write_spec(tmp_path / "suite.yaml", raw))
    fields = ("runs.0.finetune.model: owner/bert", "runs.0.finetune.data.train: rows", "runs.0.test.uri: rows")
    assert_refused(finished, "3 problems", *(f"- {field} is looked for in this directory" for field in fields))


@pytest.mark.parametrize(
    ("address", "expected"),
    [([], "no address of a cluster is given"), (["--address", "head:6379"], "'head:6379' is not the address")],
)
def test_an_address_that_is_no_job_server_is_refused(
    tmp_path: Path, score_raw: dict[str, Any], address: list[str], expected: str
) -> None:
    spec = write_spec(tmp_path / "score.yaml", score_raw)
    for command in (["submit", "nightly", spec, "--date", "2026-11-23"], ["jobs"], ["logs", "a-1"], ["stop", "a-1"]):
        assert_refused(run_command(*command, *address), expected)


@pytest.mark.parametrize(("status", "told"), [("SUCCEEDED", "; --again makes a new attempt"), ("RUNNING", "")])
def test_work_that_is_there_already_is_told(
    tmp_path: Path, score_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, status: str, told: str
) -> None:
    spec = write_spec(tmp_path / "score.yaml", score_raw)
    wanted = Wanted("nightly", "score", "2026-11-23", spec_as_yaml(load_spec(spec, ScoreSpec)))
    standing = RemoteJob(f"{wanted.stem}-1", status, metadata={DIGEST_KEY: wanted.digest})
    server = SimpleNamespace(address="http://head:8265", find=lambda: [standing])
    monkeypatch.setattr("jobs.remote.submit.connect", lambda address: server)
    finished = run_command("submit", "nightly", spec, "--date", "2026-11-23", "--no-wait")
    assert finished.exit_code == 0, finished.stderr
    expected = f"nightly-score-2026-11-23-1 is already {status.lower()} at http://head:8265{told}\n"
    assert finished.stdout == expected


@pytest.mark.parametrize("change", ["nothing", "alias", "rows", "not seen"])
def test_an_evaluation_is_done_while_its_alias_and_its_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    registry = Registry(str(tmp_path / "models"), Storage())
    alias = Alias(registry, "m", "live")
    for name, labels in (("one", ("no", "yes")), ("two", ("bad", "good"))):
        make_bundle(tmp_path / name, labels)
        registry.publish(str(tmp_path / name), "m")
    alias.move(registry.version("m", 1), alias.now())
    write_corpus(tmp_path / "rows", num_files=1)
    raw = {"bundle": "models://m@live", "registry": registry.uri, "corpus": {"uri": str(tmp_path / "rows")}}
    spec, known = write_spec(tmp_path / "evaluate.yaml", raw), list[RemoteJob]()

    def take(**request: Any) -> bool:
        known.append(RemoteJob(request["submission_id"], "SUCCEEDED", metadata=request["metadata"]))
        return True

    server = SimpleNamespace(address="http://head:8265", find=lambda: known, submit=take)
    monkeypatch.setattr("jobs.remote.submit.connect", lambda address: server)
    submit = ("submit", "evaluate", spec, "--no-wait")
    assert "submitted evaluate-evaluate-" in run_command(*submit).stdout
    if change == "alias":
        alias.move(registry.version("m", 2), alias.now())
    elif change == "rows":
        write_corpus(tmp_path / "rows", num_files=2)
    elif change == "not seen":
        (tmp_path / "rows").rename(tmp_path / "elsewhere")
    finished = run_command(*submit)
    assert ("is already succeeded" if change == "nothing" else "submitted evaluate-evaluate-") in finished.stdout
    assert ("cannot be looked at from here" in finished.stderr) == (change == "not seen")
    if change == "not seen":
        assert "submitted" in run_command(*submit).stdout
