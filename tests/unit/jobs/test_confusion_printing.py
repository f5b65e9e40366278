"""A confusion matrix as a terminal or a log shows it: no label and no count is cut."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.evaluation_printing import print_evaluation
from pipeline.tasks.base import Confusion, Evaluation

LABELS = ("SearchCreativeWork", "SearchScreeningEvent", "BookRestaurant")


def printed(capsys: pytest.CaptureFixture[str], labels: tuple[str, ...]) -> str:
    counts = np.full((len(labels), len(labels)), 12345)
    print_evaluation(Evaluation(9, {}, Confusion(labels, counts)), "9 rows")
    return capsys.readouterr().out


@pytest.mark.parametrize(("width", "times"), [(100, 2), (60, 1)])
def test_columns_have_the_rows_numbers_where_labels_would_be_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, times: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = printed(capsys, LABELS)
    assert [text.count(label) for label in LABELS] == [times] * 3
    assert text.count("12,345") == 9
    assert ("2 SearchScreeningEvent" in text) is (times == 1)


@pytest.mark.parametrize(("width", "num_labels"), [(80, 20), (500, 21)])
def test_a_matrix_that_is_too_wide_is_said_to_be_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, num_labels: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    where = f"the confusion matrix of {num_labels} labels is too wide to show; `report: FILE.json` holds it"
    assert printed(capsys, tuple(f"label-{number}" for number in range(num_labels))) == f"9 of 9 rows: \n{where}\n"
