"""Rows joined in pairs -> groups: union-find over arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Groups:
    """N rows, each of its own group until pairs are joined. Whatever the pairs' order, a group's root is its least row.

    Memory: 8 bytes a row.
    """

    def __init__(self, num_rows: int) -> None:
        self._parents = np.arange(num_rows, dtype=np.int64)

    def join(self, left: IntArray, right: IntArray) -> None:
        """Put the groups of `left[i]` and `right[i]` together, for every i."""
        while len(left):
            left, right = self._roots(left), self._roots(right)
            apart = left != right
            left, right = left[apart], right[apart]
            # of several roots that one is to be hung under, the least wins; the others are joined in the next round
            np.minimum.at(self._parents, np.maximum(left, right), np.minimum(left, right))

    def roots(self) -> IntArray:
        """[N]; the least row of each row's group."""
        return self._roots(np.arange(len(self._parents)))

    def _roots(self, rows: IntArray) -> IntArray:
        found = self._parents[rows]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parents[rows] = found  # so that the next look is shorter
        return found
