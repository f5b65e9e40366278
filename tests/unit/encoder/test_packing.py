"""Packs give what padded batches give: outputs and gradients, for every family that takes packs and every head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.encoder import packing
from pipeline.encoder.dropping_attention import attend_dropping, pull_back
from pipeline.encoder.forward import encode, lay_out, takes_packs
from pipeline.encoder.packed_attention import PACKED, can_pack, packed_attention
from pipeline.encoder.packing import Pack
from pipeline.encoder.tokenize import Padding, TokenRows
from tests.unit.encoder.families import EVERY, FAMILIES, RELATED
from tests.unit.encoder.test_families import HEADS, OTHERS, TEXTS, encoded

CPU = torch.device("cpu")
PACKABLE = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert")
LENGTHS = np.array([9, 9, 7, 7, 7, 2, 1, 40])
ORDERS = {"sorted": [0, 4, 2, 1, 3], "mixed": [3, 0, 1, 0, 2]}


def test_families_are_packed_or_padded_as_documented() -> None:
    networks = {name: family.network("AutoModel") for name, family in FAMILIES.items()}
    assert tuple(name for name, network in networks.items() if takes_packs(network)) == PACKABLE
    kernels = {name: network.config._attn_implementation for name, network in networks.items() if name not in PACKABLE}
    assert PACKED not in kernels.values()


def test_a_decoder_is_not_packed() -> None:
    config = FAMILIES["bert"].network("AutoModel").config
    config.is_decoder = True
    assert not can_pack(config)


def run(
    network: Any, head: str, rows: TokenRows, indices: list[int], padding: Padding, is_coarse: bool = False
) -> tuple[Any, Any]:
    """Logits or pooled states of some windows [.., C], and every weight's gradient of a sum that tells cells apart."""
    base = network.base_model
    with torch.autocast("cpu", torch.bfloat16, enabled=is_coarse):  # laid out for half precision, computed in fp32
        batch = lay_out(rows, np.array(indices), base, padding, CPU)
    assert batch.pack is None or batch.pack.is_coarse is is_coarse
    states = encode(base, batch)
    output = states.pool(head) if head in ("mean", "cls", "max") else states.logits(network)
    assert output is not None
    if output.ndim == 3:
        output = output * batch.mask_BS.unsqueeze(-1)
    factors = torch.arange(output.numel()).reshape(output.shape).remainder(7) - 3.0
    network.zero_grad()
    (output * factors).sum().backward()
    gradients = {name: weights.grad.clone() for name, weights in network.named_parameters() if weights.grad is not None}
    return output.detach(), gradients


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("family", "head"),
    [
        *((family, head) for family in PACKABLE for head in ("rows", "tokens", "spans", "mean", "cls", "max")),
        *((family, head) for family in RELATED for head in ("rows", "mean")),
    ],
)
def test_a_pack_gives_the_outputs_and_gradients_of_a_padded_batch(family: str, head: str, order: str) -> None:
    network = EVERY[family].network(HEADS.get(head, "AutoModel"))
    assert takes_packs(network.base_model)
    rows, padding = encoded(family, TEXTS, OTHERS)
    packed, packed_gradients = run(network, head, rows, ORDERS[order], padding)
    network.set_attn_implementation("sdpa")
    assert not takes_packs(network.base_model)
    padded, gradients = run(network, head, rows, ORDERS[order], padding)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    assert packed_gradients.keys() == gradients.keys()
    for name, expected in gradients.items():
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(packed_gradients[name], expected, atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 1e-12])
@pytest.mark.parametrize("head", ["rows", "tokens", "mean", "cls"])
@pytest.mark.parametrize("family", PACKABLE)
def test_padding_of_coarse_shapes_changes_nothing(family: str, head: str, dropout: float) -> None:
    network = EVERY[family].network(HEADS.get(head, "AutoModel")).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    rows, padding = encoded(family, TEXTS, OTHERS)
    found, gradients = run(network, head, rows, ORDERS["mixed"], padding, is_coarse=True)
    expected, others = run(network, head, rows, ORDERS["mixed"], padding)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        tolerance = 1e-5 * max(1.0, float(others[name].abs().max()))
        torch.testing.assert_close(gradient, others[name], atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 1e-12])
