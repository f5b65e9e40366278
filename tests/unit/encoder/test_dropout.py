"""Masks have the share asked for, and a seed decides all of them."""

from __future__ import annotations

import pytest
import torch

from pipeline.encoder.dropout import QuickDropout, draw_factors, quicken_dropout

LIKE = torch.zeros(0)


def drawn(share: float, seed: int = 1, shape: tuple[int, ...] = (1_001, 37)) -> torch.Tensor:
    torch.manual_seed(seed)
    return draw_factors(torch.Size(shape), share, LIKE)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_are_dropped_and_the_expected_sum_stays(share: float) -> None:
    factors = drawn(share)
    values, counts = factors.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 1 / (1 - share)], rel=2e-4)
    assert counts[0] / factors.numel() == pytest.approx(share, abs=0.01)
    assert float(factors.mean()) == pytest.approx(1, abs=0.05)
    by_row, by_column = factors.mean(dim=1), factors.mean(dim=0)
    assert by_row.std() == pytest.approx((share / (1 - share) / 37) ** 0.5, rel=0.1)
    assert by_column.std() == pytest.approx((share / (1 - share) / 1_001) ** 0.5, rel=0.5)


def test_everything_or_nothing_can_be_dropped() -> None:
    assert (drawn(1e-9) == 1).all()
    assert (drawn(1.0) == 0).all()


def test_a_seed_decides_every_mask_and_another_mask_is_another() -> None:
    first, again = drawn(0.5), drawn(0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, draw_factors(first.shape, 0.5, LIKE))
    assert not torch.equal(first, drawn(0.5, seed=2))


def test_values_and_gradients_are_dropped_alike_and_only_while_training() -> None:
    layer = QuickDropout(0.3)
    values = torch.rand(50, 20, requires_grad=True)
    dropped = layer(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(dropped, values * values.grad)
    assert set(values.grad.unique().tolist()) == {0.0, float(values.grad.max())}
    assert layer.eval()(values) is values


def test_every_plain_dropout_is_replaced_and_no_other() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2), torch.nn.Dropout1d(0.4))
    network = torch.nn.Sequential(inner, torch.nn.Dropout(0.6)).eval()
    names = list(network.state_dict())
    quicken_dropout(network)
    assert isinstance(inner[1], QuickDropout)
    assert (inner[1].p, inner[1].training) == (0.2, False)
    assert isinstance(network[1], QuickDropout)
    assert type(inner[2]) is torch.nn.Dropout1d
    assert list(network.state_dict()) == names
