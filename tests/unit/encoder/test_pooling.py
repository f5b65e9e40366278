from __future__ import annotations

import pytest
import torch

from pipeline.encoder.pooling import normalize_rows, pool_tokens

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


def test_normalized_rows_have_length_one_and_their_direction() -> None:
    rows_BH = normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows_BH, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
