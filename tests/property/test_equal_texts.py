"""Which rows are read alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.reader import input_column
from pipeline.inference.reuse import Answers, compute_once, group_texts
from pipeline.inference.source import TextSource
from pipeline.output.texts import IntArray

rows = st.lists(st.tuples(st.text("ab\0", max_size=2), st.text("ab\0", max_size=2)), max_size=30)


@given(rows, st.integers(0, 3))
def test_rows_are_grouped_by_all_that_is_read_of_them(texts: list[tuple[str, str]], cut: int) -> None:
    columns = zip(*texts, strict=True) if texts else ((), ())
    table = pa.table(
        {input_column(name): pa.array(column, pa.large_string()) for name, column in zip("ab", columns, strict=True)}
    ).slice(cut)
    texts = texts[cut:]
    for sources, keys in (
        ({"": TextSource(("a", "b"))}, texts),
        ({"one": TextSource(("b",)), "other": TextSource(("b",))}, [second for _, second in texts]),
    ):
        firsts, groups = group_texts(table, sources)
        assert [keys[row] for row in firsts[groups]] == keys
        assert len(firsts) == len(set(keys))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_every_row_gets_the_answer_of_its_group(values: list[int]) -> None:
    asked: list[int] = []

    def compute(numbers: IntArray) -> Answers:
        asked.extend(numbers.tolist())
        chosen = [values[number] for number in numbers]
        return Answers(pa.table({"value": chosen}), np.array([value != 3 for value in chosen]), 10, 12)

    _, firsts, groups = np.unique(values, return_index=True, return_inverse=True)
    found = compute_once((firsts, groups), compute)
    assert found.columns["value"].to_pylist() == values
    assert found.finite.tolist() == [value != 3 for value in values]
    assert asked == sorted(asked), "rows keep their order"
    assert (found.num_tokens, found.num_padded_tokens) == (10, 12)
    assert found.num_reused_rows == len(values) - len(set(values)) == len(values) - len(asked)
