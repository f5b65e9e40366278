"""A real `bertmill nightly` on Ray that is asked to stop, or loses a machine, in the middle of scoring."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.inference.spec import ScoreSpec
from pipeline.output.table import open_table
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.alone import score_alone, without_ray
from tests.flow.slow import count_records, output_of, slow_command, wait_for_records
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

NUM_SHARDS = 12
_LOSES_A_NODE = """
import subprocess, sys
from pathlib import Path
from tests.flow.clusters import own_cluster
from tests.flow.slow import slow_command, wait_for_records, wait_for_workers
from tests.patience import PATIENCE_S
with own_cluster(num_cpus=1) as cluster:
    cluster.add_node(num_cpus=2)
    lost = cluster.add_node(num_cpus=2)
    command = slow_command(*sys.argv[3:], "--address", cluster.address)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (raylet,) = lost.all_processes["raylet"]
    print("lost", wait_for_workers(raylet.process.pid, 1, process))
    print("finished before", wait_for_records(Path(sys.argv[2]), 3, process))
    cluster.remove_node(lost, allow_graceful=False)
    if sys.argv[1] == "replaced":
        cluster.add_node(num_cpus=2)
    print(process.communicate(timeout=PATIENCE_S)[0])
sys.exit(process.returncode)
"""


@pytest.fixture
def spec(tmp_path: Path) -> ScoreSpec:
    helpers.write_demo_corpus(str(tmp_path / "corpus"))
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    return helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"))


def undisturbed_rows(spec: ScoreSpec, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the night holds when nothing happens."""
    without_ray(monkeypatch)
    other = spec.model_copy(update={"output": spec.output.model_copy(update={"uri": str(directory / "undisturbed")})})
    place = directory / "other"
    place.mkdir()
    finished = score_alone(other, place)
    assert finished.exit_code == 0, finished.stderr
    return helpers.read_rows(other.output.uri)


def test_sigterm_keeps_what_is_finished_and_leaves_no_ray(
    spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = slow_command("nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT)
    process = subprocess.Popen(
        command, cwd=helpers.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_records(tmp_path / "scores", 3, process)
    own = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in own)

    process.send_signal(signal.SIGTERM)
    try:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()  # if it is still there, nothing else should have to share the machine with it

    assert process.returncode == 75, stderr
    assert "stopped by SIGTERM" in stderr
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(own, timeout=PATIENCE_S)
    assert alive == [], "Ray's processes must end with the job"
    num_kept = count_records(tmp_path / "scores")
    assert 3 <= num_kept < NUM_SHARDS
    assert open_table(spec.output.uri, Storage()) is None
    again = output_of(command, helpers.REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert f"shards {NUM_SHARDS}, of which {num_kept} were already done" in again.stdout
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("node", ["replaced", "missing"])
def test_a_node_that_dies_while_it_scores_loses_no_row(
    node: str, spec: ScoreSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT]
    arguments += ["--set", "compute.workers=2", "--set", "compute.cpus_per_worker=2"]
    command = [sys.executable, "-c", _LOSES_A_NODE, node, spec.output.uri, *arguments]
    done = output_of(command, helpers.REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,200 = 1,192 scored + 8 quarantined" in done.stdout
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
