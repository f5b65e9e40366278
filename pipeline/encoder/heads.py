"""Several heads on one encoder, as one module to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.encoder.model import EmbeddingOptions, Head, head_logits
from pipeline.encoder.pooling import pool_tokens

_PRETRAINING_ONLY = frozenset(["mask_emb"])  # XLNet: the query stream of permutation language modelling


@dataclass(frozen=True)
class HeadCall:
    """One batch for one head.

    Attributes:
        inputs: Keyword arguments of the network.
        seed: Of the dropout, so that a second pass over the batch repeats the first.
    """

    inputs: dict[str, torch.Tensor]
    seed: int


class JoinedHeads(torch.nn.Module):
    """Networks by name, all around the same encoder; a network without a head gives pooled embeddings.

    The encoder of the first network that has a pooler (else of the first) takes the place of every other's, so the
    networks must come from the same weights. A pooler that no head uses is frozen.

    Args:
        networks: transformers models; names without dots.
        embedding: How embeddings are pooled.
    """

    def __init__(self, networks: Mapping[str, Any], embedding: EmbeddingOptions) -> None:
        super().__init__()
        self._embedding = embedding
        headed = [network for network in networks.values() if network.base_model is not network]
        uses_pooler = any(_has_pooler(network.base_model) for network in headed)
        bases = [network.base_model for network in networks.values()]
        encoder = next((base for base in bases if _has_pooler(base)), bases[0])
        for network in headed:
            setattr(network, network.base_model_prefix, encoder)
        joined = {name: network if network in headed else encoder for name, network in networks.items()}
        if _has_pooler(encoder) and not uses_pooler:
            encoder.pooler.requires_grad_(False)
        for name, parameter in encoder.named_parameters():
            if name.rsplit(".", 1)[-1] in _PRETRAINING_ONLY:
                parameter.requires_grad_(False)
        self._names = tuple(joined)
        self.networks = torch.nn.ModuleList(joined.values())

    @property
    def encoder(self) -> Any:
        """The shared encoder."""
        return self.networks[0].base_model

    def network(self, name: str) -> Any:
        """A head's whole network, encoder included."""
        return self.networks[self._names.index(name)]

    def head(self, name: str) -> Head:
        """A head as `EncoderModel` takes it."""
        return Head(self.network(name), self._embedding)

    def forward(self, calls: Mapping[str, HeadCall]) -> dict[str, torch.Tensor]:
        """Logits of each head called, as `head_logits` has them, or pooled embeddings [B, H]."""
        return {name: self._call(self.network(name), call) for name, call in calls.items()}

    def _call(self, network: Any, call: HeadCall) -> torch.Tensor:
        torch.manual_seed(call.seed)
        output = network(**call.inputs)
        logits = head_logits(output)
        if logits is not None:
            return logits
        return pool_tokens(output[0], call.inputs["attention_mask"], self._embedding.pooling)


def _has_pooler(base: Any) -> bool:
    return getattr(base, "pooler", None) is not None
