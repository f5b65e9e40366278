"""kill -9 at the worst moments; the published rows equal an undisturbed run's, row by row."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.shards import Shard
from pipeline.corpus.stream import stream_shards
from pipeline.inference.job import ScoreJob
from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.source import ModelSource
from pipeline.inference.spec import ScoreSpec
from pipeline.inference.worker import ShardScorer
from pipeline.output import writer
from pipeline.output.ledger import DoneRecord, Ledger, records_from
from pipeline.output.table import open_table
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.tiny import make_bundle

KILLED_SHARD = 5
PART_BYTES = 11 * 2**20  # more than the parts in which pyarrow sends a file to S3: one is there already


@dataclass(frozen=True)
class KillPlan:
    """Kill the process that works on one shard, at one moment, the first time only."""

    moment: str
    shard: str
    marker: str

    def strike(self, moment: str, shard: str) -> None:
        if moment == self.moment and shard == self.shard and Storage().create_bytes(self.marker, b""):
            os.kill(os.getpid(), signal.SIGKILL)


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
    """The real job; its scorer dies once while it loads, in the middle of a shard, or of writing its file."""

    kill: KillPlan

    def build(self) -> ShardScorer:
        scorer = super().build()
        self.kill.strike("loading", self.kill.shard)
        work = scorer._split

        def score_and_die(rows: pa.Table, *scored: Any) -> object:
            result = work(rows, *scored)
            if self.kill.moment == "mid-shard" and _holds_row(rows, self.kill.shard):
                self.kill.strike("mid-shard", self.kill.shard)
            return result

        def write_and_die(rows: pa.Table, path: str, filesystem: Any) -> None:
            is_victim = self.kill.moment == "mid-upload" and _holds_row(rows, self.kill.shard)
            if is_victim and not Path(self.kill.marker).exists():
                with filesystem.open_output_stream(path) as stream:
                    stream.write(_half_of_file(rows) + os.urandom(PART_BYTES))
                    self.kill.strike("mid-upload", self.kill.shard)
            write(rows, path, filesystem)

        write, writer._write = writer._write, write_and_die
        scorer._split = score_and_die  # type: ignore[method-assign, assignment]
        return scorer


def _half_of_file(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    content = bytes(sink.getvalue())
    return content[: len(content) // 2]


def _holds_row(rows: pa.Table, shard_and_row: str) -> bool:
    return f"{rows['source_file'][0].as_py()}:{rows['source_row'][0].as_py()}" == shard_and_row


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory, ("no", "yes"))
    return str(directory)


@pytest.fixture(scope="module")
def undisturbed(bundle: str, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> ScoreSpec:
    """A night to which nothing happened, on a local disk."""
    root = tmp_path_factory.mktemp("undisturbed")
    helpers.write_demo_corpus(str(root / "corpus"))
    spec = helpers.score_spec(bundle, str(root / "corpus"), str(root / "scores"))
    helpers.run_night(spec)
    return spec


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("loading", marks=pytest.mark.slow),
        "mid-shard",
        "mid-upload",
        "after upload, before record",
        "after record, before receipt",
    ],
)
def test_killed_actor_changes_nothing(moment: str, undisturbed: ScoreSpec, root_uri: str, tmp_path: Path) -> None:
    output = undisturbed.output.model_copy(update={"uri": join_uri(root_uri, "disturbed")})
    disturbed = undisturbed.model_copy(update={"output": output})
    run = prepare_run(disturbed, helpers.NIGHT)
    marker = str(tmp_path / "killed")
    records = _score_with_killer(run, moment, marker)
    report = publish_run(run, records, "killed-run", 0.0)

    assert Path(marker).exists(), "the kill must have happened"
    assert report.num_rows == 1200
    assert helpers.read_rows(disturbed.output.uri) == helpers.read_rows(undisturbed.output.uri)
    assert len(run.ledger.names()) == 12
    left_behind = [item.uri for item in Storage().list_objects(disturbed.output.uri) if item.uri.endswith(".tmp")]
    assert bool(left_behind) == (moment == "mid-upload" and not root_uri.startswith("s3://"))


def _score_with_killer(run: PreparedRun, moment: str, marker: str) -> list[DoneRecord]:
    victim: Shard = run.plan.pending[KILLED_SHARD]
    piece = victim.pieces[0]
    target = f"{piece.file.uri}:{piece.start_row}" if moment.startswith("mid-") else victim.name
    kill = KillPlan(moment, target, marker)
    ledger = KillingLedger(**{field.name: getattr(run.ledger, field.name) for field in fields(Ledger)}, kill=kill)
    model = ModelSource(run.spec.bundle, run.source.texts, run.spec.compute, 1, run.ledger.storage)
    job = KillingJob(model, run.source, ledger, run.table_schema, "killed-run", kill=kill)
    return [
        record for receipt in stream_shards(run.plan.pending, job, helpers.POOL) for record in records_from(receipt)
    ]


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
