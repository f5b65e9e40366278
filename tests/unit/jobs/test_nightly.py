"""`bertmill nightly` as it is typed: dates, dry runs, a night that another run holds, a range with corrupt files."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import jobs.night
import pipeline.inference.run as scoring
from pipeline.config import ComputeConfig, PoolOptions
from pipeline.corpus.shards import Shard
from pipeline.corpus.stream import WorkerFactory
from pipeline.output import lock
from pipeline.output.ledger import Ledger
from pipeline.output.lock import NightLock
from pipeline.output.verify import verify_night
from pipeline.report import saved
from pipeline.storage import Storage
from tests.tiny import write_corpus
from tests.unit.inference.scoring import files_below
from tests.unit.jobs.command_line import Finished, run_command, write_spec

D21, D22, D23 = "2026-11-21", "2026-11-22", "2026-11-23"
SNAPSHOT_NOTE = "the table is a snapshot: the whole of it was read"


@pytest.fixture
def nightly_raw(score_raw: dict[str, Any]) -> dict[str, Any]:
    """A sound spec whose nights hold what is new."""
    score_raw["output"]["select"] = "new"
    score_raw["compute"] = {"device": "cpu", "precision": "fp32"}
    return score_raw


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are worked through here."""

    def stream(shards: Sequence[Shard], factory: WorkerFactory, _pool: PoolOptions) -> Iterator[pa.Table]:
        worker = factory.build()
        return (worker.process(shard) for shard in shards)

    @contextlib.contextmanager
    def session(_compute: ComputeConfig, _address: str | None) -> Iterator[PoolOptions]:
        yield PoolOptions(1, 1, 0)

    monkeypatch.setattr(scoring, "stream_shards", stream)
    monkeypatch.setattr(jobs.night, "ray_session", session)


def nightly(raw: dict[str, Any], tmp_path: Path, *options: str) -> Finished:
    return run_command("nightly", write_spec(tmp_path / "spec.yaml", raw), *options)


