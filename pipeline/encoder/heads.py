"""Several heads on one encoder, as one module to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.encoder.dropout import quicken_dropout
from pipeline.encoder.forward import ModelBatch, encode, reads_firsts_only
from pipeline.encoder.model import Head, share_encoder
from pipeline.encoder.outputs import EmbeddingOptions

_PRETRAINING_ONLY = frozenset(["mask_emb"])  # XLNet: the query stream of permutation language modelling


@dataclass(frozen=True)
class HeadCall:
    """One batch for one head.

    Attributes:
        batch: The windows.
        seed: Of the dropout, so that a second pass over the batch repeats the first.
        places: int64 [M]; the only tokens, of the batch's T, whose logits are wanted. None: all there are.
        of_pairs: The windows' own logits are wanted besides; only with `places`.
    """

    batch: ModelBatch
    seed: int
    places: torch.Tensor | None = None
    of_pairs: bool = False


def pair_output(name: str) -> str:
    """Under which name the logits of a head's windows stand beside those of its tokens."""
    return f"{name}/pairs"


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
        uses_pooler = any(
            _has_pooler(network.base_model) for network in networks.values() if network.base_model is not network
        )
        encoder = share_encoder(list(networks.values()))
        joined = {name: encoder if network.base_model is network else network for name, network in networks.items()}
        if _has_pooler(encoder) and not uses_pooler:
            encoder.pooler.requires_grad_(False)
        for name, parameter in encoder.named_parameters():
            if name.rsplit(".", 1)[-1] in _PRETRAINING_ONLY:
                parameter.requires_grad_(False)
        self._names = tuple(joined)
        self.networks = torch.nn.ModuleList(joined.values())
        quicken_dropout(self.networks)

    @property
    def encoder(self) -> Any:
        """The shared encoder."""
        return self.networks[0].base_model

    def network(self, name: str) -> Any:
        """A head's whole network, encoder included."""
        return self.networks[self._names.index(name)]

    def head(self, name: str, with_embedding: bool = True) -> Head:
        """A head as `EncoderModel` takes it; a network that has none gives embeddings in any case."""
        network = self.network(name)
        return Head(network, self._embedding if with_embedding or network.base_model is network else None)

    def forward(self, calls: Mapping[str, HeadCall]) -> dict[str, torch.Tensor]:
        """Logits of each head called, as `head_logits` has them, or [M, C] of `places`, or pooled embeddings [B, H].

        Those of windows [B, 2], where they are wanted, stand under `pair_output` of the name.
        """
        outputs: dict[str, torch.Tensor] = {}
        for name, call in calls.items():
            outputs |= self._call(name, call)
        return outputs

    def _call(self, name: str, call: HeadCall) -> dict[str, torch.Tensor]:
        torch.manual_seed(call.seed)
        network = self.network(name)
        pooling = self._embedding.pooling if network.base_model is network else None
        encoded = encode(self.encoder, call.batch, call.places is None and reads_firsts_only(network, pooling))
        if call.places is not None and call.of_pairs:
            of_tokens, of_pairs = encoded.pretraining_logits(network, call.places)
            return {name: of_tokens, pair_output(name): of_pairs}
        if call.places is not None:
            return {name: encoded.token_logits(network, call.places)}
        logits = encoded.logits(network)
        return {name: encoded.pool(self._embedding.pooling) if logits is None else logits}


def _has_pooler(base: Any) -> bool:
    return getattr(base, "pooler", None) is not None
