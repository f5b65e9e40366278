"""A search as a picture. Needs matplotlib."""

from __future__ import annotations

import io
import math
from typing import Any

from matplotlib.figure import Figure

from pipeline.studies.tune import PreparedTune, show_value
from pipeline.studies.tune_report import last_value, ranked_trials

# Okabe and Ito's colours, which colour-blind readers can tell apart; each state has a marker of its own too
_STYLES = {"finished": ("#0072B2", "o"), "stopped": ("#999999", "x"), "diverged": ("#999999", "v")}
_BEST = "#D55E00"
_COLUMNS = 3


def draw_tune(tune: PreparedTune) -> bytes:
    """A PNG: every trial's figure by evaluation, then the figure over each field of the space."""
    num_panels = 1 + len(tune.spec.space)
    columns, rows = min(_COLUMNS, num_panels), math.ceil(num_panels / _COLUMNS)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, number) for number in range(1, num_panels + 1)]
    _draw_histories(panels[0], tune)
    for axes, path in zip(panels[1:], tune.spec.space, strict=True):
        _draw_field(axes, tune, path)
    for axes in panels:
        axes.set_ylabel(tune.goal.metric)
        axes.grid(alpha=0.3)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()


def _draw_histories(axes: Any, tune: PreparedTune) -> None:
    labelled: set[str] = set()
    for trial, record in reversed(ranked_trials(tune)):  # the best is drawn last, above the others
        values = [tune.goal.value(item.metrics) for item in record.history]
        colour, marker = _style(tune, trial.number, record.state)
        label = "best" if colour == _BEST else record.state
        axes.plot(
            [math.nan if value is None else value for value in values],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1,
            label=None if label in labelled else label,
        )
        labelled.add(label)
    longest = max((len(record.history) for record in tune.records.values()), default=0)
    axes.set_xticks(range(0, longest, max(1, longest // 6)))
    axes.set_xticklabels([str(number + 1) for number in range(0, longest, max(1, longest // 6))])
    axes.set_xlabel("evaluation")
    axes.legend(fontsize=8)


def _draw_field(axes: Any, tune: PreparedTune, path: str) -> None:
    kind, choices = tune.spec.space[path].kind
    names = [show_value(choice) for choice in choices]
    for trial, record in reversed(ranked_trials(tune)):
        value = last_value(tune, record)
        if value is None:
            continue
        colour, marker = _style(tune, trial.number, record.state)
        place = names.index(show_value(trial.point[path])) if kind == "choice" else trial.point[path]
        axes.scatter([place], [value], color=colour, marker=marker, s=24)
    if kind == "choice":
        axes.set_xticks(range(len(names)))
        axes.set_xticklabels(names, fontsize=8)
    elif kind == "loguniform":
        axes.set_xscale("log")
    axes.set_xlabel(path)


def _style(tune: PreparedTune, number: int, state: str) -> tuple[str, str]:
    colour, marker = _STYLES[state]
    is_best = tune.best is not None and tune.best.number == number
    return (_BEST if is_best else colour), marker
