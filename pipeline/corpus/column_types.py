"""What type a column has over all files of a corpus, by their footers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from pipeline.corpus.reader import Columns, FileFooter
from pipeline.corpus.text import is_untold, is_word_list
from pipeline.errors import CorpusError
from pipeline.schema import kept_field, reads_as, told_field

_ONE_TYPE = "write the column with one type in every file"


def kept_schema(
    footers: Sequence[FileFooter],
    kept: Sequence[str],
    remedy: str = _ONE_TYPE,
    known: Mapping[str, pa.DataType] | None = None,
) -> pa.Schema:
    """The one schema under which the kept columns of every file are written.

    Args:
        footers: Of the files.
        kept: The columns.
        remedy: What to do where there is no such schema.
        known: The types that a table has for some of them: a column whose files all read as that is of that type.

    Raises:
        CorpusError: two files hold one column with types that no common type joins.
    """
    firsts = list(_one_per_schema(footers))
    taken = {
        name: kept_field(pa.field(name, kind))
        for name, kind in (known or {}).items()
        if all(reads_as(footer.schema.field(name).type, kind) for footer in firsts)
    }
    merged = _merge_types(firsts, [name for name in kept if name not in taken], remedy)
    return pa.schema([taken[name] if name in taken else told_field(merged.field(name)) for name in kept])


def _merge_types(footers: Iterable[FileFooter], names: Sequence[str], remedy: str) -> pa.Schema:
    merged = pa.schema([(name, pa.null()) for name in names])
    uris: dict[pa.Schema, str] = {}
    for footer in footers:
        uri, schema = footer.layout.file.uri, pa.schema([kept_field(footer.schema.field(name)) for name in names])
        if schema in uris:
            continue
        if _mixes_decimals(pa.struct(list(merged)), pa.struct(list(schema))):
            raise _mixed_decimals(uris, schema, uri, remedy)
        uris[schema] = uri
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise CorpusError(f"{uri}: a column's type does not fit the files before it: {error}", remedy) from None
    return merged


def _mixed_decimals(before: Mapping[pa.Schema, str], schema: pa.Schema, uri: str, remedy: str) -> CorpusError:
    left, right, other = next(
        (left, right, other)
        for earlier, other in before.items()
        for left, right in zip(earlier, schema, strict=True)
        if _mixes_decimals(left.type, right.type)
    )
    return CorpusError(
        f"{uri}: column {right.name!r} is {right.type} here and {left.type} in {other}: "
        "the one type that joins them would round the decimals",
        remedy,
    )


def _mixes_decimals(left: pa.DataType, right: pa.DataType) -> bool:
    """Whether decimals of one meet floating-point numbers of the other, at any depth; Arrow makes these of both."""
    types = pa.types
    if types.is_list(left) and types.is_list(right):
        return _mixes_decimals(left.value_type, right.value_type)
    if types.is_map(left) and types.is_map(right):
        return _mixes_decimals(left.item_type, right.item_type) or _mixes_decimals(left.key_type, right.key_type)
    if types.is_struct(left) and types.is_struct(right):
        others = {field.name: field.type for field in right}
        return any(_mixes_decimals(field.type, others[field.name]) for field in left if field.name in others)
    pairs = {(types.is_decimal(kind), types.is_floating(kind)) for kind in (left, right)}
    return pairs == {(True, False), (False, True)}


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
