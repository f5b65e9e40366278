"""Groups of near-duplicate rows: all pairs, exactly, block by block.

Two rows are joined if the cosine of their embeddings is at least the threshold; a group is everything that is
connected so, directly or through others. Rows with equal vectors are joined first, and one of them stands for all.
Products are computed in float32, and again in float64 where rounding could decide: blocks, threads and machines give
the same groups.

Work grows with the square of the number of different vectors; memory with the rows (about 60 bytes each) and the block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.groups import Groups
from pipeline.analysis.vectors import FloatMatrix, IntArray, NightVectors
from pipeline.telemetry import ProgressDisplay

_STRIPE_ROWS = 1_024
_EXACT_PAIRS = 8_192
_ROUNDING = 2.0**-23  # of each of D products and sums, of vectors of length 1
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DuplicateGroups:
    """Rows that have near-duplicates, group by group, in each the first row of the corpus before the others.

    Attributes:
        rows: int64 [M]; rows of the night's vectors.
        group_ids: int64 [M]; from 0, by first row.
        group_rows: int64 [M]; how many rows the row's group has.
        is_representative: bool [M]; the group's first row.
        similarities: float64 [M]; cosine to the representative; below the threshold where others lie between.
    """

    rows: IntArray
    group_ids: IntArray
    group_rows: IntArray
    is_representative: npt.NDArray[np.bool_]
    similarities: FloatArray

    @property
    def num_groups(self) -> int:
        """Of two rows or more."""
        return int(self.is_representative.sum())


def find_groups(vectors: NightVectors, threshold: float, block_rows: int) -> DuplicateGroups:
    """Join every pair of rows whose cosine is at least a threshold."""
    groups = Groups(len(vectors))
    different = _join_equal(vectors, groups, block_rows)
    ahead = [len(different) - start for start in _starts(different, block_rows)]
    num_pairs = sum(num_rows * min(block_rows, num_rows) for num_rows in ahead)
    done = 0
    with ProgressDisplay("comparing", num_pairs, "pairs") as progress:
        for left, right in _pairs_of_blocks(different, block_rows):
            at_left, at_right = close_pairs(vectors.take(left), vectors.take(right), threshold)
            groups.join(left[at_left], right[at_right])
            done += len(left) * len(right)
            progress.update(done, "")
    return _describe(vectors, groups.roots(), block_rows)


def close_pairs(left: FloatMatrix, right: FloatMatrix, threshold: float) -> tuple[IntArray, IntArray]:
    """Which rows of one block are close to which of another.

    Args:
        left: Unit vectors, [L, D].
        right: Unit vectors, [R, D].
        threshold: Least cosine.

    Returns:
        Row numbers of both sides, int64 [P] each.
    """
    margin = left.shape[1] * _ROUNDING
    similarities = left @ right.T
    at_left, at_right = np.nonzero(similarities >= threshold - margin)
    unsure = np.flatnonzero(similarities[at_left, at_right] < threshold + margin)
    is_close = np.ones(len(at_left), np.bool_)
    for start in range(0, len(unsure), _EXACT_PAIRS):
        some = unsure[start : start + _EXACT_PAIRS]
        is_close[some] = cosines(left[at_left[some]], right[at_right[some]]) >= threshold
    return at_left[is_close], at_right[is_close]


def cosines(left: FloatMatrix, right: FloatMatrix) -> FloatArray:
    """Cosine of each row of one matrix with the same row of the other, [R, D] each, in float64: [R]."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    return np.asarray(np.clip((one * other).sum(axis=1) / lengths, -1.0, 1.0))


def _join_equal(vectors: NightVectors, groups: Groups, block_rows: int) -> IntArray:
    """Join rows whose vectors are the same to the last bit; the first row of each kind."""
    firsts: dict[bytes, int] = {}
    different: list[int] = []
    for start in range(0, len(vectors), block_rows):
        rows = np.arange(start, min(start + block_rows, len(vectors)))
        known = np.empty(len(rows), np.int64)
        for index, vector in enumerate(vectors.take(rows) + 0.0):  # -0.0 is 0.0
            digest = hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
            known[index] = firsts.setdefault(digest, start + index)
        groups.join(known, rows)
        different += rows[known == rows].tolist()
    return np.array(different, np.int64)


def _starts(rows: IntArray, block_rows: int) -> range:
    return range(0, len(rows), block_rows)


def _pairs_of_blocks(rows: IntArray, block_rows: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Every block with itself and all that follows it, in stripes, so that a product stays small."""
    for start in _starts(rows, block_rows):
        for other in range(start, len(rows), _STRIPE_ROWS):
            yield rows[start : start + block_rows], rows[other : other + _STRIPE_ROWS]


def _describe(vectors: NightVectors, roots: IntArray, block_rows: int) -> DuplicateGroups:
    sizes = np.bincount(roots, minlength=len(roots))
    members = np.flatnonzero(sizes[roots] > 1)
    members = members[np.lexsort((members, roots[members]))]
    first = roots[members]
    similarities = np.empty(len(members))
    for start in range(0, len(members), block_rows):
        part = slice(start, start + block_rows)
        similarities[part] = cosines(vectors.take(members[part]), vectors.take(first[part]))
    _, ids = np.unique(first, return_inverse=True)
    return DuplicateGroups(members, ids.astype(np.int64), sizes[first], members == first, similarities)
