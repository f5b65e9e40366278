"""Text classifiers trained from scratch: a BiLSTM, and Kim's CNN (2014). Small and standard.

Shape letters: R rows, B rows of a batch, S tokens of its longest row, E embedding, H hidden, P windows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.studies.spec import ScratchConfig

IntArray = npt.NDArray[np.int64]
_PADDING, _UNKNOWN, _FIRST_KNOWN = 0, 1, 2
_WIDTHS = (3, 4, 5)
_PREDICT_ROWS = 256
_HELD_OUT_SHARE = 0.1
_ROWS_PER_CLASS_TO_HOLD_OUT = 20  # below it the rows held out would be missed more than the stopping helps


@dataclass(frozen=True)
class TokenisedSet:
    """Rows as token ids of any vocabulary, and their class numbers."""

    ids: list[IntArray]
    classes: IntArray


@dataclass(frozen=True)
class ScratchRecipe:
    """What is trained (`bilstm` or `cnn`), how and where."""

    kind: str
    config: ScratchConfig
    seed: int
    device: torch.device


class BiLstm(nn.Module):
    """Embedding, one bidirectional LSTM, its maximum over the tokens, a linear layer."""

    def __init__(self, num_tokens: int, num_classes: int, config: ScratchConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, config.embedding_size, padding_idx=_PADDING)
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(2 * config.hidden_size, num_classes)

    def forward(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of padded ids [B, S]."""
        lengths_B = (ids_BS != _PADDING).sum(dim=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embedding(ids_BS)), lengths_B, batch_first=True, enforce_sorted=False
        )
        states_BSH, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, padding_value=float("-inf")
        )
        logits: torch.Tensor = self.head(self.dropout(states_BSH.max(dim=1).values))
        return logits


