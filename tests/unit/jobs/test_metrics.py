from __future__ import annotations

import json
import re
from pathlib import Path

from jobs.metrics import GAUGES, set_gauges
from pipeline.telemetry import Progress

DASHBOARD = Path(__file__).resolve().parents[3] / "infra" / "grafana" / "bertmill.json"
OF_RAY = {"ray_node_gpus_utilization", "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"}


class Recorder:
    """A gauge that keeps what it is set to."""

    def __init__(self) -> None:
        self.last: tuple[float, dict[str, str]] | None = None

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.last = (value, tags)


def test_progress_becomes_gauges_by_work_and_unit() -> None:
    gauges = {name: Recorder() for name in GAUGES}
    set_gauges(gauges, Progress("scoring", "rows", 30, 100, {"tokens": 700, "quarantined_rows": 2, "unheard_of": 1}))
    tags = {"work": "scoring", "unit": "rows"}
    assert {name: gauge.last for name, gauge in gauges.items()} == {
        "bertmill_done": (30, tags),
        "bertmill_total": (100, tags),
        "bertmill_tokens": (700, tags),
        "bertmill_quarantined_rows": (2, tags),
    }


def test_figures_that_a_work_has_not_are_left_alone() -> None:
    gauges = {name: Recorder() for name in GAUGES}
    set_gauges(gauges, Progress("training", "steps", 1, 10, {}))
    assert gauges["bertmill_tokens"].last is None


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"\bray_\w+", target["expr"]))
    assert asked == OF_RAY | {f"ray_{name}" for name in GAUGES}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert [panel["id"] for panel in dashboard["panels"]] == list(range(1, len(places) + 1))
