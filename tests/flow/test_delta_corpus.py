"""A Delta table as corpus, on a local disk and on S3."""

from __future__ import annotations

import pyarrow as pa
from deltalake import write_deltalake

from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import Columns, ReadOptions, input_column, read_shard
from pipeline.corpus.rows import open_rows
from pipeline.storage import Storage
from pipeline.uris import join_uri


def texts_of(uri: str) -> list[tuple[str, str]]:
    storage, columns = Storage(), Columns(("text",), ("place",))
    opened = open_rows(list_corpus([uri], storage), columns, storage)
    options = ReadOptions(opened.options.kept_schema, quarantine_blank=True)
    rows = pa.concat_tables([read_shard(shard, columns, options, storage) for shard in opened.shards])
    return sorted(zip(rows[input_column("text")].to_pylist(), rows["place"].to_pylist(), strict=True))


def test_live_rows_are_read_with_their_partition(root_uri: str) -> None:
    table = join_uri(root_uri, "table")
    options = Storage().delta_options(table)
    for number, mode in enumerate(("append", "overwrite", "append")):
        rows = pa.table({"text": [f"a{number}", f"b{number}"], "place": ["x/y z", "ü%20"]})
        write_deltalake(table, rows, partition_by=["place"], mode=mode, storage_options=options)  # type: ignore[call-overload]
    live = [("a1", "x/y z"), ("a2", "x/y z"), ("b1", "ü%20"), ("b2", "ü%20")]
    assert texts_of(table) == texts_of(root_uri) == live
    folder = list_corpus([table], Storage())[0].uri.rsplit("/", 1)[0]
    assert len(list_corpus([folder], Storage())) == 2
