"""What the driver of a scoring run loads before its workers start."""

from __future__ import annotations

import subprocess
import sys

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
