from __future__ import annotations

import pytest

from pipeline.studies.tables import markdown_table, spread


def test_mean_and_sample_deviation() -> None:
    found = spread([0.5, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.deviation == pytest.approx(0.2 / 2**0.5)
    assert found.show(2) == "0.60 ± 0.14"


def test_one_value_has_no_deviation() -> None:
    assert spread([0.5]).deviation is None
    assert spread([0.5]).show(3) == "0.500"


def test_a_table_lines_up() -> None:
    assert markdown_table(["name", "n"], [["a|b", "12"], ["c", "3"]]) == (
        "| name |  n |\n| ---- | -: |\n| a\\|b | 12 |\n| c    |  3 |\n"
    )
