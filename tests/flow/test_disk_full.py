"""No room on a local disk, at each thing that is written: one clear error, nothing half-written, and a re-run ends it.

A limit on the size of files (RLIMIT_FSIZE) stands in for the full disk: the operating system itself then refuses
the write in the middle of a file, in Python, in Arrow's C++ and in delta-rs alike.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.inference.publish as publishing
from pipeline.corpus.layouts import LayoutCache
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.worker import ShardScorer
from pipeline.output.ledger import Ledger
from tests.flow import helpers
from tests.flow.alone import score_alone, without_ray
from tests.tiny import make_bundle


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
    assert [row["id"] for row in helpers.read_rows(spec.output.uri)] == [
        f"{file}-{row}" for file in range(2) for row in range(60) if row not in (7, 11)
    ]
