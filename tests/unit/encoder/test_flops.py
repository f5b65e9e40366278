"""The estimate of what a forward pass computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertModel, BertForSequenceClassification, BertModel

from pipeline.encoder.flops import forward_flops
from pipeline.encoder.forward import encode, lay_out
from pipeline.encoder.tokenize import Padding, TokenRows
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


@pytest.mark.parametrize("takes_mean", [False, True])
@pytest.mark.parametrize("length", [16, 100])
def test_a_last_layer_of_first_tokens_alone_is_counted_as_torch_does(length: int, takes_mean: bool) -> None:
    network = BertForSequenceClassification(tiny_config())
    network.config.ends_in_mean_layer = takes_mean
    network.set_attn_implementation("packed")
    rows = TokenRows(np.ones(3 * length, np.int32), np.arange(4) * length, np.zeros(3, np.bool_))
    batch = lay_out(rows, np.arange(3), network.base_model, Padding(0), torch.device("cpu"))
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1e-12  # plain products, which the counter knows
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encode(network.base_model.train(), batch, firsts_only=True)
    found = forward_flops(network.base_model, np.full(3, length), firsts_only=True)
    num_queries = length + (0 if takes_mean else 1)
    query_times_key = 2.0 * 32 * 3 * length * num_queries  # done in place, where the counter does not look
    assert found == pytest.approx(counter.get_total_flops() + query_times_key, rel=0.02)
    assert found < 0.8 * forward_flops(network.base_model, np.full(3, length))


def test_layers_that_share_their_weights_count_each_time() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}
    one, three = (
        AlbertModel(AlbertConfig(**sizes, vocab_size=50, num_hidden_layers=layers), add_pooling_layer=False)
        for layers in (1, 3)
    )
    lengths = np.array([7, 20])
    assert forward_flops(three, lengths) == pytest.approx(3 * forward_flops(one, lengths))
