"""Figures of drift, and their limits."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.drift import (
    Drift,
    judge,
    label_stability,
    mean_shift,
    number_stability,
    population_stability,
)
from pipeline.report.limits import DriftLimits, ReportConfig, WarnLimits


def drift(**changes: object) -> Drift:
    nothing = dict.fromkeys(("rows_change", "unknown_share", "truncated_share", "quarantined_share"))
    return Drift(**{**nothing, "label_psi": {}, "score_psi": {}, "embedding_shift": {}, **changes})  # type: ignore[arg-type]


def test_the_index_is_the_sum_over_the_bins() -> None:
    before, after = np.array([500_000.0, 500_000.0]), np.array([800_000.0, 200_000.0])
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert population_stability(before, after) == pytest.approx(expected, abs=1e-5)
    assert population_stability(before, before) == 0
    assert population_stability(before, np.zeros(2)) == 0


def test_small_samples_of_one_distribution_do_not_drift() -> None:
    random = np.random.default_rng(0)
    found = [number_stability(random.normal(size=150), random.normal(size=150)) for _ in range(50)]
    assert np.mean(found) < 0.05
    assert number_stability(random.normal(size=150), random.normal(1.5, size=150)) > 0.5


def test_a_label_that_came_counts() -> None:
    assert label_stability({"a": 5000, "b": 5000}, {"a": 5000, "b": 4000, "new": 1000}) > 0.5
    assert label_stability({"a": 5000}, {"a": 70}) == 0


def test_scores_that_were_all_alike_can_drift() -> None:
    assert number_stability(np.full(1000, 0.5), np.full(1000, 0.25)) > 1
    assert number_stability(np.full(1000, 0.5), np.full(1000, 0.5)) == 0


def test_the_shift_of_means_is_a_cosine_distance() -> None:
    assert mean_shift(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == pytest.approx(1)
    assert mean_shift(np.array([1.0, 1.0]), np.array([3.0, 3.0])) == pytest.approx(0)
    assert mean_shift(np.array([1.0]), np.array([1.0, 0.0])) is None
    assert mean_shift(np.zeros(2), np.ones(2)) is None


def test_a_figure_beyond_both_limits_fails_and_the_worst_column_counts() -> None:
    config = ReportConfig(warn=WarnLimits(label_psi=0.1), fail=DriftLimits(label_psi=0.3, rows_change=0.5))
    found = judge(drift(label_psi={"a": 0.05, "b": 0.4}, rows_change=0.5, truncated_share=1.0), config)
    assert [str(finding) for finding in found] == ["label_psi is 0.4, fail limit 0.3"]
    assert [item.level for item in judge(drift(label_psi={"a": 0.2}), config)] == ["warn"]
    assert judge(drift(score_psi={"a": 0.21}), ReportConfig())[0].level == "warn"
    assert judge(drift(), ReportConfig()) == []
