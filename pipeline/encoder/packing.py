"""Packs: windows back to back in one row, and the rectangles of neighbouring windows that attend in one call.

A pack sorted by length has few rectangles. Where their windows are equally long they need no mask.

Shape letters: T tokens of the pack, W windows, N windows of one rectangle, L tokens of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from pipeline.encoder.transfer import to_device

# Windows of unlike length share a rectangle while it has few tokens (they are copied into it and out again) and few
# cells (query x key) of padding. A call forward and backward costs more than one forward, so training merges more, and
# on a GPU calls cost more than what they compute. (The GPU's figures are no measured ones.)
_MAX_MERGED = {"inference": (400, 8_192), "training": (4_000, 8_192), "gpu": (65_536, 1 << 20)}
# oneDNN compiles its half precision kernels shape by shape, which takes as long as multiplying the few tokens of a step
# (docs/decisions.md): rounded up to multiples of the first, and to so many leading bits, steps have few shapes.
_COARSE_TOKENS, _COARSE_WINDOWS, _COARSE_LENGTH = (32, 6), (1, 3), (4, 4)


def spread_tokens(values_T: torch.Tensor, cells_T: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Put tokens' values [T, ...] into their cells of a rectangle: [N, L, ...], zero where no token stands."""
    flat = values_T.new_zeros(shape[0] * shape[1], *values_T.shape[1:])
    return flat.index_copy_(0, cells_T, values_T).view(*shape, *values_T.shape[1:])


class _TakeOnce(torch.autograd.Function):
    """Rows by numbers of which none comes twice: their gradients are put back, where torch would add them up."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.num_rows = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.new_zeros(ctx.num_rows, *gradient.shape[1:]).index_copy_(0, places, gradient), None


def _take_once(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    taken: torch.Tensor = _TakeOnce.apply(values, places)  # type: ignore[no-untyped-call]
    return taken


def _round_up(count: int, grain: int, num_bits: int) -> int:
    """The next multiple of the grain that, in binary, has zeros behind its leading bits."""
    step = max(grain, 1 << max(count.bit_length() - num_bits, 0))
    return count + -count % step


def _pad_end(values_T: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Zeros behind, up to so many rows."""
    num_missing = num_rows - len(values_T)
    return pad(values_T, (*[0, 0] * (values_T.ndim - 1), 0, num_missing)) if num_missing else values_T


@dataclass(frozen=True)
class Rectangle:
    """Neighbouring windows that attend in one call.

    Attributes:
        num_tokens: Their tokens.
        num_windows: How many they are.
        shape: (N, L); N is larger than `num_windows` where shapes are coarse.
        cells: int64 [num_tokens]; where in [N x L] each token stands. None: windows of equal length fill it.
        mask: bool [N, 1, 1, L]; True where a token stands. None with `cells`.
    """

    num_tokens: int
    num_windows: int
    shape: tuple[int, int]
    cells: torch.Tensor | None
    mask: torch.Tensor | None

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], device: torch.device, is_coarse: bool = False) -> Rectangle:
        """The rectangle of windows of these lengths."""
        num_tokens, num_windows, longest = int(lengths.sum()), len(lengths), int(lengths.max())
        shape = (num_windows, longest)
        if is_coarse:
            shape = (_round_up(num_windows, *_COARSE_WINDOWS), _round_up(longest, *_COARSE_LENGTH))
        if num_tokens == shape[0] * shape[1]:
            return cls(num_tokens, num_windows, shape, None, None)
        inside = np.zeros(shape, bool)
        inside[:num_windows] = np.arange(shape[1]) < lengths[:, None]
        cells, mask = to_device(np.flatnonzero(inside), device), to_device(inside, device)[:, None, None]
        return cls(num_tokens, num_windows, shape, cells, mask)

    def spread(self, values_T: torch.Tensor) -> torch.Tensor:
        """This rectangle's tokens [num_tokens, ...] -> [N, L, ...], zero where no token stands."""
        if self.cells is not None:
            return spread_tokens(values_T, self.cells, self.shape)
        return values_T.view(*self.shape, *values_T.shape[1:])

    def spread_firsts(self, values_W: torch.Tensor) -> torch.Tensor:
        """One value of each window [num_windows, ...] -> [N, 1, ...]."""
        return _pad_end(values_W, self.shape[0]).unsqueeze(1)

    def gather(self, values_NL: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        flat = values_NL.flatten(0, 1)
        return flat if self.cells is None else _take_once(flat, self.cells)

    def gather_firsts(self, values_N1: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        return values_N1.squeeze(1)[: self.num_windows]


@dataclass(frozen=True, eq=False)
class Pack:
    """Where the windows of a pack begin and end.

    Attributes:
        lengths: int64 [W]; tokens of each window, in the host's memory.
        offsets: int32 [W + 1], on the model's device.
        is_training: Gradients are wanted.
        is_coarse: Its shapes are few, and have padding.
    """

    lengths: npt.NDArray[np.int64]
    offsets: torch.Tensor
    is_training: bool = False
    is_coarse: bool = False

    @cached_property
    def num_tokens(self) -> int:
        """T."""
        return int(self.lengths.sum())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest window."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def rectangles(self) -> tuple[Rectangle, ...]:
        """All windows, in order; made when they are first asked for, as varlen attention needs none."""
        device = self.offsets.device
        kind = "gpu" if device.type != "cpu" else "training" if self.is_training else "inference"
        parts = _split_alike(self.lengths, *_MAX_MERGED[kind])
        return tuple(Rectangle.of(part, device, self.is_coarse) for part in parts)

    @cached_property
    def firsts(self) -> torch.Tensor:
        """int64 [W]; where each window's first token stands."""
        return self.offsets[:-1].long()

    def take_firsts(self, values_T: torch.Tensor) -> torch.Tensor:
        """[T, ...] -> the first token of each window: [W, ...]."""
        return _take_once(values_T, self.firsts)

    def pad(self, values_T: torch.Tensor) -> torch.Tensor:
        """[T, ...] with zeros behind, where shapes are coarse."""
        return _pad_end(values_T, _round_up(self.num_tokens, *_COARSE_TOKENS)) if self.is_coarse else values_T

    def split(self, values_T: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens of the pack [T, ...] -> each rectangle's."""
        parts: tuple[torch.Tensor, ...] = torch.split(values_T, [part.num_tokens for part in self.rectangles])
        return parts

    @classmethod
    def of(
        cls,
        lengths: npt.NDArray[np.int64],
        device: torch.device,
        is_training: bool = False,
        is_coarse: bool = False,
    ) -> Pack:
        """The pack of windows of these lengths, in this order."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return cls(lengths, to_device(offsets, device), is_training, is_coarse)


def _split_alike(
    lengths: npt.NDArray[np.int64], max_merged_tokens: int, max_padded_cells: int
) -> list[npt.NDArray[np.int64]]:
    """Lengths in order, cut between runs of equal ones; small neighbouring runs stay together."""
    if not len(lengths):
        return []
    starts = np.flatnonzero(np.diff(lengths, prepend=-1)).tolist()
    cuts = starts[:1]
    for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True):
        merged = lengths[cuts[-1] : stop]
        num_padded_cells = len(merged) * int(merged.max()) ** 2 - int((merged**2).sum())
        if start != cuts[-1] and (merged.sum() > max_merged_tokens or num_padded_cells > max_padded_cells):
            cuts.append(start)
    return np.split(lengths, cuts[1:])
