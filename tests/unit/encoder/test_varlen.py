"""Varlen attention over packs: how it is called, on a stand-in and on torch's shapes alone, and itself on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder import packed_attention
from pipeline.encoder.packed_attention import Attending
from pipeline.encoder.packing import Pack

LENGTHS = np.array([9, 9, 7, 7, 7, 2, 1, 40])
CPU, META = torch.device("cpu"), torch.device("meta")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen attention needs a CUDA GPU")


def states(head_size: int = 16, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> list[torch.Tensor]:
    """Query, key and value of a pack: [T, H, D]."""
    generator = torch.Generator().manual_seed(1)
    shape = (int(LENGTHS.sum()), 3, head_size)
    return [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]


def attend_by_offsets(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets_q: torch.Tensor,
    offsets_k: torch.Tensor,
    most_q: int,
    most_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What the kernel's documentation says of its arguments, window by window."""
    found = []
    for number in range(len(offsets_k) - 1):
        asking, seen = slice(*offsets_q[number : number + 2].tolist()), slice(*offsets_k[number : number + 2].tolist())
        q, k, v = (part.transpose(0, 1) for part in (query[asking], key[seen], value[seen]))
        assert q.shape[1] <= most_q
        assert k.shape[1] <= most_k
        places = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
        left, right = (size if size >= 0 else len(key) for size in window_size)
        mask = (places <= left) & (-places <= right)
        found.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize(("reach", "by_firsts"), [(None, False), (3, False), (None, True)])
def test_varlen_attention_is_told_what_the_rectangles_are(
    reach: int | None, by_firsts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = states()
    pack = Pack.of(LENGTHS, CPU)
    query = pack.take_firsts(query) if by_firsts else query
    how = Attending(pack, scaling=0.3, reach=reach, by_firsts=by_firsts)
    expected = how.attend(query, key, value)
    monkeypatch.setattr(packed_attention, "_takes_varlen", lambda _query: True)
    monkeypatch.setattr(packed_attention, "varlen_attn", attend_by_offsets)
    torch.testing.assert_close(how.attend(query, key, value), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("reach", "by_firsts"), [(None, False), (3, False), (None, True)])
def test_varlen_attention_with_dropout_is_torchs_operator_and_has_gradients(
    reach: int | None, by_firsts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "_takes_varlen", lambda _query: True)
    pack = Pack.of(LENGTHS, META)
    query, key, value = (part.requires_grad_() for part in states(16, torch.bfloat16, META))
    asking = pack.take_firsts(query) if by_firsts else query
    output = Attending(pack, dropout=0.1, reach=reach, by_firsts=by_firsts).attend(asking, key, value)
    assert (output.shape, output.dtype) == (asking.shape, torch.bfloat16)
    output.sum().backward()
    for part in (query, key, value):
        assert part.grad is not None
        assert part.grad.shape == part.shape


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "is_built", "expected"),
    [
        (torch.bfloat16, 64, (9, 0), True, True),
        (torch.float16, 32, (8, 0), True, True),
        (torch.float32, 64, (9, 0), True, False),
        (torch.bfloat16, 26, (9, 0), True, False),  # TinyBERT of 312 numbers and 12 heads
        (torch.bfloat16, 256, (9, 0), True, False),
        (torch.bfloat16, 64, (7, 5), True, False),
        (torch.bfloat16, 64, (9, 0), False, False),
    ],
)
def test_what_varlen_attention_does_not_take_is_known_before(
    dtype: torch.dtype,
    head_size: int,
    capability: tuple[int, int],
    is_built: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: is_built)
    packed_attention._has_varlen.cache_clear()
    try:
        assert packed_attention._has_varlen(torch.device("cuda", 0), dtype, head_size) is expected
        assert not packed_attention._has_varlen(CPU, dtype, head_size)
    finally:
        packed_attention._has_varlen.cache_clear()


def on_gpu(head_size: int, dtype: torch.dtype, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a GPU gives, and what fp32 gives on CPU."""
    gpu = torch.device("cuda")
    found = Attending(Pack.of(LENGTHS, gpu), **how).attend(*states(head_size, dtype, gpu))
    return found.float().cpu(), Attending(Pack.of(LENGTHS, CPU), **how).attend(*states(head_size))


@NEEDS_GPU
@pytest.mark.parametrize("head_size", [16, 26, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reach", [None, 3])
def test_a_gpu_attends_as_the_cpu_does(reach: int | None, dtype: torch.dtype, head_size: int) -> None:
    found, expected = on_gpu(head_size, dtype, scaling=0.3, reach=reach)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@NEEDS_GPU
def test_dropout_on_a_gpu_keeps_the_expected_output_and_is_drawn_again_by_its_seed() -> None:
    gpu = torch.device("cuda")
    parts, how = states(32, torch.bfloat16, gpu), Attending(Pack.of(LENGTHS, gpu), dropout=0.2)
    drawn = []
    for seed in (1, 1, *range(2, 400)):
        torch.manual_seed(seed)
        drawn.append(how.attend(*parts).float())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    expected = Attending(how.pack).attend(*parts).float()
    torch.testing.assert_close(torch.stack(drawn).mean(0), expected, atol=0.1, rtol=0.1)
