from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import parse_spec
from pipeline.errors import SpecError
from pipeline.finetune.spec import FinetuneSpec
from pipeline.studies.space import Dimension, as_block, draw_points, field_names

SPACE = {
    "training.learning_rate": Dimension(loguniform=(1e-6, 1e-2)),
    "training.warmup_fraction": Dimension(uniform=(0.0, 0.5)),
    "training.epochs": Dimension(whole=(1, 3)),
    "pooling": Dimension(choice=("mean", "cls")),
}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 12))
def test_points_are_the_seeds_and_more_of_them_begin_with_the_fewer(seed: int, few: int, more: int) -> None:
    points = draw_points(SPACE, few + more, seed)
    assert points[:few] == draw_points(SPACE, few, seed)
    assert len({str(point) for point in points}) == few + more


def test_values_are_of_their_kind_and_cover_the_space() -> None:
    points = draw_points(SPACE, 300, 1)
    rates = [point["training.learning_rate"] for point in points]
    assert all(1e-6 <= rate <= 1e-2 for rate in rates)
    assert 0.15 < sum(rate < 1e-5 for rate in rates) / len(rates) < 0.35  # one of four decades
    assert all(0 <= point["training.warmup_fraction"] <= 0.5 for point in points)
    assert {point["training.epochs"] for point in points} == {1, 2, 3}
    assert {point["pooling"] for point in points} == {"mean", "cls"}


def test_another_field_changes_no_other_draw() -> None:
    few = {"pooling": SPACE["pooling"], "training.epochs": SPACE["training.epochs"]}
    rates = [point["training.learning_rate"] for point in draw_points(SPACE, 5, 3)]
    only_rates = draw_points({"training.learning_rate": SPACE["training.learning_rate"]}, 5, 3)
    assert [point["training.learning_rate"] for point in only_rates] == rates
    assert len(draw_points(few, 100, 3)) == 6  # all there are


def test_a_point_is_spelled_as_blocks() -> None:
    block = as_block({"training.masking.share": 0.2, "training.epochs": 2, "pooling": "cls"})
    assert block == {"training": {"masking": {"share": 0.2}, "epochs": 2}, "pooling": "cls"}


@pytest.mark.parametrize(
    ("path", "is_known"),
    [("training.epochs", True), ("training.masking.share", True), ("training.none.share", False), ("model.x", False)],
)
def test_fields_are_looked_up_through_blocks(path: str, is_known: bool) -> None:
    found = field_names(FinetuneSpec, path)
    assert (found is not None and path.rpartition(".")[2] in found) == is_known


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "give one of: choice, uniform, loguniform, int"),
        ({"choice": [1], "int": [1, 2]}, "give one of: choice, uniform, loguniform, int"),
        ({"uniform": None}, "give one of: choice, uniform, loguniform, int"),
        ({"uniform": [2, 1]}, r"uniform: \[2.0, 1.0\] does not go from a lower number"),
        ({"int": [2, 2]}, r"int: \[2, 2\] does not go from a lower number"),
        ({"loguniform": [0, 1]}, "a logarithm needs numbers above 0"),
        ({"choice": []}, "at least 1 in it"),
        ({"normal": [0, 1]}, "is not a known field"),
    ],
)
def test_a_dimension_that_makes_no_sense_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(raw, Dimension, "study.yaml")
