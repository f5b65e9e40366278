"""The estimate of what a forward pass computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertModel, BertModel

from pipeline.encoder.flops import forward_flops
from tests.tiny import tiny_config


@pytest.mark.parametrize("length", [16, 100])
def test_it_is_what_torch_counts_in_a_bert(length: int) -> None:
    config = tiny_config()
    config._attn_implementation = "eager"  # the counter does not know every fused kernel
    encoder = BertModel(config, add_pooling_layer=False)
    ids = torch.ones((3, length), dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(ids, attention_mask=torch.ones_like(ids))
    assert forward_flops(encoder, np.full(3, length)) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_layers_that_share_their_weights_count_each_time() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}
    one, three = (
        AlbertModel(AlbertConfig(**sizes, vocab_size=50, num_hidden_layers=layers), add_pooling_layer=False)
        for layers in (1, 3)
    )
    lengths = np.array([7, 20])
    assert forward_flops(three, lengths) == pytest.approx(3 * forward_flops(one, lengths))
