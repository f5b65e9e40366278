"""The suite: a list of runs, each trained with every seed and measured on its own test rows."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median

from pipeline.encoder.attention import set_threads
from pipeline.finetune.alone import train_alone
from pipeline.finetune.bundling import bundle_encoder
from pipeline.finetune.prepare import PreparedTraining
from pipeline.finetune.spec import BundleSpec
from pipeline.inference.evaluate import evaluate_alone, prepare_evaluation
from pipeline.inference.spec import EvaluateSpec
from pipeline.studies.records import RecordStore
from pipeline.studies.spec import SuiteRun, SuiteSpec
from pipeline.studies.trivial import Trivial


@dataclass(frozen=True)
class SuiteResult:
    """A finished cell.

    Attributes:
        num_test_rows: Rows measured.
        metrics: All of the task's figures.
        train_s: Wall time of tokenising, training and writing the bundle; None if nothing was trained, or before.
        tokens_per_s: Median over the lines of the training log; None where nothing was trained.
    """

    num_test_rows: int
    metrics: dict[str, float]
    train_s: float | None
    tokens_per_s: float | None


@dataclass(frozen=True)
class SuiteCell:
    """One run with one seed; an encoder bundled as it is has none."""

    run_name: str
    seed: int | None
    work: PreparedTraining | BundleSpec
    evaluation: EvaluateSpec
    fingerprint: str
    store: RecordStore[SuiteResult]

    @property
    def name(self) -> str:
        """As people call it."""
        return self.run_name if self.seed is None else f"{self.run_name} seed {self.seed}"

    def run(self, num_threads: int) -> str:
        """Train or bundle, measure, store the figures."""
        set_threads(num_threads)
        train_s = tokens_per_s = None
        if isinstance(self.work, BundleSpec):
            bundle_encoder(self.work)
        elif self.work.finished_bundles() is None:
            started_s = time.monotonic()
            train_alone(self.work, num_threads)
            train_s, tokens_per_s = time.monotonic() - started_s, logged_rate(self.work)
        found = evaluate_alone(prepare_evaluation(self.evaluation), num_threads)
        self.store.write(self.fingerprint, SuiteResult(found.num_rows, found.metrics, train_s, tokens_per_s))
        return ", ".join(f"{name} {value:.4g}" for name, value in list(found.metrics.items())[:3])


@dataclass(frozen=True)
class PreparedSuiteRun:
    """One run, checked.

    Attributes:
        spec: As the user wrote it.
        task: The task's name.
        metric: The figure of the table.
        num_train_rows: None for an encoder bundled as it is.
        trivial: What needs no model reaches; None where it is not known.
        cells: One for each seed.
    """

    spec: SuiteRun
    task: str
    metric: str
    num_train_rows: int | None
    trivial: Trivial | None
    cells: tuple[SuiteCell, ...]


@dataclass(frozen=True)
class PreparedSuite:
    """Everything known before Ray starts."""

    spec: SuiteSpec
    runs: tuple[PreparedSuiteRun, ...]

    @property
    def cells(self) -> list[SuiteCell]:
        """Every cell, in the order of the runs."""
        return [cell for run in self.runs for cell in run.cells]


def logged_rate(run: PreparedTraining) -> float | None:
    """Median of the tokens per second that a training logged; None without a log."""
    log = run.storage.read_bytes(run.metrics_uri)
    rates = [json.loads(line)["tokens_per_s"] for line in (log or b"").splitlines()]
    return median(rates) if rates else None
