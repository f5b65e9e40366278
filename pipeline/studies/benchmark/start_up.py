"""What a night costs before its first row is scored: the command runs anew, and tells when it had done what."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from pipeline.errors import ComputeError
from pipeline.inference.spec import ScoreSpec
from pipeline.studies.tables import markdown_table


@dataclass(frozen=True)
class Commands:
    """Programs that take a spec and a date.

    Attributes:
        score: Scores a night and prints `Moments` as JSON, its last line.
        plan: Prints the plan; takes `--probe` and `--no-sample`.
    """

    score: tuple[str, ...]
    plan: tuple[str, ...]


@dataclass(frozen=True)
class Moments:
    """When a run had done what, in seconds since 1970."""

    imported_s: float
    planned_s: float
    ray_s: float
    first_shard_began_s: float
    first_shard_ended_s: float


_STEPS = (
    ("Python and imports", "imported_s"),
    ("plan", "planned_s"),
    ("Ray starts", "ray_s"),
    ("a worker starts and loads the model", "first_shard_began_s"),
    ("first shard is read, scored and written", "first_shard_ended_s"),
)
_PLANS = {
    "`bertmill plan` that probes the machine": ("--probe",),  # first, so that the others find what it kept
    "`bertmill plan` after that": (),
    "`bertmill plan --no-sample`": ("--no-sample",),
}


def describe_start(spec: ScoreSpec, date: str, commands: Commands, rounds: int) -> str:
    """A Markdown table of the steps, and `plan` alone: medians over so many runs, each a night of a new table."""
    taken: dict[str, list[float]] = {name: [] for name, _ in _STEPS}
    totals: list[float] = []
    plans: dict[str, list[float]] = {name: [] for name in _PLANS}
    for number in range(rounds):
        own = spec.model_copy(update={"output": spec.output.model_copy(update={"uri": f"{spec.output.uri}-{number}"})})
        for name, options in _PLANS.items():
            begun_s = time.time()
            _run((*commands.plan, *options), own, date)
            plans[name].append(time.time() - begun_s)
        begun_s = before_s = time.time()
        moments = Moments(**json.loads(_run(commands.score, own, date).splitlines()[-1]))
        for name, moment in _STEPS:
            taken[name].append(getattr(moments, moment) - before_s)
            before_s = getattr(moments, moment)
        totals.append(before_s - begun_s)
    rows = [(name, f"{median(seconds):.1f}") for name, seconds in taken.items()]
    rows += [("from command to first rows", f"{median(totals):.1f}")]
    rows += [(name, f"{median(seconds):.1f}") for name, seconds in plans.items()]
    return markdown_table(("step of a small night", "seconds"), rows)


def _run(command: tuple[str, ...], spec: ScoreSpec, date: str) -> str:
    """What a command prints of a spec's night."""
    raw = spec.model_dump(mode="json", exclude_unset=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "night.yaml"
        file.write_text(yaml.safe_dump(raw))
        done = subprocess.run([*command, str(file), "--date", date], capture_output=True, text=True)
    if done.returncode:
        raise ComputeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}", "run it by hand to see why")
    return done.stdout
