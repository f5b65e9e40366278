"""kill -9 of the driver around the commit, and publishers that race: always the undisturbed table, row by row."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipeline.inference.spec import ScoreSpec
from pipeline.output.log import read_commits
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.flow.s3_server import S3Server
from tests.flow.victims import AFTER_COMMIT, Run, Victims
from tests.tiny import make_bundle

FIRST, SECOND = "2026-11-22", "2026-11-23"
MODES = {"all": {}, "new": {"select": "new"}, "snapshot": {"mode": "snapshot"}}
STORAGE = Storage()
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scene:
    """A corpus after its second day; by mode, the table as the first night left it and as both nights should."""

    root: Path
    bundle: str
    before: dict[str, Rows]
    after: dict[str, Rows]
    victims: Victims

    def spec(self, mode: str, uri: str) -> ScoreSpec:
        spec = helpers.score_spec(self.bundle, str(self.root / "corpus"), uri)
        return spec.model_copy(update={"output": spec.output.model_copy(update=MODES[mode])})

    def copy(self, mode: str) -> Path:
        """A table as the first night left it."""
        table = self.root / uuid.uuid4().hex
        shutil.copytree(self.root / f"first-{mode}", table)
        return table

    def command(self, mode: str, uri: str, night: str = SECOND) -> tuple[str, ...]:
        directory = self.root / f"spec-{uuid.uuid4().hex}"
        directory.mkdir()
        return ("nightly", str(helpers.write_spec(directory, self.spec(mode, uri))), "--date", night)

    def finish(self, command: tuple[str, ...]) -> str:
        (ended,) = self.victims.run(Run(command))
        assert ended.status == 0, ended.output
        return ended.output


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("kills")
    make_bundle(root / "bundle", ("no", "yes"))
    victims = Victims(root)
    scene = Scene(root, str(root / "bundle"), {}, {}, victims)
    helpers.write_demo_corpus(str(root / "corpus"), num_files=3, rows_per_file=110)
    for mode in MODES:
        table = root / f"first-{mode}"
        scene.finish(scene.command(mode, str(table), FIRST))
        scene.before[mode] = helpers.read_rows(str(table))
    _change(root / "corpus")
    for mode in MODES:
        table = scene.copy(mode)
        scene.finish(scene.command(mode, str(table)))
        scene.after[mode] = helpers.read_rows(str(table))
    yield scene
    victims.close()


def _change(corpus: Path) -> None:
    """One file changes, one goes, one comes."""
    helpers.write_demo_corpus(str(corpus / "more"), num_files=2, rows_per_file=120)
    shutil.move(corpus / "more" / "domain=d0" / "part-0.parquet", corpus / "domain=d0" / "part-0.parquet")
    (corpus / "domain=d1" / "part-1.parquet").unlink()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", ["plan", "half", "all", "quarantine", "before", "during", "after", "manifest"])
def test_killed_driver_goes_on_to_the_exact_table(scene: Scene, mode: str, moment: str) -> None:
    _kill_and_finish(scene, mode, moment, str(scene.copy(mode)))


def test_killed_driver_goes_on_from_before_its_coverage(scene: Scene) -> None:
    _kill_and_finish(scene, "new", "coverage", str(scene.copy("new")))


@pytest.mark.parametrize("moment", ["current", "listed"])
def test_killed_driver_goes_on_to_the_exact_list_of_what_is_current(scene: Scene, moment: str) -> None:
    table, undisturbed = scene.copy("new"), scene.copy("new")
    scene.finish(scene.command("new", str(undisturbed)))
    _kill_and_finish(scene, "new", moment, str(table))
    assert _current_nights(table) == _current_nights(undisturbed)
    assert {str(night) for _, night in _current_nights(table)} == {FIRST, SECOND}


def _current_nights(table: Path) -> list[tuple[Any, Any]]:
    """Which night holds which file's rows, as a reader of the list finds it."""
    rows = DeltaTable(table / "_current").to_pyarrow_table().to_pylist()
    return sorted((row["source_file"], row["night"]) for row in rows)


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_killed_driver_goes_on_to_the_exact_table_on_s3(scene: Scene, s3_server: S3Server, moment: str) -> None:
    uri = helpers.upload_directory(scene.root / "first-new", f"s3://{s3_server.bucket}/{uuid.uuid4().hex}")
    _kill_and_finish(scene, "new", moment, uri)


