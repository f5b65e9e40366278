"""One batch through an encoder once and through any number of heads, packed where the family allows it.

What comes out has the same shapes either way. Shape letters: B windows, S tokens of the longest, T tokens of all, H
hidden size, C outputs of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from pipeline.encoder import trained
from pipeline.encoder.packed_attention import PACKED
from pipeline.encoder.packing import Pack, spread_tokens
from pipeline.encoder.pooling import pool_pack, pool_tokens
from pipeline.encoder.tokenize import Padding, TokenRows, flat_positions, pad_rows
from pipeline.encoder.transfer import to_device

_PADDED_LEFT = frozenset(["xlnet"])  # its heads read the last token; others read the first, or count positions from it
_POSITIONS_AFTER_PAD = frozenset(
    (
        *("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer"),
        *("data2vec-text", "ibert", "lilt", "luke", "markuplm", "roberta-prelayernorm", "xmod"),
    )
)


@dataclass(frozen=True)
class ModelBatch:
    """Some windows on the model's device.

    Attributes:
        inputs: Keyword arguments of the encoder: [B, S] padded, or [1, T] packed.
        cells: int64 [T]; where in a [B, S] rectangle each token stands.
        shape: (B, S).
        pack: The windows of a packed batch; None in a padded one.
    """

    inputs: dict[str, Any]
    cells: torch.Tensor
    shape: tuple[int, int]
    pack: Pack | None

    @property
    def num_tokens(self) -> int:
        """Tokens of the windows."""
        return len(self.cells)

    @property
    def num_computed_tokens(self) -> int:
        """Tokens that the encoder computes, padding included."""
        return int(self.inputs["input_ids"].numel())

    @property
    def mask_BS(self) -> torch.Tensor:
        """int64 [B, S]; 1 where a token stands."""
        return self.spread(torch.ones_like(self.cells))

    def spread(self, values_T: torch.Tensor) -> torch.Tensor:
        """[T, ...] -> [B, S, ...], zero where no token stands."""
        return spread_tokens(values_T, self.cells, self.shape)


def counts_from_padding(config: Any) -> bool:
    """Whether a family counts a text's positions from behind padding's id, as RoBERTa does."""
    return config.model_type in _POSITIONS_AFTER_PAD


def positions_before_first(config: Any) -> int:
    """Positions that a family leaves unused before a text's first."""
    return int(config.pad_token_id) + 1 if counts_from_padding(config) else 0


def takes_packs(encoder: Any) -> bool:
    """Whether an encoder was loaded with attention over packs."""
    return bool(encoder.config._attn_implementation == PACKED)


def lay_out(
    rows: TokenRows, indices: npt.NDArray[np.int64], encoder: Any, padding: Padding, device: torch.device
) -> ModelBatch:
    """Gather windows into one batch: a pack where the encoder takes packs, else a padded rectangle.

    Args:
        rows: Token ids.
        indices: Windows to take [B]; sorted by length a pack is fastest.
        encoder: The base model.
        padding: How the tokenizer pads.
        device: Where the model is.
    """
    place = _pack if takes_packs(encoder) else _pad
    return place(rows, indices, encoder, padding, device)


def _pad(
    rows: TokenRows, indices: npt.NDArray[np.int64], encoder: Any, padding: Padding, device: torch.device
) -> ModelBatch:
    batch = pad_rows(rows, indices, padding, left=encoder.config.model_type in _PADDED_LEFT)
    arrays = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS, "token_type_ids": batch.types_BS}
    cells = to_device(np.flatnonzero(batch.mask_BS), device)
    return ModelBatch(_known_inputs(arrays, encoder, device), cells, batch.ids_BS.shape, None)


