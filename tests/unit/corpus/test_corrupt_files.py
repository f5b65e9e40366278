from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import reader
from pipeline.corpus.column_types import kept_schema
from pipeline.corpus.layouts import LayoutCache
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import (
    REASON,
    Columns,
    ReadOptions,
    Survey,
    input_column,
    read_footers,
    read_shard,
    survey_files,
)
from pipeline.corpus.shards import Piece, Shard
from pipeline.errors import CorpusError, CorruptFileError, StorageDeniedError, TransientStorageError
from pipeline.storage import NUM_ATTEMPTS, Storage

STORAGE = Storage()
COLUMNS = Columns(("text",), ("id",))
REASON_START = "not a readable Parquet file: Parquet magic bytes not found in footer."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    for name in "ace":
        rows = pa.table({"text": ["some text"] * 4, "id": pa.array(range(4), pa.int16())})
        pq.write_table(rows, directory / f"{name}.parquet", row_group_size=2, compression="none", use_dictionary=False)
    for name in "bd":
        (directory / f"{name}.parquet").write_bytes(b"PAR1 not at all PAR2")
    return directory


def files_of(corpus: Path) -> list[CorpusFile]:
    return list_corpus([str(corpus)], STORAGE)


def names_in(survey: Survey) -> tuple[str, str]:
    kept = "".join(Path(footer.layout.file.uri).stem for footer in survey.footers)
    return kept, "".join(Path(file.uri).stem for file in survey.skipped)


def test_corrupt_files_are_an_error_unless_the_caller_says_skip(corpus: Path) -> None:
    with pytest.raises(CorpusError, match="2 of 5 files cannot be used"):
        read_footers(files_of(corpus), COLUMNS, STORAGE)
    survey = survey_files(files_of(corpus), COLUMNS, STORAGE, skip_corrupt=True)
    assert names_in(survey) == ("ace", "bd")
    assert all(file.reason.startswith(REASON_START) for file in survey.skipped)


def test_the_cache_remembers_sound_files_and_opens_corrupt_ones_again(corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    cache = LayoutCache(str(tmp_path / "cache"), COLUMNS, STORAGE)
    survey = cache.survey(files, skip_corrupt=True)
    cache.save(survey.footers)
    for name in "ace":
        (corpus / f"{name}.parquet").unlink()
    assert cache.survey(files, skip_corrupt=True) == survey
    with pytest.raises(CorpusError, match="2 of 2 files cannot be used"):
        cache.survey(files)


def test_a_file_that_lacks_a_column_or_vanished_is_not_skipped(corpus: Path) -> None:
    files = files_of(corpus)
    with pytest.raises(CorpusError, match="3 of 5 files cannot be used"):
        survey_files(files, Columns(("title",)), STORAGE, skip_corrupt=True)
    (corpus / "a.parquet").unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet: changed or vanished"):
        survey_files(files, COLUMNS, STORAGE, skip_corrupt=True)


def test_a_file_with_a_column_that_arrow_does_not_know_is_not_called_corrupt(corpus: Path) -> None:
    numbers = pl.Series([1, 2], dtype=pl.Int128)
    pl.DataFrame({"text": ["a", "b"], "id": [1, 2], "other": numbers}).write_parquet(corpus / "b.parquet")
    with pytest.raises(CorpusError, match=r"b\.parquet: has a column, .* know: Integers with more than 64") as caught:
        survey_files(files_of(corpus), COLUMNS, STORAGE, skip_corrupt=True)
    assert not isinstance(caught.value, CorruptFileError)
    assert "128-bit integers as text" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "kind"),
    [(PermissionError("Access Denied"), StorageDeniedError), (OSError("SlowDown"), TransientStorageError)],
)
def test_a_store_that_refuses_or_fails_is_never_a_corrupt_file(
    error: Exception, kind: type[Exception], corpus: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    files = files_of(corpus)[:1]
    monkeypatch.setattr(reader, "open_footer", fail)
    with pytest.raises(kind, match=r"cannot read .*a\.parquet"):
        survey_files(files, COLUMNS, STORAGE, skip_corrupt=True)
    assert len(naps) in (0, NUM_ATTEMPTS - 1)


def spoil_second_row_group(path: Path) -> None:
    chunk = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(content)


def test_a_corrupt_part_behind_a_sound_footer_is_an_error_or_bad_rows(corpus: Path) -> None:
    spoil_second_row_group(corpus / "a.parquet")
    file = files_of(corpus)[0]
    shard = Shard("name", (Piece(file, 0, 2), Piece(file, 2, 4)), 0)
    kept = kept_schema(read_footers([file], COLUMNS, STORAGE), ("id",))
    with pytest.raises(CorruptFileError, match=r"a\.parquet: not a readable Parquet file"):
        read_shard(shard, COLUMNS, ReadOptions(kept, True), STORAGE)
    rows = read_shard(shard, COLUMNS, ReadOptions(kept, True, quarantine_corrupt=True), STORAGE)
    assert rows["source_row"].to_pylist() == [0, 1, 2, 3]
    assert rows[input_column("text")].to_pylist() == ["some text", "some text", None, None]
    assert rows["id"].to_pylist() == [0, 1, None, None]
    reasons = rows[REASON].to_pylist()
    assert reasons[:2] == [None, None]
    assert all(reason.startswith("not a readable Parquet file: ") for reason in reasons[2:])