@pytest.mark.parametrize("family", [*PACKABLE, *RELATED])
def test_every_family_is_packed_in_half_precision(family: str, dropout: float) -> None:
    """Rotary positions leave queries and keys in fp32 in some families, and values in bf16."""
    network = EVERY[family].network(HEADS["rows"]).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)
    rows, padding = encoded(family, TEXTS, OTHERS)
    exact, _ = run(network, "rows", rows, ORDERS["mixed"], padding)
    with torch.autocast("cpu", torch.bfloat16):
        batch = lay_out(rows, np.array(ORDERS["mixed"]), network.base_model, padding, CPU)
        found = encode(network.base_model, batch).logits(network)
    assert found is not None
    torch.testing.assert_close(found.detach().float(), exact, atol=0.15, rtol=0.15)
    found.float().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_a_padding_token_that_stands_in_a_text_has_the_position_that_transformers_gives_it(family: str) -> None:
    network = EVERY[family].network(HEADS["rows"])
    pad = EVERY[family].tokenizer().pad_token
    rows, padding = encoded(family, [f"the film {pad} was good", f"{pad}{pad}", "good film", f"was it {pad}", "it"])
    assert (rows.ids == padding.pad_id).sum() >= 4
    packed, _ = run(network, "rows", rows, ORDERS["mixed"], padding)
    network.set_attn_implementation("sdpa")
    torch.testing.assert_close(packed, run(network, "rows", rows, ORDERS["mixed"], padding)[0], atol=1e-5, rtol=1e-5)


def test_modernbert_that_averages_its_tokens_is_packed_too() -> None:
    network = FAMILIES["modernbert"].network(HEADS["rows"])
    network.config.classifier_pooling = "mean"
    rows, padding = encoded("modernbert", TEXTS)
    packed, _ = run(network, "rows", rows, ORDERS["mixed"], padding)
    network.set_attn_implementation("sdpa")
    torch.testing.assert_close(packed, run(network, "rows", rows, ORDERS["mixed"], padding)[0], atol=1e-5, rtol=1e-5)


def states(lengths: np.ndarray, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, int(lengths.sum()), 3, 16)
    return [torch.randn(shape, generator=generator).to(device, dtype).transpose(1, 2) for _ in range(3)]


def dense(parts: list[torch.Tensor], lengths: np.ndarray, reach: int | None) -> torch.Tensor:
    """Attention over the whole pack with a block-diagonal mask: [1, T, H, D]."""
    window = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(parts[0].device)
    mask = window[:, None] == window[None, :]
    if reach is not None:
        place = torch.arange(len(window), device=mask.device)
        mask &= (place[:, None] - place[None, :]).abs() <= reach
    return torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=0.3).transpose(1, 2)


