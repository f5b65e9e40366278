"""Records of a search -> tune.parquet, tune.md and tune.png."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.tables import markdown_table
from pipeline.studies.tune import PreparedTune, Trial, TrialRecord, show_value
from pipeline.uris import join_uri

_METRICS = pa.map_(pa.string(), pa.float64())
_SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("state", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("settings", pa.map_(pa.string(), pa.string())),
        ("metrics", _METRICS),
        ("history", pa.list_(pa.struct([("step", pa.int64()), ("metrics", _METRICS)]))),
        ("seconds", pa.float64()),
        ("note", pa.string()),
    ]
)
_NOTE = (
    "Figures are on the validation rows. A stopped trial shows its last evaluation and cannot be the best. "
    "Seconds are wall time of a trial on its share of the machine."
)


def write_tune(tune: PreparedTune) -> str:
    """Write what is known so far.

    Returns:
        The Markdown; empty if no trial has ended, and then nothing is written.
    """
    from pipeline.studies.tune_plot import draw_tune

    found = ranked_trials(tune)
    if not found:
        return ""
    storage, output, text = Storage(tune.spec.storage), tune.spec.output, describe_tune(tune)
    rows = [_as_row(tune, trial, record) for trial, record in sorted(found, key=lambda item: item[0].number)]
    write_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA), join_uri(output, "tune.parquet"), {}, storage)
    storage.write_bytes(join_uri(output, "tune.md"), text.encode())
    storage.write_bytes(join_uri(output, "tune.png"), draw_tune(tune))
    return text


def last_value(tune: PreparedTune, record: TrialRecord) -> float | None:
    """A trial's figure: its own, or that of its last evaluation."""
    return tune.goal.value(record.metrics or (record.history[-1].metrics if record.history else {}))


def ranked_trials(tune: PreparedTune) -> list[tuple[Trial, TrialRecord]]:
    """Trials that ended: the finished before the stopped before the diverged, each from the best figure on."""
    states = ("finished", "stopped", "diverged")

    def place(item: tuple[Trial, TrialRecord]) -> tuple[int, bool, float, int]:
        trial, record = item
        value = last_value(tune, record)
        return states.index(record.state), value is None, tune.goal.rank(value or 0.0), trial.number

    return sorted(
        ((trial, tune.records[trial.number]) for trial in tune.trials if trial.number in tune.records), key=place
    )


def describe_tune(tune: PreparedTune) -> str:
    """One line for each trial that ended, the best first."""
    header = ("trial", tune.goal.metric, "state", "evaluations", "seconds", *tune.spec.space)
    lines = []
    for trial, record in ranked_trials(tune):
        value = last_value(tune, record)
        figures = ("-" if value is None else f"{value:.4f}", record.state, str(len(record.history)))
        values = [show_value(trial.point[path]) for path in tune.spec.space]
        lines.append((str(trial.number), *figures, f"{record.seconds:,.0f}", *values))
    notes = [
        f"- trial {number}: {record.note}\n" for number, record in tune.records.items() if record.state == "diverged"
    ]
    text = f"{markdown_table(header, lines)}\n{_NOTE}\n"
    text += f"\nDiverged:\n\n{''.join(notes)}" if notes else ""
    num_missing = len(tune.trials) - len(lines)
    return text + (f"\n{num_missing} of {len(tune.trials)} trials are missing.\n" if num_missing else "")


def _as_row(tune: PreparedTune, trial: Trial, record: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": record.state,
        "metric": tune.goal.metric,
        "value": last_value(tune, record),
        "settings": [(path, json.dumps(value)) for path, value in trial.point.items()],
        "metrics": sorted(record.metrics.items()),
        "history": [{"step": item.step, "metrics": sorted(item.metrics.items())} for item in record.history],
        "seconds": record.seconds,
        "note": record.note,
    }
