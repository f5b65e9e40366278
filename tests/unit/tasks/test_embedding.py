from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.spatial.distance
import scipy.stats

from pipeline.tasks.base import Learned
from pipeline.tasks.embedding import Embedding
from tests.unit.tasks.parts import column, outputs_of, rows_without_text

TASK, NOTHING = Embedding(), Learned()


def test_pairs_are_judged_by_the_cosine_of_their_embeddings() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(2, 30, 6)).astype(np.float32)
    truth = draw.random(30)
    outputs = [outputs_of(np.zeros((30, 0)), vectors) for vectors in (left, right)]
    judged = TASK.judge(outputs, rows_without_text(30), column(truth), NOTHING)
    cosines = [1 - scipy.spatial.distance.cosine(a, b) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(judged["predicted"].to_numpy(), cosines, rtol=1e-5)
    assert judged["truth"].to_pylist() == truth.tolist()
    metrics = TASK.evaluate(judged, NOTHING).metrics
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, cosines).statistic)
    assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, cosines).statistic)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    outputs = [outputs_of(np.zeros((1, 0)), vector) for vector in ([[0, 0]], [[3, 4]])]
    assert TASK.judge(outputs, rows_without_text(1), column([1.0]), NOTHING)["predicted"].to_pylist() == [0]


def test_a_labelled_row_has_two_texts_apart_and_a_scored_one_has_one() -> None:
    assert TASK.inputs == ("text",)
    assert TASK.labelled_inputs == (("text_a",), ("text_b",))
    assert TASK.optional_inputs == ("negative",)
    assert (TASK.needs_target, TASK.compares_rows) == (False, True)
    assert TASK.decode(outputs_of(np.zeros((2, 0))), rows_without_text(2), NOTHING) == TASK.output_fields() == []


def test_scores_that_are_not_finite_are_refused() -> None:
    reasons = TASK.check(column([0.5, None, float("inf")]), (), NOTHING).to_pylist()
    assert [reason is None for reason in reasons] == [True, False, False]


def test_nothing_is_learned_from_scores_and_they_must_be_numbers() -> None:
    assert (TASK.learn(column([1.0, 2.0])), TASK.head_config(NOTHING)) == (NOTHING, {})
    assert TASK.learn(column([None, None])) == NOTHING
    with pytest.raises(pa.ArrowInvalid, match="Failed to parse"):
        TASK.learn(column(["high", "low"]))


def test_rows_without_scores_are_all_usable() -> None:
    assert TASK.check(column(pa.nulls(3)), (), NOTHING).to_pylist() == [None] * 3
