"""Losses of embeddings against sentence-transformers' own, and against sums written out in numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers.sentence_transformer.losses.cosent import CoSENTLoss
from sentence_transformers.sentence_transformer.losses.multiple_negatives_ranking import MultipleNegativesRankingLoss

from pipeline.tasks.base import Examples, Learned
from pipeline.tasks.embedding import Embedding
from tests.unit.tasks.parts import column, rows_without_text

TASK, NOTHING = Embedding(), Learned()


def vectors(num_rows: int, num_texts: int, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(size=(num_rows, num_texts, 8)).astype(np.float32) * 3)


def keys_of(*sides: Sequence[str]) -> torch.Tensor:
    """The targets that training makes of pairs without a score, and of negatives beside them."""
    texts, num_rows = tuple(pa.chunked_array([pa.array(side, pa.large_string())]) for side in sides), len(sides[0])
    examples = Examples(texts, rows_without_text(num_rows).tokens)
    targets = TASK.window_targets(column(pa.nulls(num_rows)), examples, NOTHING)
    assert targets.weights.tolist() == [1] * num_rows
    return torch.from_numpy(targets.values.reshape(num_rows, 2 * len(sides)))


def scores_of(values: Sequence[float]) -> torch.Tensor:
    targets = TASK.window_targets(column(pa.array(values)), rows_without_text(len(values)), NOTHING)
    return torch.from_numpy(targets.values.reshape(len(values), 1))


def distinct(num_rows: int, num_texts: int = 2) -> torch.Tensor:
    return keys_of(*([f"{place} of {row}" for row in range(num_rows)] for place in range(num_texts)))


def slow_in_batch(vectors_NKH: torch.Tensor, left: str, right: str, *negatives: str) -> float:
    """The mean of -log softmax of the true pair, one row and one candidate at a time."""
    units = vectors_NKH.numpy().astype(np.float64)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    losses = []
    for row, (one, other) in enumerate(zip(left, right, strict=True)):
        wrong = 0.0
        for rival in range(len(units)):
            is_wrong = rival != row and left[rival] != one and right[rival] != other
            wrong += math.exp(20 * units[row, 0] @ units[rival, 1]) if is_wrong else 0.0
            for place, texts in enumerate(negatives, 2):
                wrong += math.exp(20 * units[row, 0] @ units[rival, place]) if texts[rival] != other else 0.0
        true = math.exp(20 * units[row, 0] @ units[row, 1])
        losses.append(-math.log(true / (true + wrong)))
    return float(np.mean(losses))


def slow_cosent(vectors_NKH: torch.Tensor, scores: Sequence[float]) -> float:
    units = vectors_NKH.numpy().astype(np.float64)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    cosines = (units[:, 0] * units[:, 1]).sum(axis=-1)
    ordered = [pair for pair in itertools.permutations(range(len(scores)), 2) if scores[pair[0]] > scores[pair[1]]]
    return math.log(1 + sum(math.exp(20 * (cosines[low] - cosines[high])) for high, low in ordered))


def gradient_of(loss: torch.Tensor, leaf: torch.Tensor) -> np.ndarray:
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.numpy()


@pytest.mark.parametrize("num_texts", [2, 3, 4])
@pytest.mark.parametrize("num_rows", [1, 2, 13])
def test_pairs_and_triplets_are_trained_as_sentence_transformers_would(num_rows: int, num_texts: int) -> None:
    leaf = vectors(num_rows, num_texts).requires_grad_()
    reference: Any = MultipleNegativesRankingLoss(None, scale=20.0)  # type: ignore[arg-type]
    expected = reference.compute_loss_from_embeddings(list(leaf.unbind(dim=1)), None)
    own = TASK.loss_sum(leaf, distinct(num_rows, num_texts)) / num_rows
    assert own.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient_of(own, leaf), gradient_of(expected, leaf), atol=1e-6)


@pytest.mark.parametrize("scores", [[0.1, 0.7, 0.3, 0.9, 0.5], [1, 0, 1, 0, 1, 1], [2.5, 2.5], [0.5], [4, 0]])
def test_scored_pairs_are_trained_as_sentence_transformers_would(scores: list[float]) -> None:
    leaf = vectors(len(scores), 2, seed=1).requires_grad_()
    reference: Any = CoSENTLoss(None)  # type: ignore[arg-type]
    expected = reference.compute_loss_from_embeddings(list(leaf.unbind(dim=1)), torch.tensor(scores))
    own = TASK.loss_sum(leaf, scores_of(scores)) / len(scores)
    assert own.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient_of(own, leaf), gradient_of(expected, leaf), atol=1e-6)
    assert own.item() == pytest.approx(slow_cosent(leaf.detach(), scores), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("negatives", [(), ("ghijkl",), ("vuwgzx",), ("uvwxyz", "gguuuu")])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("abcdef", "uvwxyz"),
        ("aabcda", "uvwxyz"),
        ("abcdef", "uuvwxu"),
        ("aabbcc", "uvuvuw"),
        ("aaaaaa", "uvwxyz"),
        ("abcdef", "uuuuuu"),
    ],
)
def test_what_equals_the_answer_is_no_wrong_one(left: str, right: str, negatives: tuple[str, ...]) -> None:
    """Of a row that shares a text, and of any row's negative that is another row's answer."""
    given = vectors(6, 2 + len(negatives), seed=2)
    own = TASK.loss_sum(given, keys_of(left, right, *negatives)) / 6
    assert own.item() == pytest.approx(slow_in_batch(given, left, right, *negatives), rel=1e-5)


def test_a_row_that_shares_a_text_pulls_nothing_away() -> None:
    given = vectors(3, 2, seed=3).requires_grad_()
    (gradient,) = torch.autograd.grad(TASK.loss_sum(given, keys_of("aab", "uvu")), given)
    assert gradient[0].abs().max() < 1e-6  # shares its first text with row 1 and its second with row 2
    assert gradient[1].abs().max() > 1e-3


def test_the_length_of_an_embedding_does_not_count() -> None:
    given = vectors(5, 3)
    stretched = given * torch.linspace(0.1, 30, 15).view(5, 3, 1)
    torch.testing.assert_close(TASK.loss_sum(stretched, distinct(5, 3)), TASK.loss_sum(given, distinct(5, 3)))


def test_half_precision_embeddings_are_compared_in_single_precision() -> None:
    given = vectors(5, 2).to(torch.bfloat16)
    assert TASK.loss_sum(given, distinct(5)).dtype == torch.float32
    torch.testing.assert_close(TASK.loss_sum(given, distinct(5)), TASK.loss_sum(given.float(), distinct(5)))


def test_keys_tell_texts_apart_and_survive_single_precision() -> None:
    texts = [f"text number {number}" for number in range(300)]
    keys = keys_of(texts, list(reversed(texts)))
    assert len({tuple(key) for key in keys[:, :2].tolist()}) == 300
    assert keys[:, :2].tolist() == list(reversed(keys[:, 2:].tolist()))
    assert keys.dtype == torch.float32
