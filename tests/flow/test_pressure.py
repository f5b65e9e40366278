"""A machine that runs out of memory: Ray's own monitor kills a worker, really."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from pipeline.inference.prepare import prepare_run
from tests.flow import helpers
from tests.flow.slow import count_records, output_of
from tests.flow.test_interrupted import undisturbed_rows
from tests.tiny import make_bundle

ROOM_MIB = 3_000  # for Ray, its workers and the rest of the machine, before Ray's monitor kills one of them
_WATCHES_MEMORY = """
import sys
import psutil
from tests.flow.clusters import own_cluster, run_on
from tests.flow.hanging import HungryJob, hanging_command
used = psutil.virtual_memory()
share = 1 - (used.available - int(sys.argv[1]) * 2**20) / used.total
config = {"memory_usage_threshold": share, "memory_monitor_refresh_ms": 100}
with own_cluster(num_cpus=4, object_store_memory=80 * 2**20, _system_config=config) as cluster:
    sys.exit(run_on(cluster, hanging_command(sys.argv[2], *sys.argv[3:], job=HungryJob)))
"""


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 8 * 2**30, reason="needs 8 GiB of free memory")
def test_a_worker_that_is_killed_for_memory_is_tried_again_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.write_demo_corpus(str(tmp_path / "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))
    run = prepare_run(spec, helpers.NIGHT)
    shard = run.plan.pending[5]
    row = f"{shard.pieces[0].file.uri}:{shard.pieces[0].start_row}"
    arguments = ["nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT]

    killed = helpers.run_python(_WATCHES_MEMORY, str(ROOM_MIB), row, *arguments)

    assert killed.returncode == 75, killed.stdout + killed.stderr
    assert f"shard {shard.name} ran out of memory, 3 times" in killed.stdout
    assert "Traceback" not in killed.stdout
    num_kept = count_records(tmp_path / "scores")
    assert 1 <= num_kept < len(run.plan.pending)
    again = output_of([sys.executable, "-m", "jobs.cli", *arguments], helpers.REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert f"of which {num_kept} were already done" in again.stdout
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
