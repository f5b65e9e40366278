"""Rows that half precision cannot decide run again in fp32: its speed for nearly all rows, and fp32's answers.

Rounding moves a row's logits a little. Where the answer is ahead of the next one by more than that, it is the same in
fp32; where it is not, it is a coin's toss. How much rounding moves them is measured, on a few rows of every shard: it
depends on weights, depth and hardware. Now and then it moves them by more than three times as much: a row in some
hundreds or thousands of the close ones still differs. Numbers (embeddings, scores, similarities) keep the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.encoder.outputs import IntArray, ModelOutputs
from pipeline.encoder.tokenize import TokenRows
from pipeline.tasks.base import Examples, FloatArray

NUM_PROBED = 32
"""Of so many rows of a large shard it is measured; no more rows than these are run in fp32 at once."""
_ONE_IN, _LEAST_PROBED = 32, 8  # of a smaller shard one in 32 rows, as probing takes time too
_NOISES = 3.0  # a margin of so many times the rounding's root mean square is taken for safe
Margins = Callable[[ModelOutputs, Examples], FloatArray | None]
"""A head's: how far each row's logits are from another answer; None where its answers are numbers."""


def settle(
    outputs: tuple[ModelOutputs, ...],
    examples: Examples,
    heads: Sequence[Margins],
    run_in_fp32: Callable[[TokenRows], tuple[ModelOutputs, ...]],
) -> int:
    """Let fp32 decide what is too close to call.

    Args:
        outputs: Of each head, in half precision; fp32's are put in their place.
        examples: Their rows.
        heads: One for each of the outputs.
        run_in_fp32: Runs some of the rows again.

    Returns:
        How many rows ran again.
    """
    margins = [find(found, examples) for find, found in zip(heads, outputs, strict=True)]
    if all(margin is None for margin in margins):
        return 0
    num_rows = examples.tokens.num_rows
    num_probed = min(max(num_rows // _ONE_IN, _LEAST_PROBED), NUM_PROBED, num_rows)
    probed = np.unique(np.linspace(0, num_rows - 1, num_probed).astype(np.int64))
    few = examples.of_rows(probed)
    exact = run_in_fp32(few.tokens)
    is_close = np.zeros(num_rows, np.bool_)
    for find, margin, found in zip(heads, margins, exact, strict=True):
        if margin is not None:
            right = find(found, few)
            assert right is not None
            is_close |= margin < _NOISES * _root_mean_square(margin[probed], right)
    is_close[probed] = False
    _put(outputs, probed, exact, examples.tokens)
    if (close := np.flatnonzero(is_close)).size:
        _put(outputs, close, run_in_fp32(examples.tokens.of_rows(close)), examples.tokens)
    return len(probed) + len(close)


def _root_mean_square(margins: FloatArray, right: FloatArray) -> float:
    """Of what rounding did to margins; 0 where there are none."""
    known = np.isfinite(margins) & np.isfinite(right)
    moved = margins[known].astype(np.float64) - right[known]
    return float(np.sqrt(np.mean(moved**2))) if moved.size else 0.0


def _put(
    outputs: tuple[ModelOutputs, ...], rows: IntArray, others: tuple[ModelOutputs, ...], tokens: TokenRows
) -> None:
    for found, other in zip(outputs, others, strict=True):
        found.put(rows, other, tokens)