class KimCnn(nn.Module):
    """Embedding, convolutions of widths 3, 4 and 5, their maximum over the tokens, a linear layer."""

    def __init__(self, num_tokens: int, num_classes: int, config: ScratchConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, config.embedding_size, padding_idx=_PADDING)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.hidden_size, width, padding=width - 1) for width in _WIDTHS
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(len(_WIDTHS) * config.hidden_size, num_classes)

    def forward(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of padded ids [B, S]."""
        embedded_BES = self.dropout(self.embedding(ids_BS)).transpose(1, 2)
        lengths_B1 = (ids_BS != _PADDING).sum(dim=1, keepdim=True)
        found = []
        for width, convolution in zip(_WIDTHS, self.convolutions, strict=True):
            states_BHP = convolution(embedded_BES).relu()
            # window p ends at token p: from here on it holds padding only, whose bias must not win the maximum
            is_empty_BP = torch.arange(states_BHP.shape[2], device=ids_BS.device) >= lengths_B1 + width - 1
            found.append(states_BHP.masked_fill(is_empty_BP[:, None, :], 0.0).amax(dim=2))
        logits: torch.Tensor = self.head(self.dropout(torch.cat(found, dim=1)))
        return logits


_NETWORKS: dict[str, type[BiLstm | KimCnn]] = {"bilstm": BiLstm, "cnn": KimCnn}


def predict_scratch(train: TokenisedSet, test_ids: list[IntArray], recipe: ScratchRecipe) -> IntArray:
    """Train on some rows, in their order's seed, and label others.

    Where there are rows enough, the last tenth of the training rows is held out and training stops when their loss
    no longer falls; the rows should therefore be in stratified order. Elsewhere it runs for `min_steps`.

    Args:
        train: Training rows; no row is without tokens.
        test_ids: Rows to label [N].
        recipe: What is trained.

    Returns:
        N class numbers.
    """
    torch.manual_seed(recipe.seed)
    known = np.unique(np.concatenate(train.ids))
    rows = _renumbered(train.ids, known)
    num_classes = int(train.classes.max()) + 1
    network = _NETWORKS[recipe.kind](len(known) + _FIRST_KNOWN, num_classes, recipe.config).to(recipe.device)
    classes = torch.from_numpy(train.classes)
    num_held_out = held_out_rows(train.classes)
    cut = len(rows) - num_held_out
    trainer = _Trainer(network, recipe)
    if num_held_out:
        trainer.fit_until_it_stops((rows[:cut], classes[:cut]), (rows[cut:], classes[cut:]))
    else:
        trainer.fit_steps(rows, classes)
    return np.asarray(trainer.logits(_renumbered(test_ids, known)).argmax(dim=1).numpy(), np.int64)


def held_out_rows(classes: IntArray) -> int:
    """How many training rows are held out for early stopping; 0 where there are few rows per class."""
    num_classes = len(np.unique(classes))
    is_enough = len(classes) >= _ROWS_PER_CLASS_TO_HOLD_OUT * num_classes
    return round(_HELD_OUT_SHARE * len(classes)) if is_enough else 0


class _Trainer:
    """A network, its optimizer and its data order."""

    def __init__(self, network: BiLstm | KimCnn, recipe: ScratchRecipe) -> None:
        self._network, self._recipe = network, recipe
        self._optimizer = torch.optim.Adam(network.parameters(), lr=recipe.config.learning_rate)
        self._draw = np.random.default_rng(recipe.seed)

    def fit_until_it_stops(
        self, train: tuple[list[torch.Tensor], torch.Tensor], held_out: tuple[list[torch.Tensor], torch.Tensor]
    ) -> None:
        """Epochs until the held-out loss has not fallen for `patience_epochs`; the best epoch's weights stay."""
        best_loss, best_epoch, best = float("inf"), -1, deepcopy(self._network.state_dict())
        for epoch in range(self._recipe.config.max_epochs):
            for batch in self._batches(len(train[0])):
                self._step(train, batch)
            loss = float(cross_entropy(self.logits(held_out[0]), held_out[1]))
            if loss < best_loss:
                best_loss, best_epoch, best = loss, epoch, deepcopy(self._network.state_dict())
            if epoch - best_epoch >= self._recipe.config.patience_epochs:
                break
        self._network.load_state_dict(best)

    def fit_steps(self, rows: list[torch.Tensor], classes: torch.Tensor) -> None:
        """`min_steps` steps over all rows."""
        num_left = self._recipe.config.min_steps
        while num_left > 0:
            for batch in self._batches(len(rows))[:num_left]:
                self._step((rows, classes), batch)
                num_left -= 1

    def logits(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """Logits [R, C] on the CPU, without dropout."""
        self._network.eval()
        with torch.inference_mode():
            parts = [
                self._network(_padded(rows[start : start + _PREDICT_ROWS]).to(self._recipe.device)).cpu()
                for start in range(0, len(rows), _PREDICT_ROWS)
            ]
        return torch.cat(parts)

    def _batches(self, num_rows: int) -> list[IntArray]:
        order = self._draw.permutation(num_rows)
        return list(_slices(order, self._recipe.config.batch_rows))

    def _step(self, data: tuple[list[torch.Tensor], torch.Tensor], batch: IntArray) -> None:
        rows, classes = data
        self._network.train()
        ids_BS = _padded([rows[row] for row in batch])
        hidden_BS = (torch.rand(ids_BS.shape) < self._recipe.config.word_dropout) & (ids_BS != _PADDING)
        logits_BC = self._network(ids_BS.masked_fill(hidden_BS, _UNKNOWN).to(self._recipe.device))
        loss = cross_entropy(logits_BC, classes[torch.from_numpy(batch)].to(self._recipe.device))
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()


def _slices(order: IntArray, size: int) -> Iterator[IntArray]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _renumbered(rows: list[IntArray], known: IntArray) -> list[torch.Tensor]:
    """Ids as positions among the training set's own tokens; every other token is one and the same."""
    renumbered = []
    for ids in rows:
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        renumbered.append(torch.from_numpy(np.where(known[place] == ids, place + _FIRST_KNOWN, _UNKNOWN)))
    return renumbered


def _padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_PADDING)
