"""Attention of short windows is torch's: with masks, for tokens that ask alone, and where scores leave its range."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.encoder.packed_attention import Attending
from pipeline.encoder.packing import Pack
from pipeline.encoder.short_attention import attend_short, is_short

WINDOWS, HEADS, SIZE = 5, 3, 8
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}


def states(length: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """[N, L, H, D], as a slice of a wider tensor: not contiguous, as they come."""
    return (scale * torch.randn(WINDOWS, length, 3, HEADS, SIZE))[:, :, 1].to(dtype)


def expected(query: torch.Tensor, *others: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """By torch's kernel, in fp32."""
    parts = (part.float().transpose(1, 2) for part in (query, *others))
    return scaled_dot_product_attention(*parts, attn_mask=mask, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_asking", [1, 7])
@pytest.mark.parametrize("is_masked", [False, True])
def test_it_is_what_torch_computes(dtype: torch.dtype, num_asking: int, is_masked: bool) -> None:
    torch.manual_seed(3)
    query, key, value = states(num_asking, dtype), states(7, dtype), states(7, dtype)
    mask = None
    if is_masked:
        mask = torch.arange(7) < torch.tensor([7, 6, 4, 1, 2])[:, None, None, None]
    found = attend_short(query, key, value, mask, 0.3)
    assert found is not None
    assert found.shape == (WINDOWS, num_asking, HEADS, SIZE)
    wanted = expected(query, key, value, mask=mask)
    torch.testing.assert_close(found.float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_what_all_keys_have_in_common_costs_no_precision() -> None:
    torch.manual_seed(6)
    query, key, value = (states(16, torch.bfloat16) for _ in range(3))
    query[..., 0], key[..., 0] = 8, 4 + key[..., 0] / 100  # adds 32 times 0.3 to every score
    found = attend_short(query, key, value, None, 0.3)
    assert found is not None
    torch.testing.assert_close(found.float(), expected(query, key, value), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_that_exponentials_have_no_room_for_are_left_to_torch(sign: float) -> None:
    query, value = torch.ones(1, 2, 1, SIZE), torch.ones(1, 2, 1, SIZE)
    key = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand_as(query)
    assert attend_short(query * 8, key, value, None, sign) is not None  # scores of 64 and -64
    assert attend_short(query * 12, key, value, None, sign) is None  # 96 and -96


def test_windows_of_which_only_low_scores_are_seen_are_left_to_torch() -> None:
    query, value, seen = torch.ones(1, 2, 1, SIZE), torch.ones(1, 2, 1, SIZE), torch.tensor([False, True])
    key = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand_as(query)
    assert attend_short(query * 8, key, value, seen, 1.0) is not None
    assert attend_short(query * 12, key, value, seen, 1.0) is None


def test_a_window_that_is_no_number_stays_so_alone() -> None:
    torch.manual_seed(5)
    query, key, value = (states(7, torch.float32) for _ in range(3))
    wanted = attend_short(query, key, value, None, None)
    query[2, 3] = float("nan")
    found = attend_short(query, key, value, None, None)
    assert found is not None
    assert wanted is not None
    assert found[2, 3].isnan().all()
    others = torch.arange(WINDOWS) != 2
    assert torch.equal(found[others], wanted[others])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_pack_with_one_window_of_high_scores_is_right_in_all_windows(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    lengths = [9, 9, 5, 5, 2]
    parts = [torch.randn(sum(lengths), HEADS, SIZE).to(dtype) for _ in range(3)]
    parts[0][:9] *= 60
    pack = Pack.of(torch.tensor(lengths).numpy(), torch.device("cpu"))
    with torch.inference_mode():
        found = Attending(pack).attend(*parts)
    wanted = [
        scaled_dot_product_attention(*(part.float().transpose(0, 1).unsqueeze(0) for part in window))[0].transpose(0, 1)
        for window in zip(*(part.split(lengths) for part in parts), strict=True)
    ]
    torch.testing.assert_close(found.float(), torch.cat(wanted), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_gradients_and_long_windows_are_left_to_torch() -> None:
    short, long = states(4, torch.float32), torch.zeros(1, 2_000, 1, SIZE)
    assert not is_short(short, short, short)
    with torch.inference_mode():
        assert is_short(short, short, short)
        assert not is_short(long, long, long)
        assert not is_short(*[long.bfloat16()] * 3)
        assert not is_short(*[short.half()] * 3)
        assert not is_short(short, short, short.bfloat16())
