from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.groups import Groups

PAIRS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60)


@given(PAIRS, st.integers(1, 7))
def test_a_row_s_root_is_the_least_row_that_pairs_lead_to(pairs: list[tuple[int, int]], at_once: int) -> None:
    groups = Groups(30)
    for start in range(0, len(pairs), at_once):
        some = pairs[start : start + at_once]
        groups.join(*(np.array(side, np.int64) for side in zip(*some, strict=True)))
    labels = list(range(30))
    for _ in labels:
        for left, right in pairs:
            labels[left] = labels[right] = min(labels[left], labels[right])
    assert groups.roots().tolist() == labels
