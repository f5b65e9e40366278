from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.corpus.listing import list_corpus
from pipeline.errors import CorpusError
from pipeline.storage import Storage

STORAGE = Storage()


def touch(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1")


def names_below(directory: Path, *uris: str) -> list[str]:
    files = list_corpus(uris or [str(directory)], STORAGE)
    return [file.uri.removeprefix(f"{directory}/") for file in files]


def test_parquet_files_are_listed_by_uri_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.parquet", "a/z.PARQUET", "a/y.pq", "c.parq", "notes.txt", "parquet")
    assert names_below(tmp_path) == ["a/y.pq", "a/z.PARQUET", "b.parquet", "c.parq"]


def test_a_codec_may_stand_behind_the_ending(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet.gzip", "b.PARQUET.SNAPPY", "c.parquet.zst", "d.parquet.tmp", "e.gzip")
    assert names_below(tmp_path) == ["a.parquet.gzip", "b.PARQUET.SNAPPY", "c.parquet.zst"]


def test_files_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "x/a.parquet", "x/part-1", "x/part-0", "_SUCCESS", "x/_part-2")
    assert names_below(tmp_path, str(tmp_path), str(tmp_path / "x")) == ["x/a.parquet"]
    assert f"2 other files were not read (first: {tmp_path}/x/part-0)" in caplog.text


def test_nothing_is_told_of_hidden_files_and_of_those_that_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.parquet", "part-0", "_SUCCESS", ".a.parquet.crc")
    assert names_below(tmp_path, str(tmp_path), str(tmp_path / "part-0")) == ["a.parquet", "part-0"]
    assert not caplog.records


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "_b.parquet", ".c.parquet", "_temporary/d.parquet", "x/.tmp/e.parquet", "_SUCCESS")
    assert names_below(tmp_path) == ["a.parquet"]


def test_a_hive_key_may_begin_with_an_underscore(tmp_path: Path) -> None:
    touch(tmp_path, "_day=1/a.parquet")
    assert names_below(tmp_path) == ["_day=1/a.parquet"]


def test_the_root_itself_may_be_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "_staging/a.parquet")
    assert names_below(tmp_path, str(tmp_path / "_staging")) == ["_staging/a.parquet"]


def test_a_file_named_in_the_spec_is_taken_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "_data.bin", "other.parquet")
    assert names_below(tmp_path, str(tmp_path / "_data.bin")) == ["_data.bin"]


def test_overlapping_roots_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.parquet", "b/2.parquet")
    uris = [f"{tmp_path}/b", str(tmp_path), f"{tmp_path}/a/", f"{tmp_path}/a/../a/1.parquet"]
    assert names_below(tmp_path, *uris) == ["a/1.parquet", "b/2.parquet"]


@pytest.mark.parametrize(
    ("path", "partition"),
    [
        ("a.parquet", ()),
        ("day=2026-01-01/hour=3/a.parquet", (("day", "2026-01-01"), ("hour", "3"))),
        ("source=a%20b%2Fc/a.parquet", (("source", "a b/c"),)),
        ("k%3D1=x=y/a.parquet", (("k=1", "x=y"),)),
        ("key=/plain/a.parquet", (("key", ""),)),
        ("plain/name=1.parquet", ()),
    ],
)
def test_hive_keys_are_read_from_the_folders(tmp_path: Path, path: str, partition: tuple[tuple[str, str], ...]) -> None:
    touch(tmp_path, path)
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    assert file.partition == partition


def test_hive_keys_above_the_root_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "day=1/hour=2/a.parquet")
    (file,) = list_corpus([f"{tmp_path}/day=1"], STORAGE)
    assert file.partition == (("hour", "2"),)


def test_size_and_etag_come_from_the_store(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet")
    (file,) = list_corpus([str(tmp_path)], STORAGE)
    (stored,) = STORAGE.list_objects(str(tmp_path))
    assert (file.size_bytes, file.etag) == (4, stored.etag)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_a_root_with_nothing_in_it_is_an_error(tmp_path: Path, make: object) -> None:
    make(tmp_path / "corpus")  # type: ignore[operator]
    with pytest.raises(CorpusError, match=r"corpus: nothing there; expected a Parquet file"):
        list_corpus([str(tmp_path / "corpus")], STORAGE)


def test_a_root_without_parquet_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "rows.csv", "_hidden.parquet")
    expected = r"2 objects but no Parquet file \(found _hidden\.parquet, rows\.csv\)"
    with pytest.raises(CorpusError, match=expected) as error:
        list_corpus([str(tmp_path)], STORAGE)
    assert "rename them, or name each" in error.value.remedy


def test_one_bad_root_among_good_ones_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.parquet")
    with pytest.raises(CorpusError, match=r"/nowhere: nothing there"):
        list_corpus([f"{tmp_path}/a", f"{tmp_path}/nowhere"], STORAGE)