def test_a_night_needs_its_date(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    finished = nightly(nightly_raw, tmp_path)
    assert finished.exit_code == 2
    assert "--date" in finished.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--date", D22, "--until", D21], ("--until", "2026-11-22 or later")),
        (["--date", "today"], ("--date", "'today'")),
        (["--date", D22, "--until", "tomorrow"], ("--until", "'tomorrow'")),
    ],
)
def test_dates_that_make_no_range_are_refused(
    nightly_raw: dict[str, Any], tmp_path: Path, options: list[str], expected: tuple[str, ...]
) -> None:
    finished = nightly(nightly_raw, tmp_path, *options)
    assert (finished.exit_code, finished.stdout) == (2, "")
    for words in expected:
        assert words in finished.stderr
    assert not (tmp_path / "output").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    finished = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D22, "--dry-run")
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.count("40 rows (none is done under this fingerprint)") == 2
    assert not (tmp_path / "output").exists()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night that is held shows it soon."""
    monkeypatch.setattr(lock, "RENEW_S", 0.2)
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: threading.Event().wait(seconds))


def held(night: str, tmp_path: Path, is_snapshot: bool = False) -> NightLock:
    return NightLock(Ledger(str(tmp_path / "output"), night, "", Storage(), is_snapshot), "other")


@pytest.mark.usefixtures("short_lease")
def test_a_night_that_another_run_holds_is_left_to_it(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    with held(D21, tmp_path):
        before = files_below(tmp_path / "output")
        finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert (finished.exit_code, finished.stdout) == (0, "")
    assert finished.stderr.startswith(f"note: run_date={D21}: ")
    assert "run other is at work on it" in finished.stderr
    assert files_below(tmp_path / "output") == before


@pytest.mark.usefixtures("no_ray", "short_lease")
def test_a_range_goes_on_after_a_night_that_another_run_holds(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    with held(D22, tmp_path):
        finished = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D23)
    assert finished.exit_code == 75
    assert f"error: 1 of 3 nights are left to other runs: {D22}\nrun_date={D22}: " in finished.stderr
    assert [manifest["run_date"] for manifest in manifests(tmp_path)] == [D21, D23]
    assert nightly(nightly_raw, tmp_path, "--date", D21, "--until", D23).exit_code == 0
    assert [manifest["run_date"] for manifest in manifests(tmp_path)] == [D21, D22, D23]


@pytest.mark.usefixtures("no_ray", "short_lease")
@pytest.mark.parametrize("until", [[], ["--until", D23]])
def test_a_snapshot_that_is_held_for_another_night_is_not_called_done(
    nightly_raw: dict[str, Any], tmp_path: Path, until: list[str]
) -> None:
    nightly_raw["output"] |= {"mode": "snapshot", "select": "all"}
    with held(D21, tmp_path, is_snapshot=True):
        finished = nightly(nightly_raw, tmp_path, "--date", D22, *until)
    assert finished.exit_code == 75
    assert f"run other is at work on night {D21}; nothing done for {D22}" in finished.stderr
    assert manifests(tmp_path) == []
    assert nightly(nightly_raw, tmp_path, "--date", D22).exit_code == 0
    assert [manifest["run_date"] for manifest in manifests(tmp_path)] == [D22]


@pytest.mark.usefixtures("no_ray")
def test_a_night_that_changes_nothing_in_a_snapshot_is_a_night_all_the_same(
    nightly_raw: dict[str, Any], tmp_path: Path
) -> None:
    nightly_raw["output"] |= {"mode": "snapshot", "select": "all"}
    assert nightly(nightly_raw, tmp_path, "--date", D21).exit_code == 0
    quiet = nightly(nightly_raw, tmp_path, "--date", D22)
    assert quiet.exit_code == 0, quiet.stderr
    assert [(told["run_date"], told["table_version"]) for told in manifests(tmp_path)] == [(D21, 1), (D22, 1)]
    assert (tmp_path / "output" / "_reports" / f"run_date={D22}.html").exists()
    assert verify_night(str(tmp_path / "output"), D22, Storage()).notes == (SNAPSHOT_NOTE,)
    before = files_below(tmp_path / "output")
    assert nightly(nightly_raw, tmp_path, "--date", D21, "--until", D22).exit_code == 0
    assert files_below(tmp_path / "output") == before


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("output", [{"select": "new"}, {"select": "all"}, {"mode": "snapshot", "select": "all"}])
@pytest.mark.parametrize(
    ("comes_later", "rows", "says"), [(False, 60, "done by another run meanwhile"), (True, 80, "80 = 80 scored")]
)
def test_a_night_that_another_run_did_meanwhile_is_planned_again(
    nightly_raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: dict[str, str],
    comes_later: bool,
    rows: int,
    says: str,
) -> None:
    """Files came after this command had listed the corpus: the other one's night is not replaced by an older one."""
    nightly_raw["output"] |= output

    class LateLock(NightLock):
        def __enter__(self) -> NightLock:
            monkeypatch.setattr(lock, "NightLock", NightLock)
            write_corpus(tmp_path / "corpus" / "more", num_files=1)
            assert nightly(nightly_raw, tmp_path, "--date", D21).exit_code == 0
            if comes_later:
                write_corpus(tmp_path / "corpus" / "most", num_files=1)
            return super().__enter__()

    monkeypatch.setattr(lock, "NightLock", LateLock)
    finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert finished.exit_code == 0, finished.stderr
    assert says in finished.stdout
    assert DeltaTable(tmp_path / "output").to_pyarrow_table().num_rows == rows
    assert len(manifests(tmp_path)) == (2 if comes_later else 1)
    assert set(verify_night(str(tmp_path / "output"), D21, Storage()).notes) <= {SNAPSHOT_NOTE}


