from __future__ import annotations

import pytest
import torch

from pipeline.config import TrainingCompute, parse_spec
from pipeline.errors import ComputeError, SpecError
from pipeline.finetune.layers import find_layers
from pipeline.finetune.optimizer import make_optimizer
from pipeline.finetune.parallel import check_precision, gather_moments, restore_moments, spread_network, trained_part
from pipeline.finetune.spec import TrainingConfig
from tests.unit.encoder.families import EVERY
from tests.unit.finetune.training import join

CPU = torch.device("cpu")


def test_fp16_is_refused_where_weights_are_sharded() -> None:
    with pytest.raises(SpecError, match="data_parallel: fsdp cannot scale losses"):
        parse_spec({"data_parallel": "fsdp", "precision": "fp16"}, TrainingCompute, "spec.yaml")
    with pytest.raises(ComputeError, match=r"compute\.data_parallel is fsdp, and losses cannot be scaled"):
        check_precision("fsdp", torch.float16)
    check_precision("fsdp", torch.bfloat16)
    check_precision("ddp", torch.float16)


def test_another_word_is_refused() -> None:
    with pytest.raises(SpecError, match="data_parallel: holds 'zero'"):
        parse_spec({"data_parallel": "zero"}, TrainingCompute, "spec.yaml")


def test_one_rank_alone_trains_the_network_itself() -> None:
    joined = join()
    assert spread_network(joined, CPU, 1, "fsdp") is joined
    assert trained_part(joined) is joined


def test_moments_come_back_as_they_were() -> None:
    joined = join()
    optimizer = make_optimizer(joined, TrainingConfig())
    for parameter in joined.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = gather_moments(optimizer, is_kept=True)
    assert gather_moments(optimizer, is_kept=False) == {}
    again = make_optimizer(join(), TrainingConfig())
    restore_moments(again, kept)
    assert kept.keys() == gather_moments(again, is_kept=True).keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in gather_moments(again, is_kept=True).items())


@pytest.mark.parametrize("family", sorted(EVERY))
def test_every_family_s_layers_are_found(family: str) -> None:
    """What is sharded and compiled one by one; ALBERT has one layer, which it uses again and again."""
    encoder = EVERY[family].network("AutoModel")
    layers = find_layers(encoder)
    assert len(layers) == (1 if family == "albert" else encoder.config.num_hidden_layers)
    inside = {id(weights) for layer in layers for weights in layer.parameters()}
    assert len(inside) == sum(len(list(layer.parameters())) for layer in layers) > 0
