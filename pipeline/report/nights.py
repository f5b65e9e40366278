"""The nights of a table: rows, time, cost, drift, models; as records, and as one HTML page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.output.history import NightSummary, read_nights
from pipeline.output.manifests import read_manifests
from pipeline.report.frame import charts, page
from pipeline.report.html import Html, draw_series, table, tag
from pipeline.report.saved import read_summaries
from pipeline.storage import Storage
from pipeline.uris import canonical_uri

_HEADS = ("night", "rows", "quarantined", "time", "cost", "labels", "scores", "embedding", "limits", "models")
_DRIFTS = ("label_psi", "score_psi", "embedding_shift")


@dataclass(frozen=True)
class NightLine:
    """One night: what its log says, what its runs' manifests add up to, and what its report found.

    Attributes:
        summary: Rows, files, version, models.
        elapsed_s: Of all its runs that wrote a manifest; None where none did.
        cost: Of the same; None where no price is known.
        report: The report's figures; None where none was written.
    """

    summary: NightSummary
    elapsed_s: float | None
    cost: float | None
    report: Mapping[str, Any] | None

    @property
    def level(self) -> str:
        """`ok`, `warn` or `fail`; empty without a report."""
        return "" if self.report is None else str(self.report["level"])

    def drift(self, name: str) -> float | None:
        """A figure of the report."""
        return None if self.report is None else self.report["drift"][name]


def read_night_lines(uri: str, storage: Storage) -> list[NightLine]:
    """Every night of a table, by date.

    Raises:
        CorpusError: there is no table at the URI.
    """
    uri = canonical_uri(uri)
    nights = read_nights(uri, storage)
    seconds, costs = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for manifest in read_manifests(uri, storage):
        seconds[manifest.run_date] += _known(manifest.counts.get("elapsed_s"))
        costs[manifest.run_date] += _known(manifest.counts.get("usage", {}).get("cost"))
    reports = read_summaries(uri, [night.run_date for night in nights], storage)
    return [
        NightLine(night, _total(seconds[night.run_date]), _total(costs[night.run_date]), reports.get(night.run_date))
        for night in nights
    ]


def render_nights(uri: str, lines: Sequence[NightLine]) -> str:
    """The page."""
    drawn: list[tuple[str, Callable[[NightLine], float | None]]] = [
        ("Rows", lambda line: line.summary.num_rows),
        ("Seconds of all runs", lambda line: line.elapsed_s),
        ("Labels: population stability index", lambda line: line.drift("label_psi")),
        ("Quarantined rows", lambda line: line.summary.num_quarantined_rows),
    ]
    parts = [
        tag("h1", "Nights"),
        tag("p", f"{canonical_uri(uri)}: {len(lines):,} nights, the newest first", class_="faint"),
        charts(*((name, _over_nights(name, lines, value)) for name, value in drawn)),
        tag("p", "The charts run from the first night, 0, to the last.", class_="faint"),
        table(_HEADS, [_cells(line) for line in reversed(lines)], numbers=range(1, 8)),
    ]
    return page(f"Nights of {uri}", parts)


def _over_nights(name: str, lines: Sequence[NightLine], value: Callable[[NightLine], float | None]) -> Html:
    points = [(float(index), float(found)) for index, line in enumerate(lines) if (found := value(line)) is not None]
    return draw_series(name, points, points)


def _cells(line: NightLine) -> list[object]:
    night = line.summary
    return [
        night.run_date,
        f"{night.num_rows:,}",
        f"{night.num_quarantined_rows:,}",
        "" if line.elapsed_s is None else f"{line.elapsed_s:,.1f} s",
        "" if line.cost is None else f"{line.cost:,.4g}",
        *("" if (value := line.drift(name)) is None else f"{value:.4f}" for name in _DRIFTS),
        tag("span", line.level, class_=f"level {line.level}"),
        ", ".join(night.model_versions),
    ]


def _known(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _total(values: Sequence[float]) -> float | None:
    return sum(values) if values else None
