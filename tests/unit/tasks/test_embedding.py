from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pytest
import scipy.spatial.distance
import scipy.stats

from pipeline.tasks.base import Examples, Learned
from pipeline.tasks.embedding import Embedding
from tests.unit.tasks.parts import column, outputs_of, rows_without_text
from tests.unit.tasks.searching import slow_metrics

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


def judge_search(left: list[str], right: list[str], vector: dict[str, list[float]]) -> pa.Table:
    examples = Examples(
        tuple(pa.chunked_array([pa.array(side, pa.large_string())]) for side in (left, right)),
        rows_without_text(len(left)).tokens,
    )
    width = len(next(iter(vector.values()))) if left else 0
    outputs = [
        outputs_of(np.zeros((len(side), 0)), np.array([vector[text] for text in side]).reshape(len(side), width))
        for side in (left, right)
    ]
    return TASK.judge(outputs, examples, column(pa.nulls(len(left))), NOTHING)


def unit_vectors(texts: set[str]) -> dict[str, list[float]]:
    draw = np.random.default_rng(5)
    return {text: draw.normal(size=6).tolist() for text in sorted(texts)}


def test_pairs_without_scores_are_judged_as_a_search_over_distinct_texts() -> None:
    draw = np.random.default_rng(3)
    left = [f"query {number}" for number in draw.integers(0, 12, 60)]
    right = [f"document {number}" for number in draw.integers(0, 25, 60)]
    vector = unit_vectors({*left, *right})
    found = TASK.evaluate(judge_search(left, right, vector), NOTHING)
    queries, documents = sorted(set(left)), sorted(set(right))
    relevant = [{documents.index(b): 1.0 for a, b in zip(left, right, strict=True) if a == one} for one in queries]
    spelled = [np.array([vector[text] for text in texts], np.float32) for texts in (queries, documents)]
    assert found.num_rows == 60
    assert found.metrics == pytest.approx(slow_metrics(*spelled, relevant), abs=1e-9)


def test_a_search_is_judged_the_same_in_any_order_and_any_parts() -> None:
    left, right = ["a", "b", "a", "c", "b", "d"], ["u", "v", "w", "u", "v", "x"]
    vector = unit_vectors({*left, *right})
    whole = TASK.evaluate(judge_search(left, right, vector), NOTHING).metrics
    parts = [judge_search(left[rows], right[rows], vector) for rows in (slice(4, 6), slice(0, 1), slice(1, 4))]
    assert TASK.evaluate(pa.concat_tables(parts), NOTHING).metrics == pytest.approx(whole)


def test_texts_whose_checksums_are_equal_are_still_two_texts() -> None:
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    vector = {"one": [1.0, 0.0], "other": [0.0, 1.0], "third": [0.6, 0.6]}
    vector |= {"plumless": [1.0, 0.1], "buckeroo": [0.1, 1.0], "decoy": [0.5, 0.6]}
    judged = judge_search(["one", "other", "third"], ["plumless", "buckeroo", "decoy"], vector)
    assert TASK.evaluate(judged, NOTHING).metrics["recall@1"] == 1.0


def test_a_share_without_rows_joins_the_others() -> None:
    vector = unit_vectors({"a", "b", "u", "v"})
    some, none = judge_search(["a", "b"], ["u", "v"], vector), judge_search([], [], vector)
    for parts in ([none, some], [some, none]):
        assert TASK.evaluate(pa.concat_tables(parts), NOTHING) == TASK.evaluate(some, NOTHING)


def test_no_pairs_at_all_have_figures_of_zero() -> None:
    found = TASK.evaluate(judge_search([], [], {}), NOTHING)
    assert found.num_rows == 0
    assert set(found.metrics.values()) <= {0.0}
