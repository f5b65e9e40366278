"""Machines that run out of memory: a Ray whose object store is full, and one whose monitor kills a worker."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.inference.prepare import prepare_run
from tests.flow import helpers
from tests.flow.slow import count_records, output_of
from tests.flow.test_interrupted import undisturbed_rows
from tests.tiny import make_bundle

STORE_MIB, HELD_MIB = 80, 78
ROOM_MIB = 3_000  # for Ray, its workers and the rest of the machine, before Ray's monitor kills one of them
NUM_FILES, ROWS_PER_FILE, TEXT_BYTES = 6, 100, 40_000  # one shard's texts are twice what is left in the store
_HOLDS_THE_STORE = """
import subprocess, sys
import numpy as np, ray
from ray.cluster_utils import Cluster
head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": int(sys.argv[1]) * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=head)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
held = ray.put(np.zeros(int(sys.argv[2]) * 2**20, np.uint8))
command = [sys.executable, "-m", "jobs.cli", *sys.argv[3:], "--address", cluster.address]
done = subprocess.run(command, capture_output=True, text=True, timeout=200)
print(done.stdout, done.stderr)
print(ray._private.internal_api.memory_summary(stats_only=True))
ray.shutdown()
cluster.shutdown()
sys.exit(done.returncode)
"""


_WATCHES_MEMORY = """
import subprocess, sys, time
import psutil
from ray.cluster_utils import Cluster
from tests.flow.hanging import HungryJob, hanging_command
used = psutil.virtual_memory()
share = 1 - (used.available - int(sys.argv[1]) * 2**20) / used.total
config = {"memory_usage_threshold": share, "memory_monitor_refresh_ms": 100}
head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 80 * 2**20, "_system_config": config}
cluster = Cluster(initialize_head=True, head_node_args=head)
command = hanging_command(sys.argv[2], *sys.argv[3:], "--address", cluster.address, job=HungryJob)
done = subprocess.run(command, capture_output=True, text=True, timeout=240)
print(done.stdout, done.stderr)
cluster.shutdown()
sys.exit(done.returncode)
"""


@pytest.mark.slow
def test_a_full_object_store_is_not_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    for file in range(NUM_FILES):
        ids = [f"{file}-{row}" for row in range(ROWS_PER_FILE)]
        bodies = [rng.randbytes(TEXT_BYTES // 2).hex() for _ in ids]
        rows = {"id": ids, "text": [helpers.random_text(rng) for _ in ids], "body": bodies}
        helpers.write_table(helpers.pa.table(rows), str(tmp_path / "corpus" / f"part-{file}.parquet"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(
        str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"), corpus={"keep": ("id", "body")}
    )
    arguments = ["nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT]
    sizes = [str(STORE_MIB), str(HELD_MIB)]

    done = output_of([sys.executable, "-c", _HOLDS_THE_STORE, *sizes, *arguments], 300, helpers.REPOSITORY)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NUM_FILES * ROWS_PER_FILE} scored + 0 quarantined" in done.stdout
    assert f"Plasma memory usage {HELD_MIB} MiB" in done.stdout, done.stdout[-2_000:]
    assert "Spilled" not in done.stdout, "nothing had to make room"
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)


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

    killed = output_of([sys.executable, "-c", _WATCHES_MEMORY, str(ROOM_MIB), row, *arguments], 300, helpers.REPOSITORY)

    assert killed.returncode == 75, killed.stdout + killed.stderr
    assert f"shard {shard.name} ran out of memory, 3 times" in killed.stdout
    assert "Traceback" not in killed.stdout
    num_kept = count_records(tmp_path / "scores")
    assert 1 <= num_kept < len(run.plan.pending)
    again = output_of([sys.executable, "-m", "jobs.cli", *arguments], 240, helpers.REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert f"of which {num_kept} were already done" in again.stdout
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
