"""The part of a night's page that says where its time went: by stage, by worker, over the run, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.output.run_usage import padding_share
from pipeline.output.spans import split_spans
from pipeline.output.usage import StageTimes
from pipeline.output.workers import IdleTimes
from pipeline.report.build import NightReport
from pipeline.report.frame import charts, facts, format_seconds, section
from pipeline.report.html import Html, draw_lanes, draw_series, draw_shares, table, tag

_MAX_POINTS, _NUM_BUCKETS, _MAX_LANES, _MAX_WORKERS, _LANE_STEPS = 1500, 60, 16, 50, 260
_STAGES = [name.removesuffix("_s") for name in StageTimes.__dataclass_fields__]
_IDLE = [name.removesuffix("_s") for name in IdleTimes.__dataclass_fields__]
_IDLE_WORDS = {
    "planning": "before workers load",
    "loading": "loading the model",
    "scheduler": "waiting for a shard",
    "ending": "after the last shard",
    "unused": "workers not used",
}


def show_time(report: NightReport) -> Html:
    """The section."""
    run = report.source.working_manifest.counts
    usage = run.get("usage")
    if usage is None:
        return section("Time and cost", tag("p", "The run did not write down where its time went.", class_="faint"))
    drawn = [("Where the workers' time went", draw_shares("time by stage", _shares(usage)))]
    if report.shards is not None and report.shards.num_rows:
        shards = report.shards.to_pylist()
        drawn.append(("Rows a second: each shard, and all together, over seconds", _throughput(shards)))
        drawn.append(("What each worker did, over seconds", _lanes(shards)))
    num_runs = len(report.source.manifests)
    notes = [
        f"Of run {run.get('run_id')}, the last to score anything; runs of this night with a manifest: {num_runs}.",
        f"What devices could do: {usage['peak_basis'] or 'unknown'}.",
    ]
    return section(
        "Time and cost",
        facts(*_figures(report, run, usage)),
        charts(*drawn),
        *([_workers(report.workers.to_pylist())] if report.workers is not None and report.workers.num_rows else []),
        *(tag("p", note, class_="faint") for note in notes),
    )


def _figures(report: NightReport, run: Any, usage: dict[str, Any]) -> list[tuple[str, str]]:
    costs = [item.counts.get("usage", {}).get("cost") for item in report.source.manifests]
    known = [cost for cost in costs if cost is not None]
    per_million = usage["cost_per_million_rows"]
    gpu = [("most GPU memory of a worker", _megabytes(usage["peak_gpu_bytes"]))] if usage["peak_gpu_bytes"] else []
    return [
        ("from command to commit", format_seconds(run["elapsed_s"])),
        ("rows a second", f"{usage['rows_per_s']:,.0f}"),
        ("tokens a second", f"{usage['tokens_per_s']:,.0f}"),
        ("tokens", f"{usage['num_tokens']:,}"),
        ("padding", _padding(usage)),
        ("workers", f"{usage['num_workers']:,}"),
        ("workers idle", f"{usage['idle_share']:.1%}"),
        ("before the first shard", format_seconds(usage["before_s"])),
        ("after the last shard", format_seconds(usage["after_s"])),
        ("read, uncompressed", _megabytes(usage["read_bytes"])),
        ("written", _megabytes(usage["written_bytes"])),
        ("most memory of a worker", _megabytes(usage["peak_bytes"])),
        *gpu,
        ("TFLOP/s in the model", f"{usage['model_tflops_per_s']:,.3g}"),
        ("of what devices do, in the model", _percent(usage["model_flop_utilisation"])),
        ("of what devices do, paid time", _percent(usage["run_flop_utilisation"])),
        ("cost, all runs of the night", f"{sum(known):,.4g}" if known else "no price in the spec"),
        ("cost of a million rows", f"{per_million:,.4g}" if per_million is not None else "no price in the spec"),
    ]


def _shares(usage: dict[str, Any]) -> list[tuple[str, float]]:
    stages = [(name, usage["stages"][f"{name}_s"]) for name in _STAGES]
    return [*stages, *((_IDLE_WORDS[name], usage["idle"][f"{name}_s"]) for name in _IDLE)]


def _workers(workers: Sequence[dict[str, Any]]) -> Html:
    """Each worker's figures; those of many that did the least of their time in the model."""
    shown = sorted(workers, key=lambda worker: worker["model_s"] / max(_paid_s(worker), 1e-9))[:_MAX_WORKERS]
    heads = ["worker", "shards", "rows/s", "tokens/s", "padding", *_STAGES, *_IDLE[:-1]]
    heads += ["FLOP used", "read", "written", "memory", "GPU memory"]
    rows = [_worker_row(worker) for worker in shown]
    more = f"The {len(shown)} of {len(workers)} that were least in the model: " if len(workers) > len(shown) else ""
    note = f"{more}From read to ending, shares of the time that was paid for a worker."
    return tag(
        "div",
        tag("h3", "Workers"),
        tag("p", note, class_="faint"),
        table(heads, rows, numbers=range(1, len(heads))),
    )


