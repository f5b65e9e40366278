"""A search: many recipes drawn from a space, each trained and judged on the same validation rows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import TrainingError
from pipeline.finetune.alone import learn_alone
from pipeline.finetune.loop import figures_of
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.status import TrainingStatus
from pipeline.studies.records import RecordStore
from pipeline.studies.space import Point
from pipeline.studies.tune_spec import TuneSpec

Tell = Callable[["Judged", int], None]
"""Hears an evaluation, and the how manyth it is."""


@dataclass(frozen=True)
class Judged:
    """One evaluation while a trial trained: figures after so many steps."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended.

    Attributes:
        state: `stopped`: by the scheduler, before its end; `diverged`: by its own numbers.
        metrics: Of the weights it was left with; empty unless it finished.
        history: Its evaluations, in their order.
        seconds: Wall time from text to figures.
        note: Why it did not finish.
        judged_by: The figure that a scheduler compared, if one did.
    """

    state: Literal["finished", "stopped", "diverged"]
    metrics: dict[str, float]
    history: list[Judged]
    seconds: float
    note: str = ""
    judged_by: str = ""


@dataclass(frozen=True)
class Goal:
    """What trials are compared by."""

    metric: str
    mode: Literal["max", "min"]

    def __str__(self) -> str:
        return f"{self.mode} {self.metric}"

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The figure; None where there is none, or none that is a number."""
        found = metrics.get(self.metric, math.nan)
        return found if math.isfinite(found) else None

    def rank(self, value: float) -> float:
        """Smaller for better."""
        return -value if self.mode == "max" else value


@dataclass(frozen=True)
class Trial:
    """One recipe; small and picklable, for it is sent to a worker."""

    number: int
    point: Point
    work: PreparedTraining
    fingerprint: str
    store: RecordStore[TrialRecord]

    @property
    def name(self) -> str:
        """As people call it."""
        return f"trial {self.number}: {describe_point(self.point)}"

    def run(self, num_threads: int, tell: Tell) -> TrialRecord:
        """Train, tell of every evaluation but the last, and store how it ended."""
        started_s, heard = time.monotonic(), list[Judged]()

        def hear(status: TrainingStatus) -> None:
            if status.validation is not None:
                heard.append(Judged(status.step, status.validation))
                if status.step < status.num_steps:
                    tell(heard[-1], len(heard))

        try:
            _, _, judgements = learn_alone(self.work, num_threads, hear)
            record = TrialRecord("finished", figures_of(judgements), heard, time.monotonic() - started_s)
        except TrainingError as error:
            note = error.message.splitlines()[0]
            record = TrialRecord("diverged", {}, heard, time.monotonic() - started_s, note)
        self.store.write(self.fingerprint, record)
        return record


@dataclass(frozen=True)
class PreparedTune:
    """Everything known before Ray starts."""

    spec: TuneSpec
    goal: Goal
    trials: tuple[Trial, ...]
    records: dict[int, TrialRecord] = field(default_factory=dict)

    def read_records(self) -> PreparedTune:
        """With the records that count by now: what a scheduler stopped counts for that goal alone."""
        found = {trial.number: trial.store.read(trial.fingerprint) for trial in self.trials}
        kept = {number: record for number, record in found.items() if record is not None and self._counts(record)}
        return PreparedTune(self.spec, self.goal, self.trials, kept)

    def _counts(self, record: TrialRecord) -> bool:
        return record.state != "stopped" or (self.spec.scheduler == "asha" and record.judged_by == str(self.goal))

    @property
    def pending(self) -> list[Trial]:
        """Trials without a record, in their order."""
        return [trial for trial in self.trials if trial.number not in self.records]

    @property
    def best(self) -> Trial | None:
        """The best of the finished trials, of equals the first; None if none finished."""
        values = {
            trial.number: self.goal.value(self.records[trial.number].metrics)
            for trial in self.trials
            if trial.number in self.records
        }
        ranked = [(self.goal.rank(value), number) for number, value in values.items() if value is not None]
        return next((trial for trial in self.trials if ranked and trial.number == min(ranked)[1]), None)


def describe_point(point: Mapping[str, Any]) -> str:
    """`learning_rate 0.0002, epochs 3`: the last part of each field, as short as it can be told."""
    return ", ".join(f"{path.rpartition('.')[2]} {show_value(value)}" for path, value in point.items())


def show_value(value: Any) -> str:
    """A value of a space for people."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
