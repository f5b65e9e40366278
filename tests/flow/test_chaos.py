"""Many nights over a corpus that changes, with drivers killed at random moments: always the undisturbed table.

And one night on Ray, with its workers and its driver killed at random moments.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
import uuid
from datetime import date, timedelta
from pathlib import Path

import psutil
import pytest

from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from tests.flow import helpers
from tests.flow.slow import count_records, find_workers, slow_command, wait_for_records
from tests.flow.test_interrupted import undisturbed_rows
from tests.flow.test_kill_commit import MODES, Scene
from tests.flow.victims import MOMENTS, Run, Victims
from tests.patience import PATIENCE_S
from tests.tiny import make_bundle

LIMIT_S = 150
MAX_KILLS = 3


def _change(corpus: Path, rng: random.Random) -> None:
    """A few files come, change or go; one always stays."""
    for _ in range(rng.randint(0, 3)):
        path = corpus / f"domain=d{rng.randint(0, 1)}" / f"part-{rng.randint(0, 5)}.parquet"
        if path.exists() and rng.random() < 0.3:
            path.unlink()
            continue
        num_rows = rng.randint(1, 250)
        texts: list[str | None] = [helpers.random_text(rng) if rng.random() > 0.01 else None for _ in range(num_rows)]
        rows = {"id": [uuid.UUID(int=rng.getrandbits(128)).hex for _ in texts], "text": texts}
        schema = helpers.pa.schema([("id", helpers.pa.string()), ("text", helpers.pa.string())])
        helpers.write_table(helpers.pa.table(rows, schema=schema), str(path))


def _kill_at_random(scene: Scene, command: tuple[str, ...], rng: random.Random) -> int:
    """Drivers alone or in pairs, killed now and then; how many were."""
    num_killed = 0
    for _ in range(rng.randint(1, MAX_KILLS)):
        runs = [Run(command, rng.choice(MOMENTS)) for _ in range(rng.randint(1, 2))]
        num_killed += sum(ended.status == -9 for ended in scene.victims.run(*runs))
    return num_killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20261123])
def test_random_kills_over_many_nights_change_nothing(tmp_path: Path, seed: int) -> None:
    rng, started_s, num_kills, num_nights = random.Random(seed), time.monotonic(), 0, 0
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    helpers.write_demo_corpus(str(tmp_path / "corpus"), num_files=2, rows_per_file=150)
    scene = Scene(tmp_path, str(tmp_path / "bundle"), {}, {}, Victims(tmp_path))
    (tmp_path / "corpus" / "domain=d0" / "part-0.parquet").rename(tmp_path / "corpus" / "domain=d0" / "always.parquet")
    while time.monotonic() - started_s < LIMIT_S:
        night = (date(2026, 11, 1) + timedelta(days=num_nights)).isoformat()
        for mode in MODES:
            disturbed, undisturbed = str(tmp_path / f"killed-{mode}"), str(tmp_path / f"calm-{mode}")
            num_kills += _kill_at_random(scene, command := scene.command(mode, disturbed, night), rng)
            scene.finish(command)
            scene.finish(scene.command(mode, undisturbed, night))
            assert helpers.read_rows(disturbed) == helpers.read_rows(undisturbed), f"seed {seed}, {mode} {night}"
            if any(str(row["run_date"]) == night for row in helpers.read_rows(disturbed)):
                assert verify_night(disturbed, night, Storage()).problems == ()
        num_nights += 1
        _change(tmp_path / "corpus", rng)
    scene.victims.close()
    print(f"{num_kills} kills over {num_nights} nights of {len(MODES)} tables")
    assert num_kills >= num_nights


NUM_DRIVERS = 3  # killed, before the one that is left to finish
NUM_WORKERS = 2


def _kill_workers(table: Path, process: subprocess.Popen[str], num_kills: int, rng: random.Random) -> int:
    """Now and then, kill one of the processes at work on a shard; how many were killed."""
    num_killed = 0
    for _ in range(num_kills):
        wait_for_records(table, count_records(table) + rng.randint(0, 2), process)
        victims = find_workers(process.pid)
        if victims:
            victim = rng.choice(victims)
            victim.kill()
            psutil.wait_procs([victim], timeout=10)
            num_killed += 1
    return num_killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20261124])
def test_random_kills_of_workers_and_drivers_on_ray_change_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, num_killed = random.Random(seed), 0
    table, num_shards = tmp_path / "scores", 36
    helpers.write_demo_corpus(str(tmp_path / "corpus"), num_files=num_shards // 3)
    make_bundle(tmp_path / "bundle", ("no", "yes"))
    spec = helpers.score_spec(str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(table))
    options = ["--set", f"compute.workers={NUM_WORKERS}", "--set", "compute.cpus_per_worker=1"]
    command = slow_command("nightly", str(helpers.write_spec(tmp_path, spec)), "--date", helpers.NIGHT, *options)
    for run in range(NUM_DRIVERS + 1):
        before = count_records(table)
        process = subprocess.Popen(
            command, cwd=helpers.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for_records(table, before + 1, process)
        num_killed += _kill_workers(table, process, rng.randint(1, 2), rng)
        if run < NUM_DRIVERS:
            wait_for_records(table, count_records(table) + rng.randint(0, 2), process)
            process.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == (-signal.SIGKILL if run < NUM_DRIVERS else 0), output
    print(f"{num_killed} workers and {NUM_DRIVERS} drivers killed over {num_shards} shards")
    assert num_killed >= NUM_DRIVERS
    assert helpers.read_rows(spec.output.uri) == undisturbed_rows(spec, tmp_path, monkeypatch)
    assert verify_night(spec.output.uri, helpers.NIGHT, Storage()).problems == ()
