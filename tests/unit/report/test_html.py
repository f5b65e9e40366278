"""What the pictures of the pages are made of."""

from __future__ import annotations

import pytest

from pipeline.report.html import Column, draw_columns, draw_series
from tests.unit.report.reading import Page


@pytest.mark.parametrize("num_nights", [1, 2, 3, 30])
def test_columns_stand_in_the_middle_of_their_share_and_both_ends_are_dated(num_nights: int) -> None:
    dates = [f"2026-11-{number + 1:02d}" for number in range(num_nights)]
    page = Page(str(draw_columns("Rows", [Column(date, 5.0, "") for date in dates], ",.0f")))
    axis = next(attributes for name, attributes in page.elements if name == "line")
    bars = [attributes for name, attributes in page.elements if name == "rect"]
    left, right = float(axis["x1"] or 0), float(axis["x2"] or 0)
    gaps = float(bars[0]["x"] or 0) - left, right - float(bars[-1]["x"] or 0) - float(bars[-1]["width"] or 0)
    assert gaps[0] == pytest.approx(gaps[1], abs=0.3)
    assert [word for word in page.words if word in dates[:: max(num_nights - 1, 1)]] == dates[:: max(num_nights - 1, 1)]


@pytest.mark.parametrize(("form", "zero"), [(".1%", "0.0%"), (",.0f", "0")])
def test_an_axis_of_nothing_but_zeros_says_zero(form: str, zero: str) -> None:
    columns = [Column("2026-11-01", 0.0, ""), Column("2026-11-02", None, "")]
    words = Page(str(draw_columns("Changed", columns, form))).words
    assert [word for word in words if word[0].isdigit() and "-" not in word] == [zero]


def test_an_axis_of_points_that_are_all_zero_says_zero() -> None:
    words = Page(str(draw_series("Loss", [(0.0, 0.0), (5.0, 0.0)], []))).words
    assert [word for word in words if word[0].isdigit()] == ["0", "5", "0"]
