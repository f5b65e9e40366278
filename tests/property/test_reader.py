"""Reading back over cut_shards gives exactly the corpus that was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.column_types import kept_schema
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import REASON, Columns, ReadOptions, input_column, read_footers, read_shard
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.storage import Storage

TEXTS = st.one_of(st.none(), st.just(""), st.just("  \n"), st.text(max_size=12))
FILES = st.lists(
    st.tuples(st.lists(TEXTS, max_size=30), st.integers(1, 12)),
    min_size=1,
    max_size=4,
)
TEXT_TYPES = st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])


def write_files(directory: Path, files: list[tuple[list[str | None], int]], kind: pa.DataType) -> list[dict]:
    """Write the files; return one row for each row written."""
    rows = []
    for number, (texts, group_rows) in enumerate(files):
        path = directory / f"part-{number}.parquet"
        values = [None if text is None else text.encode() for text in texts] if kind == pa.binary() else texts
        table = pa.table({"text": pa.array(values, kind), "id": pa.array(range(len(texts)), pa.int32())})
        pq.write_table(table, path, row_group_size=group_rows)
        rows += [
            {"source_file": str(path), "source_row": row, "id": row, "text": text} for row, text in enumerate(texts)
        ]
    return rows


@settings(max_examples=25)
@given(FILES, TEXT_TYPES, st.integers(1, 40))
def test_shards_give_back_the_corpus(files: list[tuple[list[str | None], int]], kind: pa.DataType, rows: int) -> None:
    storage, columns = Storage(), Columns(("text",), ("id",))
    with tempfile.TemporaryDirectory() as scratch:
        written = write_files(Path(scratch).resolve(), files, kind)
        footers = read_footers(list_corpus([scratch], storage), columns, storage)
        options = ReadOptions(kept_schema(footers, columns.kept), quarantine_blank=False)
        shards = cut_shards([footer.layout for footer in footers], ShardSize(rows, 10**6))
        read = [row for shard in shards for row in read_shard(shard, columns, options, storage).to_pylist()]
    key = input_column("text")
    found = [{**{name: row[name] for name in ("source_file", "source_row", "id")}, "text": row[key]} for row in read]
    assert sorted(found, key=lambda row: (row["source_file"], row["source_row"])) == written
    assert all((row[REASON] is None) == (row[key] is not None) for row in read)
