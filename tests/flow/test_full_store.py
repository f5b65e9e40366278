"""Other work that keeps Ray's object store full while a night is scored: nothing changes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.flow import helpers
from tests.flow.test_interrupted import undisturbed_rows
from tests.tiny import make_bundle

STORE_BYTES, OBJECT_BYTES, NUM_HELD = 80 * 2**20, 8 * 2**20, 14  # more is held than the store has room for


def score_beside_other_work(*arguments: str) -> int:
    """Run a command on a cluster whose store another driver fills again and again; print what Ray says of the store."""
    import ray
    from ray._private.internal_api import memory_summary

    from tests.flow.clusters import own_cluster, run_on

    with own_cluster(num_cpus=4, object_store_memory=STORE_BYTES) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        has_ended = threading.Event()
        held = [ray.put(os.urandom(OBJECT_BYTES)) for _ in range(NUM_HELD)]

        def fill() -> None:
            while not has_ended.wait(0.3):
                held.append(ray.put(os.urandom(OBJECT_BYTES)))
                del held[0]

        filling = threading.Thread(target=fill)
        filling.start()
        status = run_on(cluster, [sys.executable, "-m", "jobs.cli", *arguments])
        print(memory_summary(cluster.address, stats_only=True))
        has_ended.set()
        filling.join()
        ray.shutdown()
    return status


@pytest.mark.slow
def test_a_night_beside_work_that_fills_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: a test run has one Ray."""
    helpers.write_demo_corpus(str(tmp_path / "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))
    code = "from tests.flow.test_full_store import *; sys.exit(score_beside_other_work(*sys.argv[1:]))"
    arguments = ["nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT]
    told = helpers.run_python(code, *arguments)
    assert told.returncode == 0, told.stdout[-2_000:] + told.stderr[-2_000:]
    assert "Spilled " in told.stdout, "the store must have been full"
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
