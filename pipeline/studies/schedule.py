"""A large run on paper: what is left of many workers when one driver hands out their shards one after the other.

A model, not a measurement: it takes the driver's time for a shard as given (`measure_stream` measures one that is no
smaller) and asks what follows for numbers of workers that no test machine holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.studies.stream_scale import draw_times
from pipeline.studies.tables import markdown_table

WORKERS = (8, 64, 256)


@dataclass(frozen=True)
class Run:
    """One run on paper.

    Attributes:
        num_workers: How many.
        shard_s: What a shard takes on average.
        span_s: From the first shard handed out to the last one's end.
        shuffled_span_s: The same, had the shards not been sorted.
        bound_s: The least span that so many workers can take.
        efficiency: Share of the workers' time in which they were at a shard.
    """

    num_workers: int
    shard_s: float
    span_s: float
    shuffled_span_s: float
    bound_s: float
    efficiency: float


def span_of(times_s: Iterable[float], num_workers: int, driver_s: float) -> float:
    """Seconds until all shards are done, each given in its turn to the worker that is free first.

    Args:
        times_s: What each shard takes, in the order they are handed out.
        num_workers: How many.
        driver_s: What the driver takes for a shard; it does one at a time, and none ahead of a free worker.
    """
    free_s, driver_free_s = [0.0] * num_workers, 0.0
    for seconds in times_s:
        driver_free_s = max(driver_free_s, free_s[0]) + driver_s
        heapq.heapreplace(free_s, driver_free_s + seconds)
    return max(free_s)


def plan_runs(num_shards: int, shard_times_s: Sequence[float], driver_s: float) -> Iterator[Run]:
    """One run for each number of workers and time of a shard; times are as unlike as in `draw_times`."""
    for shard_s in shard_times_s:
        times = draw_times(num_shards, shard_s)
        unsorted = times[[(place * 7_919) % num_shards for place in range(num_shards)]] if num_shards > 1 else times
        for number in WORKERS:
            span_s = span_of(times.tolist(), number, driver_s)
            yield Run(
                num_workers=number,
                shard_s=shard_s,
                span_s=span_s,
                shuffled_span_s=span_of(unsorted.tolist(), number, driver_s),
                bound_s=max(float(times.sum()) / number, float(times[0])),
                efficiency=float(times.sum()) / (number * span_s),
            )


def describe_runs(runs: Iterable[Run]) -> str:
    """A Markdown table."""
    head = ("s a shard", "workers", "all s", "unsorted s", "at best s", "workers at work")
    rows = [
        (
            f"{run.shard_s:g}",
            f"{run.num_workers}",
            f"{run.span_s:,.0f}",
            f"{run.shuffled_span_s:,.0f}",
            f"{run.bound_s:,.0f}",
            f"{run.efficiency:.1%}",
        )
        for run in runs
    ]
    return markdown_table(head, rows)
