"""What the command line loads before it has something to do: torch, transformers and Ray take seconds each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jobs.pool import Resources, choose_pool
from pipeline.inference.probed import Probed, keep_probe
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story

_DRIVER = """
import sys
import jobs.score, jobs.night, jobs.printing
import pipeline.inference.prepare, pipeline.inference.publish, pipeline.inference.run, pipeline.report.saved
from pipeline.inference.job import ScoreJob
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_the_driver_of_a_night_does_not_wait_for_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _DRIVER], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_COMMAND = """
import sys
from jobs.cli import main
sys.argv = ["bertmill", *sys.argv[1:]]
try:
    main()
except SystemExit as ending:
    assert not ending.code, ending.code
print([name for name in ("torch", "transformers", "ray") if name in sys.modules])
"""


def _loaded_by(*arguments: str) -> list[str]:
    """What a command prints, and last what it had loaded."""
    command = [sys.executable, "-c", _COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("arguments", [("--help",), ("plan", "--help"), ("schema", "score")])
def test_help_waits_for_nothing_that_is_slow(arguments: tuple[str, ...]) -> None:
    assert _loaded_by(*arguments)[-1] == "[]"


def test_a_plan_whose_pace_is_known_loads_no_model(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    story = Story(tmp_path, tmp_path / "bundle")
    story.put("a", 300, seed=0)
    run = story.prepare("2026-11-23")
    pool = choose_pool(run.spec.compute, Resources(os.cpu_count() or 1, 0, is_local=True))
    keep_probe(run, pool, Probed(20_000, 5_000.0, 1.0, time.time(), 1.0, None))
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(run.spec.model_dump(mode="json", exclude_unset=True)))
    *lines, loaded = _loaded_by("plan", str(spec), "--date", "2026-11-23")
    assert loaded == "[]"
    assert any("by a probe of 20,000 tokens here, on " in line for line in lines)