@pytest.mark.parametrize("dropout", [0.0, 1e-12])  # the second takes the steps of training and drops nothing
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("max_padded_cells", [0, 60, 10_000])
@pytest.mark.parametrize("reach", [None, 3])
def test_attention_is_block_diagonal(
    reach: int | None, max_padded_cells: int, is_training: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, (max_tokens, _) in packing._MAX_MERGED.items():
        monkeypatch.setitem(packing._MAX_MERGED, kind, (max_tokens, max_padded_cells))
    parts, pack = states(LENGTHS), Pack.of(LENGTHS, CPU, is_training)
    sliding = None if reach is None else reach + 1
    with torch.set_grad_enabled(is_training):
        found, _ = packed_attention(
            torch.nn.Module(), *parts, None, pack=pack, scaling=0.3, sliding_window=sliding, dropout=dropout
        )
    torch.testing.assert_close(found, dense(parts, LENGTHS, reach), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("piece_weights", [1, 200, 1 << 20])
def test_heads_in_pieces_give_what_autograd_makes_of_the_same_masks(
    piece_weights: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.encoder.dropping_attention._PIECE_WEIGHTS", piece_weights)
    generator = torch.Generator().manual_seed(1)
    query, key, value, pull = (torch.randn(6, 9, 4, generator=generator).to(dtype) for _ in range(4))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [1]]))[:, None, None]  # three windows of two heads
    torch.manual_seed(4)
    output, weights, factors = attend_dropping((query, key, value), mask, 0.5, 0.3)
    assert set(factors.unique().tolist()) == {0.0, float(factors.max())}
    leaves = [part.double().requires_grad_() for part in (query, key, value)]
    scores = 0.5 * leaves[0] @ leaves[1].transpose(1, 2)
    scores = scores.masked_fill(~mask.expand(-1, 2, -1, -1).flatten(0, 1), float("-inf"))
    expected = (scores.softmax(-1) * factors.double()) @ leaves[2]
    expected.backward(pull.double())
    close = {torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(output.double(), expected.detach(), atol=close, rtol=close)
    for found, leaf in zip(pull_back(pull, (query, key, value), weights, factors, 0.5), leaves, strict=True):
        torch.testing.assert_close(found.double(), leaf.grad, atol=close, rtol=close)


@pytest.mark.parametrize(
    ("max_padded_cells", "max_tokens", "shapes"),
    [
        (0, 400, [(2, 9), (3, 7), (1, 2), (1, 1), (1, 40)]),
        (100, 400, [(5, 9), (2, 2), (1, 40)]),
        (10**6, 400, [(8, 40)]),
        (10**6, 39, [(5, 9), (2, 2), (1, 40)]),
        (10**6, 38, [(2, 9), (5, 7), (1, 40)]),
    ],
)
def test_windows_of_like_length_share_a_rectangle(
    max_padded_cells: int, max_tokens: int, shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(packing._MAX_MERGED, "inference", (max_tokens, max_padded_cells))
    pack = Pack.of(LENGTHS, CPU)
    assert [rectangle.shape for rectangle in pack.rectangles] == shapes
    assert sum(rectangle.num_tokens for rectangle in pack.rectangles) == LENGTHS.sum()
    assert [rectangle.mask is None for rectangle in pack.rectangles] == [
        rectangle.num_tokens == np.prod(rectangle.shape) for rectangle in pack.rectangles
    ]
    assert (pack.longest, pack.offsets.tolist()) == (40, [0, *np.cumsum(LENGTHS).tolist()])


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ([3, 3, 5, 6], (4, 8)),
        ([2, 4, 5, 7, 8, 8, 8, 8, 8], (10, 8)),
        ([8] * 9, (10, 8)),
        ([8] * 8, (8, 8)),
        ([201, 202], (2, 208)),
        ([70] * 33, (40, 72)),
    ],
)
def test_coarse_shapes_are_rounded_up(lengths: list[int], shape: tuple[int, int]) -> None:
    pack = Pack.of(np.array(lengths), CPU, is_training=True, is_coarse=True)
    assert [part.shape for part in pack.rectangles] == [shape]
    assert [(part.num_windows, part.num_tokens) for part in pack.rectangles] == [(len(lengths), sum(lengths))]
    padded = pack.pad(torch.ones(pack.num_tokens, 2))
    assert (len(padded) % 32, padded.sum()) == (0, 2 * sum(lengths))


def test_coarse_shapes_are_few_and_little_of_them_is_padding() -> None:
    drawn = np.random.default_rng(1)
    batches = [np.sort(drawn.integers(8, 384, drawn.integers(4, 64))) for _ in range(300)]

    def shapes(is_coarse: bool) -> list[tuple[int, int]]:
        packs = [Pack.of(lengths, CPU, is_training=True, is_coarse=is_coarse) for lengths in batches]
        return [part.shape for pack in packs for part in pack.rectangles]

    coarse, exact = shapes(True), shapes(False)
    assert 5 * len(set(coarse)) < len(set(exact))
    assert sum(n * length**2 for n, length in coarse) < 1.2 * sum(n * length**2 for n, length in exact)


def test_only_training_in_half_precision_on_a_cpu_has_coarse_shapes() -> None:
    rows, padding = encoded("bert", TEXTS)
    base = FAMILIES["bert"].network("AutoModel")
    for gradients in (True, False):
        for half in (True, False):
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=half):
                pack = lay_out(rows, np.arange(3), base, padding, CPU).pack
            assert pack is not None
            assert pack.is_coarse is (gradients and half)


def test_dropout_of_attention_is_drawn_in_packs() -> None:
    parts, pack = states(LENGTHS), Pack.of(LENGTHS, CPU)
    torch.manual_seed(3)
    first, _ = packed_attention(torch.nn.Module(), *parts, None, pack=pack, dropout=0.5)
    torch.manual_seed(3)
    again, _ = packed_attention(torch.nn.Module(), *parts, None, pack=pack, dropout=0.5)
    without, _ = packed_attention(torch.nn.Module(), *parts, None, pack=pack)
    assert torch.equal(first, again)
    assert not torch.allclose(first, without)
