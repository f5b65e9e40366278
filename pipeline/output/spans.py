"""When a shard was in which stage: spans of time, kept as a few characters each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds, that went into one stage."""

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
