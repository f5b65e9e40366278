from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import SpecError
from pipeline.finetune.classes import check_classes, make_emphasis, weigh_rows
from pipeline.finetune.spec import TrainingConfig
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks import TASKS
from pipeline.tasks.base import Learned
from pipeline.tasks.numbers import fixed_targets
from tests.tiny import LABELS
from tests.unit.finetune.many_heads import tag_data
from tests.unit.finetune.training import TASK, token_data

COUNTS = (8, 1, 3)
HEADS = {"": (TASK, Learned(LABELS))}


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> TokenData:
    """12 rows of which 8, 1 and 3 have the three labels."""
    classes = np.repeat(np.arange(3), COUNTS).astype(np.float32)
    return TokenData(token_data(tokenizer, 12).rows, fixed_targets(classes[:, None]))


def weights_of(data: TokenData, setting: Any, task: Any = TASK) -> list[float]:
    emphasis = make_emphasis(data, task, LABELS, TrainingConfig(class_weights=setting))
    assert emphasis is not None
    assert emphasis.class_weights is not None
    return emphasis.class_weights.tolist()


def test_balanced_classes_count_the_same_in_all(data: TokenData) -> None:
    weights = weights_of(data, "balanced")
    assert [weight * count for weight, count in zip(weights, COUNTS, strict=True)] == pytest.approx([4, 4, 4])


def test_given_weights_keep_their_proportions_and_are_1_on_average(data: TokenData) -> None:
    weights = weights_of(data, {LABELS[1]: 10.0, LABELS[2]: 2.0})
    assert np.dot(weights, COUNTS) == pytest.approx(12)
    assert [weight / weights[0] for weight in weights] == pytest.approx([1, 10, 2])


def test_a_class_without_rows_gets_a_finite_weight(tokenizer: Any) -> None:
    data = TokenData(token_data(tokenizer, 4).rows, fixed_targets(np.array([[0], [0], [2], [2]], np.float32)))
    assert weights_of(data, "balanced")[::2] == pytest.approx([1, 1])
    assert np.isfinite(weights_of(data, "balanced")).all()


def test_tokens_are_counted_and_not_rows(tokenizer: Any) -> None:
    data = tag_data(tokenizer, 20)
    counts = [int((data.targets.values == tag).sum()) for tag in range(3)]
    weights = weights_of(data, "balanced", TASKS["token-classification"])
    assert [weight * count for weight, count in zip(weights, counts, strict=True)] == pytest.approx(
        [sum(counts) / 3] * 3
    )


def test_soft_labels_are_counted_by_their_shares(tokenizer: Any) -> None:
    shares = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25]], np.float32)
    data = TokenData(token_data(tokenizer, 3).rows, fixed_targets(shares))
    weights = weights_of(data, "balanced")
    assert (shares.sum(axis=0) * weights).tolist() == pytest.approx([1, 1, 1])
    assert weigh_rows(data, LABELS, "balanced").tolist() == pytest.approx((shares @ np.array(weights)).tolist())


def test_rows_are_drawn_by_their_labels_weight(data: TokenData) -> None:
    drawn = weigh_rows(data, LABELS, "balanced")
    assert drawn.mean() == pytest.approx(1)
    assert [drawn[:8].sum(), drawn[8:9].sum(), drawn[9:].sum()] == pytest.approx([4, 4, 4])


def test_plain_recipes_and_tasks_without_classes_have_no_emphasis(data: TokenData) -> None:
    assert make_emphasis(data, TASK, LABELS, TrainingConfig()) is None
    assert make_emphasis(data, TASKS["similarity"], LABELS, TrainingConfig(label_smoothing=0.1)) is None
    smoothed = make_emphasis(data, TASK, LABELS, TrainingConfig(label_smoothing=0.1))
    assert smoothed is not None
    assert (smoothed.label_smoothing, smoothed.class_weights) == (0.1, None)


@pytest.mark.parametrize("field", ["class_weights", "sampling"])
@pytest.mark.parametrize(
    ("labels", "given"),
    [(("0", "1"), {0: 1, 1: 5}), (("false", "true"), {True: 2}), (("0.5", "2"), {0.5: 1, 2.0: 3})],
)
def test_labels_that_yaml_reads_as_numbers_are_found(field: str, labels: tuple[str, ...], given: Any) -> None:
    recipe = TrainingConfig(**{field: given})
    check_classes(recipe, {"": (TASK, Learned(labels))}, "spec.yaml")
    assert set(getattr(recipe, field)) <= set(labels)


@pytest.mark.parametrize(
    ("recipe", "heads", "message"),
    [
        ({"class_weights": {"angry": 2}}, HEADS, r"training\.class_weights\.angry: is not a label.*negative, neutral"),
        ({"sampling": {"angry": 2}}, HEADS, r"training\.sampling\.angry: is not a label"),
        (
            {"class_weights": "balanced"},
            {"": (TASKS["similarity"], Learned())},
            "task is similarity; .*row or token",
        ),
        ({"label_smoothing": 0.1}, {"": (TASKS["multi-label"], Learned(LABELS))}, "the task is multi-label"),
        ({"sampling": "balanced"}, {"": (TASKS["token-classification"], Learned(LABELS))}, "one label for each row$"),
        ({"sampling": {"neutral": 2}}, {"a": HEADS[""], "b": HEADS[""]}, "several heads; expected balanced"),
    ],
)
def test_labels_that_are_weighed_must_be_there(recipe: dict[str, Any], heads: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_classes(TrainingConfig(**recipe), heads, "spec.yaml")


@pytest.mark.parametrize(
    ("recipe", "head"),
    [
        ({}, (TASKS["embedding"], Learned())),
        ({"class_weights": {"neutral": 3}, "sampling": "balanced"}, HEADS[""]),
        ({"class_weights": "balanced", "label_smoothing": 0.1}, (TASKS["token-classification"], Learned(LABELS))),
    ],
)
def test_recipes_that_fit_pass(recipe: dict[str, Any], head: Any) -> None:
    assert check_classes(TrainingConfig(**recipe), {"": head}, "spec.yaml") is None  # type: ignore[func-returns-value]