def _pack(
    rows: TokenRows, indices: npt.NDArray[np.int64], encoder: Any, padding: Padding, device: torch.device
) -> ModelBatch:
    lengths, flat = rows.lengths[indices], flat_positions(rows, indices)
    within = flat - np.repeat(rows.offsets[indices], lengths)
    shape = (len(indices), int(lengths.max(initial=0)))
    arrays = {
        "input_ids": rows.ids[flat].astype(np.int64)[None],
        "position_ids": _positions(rows.ids[flat], within, lengths, encoder.config)[None],
        "token_type_ids": None if rows.type_ids is None else rows.type_ids[flat].astype(np.int64)[None],
    }
    inputs = _known_inputs(arrays, encoder, device)
    if getattr(encoder.config, "layer_types", None):  # or a T x T mask is built for layers with local attention
        inputs["attention_mask"] = dict.fromkeys(encoder.config.layer_types)
    cells = to_device(within + np.repeat(np.arange(len(indices)) * shape[1], lengths), device)
    is_training = torch.is_grad_enabled()
    is_coarse = is_training and device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return ModelBatch(inputs, cells, shape, Pack.of(lengths, device, is_training, is_coarse))


def _positions(
    ids: npt.NDArray[np.int32], within: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], config: Any
) -> npt.NDArray[np.int64]:
    """Positions of a pack's tokens, all int [T]; `within` their windows, of which `lengths` are int [B].

    RoBERTa-like models leave every padding token that stands in a text at padding's own position, and do not count it.
    """
    before = positions_before_first(config)
    is_padding = ids == config.pad_token_id
    if not before or not is_padding.any():
        return within + before
    num_padding = np.cumsum(is_padding)
    starts = np.cumsum(lengths) - lengths
    in_window = num_padding - np.repeat(np.concatenate([[0], num_padding])[starts], lengths)
    return np.where(is_padding, before - 1, within - in_window + before)


def _known_inputs(
    arrays: Mapping[str, npt.NDArray[np.int64] | None], encoder: Any, device: torch.device
) -> dict[str, Any]:
    """Those that there are, and that the encoder takes."""
    known = _parameters(encoder)
    return {name: to_device(array, device) for name, array in arrays.items() if array is not None and name in known}


