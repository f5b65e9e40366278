"""How far a night is from the one before, in a few numbers, and whether that is more than the spec allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.report.figures import Figures, FloatArray
from pipeline.report.limits import DriftLimits, ReportConfig

_FLOOR = 1e-4  # a share of zero would make the index infinite
_NUM_BINS = 10


@dataclass(frozen=True)
class Drift:
    """Differences from the last night, and shares of this one; None where nothing can be said.

    Attributes:
        label_psi, score_psi, embedding_shift: By column.
    """

    rows_change: float | None
    label_psi: Mapping[str, float]
    score_psi: Mapping[str, float]
    embedding_shift: Mapping[str, float]
    unknown_share: float | None
    truncated_share: float | None
    quarantined_share: float | None

    def worst(self, name: str) -> float | None:
        """A figure by the name of its limit: of several columns' the highest."""
        value = getattr(self, name)
        return max(value.values(), default=None) if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Finding:
    """A figure that is beyond a limit; `level` is `warn` or `fail`."""

    name: str
    value: float
    limit: float
    level: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}, {self.level} limit {self.limit:g}"


def population_stability(before: FloatArray, after: FloatArray) -> float:
    """The population stability index of counts in the same bins, less what chance alone gives.

    Sum over the bins of (p - q) ln(p / q). Of two samples of one distribution its expectation is
    (bins - 1)(1/n + 1/m), which for a few hundred rows is more than the usual limits: that is taken off.
    """
    totals = before.sum(), after.sum()
    if not all(totals):
        return 0.0
    shares = [np.maximum(counts / total, _FLOOR) for counts, total in zip((before, after), totals, strict=True)]
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    num_used = int(((before > 0) | (after > 0)).sum())
    return max(index - (num_used - 1) * float(1 / totals[0] + 1 / totals[1]), 0.0)


def label_stability(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Of labels: each is a bin."""
    names = sorted(before.keys() | after.keys())
    counts = [np.array([float(side.get(name, 0)) for name in names]) for side in (before, after)]
    return population_stability(*counts)


def number_stability(before: FloatArray, after: FloatArray) -> float:
    """Of numbers: the bins are the deciles of the first night's."""
    if not len(before):
        return 0.0
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, side, "right"), minlength=len(edges) + 1) for side in (before, after)]
    return population_stability(*(side.astype(np.float64) for side in counts))


def mean_shift(before: FloatArray, after: FloatArray) -> float | None:
    """1 - cosine of two mean embeddings; None where they cannot be compared."""
    length = float(np.linalg.norm(before) * np.linalg.norm(after)) if before.shape == after.shape else 0.0
    return max(1 - float(before @ after) / length, 0.0) if length else None


def share_of(part: float | None, whole: float | None) -> float | None:
    """A share, if both are known and there is a whole."""
    return part / whole if part is not None and whole else None


def measure_drift(last: Figures | None, now: Figures, shares: Mapping[str, float | None]) -> Drift:
    """Compare two nights' figures; `shares` are those figures of `Drift` that manifests tell."""
    labels, numbers, shifts = dict[str, float](), dict[str, float](), dict[str, float]()
    if last is not None and last.num_rows and now.num_rows:
        labels = {name: label_stability(last.labels[name], now.labels[name]) for name in last.labels}
        numbers = {name: number_stability(values, now.numbers[name]) for name, values in last.numbers.items()}
        found = {name: mean_shift(values, now.means[name]) for name, values in last.means.items() if name in now.means}
        shifts = {name: shift for name, shift in found.items() if shift is not None}
    return Drift(
        rows_change=shares["rows_change"],
        label_psi=labels,
        score_psi=numbers,
        embedding_shift=shifts,
        unknown_share=shares["unknown_share"],
        truncated_share=shares["truncated_share"],
        quarantined_share=shares["quarantined_share"],
    )


def judge(drift: Drift, config: ReportConfig) -> list[Finding]:
    """What is beyond its limits; of a figure beyond both, the one that fails."""
    found = []
    for name in DriftLimits.model_fields:
        value = drift.worst(name)
        for level, limits in (("fail", config.fail), ("warn", config.warn)):
            limit = getattr(limits, name)
            if value is not None and limit is not None and value > limit:
                found.append(Finding(name, value, limit, level))
                break
    return found
