"""kill -9 at the worst moments; the published rows equal an undisturbed run's, row by row."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.stream import stream_shards
from pipeline.inference.job import ScoreJob
from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.source import ModelSource
from pipeline.inference.worker import ShardScorer
from pipeline.output import writer
from pipeline.output.ledger import DoneRecord, Ledger, records_from
from pipeline.output.table import open_table
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.flow.alone import without_ray
from tests.tiny import make_bundle

MOMENTS = ("loading", "mid-shard", "mid-upload", "after upload, before record", "after record, before receipt")
PART_BYTES = 11 * 2**20  # more than the parts in which pyarrow sends a file to S3: one is there already


@dataclass(frozen=True)
class KillPlan:
    """Kill the process that works on a shard at the moment meant for it, the first time only.

    Attributes:
        targets: By moment, the shard's name; for moments that begin with `mid-` its first row, as `file:row`.
        markers: A directory with a file for each kill that happened.
    """

    targets: dict[str, str]
    markers: str

    def awaits(self, moment: str, target: str) -> bool:
        return self.targets.get(moment) == target and not self.marker(moment).exists()

    def strike(self, moment: str, target: str) -> None:
        if self.awaits(moment, target):
            self.marker(moment).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def marker(self, moment: str) -> Path:
        return Path(self.markers) / moment


@dataclass(frozen=True, kw_only=True)
class KillingLedger(Ledger):
    """The real ledger, with a killer on either side of its conditional PUT."""

    kill: KillPlan

    def claim(self, record: DoneRecord) -> DoneRecord:
        self.kill.strike("after upload, before record", record.shard)
        standing = super().claim(record)
        self.kill.strike("after record, before receipt", record.shard)
        return standing


@dataclass(frozen=True, kw_only=True)
class KillingJob(ScoreJob):
    """The real job; its scorer dies once while it loads, in the middle of a shard, and of writing a file."""

    kill: KillPlan

    def build(self) -> ShardScorer:
        scorer = super().build()
        self.kill.strike("loading", "")
        work = scorer._split

        def score_and_die(rows: pa.Table, *scored: Any) -> object:
            result = work(rows, *scored)
            self.kill.strike("mid-shard", _first_row(rows))
            return result

        def write_and_die(rows: pa.Table, path: str, filesystem: Any) -> None:
            if self.kill.awaits("mid-upload", _first_row(rows)):
                with filesystem.open_output_stream(path) as stream:
                    stream.write(_half_of_file(rows) + os.urandom(PART_BYTES))
                    self.kill.strike("mid-upload", _first_row(rows))
            write(rows, path, filesystem)

        write, writer._write = writer._write, write_and_die
        scorer._split = score_and_die  # type: ignore[method-assign, assignment]
        return scorer


def _half_of_file(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    content = bytes(sink.getvalue())
    return content[: len(content) // 2]


def _first_row(rows: pa.Table) -> str:
    return f"{rows['source_file'][0].as_py()}:{rows['source_row'][0].as_py()}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory, ("no", "yes"))
    return str(directory)


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
def test_workers_killed_at_every_moment_change_nothing(
    root_uri: str, bundle: str, tmp_path: Path, ray_local: None
) -> None:
    corpus = join_uri(root_uri, "corpus")
    helpers.write_demo_corpus(corpus)
    undisturbed = helpers.score_spec(bundle, corpus, join_uri(root_uri, "undisturbed"))
    disturbed = helpers.score_spec(bundle, corpus, join_uri(root_uri, "disturbed"))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        helpers.run_night(undisturbed)

    run = prepare_run(disturbed, helpers.NIGHT)
    markers = tmp_path / "markers"
    markers.mkdir()
    plan = _kill_plan(run, markers)
    records = _score_with_killer(run, plan)
    report = publish_run(run, records, "killed-run", 0.0)

    assert sorted(path.name for path in markers.iterdir()) == sorted(MOMENTS), "every kill must have happened"
    assert report.num_rows == 1200
    assert helpers.read_rows(disturbed.output.uri) == helpers.read_rows(undisturbed.output.uri)
    assert len(run.ledger.names()) == 12
    left_behind = [item.uri for item in Storage().list_objects(disturbed.output.uri) if item.uri.endswith(".tmp")]
    assert bool(left_behind) != root_uri.startswith("s3://"), "half a file stays on a disk, and no object on S3"


def _kill_plan(run: PreparedRun, markers: Path) -> KillPlan:
    """A shard for each moment, and others in between."""
    targets = {"loading": ""}
    for moment, shard in zip(MOMENTS[1:], run.plan.pending[1::2], strict=False):
        piece = shard.pieces[0]
        targets[moment] = f"{piece.file.uri}:{piece.start_row}" if moment.startswith("mid-") else shard.name
    return KillPlan(targets, str(markers))


def _score_with_killer(run: PreparedRun, kill: KillPlan) -> list[DoneRecord]:
    ledger = KillingLedger(**{field.name: getattr(run.ledger, field.name) for field in fields(Ledger)}, kill=kill)
    model = ModelSource(run.spec.bundle, run.source.texts, run.spec.compute, 1, run.ledger.storage)
    job = KillingJob(model, run.source, ledger, run.table_schema, "killed-run", kill=kill)
    pool = replace(helpers.POOL, num_workers=2)
    return [record for receipt in stream_shards(run.plan.pending, job, pool) for record in records_from(receipt)]


_DIE_BEFORE_COMMIT = """
import os, signal, sys
import pipeline.inference.publish as publish
publish.publish_night = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["bertmill", "score", sys.argv[1], "--date", sys.argv[2]]
import jobs.cli
jobs.cli.main()
"""
_DIE_AFTER_HALF = """
import os, signal, sys
import pipeline.inference.run as run
real, seen = run.records_from, []
def records_from(receipt):
    seen.append(receipt)
    if len(seen) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(receipt)
