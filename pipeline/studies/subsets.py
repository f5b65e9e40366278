"""Parts of a training set: seeded, nested, stratified. Pure functions of (labels, seed)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def nested_order(labels: Sequence[str], seed: int) -> IntArray:
    """An order of the rows whose every beginning is a stratified sample of them.

    One row of each class comes first, that of the most frequent class before the others; after those, a class
    is spread evenly over the whole order. Which row of a class comes when is drawn by the seed.

    Args:
        labels: One label per row [R].
        seed: Another seed, another sample.

    Returns:
        Row numbers [R], each once.
    """
    draw = np.random.default_rng(seed)
    _, class_of, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    shuffled = draw.permutation(len(class_of))
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    place = np.arange(len(by_class)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.repeat(counts, counts)
    position = np.where(place > 0, (place + 0.5) / size, -size)  # the first of each class lie before all others
    return np.asarray(by_class[np.lexsort((draw.random(len(by_class)), position))], np.int64)


def subset_rows(fraction: float, num_rows: int) -> int:
    """How many rows a fraction is."""
    return min(num_rows, round(fraction * num_rows))


def take_fraction(labels: Sequence[str], fraction: float, seed: int) -> IntArray:
    """Row numbers of a fraction; a smaller fraction of the same seed is a beginning of a larger one."""
    return nested_order(labels, seed)[: subset_rows(fraction, len(labels))]
