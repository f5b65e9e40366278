from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.layouts import LayoutCache
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import Columns
from pipeline.errors import CorpusError
from pipeline.storage import Storage

STORAGE = Storage()
COLUMNS = Columns(("text",), ("id",))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus" / "day=1"
    directory.mkdir(parents=True)
    for number in range(3):
        rows = pa.table({"text": ["some text"] * (number + 1), "id": pa.array(range(number + 1), pa.int16())})
        pq.write_table(rows, directory / f"{number}.parquet", row_group_size=2)
    return directory


def files_of(corpus: Path) -> list[CorpusFile]:
    return list_corpus([str(corpus.parent)], STORAGE)


def cache_in(tmp_path: Path, columns: Columns = COLUMNS) -> LayoutCache:
    return LayoutCache(str(tmp_path / "cache"), columns, STORAGE)


def test_an_empty_cache_reads_every_footer(corpus: Path, tmp_path: Path) -> None:
    footers = cache_in(tmp_path).survey(files_of(corpus)).footers
    assert [footer.layout.num_rows for footer in footers] == [1, 2, 3]
    assert not (tmp_path / "cache").exists()


def test_a_file_whose_etag_is_known_is_not_opened_again(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = cache_in(tmp_path)
    read = cache.survey(files).footers
    cache.save(read)
    (corpus / "0.parquet").unlink()
    (corpus / "1.parquet").write_bytes(b"no longer Parquet")
    assert cache_in(tmp_path).survey(files).footers == read


def test_answers_keep_the_order_asked_for(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = cache_in(tmp_path)
    cache.save(cache.survey(files[1:2]).footers)
    asked = [files[2], files[1], files[0]]
    assert [footer.layout.file for footer in cache.survey(asked).footers] == asked


def test_a_file_whose_etag_changed_is_opened(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = cache_in(tmp_path)
    cache.save(cache.survey(files).footers)
    (corpus / "1.parquet").write_bytes(b"no longer Parquet")
    changed = [files[0], replace(files[1], etag="other"), files[2]]
    with pytest.raises(CorpusError, match=r"1\.parquet: not a readable Parquet file"):
        cache.survey(changed)


def test_a_changed_file_gets_its_new_layout(corpus: Path, tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.save(cache.survey(files_of(corpus)).footers)
    pq.write_table(pa.table({"text": ["x"] * 9, "id": pa.array(range(9), pa.int16())}), corpus / "1.parquet")
    assert [footer.layout.num_rows for footer in cache.survey(files_of(corpus)).footers] == [1, 9, 3]


def test_saving_forgets_what_is_not_given(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = cache_in(tmp_path)
    read = cache.survey(files).footers
    cache.save(read)
    cache.save(read[:2])
    (corpus / "2.parquet").write_bytes(b"no longer Parquet")
    with pytest.raises(CorpusError, match=r"2\.parquet"):
        cache.survey(files)


def test_another_set_of_columns_is_another_cache(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = cache_in(tmp_path)
    cache.save(cache.survey(files).footers)
    with pytest.raises(CorpusError, match="no column 'title'"):
        cache_in(tmp_path, Columns(("title",), ("id",))).survey(files)
    with pytest.raises(CorpusError, match="no column 'stars'"):
        cache_in(tmp_path, Columns(("text",), ("stars",))).survey(files)
    assert len(cache.survey(files).footers) == 3


def test_sizes_without_the_kept_columns_are_not_taken(corpus: Path, tmp_path: Path) -> None:
    """What was remembered before kept columns counted."""
    files, cache = files_of(corpus), cache_in(tmp_path)
    read = cache.survey(files).footers
    cache.save(read)
    (path,) = (tmp_path / "cache").iterdir()
    rows = pq.read_table(path)
    inputs_alone = rows.set_column(
        rows.schema.get_field_index("bytes_read"), "group_bytes", pa.array([[1]] * 3, pa.list_(pa.int64()))
    )
    pq.write_table(inputs_alone, path)
    assert cache.survey(files).footers == read
    cache.save(read)
    assert pq.read_table(path).equals(rows)


def test_types_and_hive_keys_are_remembered(corpus: Path, tmp_path: Path) -> None:
    columns = Columns(("text",), ("id", "day"))
    cache = cache_in(tmp_path, columns)
    cache.save(cache.survey(files_of(corpus)).footers)
    (footer, *_) = cache_in(tmp_path, columns).survey(files_of(corpus)).footers
    assert footer.schema == pa.schema([("text", pa.string()), ("id", pa.int16()), ("day", pa.string())])
