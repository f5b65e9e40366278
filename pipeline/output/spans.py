"""When a shard was at what: spans of time, kept as a few characters each, and which of many going on at once counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PRIORITY = ("model", "tokenize", "read", "write", "other")
"""What a worker is doing, where it does several things at once: the first of these that goes on. A worker is bought for
its model, so whatever goes on beside the model costs nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds, that went into one stage.

    `other` is a shard's whole time: what is left of it where no stage goes on. `wait` is for another shard's stage.
    """

    stage: str
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.stop_s - self.start_s


def join_spans(spans: Iterable[Span]) -> str:
    """As text: `read 0 310;tokenize 310 870`, in milliseconds; what took none is left out."""
    whole = ((span.stage, round(span.start_s * 1000), round(span.stop_s * 1000)) for span in spans)
    return ";".join(f"{stage} {start} {stop}" for stage, start, stop in whole if stop > start)


def split_spans(text: str, offset_s: float = 0.0) -> list[Span]:
    """Back from text, later by an offset.

    Raises:
        ValueError: it is no such text.
    """
    spans = []
    for part in filter(None, text.split(";")):
        stage, start, stop = part.split(" ")
        spans.append(Span(stage, offset_s + int(start) / 1000, offset_s + int(stop) / 1000))
    return spans


def flatten_spans(spans: Iterable[Span]) -> list[Span]:
    """Spans of one worker that overlap -> what it did at each moment, in order; moments without any are left out."""
    moments = sorted(
        (time_s, step, span.stage)
        for span in spans
        if span.stage in PRIORITY and span.seconds > 0
        for time_s, step in ((span.start_s, 1), (span.stop_s, -1))
    )
    flat: list[Span] = []
    active = dict.fromkeys(PRIORITY, 0)
    before_s = moments[0][0] if moments else 0.0
    for time_s, step, stage in moments:
        leading = _leading(active)
        if leading is not None and time_s > before_s:
            if flat and flat[-1].stage == leading and flat[-1].stop_s == before_s:
                flat[-1] = Span(leading, flat[-1].start_s, time_s)
            else:
                flat.append(Span(leading, before_s, time_s))
        active[stage] += step
        before_s = time_s
    return flat


def sum_spans(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds by stage."""
    return {stage: sum(span.seconds for span in spans if span.stage == stage) for stage in PRIORITY}


def _leading(active: Mapping[str, int]) -> str | None:
    return next((stage for stage in PRIORITY if active[stage] > 0), None)
