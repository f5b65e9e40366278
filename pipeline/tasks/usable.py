"""Which labelled rows can be trained or judged on, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.reader import REASON, Columns
from pipeline.errors import CorpusError, first_line
from pipeline.schema import SOURCE_FILE, SOURCE_ROW
from pipeline.tasks.base import Learned, Task, targets_of

MAX_NAMED = 10
"""So many of the rows that cannot be used are named to people."""


def find_usable(rows: pa.Table, columns: Columns, task: Task, learned: Learned) -> tuple[pa.Table, list[str]]:
    """Rows whose text is there and whose target the task can use.

    Args:
        rows: As `read_shard` gives them.
        columns: What was read; the target is the first kept column, if there is one.
        task: Whose targets they are.
        learned: What it knows of them.

    Returns:
        The usable rows, and of each other one its file, row and reason.

    Raises:
        CorpusError: the target column is of a type that the task has no use for.
    """
    good = rows.filter(pc.is_null(rows[REASON]))
    texts = [good[name] for name in columns.input_names]
    why = _check(targets_of(good, columns.kept), texts, columns, task, learned)
    bad_text, bad_target = rows.filter(pc.is_valid(rows[REASON])), good.filter(pc.is_valid(why))
    reasons = _located(bad_text, bad_text[REASON]) + _located(bad_target, pc.drop_null(why))
    return good.filter(pc.is_null(why)), reasons


def check_target(kept: pa.Schema, columns: Columns, task: Task, learned: Learned) -> None:
    """`find_usable` of no rows: whether the target column's type is of use, before any row is read.

    Raises:
        CorpusError: it is not.
    """
    texts = [pa.chunked_array([pa.nulls(0, pa.large_string())]) for _ in columns.input_names]
    targets = pa.chunked_array([pa.nulls(0, kept.field(0).type if columns.kept else pa.null())])
    _check(targets, texts, columns, task, learned)


def list_reasons(reasons: Sequence[str]) -> str:
    """The first of some reasons, a line each."""
    return "\n".join(f"- {reason}" for reason in reasons[:MAX_NAMED])


def _check(
    targets: pa.ChunkedArray, texts: Sequence[pa.ChunkedArray], columns: Columns, task: Task, learned: Learned
) -> pa.Array:
    try:
        return task.check(targets, texts, learned)
    except (TypeError, pa.ArrowException) as error:
        raise CorpusError(
            f"column {columns.kept[0]!r} is {targets.type}, of no use to task {task.name}: {first_line(error)}",
            "name the target column with label, or mend the data",
        ) from None


def _located(rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> list[str]:
    places = zip(rows[SOURCE_FILE].to_pylist(), rows[SOURCE_ROW].to_pylist(), reasons.to_pylist(), strict=True)
    return [f"{file} row {row}: {reason}" for file, row, reason in places]
