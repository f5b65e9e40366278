from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import (
    REASON,
    Columns,
    ReadOptions,
    input_column,
    read_shard,
)
from pipeline.corpus.shards import Piece, Shard, ShardSize, cut_shards
from pipeline.errors import CorpusError
from tests.unit.corpus.files import STORAGE, TEXT, TEXT_AND_ID, footers_of, read_all, write


def whole(file: CorpusFile, num_rows: int) -> Shard:
    return Shard("name", (Piece(file, 0, num_rows),), 0)


def test_a_footer_tells_row_groups_and_the_types_of_the_columns_in_use(tmp_path: Path) -> None:
    table = pa.table({"text": ["some text"] * 5, "id": pa.array(range(5), pa.int32()), "other": ["x" * 1_000] * 5})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, use_dictionary=False, compression="none")
    (footer,) = footers_of(tmp_path, TEXT_AND_ID)
    assert [group.num_rows for group in footer.layout.row_groups] == [2, 2, 1]
    assert 5 * len("some text") < footer.layout.num_bytes < 1_000
    assert footer.schema == pa.schema([("text", pa.string()), ("id", pa.int32())])


@pytest.mark.parametrize(
    ("kept", "num_shards"), [(("id", "html"), 4), (("id", "page.html"), 4), (("id", "text"), 1), ((), 1)]
)
def test_kept_columns_count_in_the_size_of_a_shard(kept: tuple[str, ...], num_shards: int, tmp_path: Path) -> None:
    pages = [f"{number:03d}" * 1_000 for number in range(40)]
    columns = {"text": ["some text"] * 40, "id": range(40), "html": pages, "page": [{"html": page} for page in pages]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10, use_dictionary=False)
    layouts = [footer.layout for footer in footers_of(tmp_path, Columns(("text",), kept))]
    assert len(cut_shards(layouts, ShardSize(1_000, 40_000))) == num_shards


def test_a_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", body=["x"], key=[1])
    with pytest.raises(CorpusError, match=r"a\.parquet: no column 'text', 'id'") as caught:
        footers_of(tmp_path, TEXT_AND_ID)
    assert caught.value.message.startswith(str(path))
    inputs = "the spec's `inputs` (of a search its `text`) says which one is read"
    assert caught.value.remedy == f"the file's columns are: body, key; {inputs}"
    with pytest.raises(CorpusError, match=r"no column 'id'") as caught:
        footers_of(tmp_path, Columns(("body",), ("id",)))
    assert caught.value.remedy == "the file's columns are: body, key"


def test_of_many_columns_those_like_the_missing_one_and_the_first_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", **{f"c{number}": [number] for number in range(2_000)}, texts=["x"], id=[1])
    with pytest.raises(CorpusError, match="no column 'text'") as caught:
        footers_of(tmp_path, TEXT_AND_ID)
    expected = "the file's columns are: texts, c0, c1, c2, c3, c4, c5, c6, c7, c8 and 1,992 more"
    assert str(caught.value.remedy).startswith(expected)


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    with pytest.raises(CorpusError, match=r"b\.parquet: not a readable Parquet file") as caught:
        footers_of(tmp_path, TEXT)
    assert "restore or remove the file" in caught.value.remedy


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"a\.parquet: not a readable Parquet file"):
        footers_of(tmp_path, TEXT)


def test_all_bad_files_are_listed_up_to_ten(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", text=["x"])
    for number in range(12):
        write(tmp_path / f"bad-{number:02d}.parquet", body=["x"])
    with pytest.raises(CorpusError, match="12 of 13 files cannot be used") as caught:
        footers_of(tmp_path, TEXT)
    assert caught.value.message.count("no column 'text'") == 10


def test_a_file_that_changed_after_planning_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["x"])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    os.utime(path, (1, 1))
    with pytest.raises(CorpusError, match=r"a\.parquet: changed or vanished while the job ran"):
        read_shard(whole(file, 1), TEXT, ReadOptions(pa.schema([]), True), STORAGE)


def test_a_file_that_vanished_after_planning_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["x"])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet: changed or vanished") as caught:
        read_shard(whole(file, 1), TEXT, ReadOptions(pa.schema([]), True), STORAGE)
    assert "run the same command again" in caught.value.remedy


def test_a_piece_beyond_the_file_is_not_read_short(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x", "y"])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    with pytest.raises(CorpusError, match="changed or vanished"):
        read_shard(whole(file, 3), TEXT, ReadOptions(pa.schema([]), True), STORAGE)


def test_only_the_rows_of_a_piece_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"t{row}" for row in range(10)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    for start, stop in [(0, 10), (0, 1), (3, 6), (2, 7), (8, 10), (4, 5)]:
        shard = Shard("name", (Piece(file, start, stop),), 0)
        rows = read_shard(shard, TEXT, ReadOptions(pa.schema([]), True), STORAGE)
        assert rows["source_row"].to_pylist() == list(range(start, stop))
        assert rows[input_column("text")].to_pylist() == [f"t{row}" for row in range(start, stop)]


def test_rows_say_where_they_come_from_and_why_they_are_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=["fine", None, "  "], id=[1, 2, 3])
    assert read_all(tmp_path, TEXT_AND_ID) == [
        {"source_file": str(path), "source_row": row, "id": row + 1, input_column("text"): text, REASON: reason}
        for row, (text, reason) in enumerate([("fine", None), (None, "text is null"), (None, "text is blank")])
    ]


