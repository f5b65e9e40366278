from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageFullError
from pipeline.output import writer
from pipeline.output.writer import ROW_GROUP_ROWS, write_parquet
from pipeline.schema import EMBEDDING_FIELD, SCORES_TYPE
from pipeline.storage import Storage

STORAGE = Storage()
FOOTER = {"bertmill.run_id": "run 1", "bertmill.fingerprint": "f" * 64}
SCHEMA = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("class_scores", SCORES_TYPE),
        EMBEDDING_FIELD,
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)


def scored(num_rows: int) -> pa.Table:
    vectors = np.random.default_rng(0).normal(size=(num_rows, 4)).astype(np.float32)
    arrays = [
        pa.repeat(pa.scalar("/c/a.parquet"), num_rows),
        pa.array(range(num_rows)),
        pa.array(["good", "bad"] * num_rows).slice(0, num_rows),
        pa.array(vectors[:, 0]),
        pa.array(list(vectors[:, :2]), SCORES_TYPE),
        pa.array(list(vectors), EMBEDDING_FIELD.type),
        pa.array([False] * num_rows),
    ]
    return pa.table(arrays, schema=SCHEMA)


def chunks_of(path: Path) -> dict[str, pq.ColumnChunkMetaData]:
    group = pq.read_metadata(path).row_group(0)
    return {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = scored(100)
    written = write_parquet(rows, f"{tmp_path}/deep/er/a.parquet", FOOTER, STORAGE)
    assert pq.read_table(written.uri).equals(rows)
    assert (written.uri, written.num_rows) == (f"{tmp_path}/deep/er/a.parquet", 100)
    assert written.size_bytes == Path(written.uri).stat().st_size


def test_every_column_is_zstd(tmp_path: Path) -> None:
    write_parquet(scored(10), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    assert {chunk.compression for chunk in chunks_of(tmp_path / "a.parquet").values()} == {"ZSTD"}


def test_float_lists_are_plain_without_dictionary_or_statistics(tmp_path: Path) -> None:
    write_parquet(scored(1_000), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    chunks = chunks_of(tmp_path / "a.parquet")
    for name in ("embedding.list.element", "class_scores.list.element"):
        assert set(chunks[name].encodings) == {"PLAIN", "RLE"}, "what every reader knows"
        assert not chunks[name].has_dictionary_page
        assert chunks[name].statistics is None


def test_other_columns_keep_statistics_and_text_its_dictionary(tmp_path: Path) -> None:
    write_parquet(scored(1_000), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    chunks = chunks_of(tmp_path / "a.parquet")
    assert chunks["source_row"].statistics.max == 999
    assert chunks["label"].statistics.min == "bad"
    assert chunks["label"].has_dictionary_page
    assert chunks["score"].statistics is not None
    assert not chunks["score"].has_dictionary_page


def test_a_table_without_float_lists_is_written_too(tmp_path: Path) -> None:
    rows = scored(10).select(["source_file", "source_row"])
    write_parquet(rows, f"{tmp_path}/a.parquet", {}, STORAGE)
    assert pq.read_table(tmp_path / "a.parquet").equals(rows)


def test_the_footer_says_where_rows_come_from(tmp_path: Path) -> None:
    write_parquet(scored(3), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    metadata = pq.read_metadata(tmp_path / "a.parquet").metadata
    assert {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"bertmill.")} == FOOTER


def test_row_groups_stay_small(tmp_path: Path) -> None:
    rows = scored(1).take(pa.array(np.zeros(ROW_GROUP_ROWS + 5, np.int64)))
    write_parquet(rows, f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [ROW_GROUP_ROWS, 5]


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    write_parquet(scored(3), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    write_parquet(scored(5), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 5


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(_table: object, path: str, **_options: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(writer.pq, "write_table", fill_the_disk)
    with pytest.raises(StorageFullError, match="No space left"):
        write_parquet(scored(3), f"{tmp_path}/a.parquet", FOOTER, STORAGE)
    assert list(tmp_path.iterdir()) == []
