from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.encoder.pooling import merge_windows, pool_tokens
from pipeline.encoder.tokenize import TokenRows

STATES_BSH = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]], [[5.0, 6.0], [-7.0, 8.0], [0.0, 1.0]]])
MASK_BS = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [[1.0, -4.0], [5.0, 6.0]]),
        ("mean", [[2.0, -3.0], [-2 / 3, 5.0]]),
        ("max", [[3.0, -2.0], [5.0, 8.0]]),
    ],
)
def test_pooling_ignores_padding(pooling: str, expected: list[list[float]]) -> None:
    torch.testing.assert_close(pool_tokens(STATES_BSH, MASK_BS, pooling), torch.tensor(expected))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_is_in_fp32_whatever_goes_in(pooling: str) -> None:
    long_BSH = torch.full((1, 3_000, 1), 1.0, dtype=torch.bfloat16)
    pooled_BH = pool_tokens(long_BSH, torch.ones(1, 3_000, dtype=torch.int64), pooling)
    assert pooled_BH.dtype == torch.float32
    assert pooled_BH.item() == 1.0


def rows_of(row_of: list[int], lengths: list[int]) -> TokenRows:
    """Windows of these lengths; ids do not matter here."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    windowed = None if row_of == list(range(len(row_of))) else np.array(row_of)
    return TokenRows(np.zeros(offsets[-1], np.int32), offsets, np.zeros(max(row_of) + 1, np.bool_), windowed)


def test_normalized_rows_have_length_one_and_their_direction() -> None:
    vectors_WH = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    rows_RH = merge_windows(vectors_WH, rows_of([0, 1], [2, 2]), "mean", normalize=True)
    np.testing.assert_allclose(rows_RH, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_windows_are_merged_row_by_row(pooling: str, normalize: bool) -> None:
    row_of, lengths = [0, 1, 1, 1, 2, 3, 3], [5, 9, 9, 2, 1, 7, 3]
    vectors_WH = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    merged_RH = merge_windows(vectors_WH, rows_of(row_of, lengths), pooling, normalize)
    for row in range(4):
        mine = [window for window in range(7) if row_of[window] == row]
        expected = {
            "cls": sum(vectors_WH[window] for window in mine) / len(mine),
            "mean": sum(vectors_WH[window] * lengths[window] for window in mine) / sum(lengths[w] for w in mine),
            "max": np.stack([vectors_WH[window] for window in mine]).max(axis=0),
        }[pooling]
        expected = expected / np.linalg.norm(expected) if normalize else expected
        np.testing.assert_allclose(merged_RH[row], expected, rtol=1e-5)
    assert merged_RH.dtype == np.float32


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_one_window_per_row_is_left_as_it_is(pooling: str) -> None:
    vectors_WH = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(merge_windows(vectors_WH, rows_of([0, 1, 2], [3, 1, 2]), pooling, False), vectors_WH)
