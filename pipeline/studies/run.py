"""The trials of a search under Ray Tune, side by side; one that fails stops no other.

The only file that imports ray.tune.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune as ray_tune
from ray.tune import Callback
from ray.tune.schedulers import AsyncHyperBandScheduler

from pipeline.config import PoolOptions
from pipeline.studies.tune import Goal, Judged, PreparedTune, Trial, TrialRecord
from pipeline.telemetry import ProgressDisplay
from pipeline.waiting import wait_for

_MOST_EVALUATIONS = 100_000  # rungs are laid out up to here; no trial is cut off for having come so far
_EVALUATIONS, _FIGURE = "evaluations", "figure"
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials leave records of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job, not one trial after the other
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(tune: PreparedTune, pool: PoolOptions) -> dict[str, str]:
    """Run the trials that have no record, as many at once as the pool has cores for; needs a running Ray.

    Returns:
        Name -> reason, of those that failed and may go better another time.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    cpus, pending = tune.spec.cpus_per_trial, {trial.number: trial for trial in tune.pending}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    train = ray_tune.with_parameters(_train_trial, trials=pending, goal=tune.goal, num_threads=cpus)
    with (
        tempfile.TemporaryDirectory(prefix="bertmill-tune-", ignore_cleanup_errors=True) as directory,
        ProgressDisplay("tune", len(pending), "trials") as display,
    ):
        watch = _Watch(tune.goal, pending, display)
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(train, {"cpu": cpus, "gpu": pool.gpus_per_worker}),
            param_space={"trial": ray_tune.grid_search(list(pending))},
            tune_config=ray_tune.TuneConfig(
                scheduler=make_scheduler(tune),
                max_concurrent_trials=max(1, int(pool.num_workers * pool.cpus_per_worker) // cpus),
            ),
            run_config=ray_tune.RunConfig(
                name="trials",
                storage_path=directory,
                callbacks=[watch],
                failure_config=ray_tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        )
        wait_for(tuner.fit)
    return dict(watch.failures)


def make_scheduler(tune: PreparedTune) -> Any:
    """None, or ASHA that knows the trials which have ended before: they stand on its rungs as if they had just run."""
    if tune.spec.scheduler == "none":
        return None
    spec, goal = tune.spec, tune.goal
    scheduler = AsyncHyperBandScheduler(
        time_attr=_EVALUATIONS,
        metric=_FIGURE,
        mode=goal.mode,
        max_t=_MOST_EVALUATIONS,
        grace_period=spec.grace_evaluations,
        reduction_factor=spec.reduction_factor,
        stop_last_trials=False,
    )
    for number, record in tune.records.items():
        earlier: Any = SimpleNamespace(trial_id=f"earlier-{number}")
        scheduler.on_trial_add(None, earlier)
        for count, judged in enumerate(record.history, 1):
            value = goal.value(judged.metrics)
            if value is not None:
                scheduler.on_trial_result(None, earlier, {_EVALUATIONS: count, _FIGURE: value})
    return scheduler


def _train_trial(config: dict[str, Any], trials: Mapping[int, Trial], goal: Goal, num_threads: int) -> None:
    """What each of Ray Tune's workers runs."""

    def tell(judged: Judged, count: int) -> None:
        value = goal.value(judged.metrics)
        if value is not None:
            news = {_EVALUATIONS: count, _FIGURE: value, "step": judged.step, "metrics": judged.metrics}
            ray_tune.report(news)

    record = trials[config["trial"]].run(num_threads, tell)
    value = goal.value(record.metrics)
    if value is not None:
        ray_tune.report({_EVALUATIONS: max(1, len(record.history)), _FIGURE: value})


class _Watch(Callback):  # type: ignore[misc]
    """Records what was stopped and notes what failed; runs on the driver."""

    def __init__(self, goal: Goal, trials: Mapping[int, Trial], display: ProgressDisplay) -> None:
        self._goal, self._trials, self._display = goal, trials, display
        self.failures: dict[str, str] = {}
        self._heard: dict[int, list[Judged]] = {}
        self._started_s: dict[int, float] = {}
        self._num_done = 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["trial"]
        self._started_s[number], self._heard[number] = time.monotonic(), []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "metrics" in result:
            self._heard[trial.config["trial"]].append(Judged(result["step"], dict(result["metrics"])))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = self._trials[trial.config["trial"]]
        record = own.store.read(own.fingerprint)
        if record is None or record.state == "stopped":
            record = self._record_stopped(own)
        self._show(own, _tell_end(self._goal, record))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = self._trials[trial.config["trial"]]
        self.failures[own.name] = _reason(trial)
        self._show(own, self.failures[own.name])

    def _record_stopped(self, own: Trial) -> TrialRecord:
        heard, seconds = self._heard[own.number], time.monotonic() - self._started_s[own.number]
        note = f"stopped after {len(heard)} evaluations: others were better by then"
        record = TrialRecord("stopped", {}, heard, seconds, note, str(self._goal))
        own.store.write(own.fingerprint, record)
        return record

    def _show(self, own: Trial, note: str) -> None:
        self._num_done += 1
        self._display.update(self._num_done, f"{own.name}: {note}")


def _tell_end(goal: Goal, record: TrialRecord) -> str:
    value = goal.value(record.metrics)
    return record.note or (f"{goal.metric} {value:.4g}" if value is not None else f"no {goal.metric}")


def _reason(trial: Any) -> str:
    """What a failed trial raised, in a line or two."""
    error = trial.get_pickled_error()
    cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(trial.get_error())