@pytest.mark.usefixtures("no_ray")
def test_a_run_whose_night_was_taken_over_publishes_nothing(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(shards: Sequence[Shard], factory: WorkerFactory, pool: PoolOptions) -> Iterator[pa.Table]:
        monkeypatch.setattr(lock, "STALE_S", -1.0)  # this process slept, another one went on
        with held(D21, tmp_path):
            yield from (factory.build().process(shard) for shard in shards)

    monkeypatch.setattr(scoring, "stream_shards", stream)
    finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert finished.exit_code == 0
    assert "run other is at work on it" in finished.stderr
    assert (manifests(tmp_path), DeltaTable.is_deltatable(str(tmp_path / "output"))) == ([], False)


@pytest.mark.usefixtures("no_ray")
def test_a_range_of_nights_does_each_once(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    finished = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D23)
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.count("40 = 40 scored + 0 quarantined") == 1
    before = files_below(tmp_path / "output")
    again = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D23)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.count("nothing to do: this night is published") == 3
    assert files_below(tmp_path / "output") == before


@pytest.mark.usefixtures("no_ray")
def test_a_dry_run_of_a_rescoring_forgets_nothing(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    nightly(nightly_raw, tmp_path, "--date", D21)
    before = files_below(tmp_path / "output")
    finished = nightly(nightly_raw, tmp_path, "--date", D21, "--rescore", "--dry-run")
    assert finished.exit_code == 0, finished.stderr
    assert "to score: 1 shards, 40 rows" in finished.stdout
    assert files_below(tmp_path / "output") == before


@pytest.mark.usefixtures("no_ray")
def test_a_corrupt_file_that_may_be_left_out_does_not_stop_a_range(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    nightly_raw["corpus"]["corrupt_files"] = "skip"
    (tmp_path / "corpus" / "broken.parquet").write_bytes(b"PAR1 but not really")
    finished = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D22)
    assert finished.exit_code == 6
    assert "1 corrupt files were left out, everything else is published" in finished.stderr
    assert len(list((tmp_path / "output").glob("_manifests/run_date=*/*.json"))) == 2


@pytest.mark.usefixtures("no_ray")
def test_a_dry_run_calls_published_only_what_is(nightly_raw: dict[str, Any], tmp_path: Path) -> None:
    nightly_raw["corpus"]["corrupt_files"] = "skip"
    (tmp_path / "corpus" / "broken.parquet").write_bytes(b"PAR1 but not really")
    before = nightly(nightly_raw, tmp_path, "--date", D21, "--dry-run")
    assert (before.exit_code, before.stderr) == (0, "")
    assert "left out: 1 corrupt files" in before.stdout
    nightly(nightly_raw, tmp_path, "--date", D21)
    after = nightly(nightly_raw, tmp_path, "--date", D21, "--dry-run")
    assert after.exit_code == 6
    assert "everything else is published" in after.stderr


def manifests(tmp_path: Path) -> list[dict[str, Any]]:
    paths = (tmp_path / "output").glob("_manifests/run_date=*/*.json")
    return [json.loads(path.read_text()) for path in sorted(paths)]


def kill_before_the_manifest(raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_given: object) -> None:
        raise InterruptedError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.publish._write_manifest", die)
        with pytest.raises(InterruptedError, match="killed"):
            nightly(raw, tmp_path, "--date", D21)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("output", [{"select": "new"}, {"select": "all"}, {"mode": "snapshot", "select": "all"}])
def test_a_run_killed_between_commit_and_manifest_gets_its_manifest_from_the_next(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: dict[str, str]
) -> None:
    nightly_raw["output"] |= output
    kill_before_the_manifest(nightly_raw, tmp_path, monkeypatch)
    assert (DeltaTable(tmp_path / "output").version(), manifests(tmp_path)) == (1, [])
    dry = nightly(nightly_raw, tmp_path, "--date", D21, "--dry-run")
    assert (dry.exit_code, manifests(tmp_path)) == (0, [])
    finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert finished.exit_code == 0, finished.stderr
    assert "its manifest was missing" in finished.stdout
    (manifest,) = manifests(tmp_path)
    assert (manifest["num_scored_rows"], manifest["num_rows_this_run"], manifest["table_version"]) == (40, 0, 1)
    before = files_below(tmp_path / "output")
    assert "missing" not in nightly(nightly_raw, tmp_path, "--date", D21).stdout
    assert files_below(tmp_path / "output") == before
    assert verify_night(str(tmp_path / "output"), D21, Storage()).notes in ((), (SNAPSHOT_NOTE,))


@pytest.mark.usefixtures("no_ray")
def test_a_run_killed_between_manifest_and_report_gets_its_report_from_the_next(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: Any) -> NoReturn:
        raise KeyboardInterrupt

    reports = tmp_path / "output" / "_reports"
    with monkeypatch.context() as patched:
        patched.setattr(saved, "build_report", killed)
        assert nightly(nightly_raw, tmp_path, "--date", D21).exit_code == 130
    dry = nightly(nightly_raw, tmp_path, "--date", D21, "--dry-run")
    assert (dry.exit_code, len(manifests(tmp_path)), reports.exists()) == (0, 1, False)
    finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert finished.exit_code == 0, finished.stderr
    assert "its report was missing" in finished.stdout
    assert {path.name for path in reports.iterdir()} == {f"run_date={D21}.html", f"run_date={D21}.json"}
    assert "missing" not in nightly(nightly_raw, tmp_path, "--date", D21).stdout


@pytest.mark.usefixtures("no_ray")
def test_the_report_of_a_run_before_does_not_speak_for_one_that_was_killed(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly(nightly_raw, tmp_path, "--date", D21)
    write_corpus(tmp_path / "corpus" / "more", num_files=1)
    kill_before_the_manifest(nightly_raw, tmp_path, monkeypatch)
    finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert "its report was missing" in finished.stdout
    summary = json.loads((tmp_path / "output" / "_reports" / f"run_date={D21}.json").read_text())
    newest = max(manifests(tmp_path), key=lambda manifest: manifest["num_scored_rows"])
    assert summary["run_id"] == newest["run_id"]


@pytest.mark.usefixtures("no_ray")
def test_an_older_manifest_does_not_speak_for_a_later_publication(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly(nightly_raw, tmp_path, "--date", D21)
    write_corpus(tmp_path / "corpus" / "more", num_files=1)
    kill_before_the_manifest(nightly_raw, tmp_path, monkeypatch)
    assert [manifest["num_scored_rows"] for manifest in manifests(tmp_path)] == [40]
    nightly(nightly_raw, tmp_path, "--date", D21)
    assert sorted(manifest["num_scored_rows"] for manifest in manifests(tmp_path)) == [40, 60]


@pytest.mark.usefixtures("no_ray", "short_lease")
def test_a_missing_manifest_is_left_to_the_run_that_holds_the_night(
    nightly_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_before_the_manifest(nightly_raw, tmp_path, monkeypatch)
    with held(D21, tmp_path):
        finished = nightly(nightly_raw, tmp_path, "--date", D21)
    assert finished.exit_code == 0
    assert "run other is at work on it" in finished.stderr
    assert manifests(tmp_path) == []


def test_drift_is_said_before_files_that_were_left_out(
    nightly_raw: dict[str, Any], tmp_path: Path, no_ray: None
) -> None:
    nightly_raw["report"] = {"fail": {"rows_change": 0.5}}
    nightly_raw["corpus"]["corrupt_files"] = "skip"
    (tmp_path / "corpus" / "broken.parquet").write_bytes(b"PAR1 but not really")
    assert nightly(nightly_raw, tmp_path, "--date", D21).exit_code == 6
    assert nightly(nightly_raw, tmp_path, "--date", D22).exit_code == 8
    assert nightly(nightly_raw, tmp_path, "--date", D22).exit_code == 8
    both = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D22)
    assert both.exit_code == 8
    assert f"night {D22} is published, and beyond the limits" in both.stderr


def test_a_range_goes_on_after_a_night_beyond_its_limits(
    nightly_raw: dict[str, Any], tmp_path: Path, no_ray: None
) -> None:
    nightly_raw["report"] = {"fail": {"rows_change": 0.5}}
    finished = nightly(nightly_raw, tmp_path, "--date", D21, "--until", D23)
    assert finished.exit_code == 8, finished.stderr
    assert f"night {D23} is published, and beyond the limits" in finished.stderr
    pages = {path.name for path in Path(nightly_raw["output"]["uri"]).glob("_reports/*.html")}
    assert pages == {f"run_date={night}.html" for night in (D21, D22, D23)}
