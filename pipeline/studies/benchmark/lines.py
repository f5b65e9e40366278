"""What a benchmark found, a line for each contender, as Markdown and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import mean, median, stdev
from typing import Any

import pyarrow as pa

from pipeline.studies.benchmark.rounds import Timing, speed_ratio
from pipeline.studies.tables import markdown_table

NOTE = (
    "Tokens/s: median over the rounds, padding not counted. The ratio is taken round by round, everyone in turns. "
    "Quality: of embeddings the worst cosine to Sentence Transformers in fp32, of trainings the task's "
    "metric on validation rows (mean and standard deviation over the rounds, each of another seed), "
    "of heads the share of rows that plain transformers in fp32 answers alike."
)
_HEADER = ("race", "contender", "tokens/s", "bertmill is faster by (lowest - highest)", "quality")


@dataclass(frozen=True)
class Line:
    """One contender in a race.

    Attributes:
        race: What was done.
        contender: By whom.
        tokens_per_s: Median over the rounds, without padding.
        ratio_lowest: Times bertmill is faster in its worst round.
        ratio_median: The same over all rounds.
        ratio_highest: The same in its best round.
        quality: See `NOTE`; None where nothing was made.
        deviation: Standard deviation of a quality that was measured in each of several rounds.
    """

    race: str
    contender: str
    tokens_per_s: float
    ratio_lowest: float
    ratio_median: float
    ratio_highest: float
    quality: float | None
    deviation: float | None


def race_lines(
    race: str, timings: Sequence[Timing], num_tokens: int, quality: Mapping[str, Sequence[float]] | None = None
) -> list[Line]:
    """The lines of one race.

    Args:
        race: What was done.
        timings: bertmill's first.
        num_tokens: Of the work that everyone did.
        quality: By contender's name, of those that made something: once, or in each round.
    """
    known = quality or {}
    return [
        Line(
            race,
            timing.name,
            num_tokens / median(timing.seconds),
            *speed_ratio(timings[0], timing),
            mean(known[timing.name]) if timing.name in known else None,
            stdev(known[timing.name]) if len(known.get(timing.name, ())) > 1 else None,
        )
        for timing in timings
    ]


def as_markdown(lines: Sequence[Line]) -> str:
    """All lines as one table."""
    return markdown_table(_HEADER, [_cells(line) for line in lines])


def _cells(line: Line) -> tuple[str, ...]:
    ratio = f"{line.ratio_median:.2f} ({line.ratio_lowest:.2f} - {line.ratio_highest:.2f})"
    quality = "-" if line.quality is None else f"{line.quality:.4f}"
    quality += "" if line.deviation is None else f" ± {line.deviation:.4f}"
    return line.race, line.contender, f"{line.tokens_per_s:,.0f}", ratio, quality


def as_table(lines: Sequence[Line]) -> pa.Table:
    """All lines in Arrow, a column for each field."""
    types: dict[str, Any] = {"race": pa.string(), "contender": pa.string()}
    return pa.table(
        {
            known.name: pa.array([getattr(line, known.name) for line in lines], types.get(known.name, pa.float64()))
            for known in fields(Line)
        }
    )