@pytest.mark.parametrize("moment", ["create", "before", "after"])
def test_killed_in_the_first_night_of_a_table(scene: Scene, moment: str) -> None:
    uri = str(scene.root / uuid.uuid4().hex)
    command = scene.command("all", uri)
    (killed,) = scene.victims.run(Run(command, moment))
    assert killed.status == -signal.SIGKILL, killed.output
    wanted = [row for row in scene.after["all"] if str(row["run_date"]) == SECOND]
    assert helpers.read_rows(uri) == (wanted if moment == "after" else [])
    scene.finish(command)
    assert helpers.read_rows(uri) == wanted


def _kill_and_finish(scene: Scene, mode: str, moment: str, uri: str) -> None:
    command = scene.command(mode, uri)
    (killed,) = scene.victims.run(Run(command, moment))
    assert killed.status == -signal.SIGKILL, killed.output
    shown = helpers.read_rows(uri)
    before, after = scene.before[mode], scene.after[mode]
    allowed = [before, after] if moment == "during" else [after if moment in AFTER_COMMIT else before]
    assert shown in allowed, "a reader sees all of a night or nothing of it"
    assert "another run" not in scene.finish(command)
    assert helpers.read_rows(uri) == after
    assert verify_night(uri, SECOND, STORAGE).problems == ()
    assert "nothing to do" in scene.finish(command)
    assert helpers.read_rows(uri) == after


@pytest.mark.parametrize("num_racers", [2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_racing_publishers_make_one_commit(scene: Scene, mode: str, num_racers: int) -> None:
    table = scene.copy(mode)
    version = DeltaTable(table).version()
    _race(scene, scene.command(mode, str(table)), num_racers)
    assert helpers.read_rows(str(table)) == scene.after[mode]
    assert DeltaTable(table).version() == version + 1
    assert verify_night(str(table), SECOND, STORAGE).problems == ()


@pytest.mark.parametrize("num_racers", [2, 4])
def test_racing_publishers_of_a_published_night_make_one_commit(scene: Scene, num_racers: int) -> None:
    """The corpus has changed since it was published."""
    calm, table = scene.copy("all"), scene.copy("all")
    scene.finish(scene.command("all", str(calm), FIRST))
    version = DeltaTable(table).version()
    _race(scene, scene.command("all", str(table), FIRST), num_racers)
    assert helpers.read_rows(str(table)) == helpers.read_rows(str(calm)) != scene.before["all"]
    assert DeltaTable(table).version() == version + 1
    assert verify_night(str(table), FIRST, STORAGE).problems == ()


@pytest.mark.parametrize("num_racers", [2, 4])
def test_racing_publishers_of_a_tables_first_night_make_one_commit(scene: Scene, num_racers: int) -> None:
    uri = str(scene.root / uuid.uuid4().hex)
    _race(scene, scene.command("all", uri), num_racers)
    assert helpers.read_rows(uri) == [row for row in scene.after["all"] if str(row["run_date"]) == SECOND]
    assert sum(bool(commit.added) for commit in read_commits(uri, STORAGE)) == 1


@pytest.mark.parametrize("num_racers", [2, 4])
def test_racing_publishers_on_s3_make_one_commit(scene: Scene, s3_server: S3Server, num_racers: int) -> None:
    uri = helpers.upload_directory(scene.root / "first-snapshot", f"s3://{s3_server.bucket}/{uuid.uuid4().hex}")
    before = len(read_commits(uri, STORAGE))
    _race(scene, scene.command("snapshot", uri), num_racers)
    assert helpers.read_rows(uri) == scene.after["snapshot"]
    assert len(read_commits(uri, STORAGE)) == before + 1


def _race(scene: Scene, command: tuple[str, ...], num_racers: int) -> None:
    meeting = scene.root / f"meeting-{uuid.uuid4().hex}"
    meeting.mkdir()
    ended = scene.victims.run(*[Run(command, "", str(meeting), num_racers)] * num_racers)
    assert [end.status for end in ended] == [0] * num_racers, "\n".join(end.output for end in ended)


def test_commands_started_together_do_the_work_once(scene: Scene) -> None:
    """With their leases: one does it; whoever comes while it is at work or after it says so, and ends well."""
    uri = join_uri(str(scene.root), uuid.uuid4().hex)
    ended = scene.victims.run(*[Run(scene.command("all", uri))] * 3)
    assert [end.status for end in ended] == [0, 0, 0], "\n".join(end.output for end in ended)
    assert helpers.read_rows(uri) == [row for row in scene.after["all"] if str(row["run_date"]) == SECOND]
    said = ("\npublished: night", "is at work on it", "done by another run meanwhile", "already published: night")
    counts = [sum(words in f"\n{end.output}" for end in ended) for words in said]
    assert (counts[0], sum(counts)) == (1, 3), "\n".join(end.output for end in ended)
