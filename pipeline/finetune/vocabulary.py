"""Input embeddings of the tokens that a run can meet, in the whole vocabulary's place.

A token that stands in no training row has no gradient: AdamW does nothing to its embedding but decay it, and does so
over a table that is half of a small encoder. So a narrow table is trained, what the decay makes of the rest is one
number, and the whole table is put together at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding

from pipeline.encoder.heads import JoinedHeads
from pipeline.finetune.step import TrainingHead

_WORTH_IT_SHARE = 0.75  # of the vocabulary; a table that is hardly narrower is not worth a look-up


class NarrowEmbedding(torch.nn.Module):
    """Some rows of an embedding table, trained; the other rows are as they were, but for their decay.

    Args:
        whole: The table.
        ids: int64 [K]; the rows that are trained.
    """

    def __init__(self, whole: torch.nn.Embedding, ids: torch.Tensor) -> None:
        super().__init__()
        self._whole, self._ids = (whole,), ids  # in a tuple, it is no part of what is trained and saved
        self.weight = torch.nn.Parameter(whole.weight.detach()[ids].clone())
        self._places = torch.full((whole.num_embeddings,), -1, dtype=torch.long, device=ids.device)
        self._places[ids] = torch.arange(len(ids), device=ids.device)
        # Its gradient is none, in torch's own table too.
        place = -1 if whole.padding_idx is None else int(self._places[whole.padding_idx])
        self._padding_place = None if place < 0 else place
        self.untrained_factor = torch.nn.Buffer(torch.ones((), dtype=torch.float64, device=ids.device))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] -> [..., H]; while training only of the rows that are trained."""
        places = self._places[ids]
        if self.training:
            return embedding(places, self.weight, self._padding_place)
        is_trained = places >= 0
        found = embedding(places.clamp(min=0), self.weight)
        if is_trained.all():
            return found
        others = embedding(ids, self._whole[0].weight.detach()) * self.untrained_factor.to(found.dtype)
        return torch.where(is_trained.unsqueeze(-1), found, others)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> NarrowEmbedding:
        """Take what is neither trained nor saved along, wherever the network is moved."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._ids, self._places = fn(self._ids), fn(self._places)
        self._whole[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def note_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Decay the rows that are not trained as AdamW has decayed those that are."""
        for group in optimizer.param_groups:
            if any(parameter is self.weight for parameter in group["params"]):
                self.untrained_factor.mul_(1 - group["lr"] * group["weight_decay"])

    def widen(self) -> torch.nn.Embedding:
        """The whole table, with what was learned."""
        (whole,) = self._whole
        with torch.no_grad():
            whole.weight.mul_(self.untrained_factor.to(whole.weight.dtype))
            whole.weight[self._ids] = self.weight.to(whole.weight.device)
        return whole


def narrow_vocabulary(joined: JoinedHeads, heads: Sequence[TrainingHead], pad_id: int) -> None:
    """Train only the embeddings of tokens that stand in training rows, where the others would only decay.

    The table stays whole where it is also a head's output, frozen, or not a plain one; where tokens are hidden, as any
    may take a hidden one's place; and where most of it is needed.
    """
    whole = joined.encoder.get_input_embeddings()
    if any(head.hiding for head in heads) or not _is_plain(whole) or not _is_alone(joined, whole.weight):
        return
    ids = np.unique(np.concatenate([np.array([pad_id]), *(head.data.rows.ids for head in heads)]))
    if len(ids) <= _WORTH_IT_SHARE * whole.num_embeddings:
        rows = torch.from_numpy(ids.astype(np.int64)).to(whole.weight.device)
        joined.encoder.set_input_embeddings(NarrowEmbedding(whole, rows))


def note_step(joined: JoinedHeads, optimizer: torch.optim.Optimizer) -> None:
    """Tell a narrow table that the optimizer has made a step."""
    table = joined.encoder.get_input_embeddings()
    if isinstance(table, NarrowEmbedding):
        table.note_step(optimizer)


def widen_vocabulary(joined: JoinedHeads) -> None:
    """Put the whole table back."""
    table = joined.encoder.get_input_embeddings()
    if isinstance(table, NarrowEmbedding):
        joined.encoder.set_input_embeddings(table.widen())


def _is_plain(table: Any) -> bool:
    if type(table) is not torch.nn.Embedding or not table.weight.requires_grad:
        return False
    return table.max_norm is None and not table.scale_grad_by_freq and not table.sparse


def _is_alone(joined: JoinedHeads, weight: torch.Tensor) -> bool:
    """Whether no second module has a weight, as a masked-language model's output has its input's."""
    owned = (own for module in joined.modules() for own in module.parameters(recurse=False))
    return sum(own is weight for own in owned) == 1
