"""What type a column has over all files of a corpus, by their footers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from pipeline.corpus.reader import Columns, FileFooter
from pipeline.corpus.text import is_untold, is_word_list
from pipeline.errors import CorpusError
from pipeline.schema import kept_field, told_field

_ONE_TYPE = "write the column with one type in every file"


def kept_schema(footers: Sequence[FileFooter], kept: Sequence[str], remedy: str = _ONE_TYPE) -> pa.Schema:
    """The one schema under which the kept columns of every file are written.

    Args:
        footers: Of the files.
        kept: The columns.
        remedy: What to do where there is no such schema.

    Raises:
        CorpusError: two files hold one column with types that no common type joins.
    """
    merged = pa.schema([])
    seen: set[pa.Schema] = set()
    for footer in _one_per_schema(footers):
        schema = pa.schema([kept_field(footer.schema.field(name)) for name in kept])
        if schema in seen:
            continue
        seen.add(schema)
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise CorpusError(
                f"{footer.layout.file.uri}: a column's type does not fit the files before it: {error}", remedy
            ) from None
    return pa.schema([told_field(field) for field in merged])


def holds_words(footers: Sequence[FileFooter], columns: Columns) -> bool:
    """Whether the last input column holds lists of words, by the files in which it holds anything.

    Raises:
        CorpusError: it does in some files and not in others.
    """
    types = [footer.schema.field(columns.inputs[-1]).type for footer in _one_per_schema(footers)]
    kinds = {is_word_list(kind) for kind in types if not is_untold(kind)}
    if len(kinds) > 1:
        raise CorpusError(
            f"column {columns.inputs[-1]!r} holds lists of words in some files and text in others",
            _ONE_TYPE,
        )
    return kinds == {True}


def _one_per_schema(footers: Sequence[FileFooter]) -> Iterable[FileFooter]:
    """The first footer with each schema object: equal schemas are mostly one object."""
    first: dict[int, FileFooter] = {}
    for footer in footers:
        first.setdefault(id(footer.schema), footer)
    return first.values()
