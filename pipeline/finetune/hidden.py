"""Heads that guess hidden tokens: what is hidden in a step, and how validation rows are judged.

Hidden tokens are a pure function of (seed, epoch, row), and of (seed, row, window) in validation; so they do not
depend on batches, on the number of workers, or on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.encoder.attention import Runtime
from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.forward import encode, lay_out, takes_packs
from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.masking import HiddenWindow, HidingRules, hide_tokens
from pipeline.encoder.outputs import ModelOutputs
from pipeline.encoder.pairing import PairingRules, Window, pair_window
from pipeline.encoder.tokenize import Padding, TokenRows, concat_lengths
from pipeline.finetune.token_cache import TokenData
from pipeline.tasks.base import Examples, Learned, Task

_JUDGED_TOKENS = 4_096  # of one forward pass: logits over a vocabulary of 250k are half a GiB
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HiddenRows:
    """Some windows with tokens hidden, numbered from 0.

    Attributes:
        rows: What the encoder sees.
        windows: The same, one by one, and what is hidden in each.
        is_next: bool [W]; whether the second part of each follows its first. None: windows have one part.
    """

    rows: TokenRows
    windows: tuple[HiddenWindow, ...]
    is_next: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        data: TokenData,
        windows: IntArray,
        keys: Sequence[Sequence[int]],
        rules: HidingRules,
        pairing: PairingRules | None = None,
    ) -> HiddenRows:
        """Hide tokens in some windows, each with its own key; with `pairing` they are cut into pairs before."""
        plain = [_window_of(data, number) for number in windows.tolist()]
        is_next = None
        if pairing is not None:
            numbers = windows.tolist() if data.rows is pairing.strangers else [-1] * len(windows)
            given = zip(plain, numbers, keys, strict=True)
            pairs = [pair_window(window, number, pairing, key) for window, number, key in given]
            plain, is_next = [pair for pair, _ in pairs], np.array([follows for _, follows in pairs], np.bool_)
        hidden = tuple(hide_tokens(part.ids, part.words, rules, key) for part, key in zip(plain, keys, strict=True))
        all_types = [window.types for window in plain if window.types is not None]
        rows = TokenRows(
            np.concatenate([np.zeros(0, np.int32), *(window.ids for window in hidden)]),
            concat_lengths([np.array([len(window.ids) for window in plain], np.int64)]),
            np.zeros(len(windows), np.bool_),
            type_ids=np.concatenate(all_types) if all_types else None,
        )
        return cls(rows, hidden, is_next)

    @property
    def num_hidden(self) -> int:
        """Hidden tokens of all windows."""
        return sum(len(window.places) for window in self.windows)

    def places(self, chosen: IntArray) -> torch.Tensor:
        """Where among the tokens of some windows, one after the other, the hidden ones stand: int64 [M]."""
        starts = concat_lengths([self.rows.lengths[chosen]])
        parts = [self.windows[window].places + start for window, start in zip(chosen, starts, strict=False)]
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]))

    def truth(self, chosen: IntArray) -> IntArray:
        """The tokens that stood there: int64 [M]."""
        return np.concatenate([np.zeros(0, np.int64), *(self.windows[window].truth for window in chosen)])

    def pair_truth(self, chosen: IntArray) -> IntArray:
        """The class of some windows as transformers counts them, 0 where the second part follows: int64 [B]."""
        assert self.is_next is not None
        return np.where(self.is_next[chosen], 0, 1)


def _window_of(data: TokenData, number: int) -> Window:
    offsets, types = data.rows.offsets, data.rows.type_ids
    span = slice(int(offsets[number]), int(offsets[number + 1]))
    words = data.targets.values[span].astype(np.int64)
    return Window(data.rows.ids[span], words, None if types is None else types[span])


@dataclass(frozen=True)
class Guesser:
    """A head that guesses hidden tokens, and what runs it."""

    task: Task
    joined: JoinedHeads
    name: str
    runtime: Runtime
    padding: Padding

    def judge(self, hidden: HiddenRows, examples: Examples, learned: Learned) -> pa.Table:
        """Judge every hidden token of some windows."""
        network, device = self.joined.network(self.name).eval(), self.runtime.device
        encoder = self.joined.encoder.eval()
        nothing = torch.zeros(0, encoder.config.vocab_size)  # of a rank without rows
        parts = [self._judge(nothing, np.zeros(0, np.int64), False, examples, learned)]
        for indices in self._batches(hidden.rows):
            batch = lay_out(hidden.rows, indices, encoder, self.padding, device)
            places = hidden.places(indices).to(device)
            with torch.inference_mode(), self.runtime.autocast():
                encoded = encode(encoder, batch)
                if hidden.is_next is None:
                    found = [(encoded.token_logits(network, places), hidden.truth(indices), False)]
                else:
                    tokens, pairs = encoded.pretraining_logits(network, places)
                    found = [(tokens, hidden.truth(indices), False), (pairs, hidden.pair_truth(indices), True)]
            parts += [self._judge(*each, examples, learned) for each in found]
        return pa.concat_tables(parts)

    def _judge(
        self, logits: torch.Tensor, truth: IntArray, of_pair: bool, examples: Examples, learned: Learned
    ) -> pa.Table:
        count = len(logits)
        outputs = ModelOutputs(logits.float().cpu().numpy(), np.zeros((count, 0), np.float32), np.ones(count, bool), 0)
        judged = self.task.judge([outputs], examples, pa.chunked_array([pa.array(truth)]), learned)
        return judged.append_column("of_pair", pa.array(np.full(count, of_pair)))

    def _batches(self, rows: TokenRows) -> Iterator[IntArray]:
        budget = BatchBudget(min(self.runtime.budget.tokens, _JUDGED_TOKENS), self.runtime.budget.rows)
        return plan_batches(rows.lengths, budget, not takes_packs(self.joined.encoder))


def validation_keys(rows: TokenRows, rank: int, world_size: int) -> list[tuple[int, int]]:
    """A key for each window of a rank's share of the validation rows: (row of all, window of the row)."""
    firsts = np.searchsorted(rows.window_rows, rows.window_rows)
    within = np.arange(len(rows)) - firsts
    return list(zip((rows.window_rows * world_size + rank).tolist(), within.tolist(), strict=True))