def test_hive_keys_are_columns(tmp_path: Path) -> None:
    write(tmp_path / "domain=a%20b" / "1.parquet", text=["x", "y"])
    write(tmp_path / "domain=c" / "1.parquet", text=["z"])
    rows = read_all(tmp_path, Columns(("text",), ("domain",)))
    assert [row["domain"] for row in rows] == ["a b", "a b", "c"]


def test_a_column_in_the_file_wins_over_a_hive_key(tmp_path: Path) -> None:
    write(tmp_path / "domain=folder" / "1.parquet", text=["x"], domain=["file"])
    assert [row["domain"] for row in read_all(tmp_path, Columns(("text",), ("domain",)))] == ["file"]


def test_the_hive_name_for_null_is_null(tmp_path: Path) -> None:
    write(tmp_path / "domain=__HIVE_DEFAULT_PARTITION__" / "1.parquet", text=["x"])
    assert [row["domain"] for row in read_all(tmp_path, Columns(("text",), ("domain",)))] == [None]


def test_a_hive_key_wins_over_a_nested_field(tmp_path: Path) -> None:
    write(tmp_path / "doc.lang=folder" / "1.parquet", text=["x"], doc=[{"lang": "file"}])
    assert [row["doc.lang"] for row in read_all(tmp_path, Columns(("text",), ("doc.lang",)))] == ["folder"]


def test_nested_fields_are_columns_by_their_dotted_path(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", doc=[{"body": "x", "n": 1}, None], doc2=["other", "other"])
    columns = Columns(("doc.body",), ("doc.n",))
    (footer,) = footers_of(tmp_path, columns)
    assert footer.schema == pa.schema([("doc.body", pa.string()), ("doc.n", pa.int64())])
    rows = read_all(tmp_path, columns)
    found = [(row[input_column("doc.body")], row["doc.n"], row[REASON]) for row in rows]
    assert found == [("x", 1, None), (None, None, "text is null")]


def test_kept_columns_take_the_names_of_the_schema_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"], doc=[{"n": 7}])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    options = ReadOptions(pa.schema([("doc_n", pa.int64())]), True)
    rows = read_shard(whole(file, 1), Columns(("text",), ("doc.n",)), options, STORAGE)
    assert rows["doc_n"].to_pylist() == [7]


def test_a_file_that_lost_a_column_after_planning_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", body=["x"])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    with pytest.raises(CorpusError, match="changed or vanished while the job ran"):
        read_shard(whole(file, 1), TEXT, ReadOptions(pa.schema([]), True), STORAGE)


def test_an_input_may_be_kept_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=[" ", "x"])
    rows = read_all(tmp_path, Columns(("text",), ("text",)))
    assert [(row["text"], row[input_column("text")]) for row in rows] == [(" ", None), ("x", "x")]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
)
def test_text_of_every_arrow_kind_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["plain", None, "häßlich 日本", "plain"]
    values = [text and text.encode() for text in texts] if "binary" in str(kind) else texts
    write(tmp_path / "a.parquet", text=pa.array(values, kind))
    rows = read_all(tmp_path, TEXT)
    assert [row[input_column("text")] for row in rows] == texts
    assert [row[REASON] for row in rows] == [None, "text is null", None, None]


def test_text_of_another_type_is_bad_row_by_row(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=pa.array([1, None]))
    assert [row[REASON] for row in read_all(tmp_path, TEXT)] == ["text is int64, not a string", "text is null"]


def test_files_of_one_shard_may_hold_text_in_different_types(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", text=["x"])
    write(tmp_path / "1.parquet", text=pa.array(["y"]).dictionary_encode())
    write(tmp_path / "2.parquet", text=pa.array([b"z"]))
    assert [row[input_column("text")] for row in read_all(tmp_path, TEXT)] == ["x", "y", "z"]


def test_columns_are_needed_once_with_inputs_first() -> None:
    assert Columns(("text", "title"), ("id", "text")).needed == ("text", "title", "id")


def test_timestamps_of_old_writers_keep_their_year(tmp_path: Path) -> None:
    moments = [datetime(9999, 12, 31), datetime(1600, 1, 1), None]
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["x"] * 3, "id": pa.array(moments, pa.timestamp("us"))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert pq.ParquetFile(path).schema.column(1).physical_type == "INT96"
    assert [row["id"] for row in read_all(tmp_path, TEXT_AND_ID)] == moments


@pytest.mark.parametrize("start", [0, 1, 4_095, 50_000, 69_990])
def test_of_a_giant_row_group_only_the_rows_asked_for_are_held(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a whole row group was read")

    texts = [f"row {row}" for row in range(70_000)]
    pq.write_table(pa.table({"text": texts, "id": range(70_000)}), tmp_path / "a.parquet", row_group_size=70_000)
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", refuse)
    stop = min(start + 5_000, 70_000)
    shard = Shard("name", (Piece(file, start, stop),), 0)
    rows = read_shard(shard, TEXT_AND_ID, ReadOptions(pa.schema([("id", pa.int64())]), True), STORAGE)
    assert rows["id"].to_pylist() == list(range(start, stop))
    assert rows[input_column("text")].to_pylist() == texts[start:stop]


def test_a_file_replaced_by_another_while_it_is_read_is_not_called_corrupt(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"])
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    (tmp_path / "a.parquet").write_bytes(b"half of anoth")
    with pytest.raises(CorpusError, match="changed or vanished while the job ran"):
        read_shard(whole(file, 1), TEXT, ReadOptions(pa.schema([]), True), STORAGE)
