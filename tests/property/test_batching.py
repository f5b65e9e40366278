"""plan_batches: every row once, within budget, longest first; pad_rows: nothing lost, nothing added."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.tokenize import Padding, TokenRows, pad_rows

LENGTHS = st.lists(st.integers(0, 300), max_size=120)
BUDGETS = st.builds(BatchBudget, st.integers(1, 2_000), st.integers(1, 64))


@st.composite
def token_rows(draw: st.DrawFn) -> TokenRows:
    rows = draw(st.lists(st.lists(st.integers(1, 30_000), max_size=20), max_size=12))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.array([token for row in rows for token in row], np.int32)
    return TokenRows(ids, offsets, np.zeros(len(rows), np.bool_))


@given(LENGTHS, BUDGETS, st.booleans())
def test_batches_are_a_permutation_of_all_rows(lengths: list[int], budget: BatchBudget, is_padded: bool) -> None:
    batches = list(plan_batches(lengths, budget, is_padded))
    assert all(len(batch) for batch in batches)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_batches_keep_within_the_budget_except_single_long_rows(lengths: list[int], budget: BatchBudget) -> None:
    for batch in plan_batches(lengths, budget):
        longest = max(lengths[row] for row in batch)
        assert len(batch) <= budget.rows
        assert len(batch) * longest <= budget.tokens or len(batch) == 1


@given(LENGTHS, BUDGETS)
def test_packs_are_filled_with_the_rows_own_tokens(lengths: list[int], budget: BatchBudget) -> None:
    sizes = np.maximum(lengths, 1)
    batches = [batch.tolist() for batch in plan_batches(lengths, budget, is_padded=False)]
    for batch, following in zip(batches, [*batches[1:], None], strict=False):
        tokens = int(sizes[batch].sum())
        assert len(batch) <= budget.rows
        assert tokens <= budget.tokens or len(batch) == 1
        assert following is None or len(batch) == budget.rows or tokens + sizes[following[0]] > budget.tokens


@given(LENGTHS, BUDGETS, st.booleans())
def test_longest_rows_come_first_and_equal_ones_in_their_order(
    lengths: list[int], budget: BatchBudget, is_padded: bool
) -> None:
    order = [int(row) for batch in plan_batches(lengths, budget, is_padded) for row in batch]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


@given(LENGTHS, BUDGETS)
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: BatchBudget) -> None:
    first = [batch.tolist() for batch in plan_batches(lengths, budget)]
    second = [batch.tolist() for batch in plan_batches(np.array(lengths, np.int64), budget)]
    assert first == second


@given(token_rows(), st.booleans(), st.data())
def test_padding_gives_back_every_row(rows: TokenRows, left: bool, data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=8 if len(rows) else 0))
    batch = pad_rows(rows, np.array(picks, np.int64), Padding(0), left)
    ids_BS, mask_BS = batch.ids_BS, batch.mask_BS
    assert batch.types_BS is None
    longest = max((int(rows.lengths[pick]) for pick in picks), default=0)
    assert ids_BS.shape == mask_BS.shape == (len(picks), longest)
    for position, pick in enumerate(picks):
        length = int(rows.lengths[pick])
        gap = longest - length
        tokens, padding = (slice(gap, None), slice(gap)) if left else (slice(length), slice(length, None))
        assert ids_BS[position, tokens].tolist() == rows.row(pick).tolist()
        assert not ids_BS[position, padding].any()
        expected = [0] * gap + [1] * length if left else [1] * length + [0] * gap
        assert mask_BS[position].tolist() == expected


@given(token_rows())
def test_rows_and_lengths_cover_all_tokens(rows: TokenRows) -> None:
    together = [token for index in range(len(rows)) for token in rows.row(index).tolist()]
    assert together == rows.ids.tolist()
    assert int(rows.lengths.sum()) == len(rows.ids)