def _worker_row(worker: dict[str, Any]) -> list[str]:
    paid_s = max(_paid_s(worker), 1e-9)
    return [
        worker["worker"],
        f"{worker['num_shards']:,}",
        f"{worker['rows_per_s']:,.0f}",
        f"{worker['tokens_per_s']:,.0f}",
        _padding(worker),
        *(_percent(worker[f"{name}_s"] / paid_s) for name in (*_STAGES, *_IDLE[:-1])),
        _percent(worker["model_flop_utilisation"]),
        *(_megabytes(worker[name]) for name in ("read_bytes", "written_bytes", "peak_bytes", "peak_gpu_bytes")),
    ]


def _paid_s(worker: dict[str, Any]) -> float:
    return float(sum(worker[f"{name}_s"] for name in (*_STAGES, *_IDLE)))


def _lanes(shards: Sequence[dict[str, Any]]) -> Html:
    """Stages over the run's scoring, each step of a lane in the colour of what took most of it."""
    first_s = min(shard["ended_s"] - shard["elapsed_s"] for shard in shards)
    right_s = max(max(shard["ended_s"] for shard in shards) - first_s, 1e-3)
    lanes: dict[str, NDArray[np.float64]] = {}
    for shard in shards:
        start_s = shard["ended_s"] - shard["elapsed_s"] - first_s
        seconds = lanes.setdefault(shard["worker"], np.zeros((len(_STAGES), _LANE_STEPS)))
        other = _overlap(start_s, start_s + shard["elapsed_s"], right_s)
        for span in split_spans(shard["spans"], start_s):
            part = _overlap(span.start_s, span.stop_s, right_s)
            seconds[_STAGES.index(span.stage)] += part
            other -= part
        seconds[_STAGES.index("other")] += other
    shown = sorted(lanes.items())[:_MAX_LANES]
    return draw_lanes("stages of each worker", [(name, _stretches(found, right_s)) for name, found in shown], right_s)


def _overlap(start_s: float, stop_s: float, right_s: float) -> NDArray[np.float64]:
    """Seconds of a stretch of time in each step of a lane."""
    edges = np.linspace(0.0, right_s, _LANE_STEPS + 1)
    return np.asarray(np.clip(np.minimum(edges[1:], stop_s) - np.maximum(edges[:-1], start_s), 0, None), np.float64)


def _stretches(seconds: NDArray[np.float64], right_s: float) -> list[tuple[float, float, str]]:
    edges = np.linspace(0.0, right_s, _LANE_STEPS + 1)
    without_shard = right_s / _LANE_STEPS - seconds.sum(axis=0)
    chosen = np.vstack([seconds, without_shard]).argmax(axis=0)
    starts = np.flatnonzero(np.diff(chosen, prepend=-1))
    stops = np.append(starts[1:], _LANE_STEPS)
    return [
        (float(edges[start]), float(edges[stop]), f"part{chosen[start]}")
        for start, stop in zip(starts, stops, strict=True)
        if chosen[start] < len(_STAGES)
    ]


def _throughput(shards: Sequence[dict[str, Any]]) -> Html:
    """A point for each shard at its end; the line spreads each shard's rows evenly over its time."""
    start_s = min(shard["ended_s"] - shard["elapsed_s"] for shard in shards)
    end_s = max(shard["ended_s"] for shard in shards)
    width_s = max(end_s - start_s, 1e-3) / _NUM_BUCKETS
    buckets = np.zeros(_NUM_BUCKETS)
    edges = np.arange(_NUM_BUCKETS + 1) * width_s
    for shard in shards:
        stop, took_s = shard["ended_s"] - start_s, max(shard["elapsed_s"], 1e-3)
        overlap = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], stop - took_s), 0, None)
        buckets += overlap / took_s * shard["num_rows"] / width_s
    line = [((index + 0.5) * width_s, float(rate)) for index, rate in enumerate(buckets)]
    step = -(-len(shards) // _MAX_POINTS)
    points = [
        (shard["ended_s"] - start_s, shard["num_rows"] / max(shard["elapsed_s"], 1e-3)) for shard in shards[::step]
    ]
    return draw_series("throughput", points, line)


def _padding(counts: dict[str, Any]) -> str:
    return _percent(padding_share(counts["num_tokens"], counts["num_padded_tokens"]))


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _megabytes(value: float) -> str:
    return f"{value / 2**20:,.1f} MB"