run.records_from = records_from
sys.argv = ["bertmill", "score", sys.argv[1], "--date", sys.argv[2]]
import jobs.cli
jobs.cli.main()
"""
_PLAIN = """
import sys
sys.argv = ["bertmill", "score", sys.argv[1], "--date", sys.argv[2]]
import jobs.cli
jobs.cli.main()
"""


@pytest.mark.slow  # the same moments, and more, without Ray: test_kill_commit
@pytest.mark.parametrize(
    ("code", "fewest_done", "most_done"),
    [(_DIE_BEFORE_COMMIT, 12, 12), (_DIE_AFTER_HALF, 5, 11)],
    ids=["commit", "half"],
)
def test_killed_driver_shows_nothing_and_goes_on(
    code: str, fewest_done: int, most_done: int, root_uri: str, bundle: str, tmp_path: Path, ray_local: None
) -> None:
    corpus = join_uri(root_uri, "corpus")
    helpers.write_demo_corpus(corpus)
    undisturbed = helpers.score_spec(bundle, corpus, join_uri(root_uri, "undisturbed"))
    disturbed = helpers.score_spec(bundle, corpus, join_uri(root_uri, "disturbed"))
    helpers.run_night(undisturbed)
    spec_file = str(helpers.write_spec(tmp_path, disturbed))

    died = helpers.run_python(code, spec_file, helpers.NIGHT)

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert open_table(disturbed.output.uri, Storage()) is None, "nothing may be visible before the commit"
    num_done = len(prepare_run(disturbed, helpers.NIGHT).plan.done)
    assert fewest_done <= num_done <= most_done
    again = helpers.run_python(_PLAIN, spec_file, helpers.NIGHT)
    assert again.returncode == 0, again.stderr
    found = re.search(r"shards 12, of which (\d+) were already done", again.stdout)
    assert found, again.stdout  # an orphaned actor may have finished its shard after the driver's death
    assert num_done <= int(found[1]) <= most_done
    assert helpers.read_rows(disturbed.output.uri) == helpers.read_rows(undisturbed.output.uri)
    third = helpers.run_python(_PLAIN, spec_file, helpers.NIGHT)
    assert "already done" in third.stdout, third.stderr