@dataclass(frozen=True)
class Encoded:
    """A batch and its token states, or those of first tokens only, from which heads and embeddings are made."""

    encoder: Any
    batch: ModelBatch
    output: Any
    has_firsts_only: bool = False

    def in_fp32(self) -> Encoded:
        """The same states, for heads that compute in fp32: their few products cost nothing beside the encoder's.

        Logits of half precision are so coarse that half of the similarities of a night were alike (docs/decisions.md).
        """
        states = {name: value.float() if torch.is_tensor(value) else value for name, value in self.output.items()}
        return replace(self, output=type(self.output)(**states))

    def pool(self, pooling: str) -> torch.Tensor:
        """Pooled token states [B, H], float32."""
        pack = self.batch.pack
        if self.has_firsts_only:
            assert pooling == "cls"
            firsts: torch.Tensor = self.output[0][0].float()
            return firsts
        if pack is None:
            return pool_tokens(self.output[0], self.batch.mask_BS, pooling)
        return pool_pack(self.output[0][0], pack, pooling)

    def token_logits(self, network: Any, places_M: torch.Tensor) -> torch.Tensor:
        """What a head over tokens makes of some of the batch's T tokens: [M, C].

        A head over a whole vocabulary is several times the encoder's work, and its logits do not fit into memory.
        """
        states_TH = self.output[0].flatten(0, 1)
        places_M = places_M if self.batch.pack is not None else self.batch.cells[places_M]
        logits_1MC = _run_head(network, _States(last_hidden_state=states_TH[places_M].unsqueeze(0)), {})
        assert logits_1MC is not None
        return logits_1MC[0]

    def pretraining_logits(self, network: Any, places_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a head over tokens and windows makes of some of the batch's T tokens, and of windows: [M, C], [B, 2]."""
        pack, states_TH = self.batch.pack, self.output[0].flatten(0, 1)
        if pack is None:
            places_M, pooled_BH = self.batch.cells[places_M], self.output.pooler_output
        else:
            pooled_BH = _pool_first(self.encoder, pack.take_firsts(self.output[0][0]).unsqueeze(1))
        states_1MH = states_TH[places_M].unsqueeze(0)
        with _answering(network, BaseModelOutputWithPooling(last_hidden_state=states_1MH, pooler_output=pooled_BH)):
            found = network()
        return found.prediction_logits[0], found.seq_relationship_logits

    def logits(self, network: Any) -> torch.Tensor | None:
        """What a network's head makes of the states: [B, C] over rows, [B, S, C] over tokens; None without a head."""
        if network.base_model is network:
            return None
        if self.batch.pack is None:
            known = _parameters(network)
            inputs = {name: value for name, value in self.batch.inputs.items() if name in known}
            return _run_head(network, self.output, inputs)
        if not _is_over_rows(network):
            assert not self.has_firsts_only
            logits_1TC = _run_head(network, self.output, {})
            return None if logits_1TC is None else self.batch.spread(logits_1TC[0])
        if getattr(network.config, "classifier_pooling", "cls") != "cls":
            output = BaseModelOutputWithPooling(last_hidden_state=self.batch.spread(self.output[0][0]))
            return _run_head(network, output, {"attention_mask": self.batch.mask_BS})
        first_BH = self.output[0][0] if self.has_firsts_only else self.batch.pack.take_firsts(self.output[0][0])
        first_B1H = first_BH.unsqueeze(1)
        output = BaseModelOutputWithPooling(
            last_hidden_state=first_B1H, pooler_output=_pool_first(self.encoder, first_B1H)
        )
        return _run_head(network, output, {})


def reads_firsts_only(network: Any, pooling: str | None) -> bool:
    """Whether a network's head, and the embedding if one is wanted, read no token but the first of each window."""
    if network.base_model is not network:
        is_by_first = getattr(network.config, "classifier_pooling", "cls") == "cls"
        return _is_over_rows(network) and is_by_first and pooling in (None, "cls")
    return pooling == "cls"


def encode(encoder: Any, batch: ModelBatch, firsts_only: bool = False) -> Encoded:
    """Run the encoder over a batch.

    Args:
        encoder: The base model.
        batch: The windows.
        firsts_only: Nobody reads other tokens than the windows' first ones; a pack's last layer then does less.
    """
    if batch.pack is None:
        return Encoded(encoder, batch, encoder(**batch.inputs))
    if not trained.runs_here(encoder):
        return Encoded(encoder, batch, encoder(**batch.inputs, pack=batch.pack))
    states = trained.run_layers(encoder, batch.inputs, batch.pack, firsts_only)
    return Encoded(encoder, batch, BaseModelOutput(last_hidden_state=states.unsqueeze(0)), firsts_only)


def head_logits(output: Any) -> torch.Tensor | None:
    """The logits of any head: [B, C] over rows, [B, S, C] over tokens (question answering: C is start and end)."""
    if getattr(output, "start_logits", None) is not None:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    logits: torch.Tensor | None = getattr(output, "logits", None)
    return logits


def _is_over_rows(network: Any) -> bool:
    return type(network).__name__.endswith("ForSequenceClassification")


def _pool_first(encoder: Any, first_B1H: torch.Tensor) -> torch.Tensor | None:
    """What an encoder's pooler makes of the first tokens; ALBERT keeps its activation apart."""
    pooler = getattr(encoder, "pooler", None)
    if pooler is None:
        return None
    if isinstance(pooler, torch.nn.Linear):
        activated: torch.Tensor = encoder.pooler_activation(pooler(first_B1H[:, 0]))
        return activated
    pooled: torch.Tensor = pooler(first_B1H)
    return pooled


def _run_head(network: Any, output: Any, inputs: dict[str, Any]) -> torch.Tensor | None:
    with _answering(network, output):
        return head_logits(network(**inputs))


@contextmanager
def _answering(network: Any, output: Any) -> Iterator[None]:
    """A network whose encoder answers with an output computed before."""
    base = network.base_model
    setattr(network, network.base_model_prefix, _GivenOutput(output))
    try:
        yield
    finally:
        setattr(network, network.base_model_prefix, base)


class _States(BaseModelOutput):  # type: ignore[misc]
    """Token states apart from what else a family's encoder answers with: to a head that asks, it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _GivenOutput(torch.nn.Module):
    """Stands where a network's encoder was."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_inputs: Any, **_options: Any) -> Any:
        return self._output


def _parameters(module: Any) -> frozenset[str]:
    return _function_parameters(type(module).forward)


@lru_cache(maxsize=64)
def _function_parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
