"""The protocol every task fits, and the small types it speaks in.

Shape letters: R rows, W windows, T tokens of all windows, C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.encoder.tokenize import TokenRows

if TYPE_CHECKING:
    import torch  # for types only: planning a run must not wait for torch to load

    from pipeline.encoder.outputs import ModelOutputs

FloatArray = npt.NDArray[np.float32]
LOWER_IS_BETTER = frozenset({"loss", "ece", "perplexity", "next_loss"})
"""Metrics of which less is better; of all others more is."""
IGNORED = -100.0
"""The target of a token or row that has none; it adds nothing to the loss."""


@dataclass(frozen=True)
class Learned:
    """What a task takes from its training data, kept in the bundle.

    Attributes:
        labels: Class names, in the order of the head's outputs; empty for tasks without classes.
        options: Numbers such as a score's range or a tuned threshold.
        sameness: What every row has, where that leaves nothing to learn; not kept in the bundle.
    """

    labels: tuple[str, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)
    sameness: str | None = None


@dataclass(frozen=True)
class Examples:
    """Rows as a task sees them.

    Attributes:
        texts: One string array per input [R], without nulls.
        tokens: Their tokens.
        are_words: The last text is a list of words joined by single spaces: words are then as given.
    """

    texts: tuple[pa.ChunkedArray, ...]
    tokens: TokenRows
    are_words: bool = False

    def of_rows(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Some rows, ascending."""
        numbers = pa.array(rows)
        return Examples(tuple(text.take(numbers) for text in self.texts), self.tokens.of_rows(rows), self.are_words)


@dataclass(frozen=True)
class WindowTargets:
    """Training targets as numbers, ragged like the tokens.

    Attributes:
        values: float32, all windows back to back.
        offsets: int64 [W + 1].
        weights: int64 [W]; how many terms each window adds to the loss, which is divided by their global sum.
    """

    values: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Counts of (true label, predicted label).

    Attributes:
        labels: Class names.
        counts: int64 [true, predicted].
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """A task's figures on some rows.

    Attributes:
        num_rows: How many they are.
        metrics: Name -> figure.
        confusion: Of a task with classes.
        rows_digest: Of which rows of which files, as they were, they are; empty where nobody asked.
    """

    num_rows: int
    metrics: dict[str, float]
    confusion: Confusion | None = None
    rows_digest: str = ""


def targets_of(rows: pa.Table, kept: Sequence[str]) -> pa.ChunkedArray:
    """The target column of labelled rows; nulls where a task goes without."""
    return rows[kept[0]] if kept else pa.chunked_array([pa.nulls(rows.num_rows)])


class Task(Protocol):
    """What differs between tasks. Stateless: everything learned comes from the bundle.

    Attributes:
        bundled_as: The task of the bundle that training writes; another one where only an encoder is trained.
        inputs: Names of the texts one scored row has; several make one model input, a pair.
        labelled_inputs: The model inputs of one labelled row, each one or two texts; the same one as in scoring but
            for tasks that learn from texts side by side.
        optional_inputs: Further model inputs of one text each, which training takes where they are given.
        target: Default name of the target column.
        needs_target: Labelled rows are of no use without a target.
        compares_rows: The loss compares rows of the global batch with each other: it gets embeddings, not logits.
        hides_tokens: It learns to guess tokens that are hidden when a batch is made; its logits are of those alone.
        pairs_windows: It also learns whether a window's second part follows its first; only where it hides tokens.
        head_class: Name of the transformers Auto class that has the head.
        needs_spans: Decoding needs each token's character range.
        windows_always: Long text is windowed even where the bundle says truncate (question answering).
        classes_of: What has one of the labels, a row or each token; None for other tasks.
        metrics: Names of all figures that `evaluate` may give.
        main_metric: The figure to compare models by; higher is better.
    """

    name: str
    bundled_as: str
    inputs: tuple[str, ...]
    labelled_inputs: tuple[tuple[str, ...], ...]
    optional_inputs: tuple[str, ...]
    target: str
    needs_target: bool
    compares_rows: bool
    hides_tokens: bool
    pairs_windows: bool
    head_class: str
    needs_spans: bool
    windows_always: bool
    classes_of: Literal["rows", "tokens"] | None
    metrics: tuple[str, ...]
    main_metric: str

    def learn(self, targets: pa.ChunkedArray) -> Learned:
        """Labels and options found in training targets."""
        ...

    def head_config(self, learned: Learned) -> dict[str, object]:
        """Configuration of a new head."""
        ...

    def check(self, targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], learned: Learned) -> pa.Array:
        """Why a row's target cannot be used: string array [R], null where it can."""
        ...

    def window_targets(self, targets: pa.ChunkedArray, examples: Examples, learned: Learned) -> WindowTargets:
        """Checked targets as numbers, window by window."""
        ...

    def loss_sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss summed (not averaged) over valid targets: the caller divides by the global weight.

        Args:
            logits: [B, C], or [B, S, C] from a head over tokens; where `compares_rows`, the embeddings [N, K, H] of
                each of K model inputs of all N rows of the global batch.
            targets: [B, K] or [B, S], `IGNORED` where there is none.
        """
        ...

    def output_fields(self) -> list[pa.Field]:
        """The columns `decode` makes."""
        ...

    def decode(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> list[pa.Array]:
        """Model outputs -> one array [R] for each of `output_fields`."""
        ...

    def margins(self, outputs: ModelOutputs, examples: Examples, learned: Learned) -> FloatArray | None:
        """How far each row's logits are from another answer [R]; None where answers are numbers and move with them."""
        ...

    def judge(
        self, outputs: Sequence[ModelOutputs], examples: Examples, targets: pa.ChunkedArray, learned: Learned
    ) -> pa.Table:
        """One row for each example: what `evaluate` needs of prediction and truth, and no more."""
        ...

    def tune(self, judged: pa.Table, learned: Learned) -> Learned:
        """Thresholds chosen on validation rows; `learned` itself where there are none."""
        ...

    def evaluate(self, judged: pa.Table, learned: Learned) -> Evaluation:
        """Metrics over all judged rows, in any order."""
        ...
