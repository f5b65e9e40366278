"""A job's progress as Prometheus metrics, through the exporter that runs on every node of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pipeline.telemetry import Progress, watchers

GAUGES = {
    "bertmill_done": "units of work done",
    "bertmill_total": "units of work in all",
    "bertmill_tokens": "tokens so far",
    "bertmill_quarantined_rows": "rows quarantined so far",
}
_TAGS = ("work", "unit")


@contextlib.contextmanager
def exported_progress() -> Iterator[None]:
    """Export what every ProgressDisplay says, while this lasts; needs a running Ray, which puts `ray_` before names."""
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(name, description=text, tag_keys=_TAGS) for name, text in GAUGES.items()}

    def export(progress: Progress) -> None:
        set_gauges(gauges, progress)

    watchers.append(export)
    try:
        yield
    finally:
        watchers.remove(export)


def set_gauges(gauges: dict[str, Any], progress: Progress) -> None:
    """Set the gauges that progress has a value for."""
    values = {"done": progress.done, "total": progress.total, **progress.figures}
    tags = {"work": progress.title, "unit": progress.unit}
    for name, value in values.items():
        if gauge := gauges.get(f"bertmill_{name}"):
            gauge.set(value, tags=tags)
