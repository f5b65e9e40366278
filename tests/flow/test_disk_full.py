"""No room on a local disk, at each thing that is written: one clear error, nothing half-written, and a re-run ends it.

A limit on the size of files (RLIMIT_FSIZE) stands in for the full disk: the operating system itself then refuses
the write in the middle of a file, in Python, in Arrow's C++ and in delta-rs alike. Where a process may have mounts of
its own, disks of many sizes really are full.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.inference.publish as publishing
from pipeline.corpus.layouts import LayoutCache
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.worker import ShardScorer
from pipeline.output.ledger import Ledger
from tests.flow import helpers, small_disk
from tests.flow.alone import score_alone, without_ray
from tests.flow.small_disk import Found
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

IDS = [f"{file}-{row}" for file in range(2) for row in range(60) if row not in (7, 11)]


@contextlib.contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreSpec:
    without_ray(monkeypatch)
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    helpers.write_demo_corpus(str(tmp_path / "corpus"), num_files=2, rows_per_file=60)
    return helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))


def files_below(directory: str) -> list[Path]:
    return [path for path in Path(directory).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("owner", "step"),
    [(LayoutCache, "save"), (ShardScorer, "_write"), (Ledger, "claim"), (publishing, "publish_night")],
    ids=["footers", "rows", "record", "commit"],
)
def test_a_full_disk_stops_the_night_and_hurts_nothing(
    owner: object, step: str, spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = getattr(owner, step)

    def work_without_room(*arguments: object) -> object:
        with files_up_to(150):
            return work(*arguments)

    monkeypatch.setattr(owner, step, work_without_room)
    stopped = score_alone(spec, tmp_path)
    left_behind = files_below(spec.output.uri)

    assert stopped.exit_code == 75, stopped.stderr
    assert "make room there, then run the same command again" in stopped.stderr
    assert helpers.read_rows(spec.output.uri) == []
    assert [path for path in left_behind if path.name.startswith(".") or path.stat().st_size == 150] == []
    monkeypatch.setattr(owner, step, work)
    again = score_alone(spec, tmp_path)
    assert again.exit_code == 0, again.stderr
    assert [row["id"] for row in helpers.read_rows(spec.output.uri)] == IDS


@pytest.mark.slow
@pytest.mark.skipif(not small_disk.can_mount(), reason="needs unshare(1), and the right to mounts of one's own")
def test_disks_of_every_size_stop_the_night_and_hurt_nothing(tmp_path: Path) -> None:
    command = [*small_disk.UNSHARE, sys.executable, "-m", "tests.flow.small_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=helpers.REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    *small, large = [Found(**json.loads(line)) for line in done.stdout.splitlines()]
    assert (large.exit_code, large.num_shown) == (0, len(IDS)), large.stderr
    full = [found for found in small if found.exit_code != 0]
    assert sum(found.num_shown == 0 for found in full) >= 4, "each stops at another step"
    for found in full:
        assert found.exit_code == 75, found.stderr
        assert "make room there, then run the same command again" in found.stderr
        assert "Traceback" not in found.stderr
        assert found.num_shown in (0, len(IDS)), "a whole night or nothing"
    for found in (*small, large):
        assert found.exit_code_again == 0, found.stderr_again
        assert found.ids == IDS
