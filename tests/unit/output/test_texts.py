"""Hashes of scored texts: written beside a file, found again by value, never believed where they do not fit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.output.texts import HashArray, HashedFile, TextIndex, TextStore, described_path, group_equal
from pipeline.storage import Storage

NIGHT = "run_date=2026-11-23"


@pytest.fixture
def store(tmp_path: Path) -> TextStore:
    return TextStore(str(tmp_path), "f" * 64, Storage())


def hashes(*numbers: int) -> HashArray:
    return np.array([[number, ~number % 2**64] for number in numbers], np.uint64).reshape(-1, 2)


def test_hashes_come_back_as_they_were_written(store: TextStore) -> None:
    store.write(f"{NIGHT}/a.parquet", hashes(7, 2**63 + 1, 7))
    (file,) = store.newest_files()
    assert file == HashedFile(f"{NIGHT}/a.parquet", 3)
    read = store.read(file)
    assert read is not None
    assert (read == hashes(7, 2**63 + 1, 7)).all()
    store.delete(file.path)
    assert (store.newest_files(), store.read(file)) == ((), None)


def test_another_fingerprint_knows_nothing_of_them(store: TextStore) -> None:
    store.write(f"{NIGHT}/a.parquet", hashes(7))
    assert TextStore(store.table_uri, "e" * 64, store.storage).newest_files() == ()


def test_only_the_newest_files_that_fit_are_taken(store: TextStore, tmp_path: Path) -> None:
    for moment, name in enumerate("abcd"):
        store.write(f"{NIGHT}/{name}.parquet", hashes(1, 2, 3))
        (path,) = tmp_path.rglob(f"{name}.hashes")
        os.utime(path, (moment, moment + 1))
    assert [file.path[-9] for file in store.newest_files()] == ["d", "c", "b", "a"]
    assert [file.path[-9] for file in store.newest_files(max_texts=8)] == ["d", "c"]
    assert [file.path[-9] for file in store.newest_files(max_files=3)] == ["d", "c", "b"]


def test_a_text_is_found_in_the_first_file_that_holds_it(store: TextStore) -> None:
    files = [HashedFile(f"{NIGHT}/{name}.parquet", 3) for name in "ab"]
    store.write(files[0].path, hashes(5, 9, 5))
    store.write(files[1].path, hashes(9, 4, 1))
    index = store.load_index(files)
    positions = index.find(hashes(4, 5, 6, 9, 1))
    assert (positions >= 0).tolist() == [True, True, False, True, True]
    found = list(index.by_file(positions[positions >= 0]))
    assert [(file, which.tolist(), rows.tolist()) for file, which, rows in found] == [
        (files[0], [1, 2], [0, 1]),
        (files[1], [0, 3], [1, 2]),
    ]


def test_a_hash_of_which_only_one_half_is_known_is_not_found() -> None:
    index = TextIndex.of([HashedFile("a", 1)], [np.array([[3, 8]], np.uint64)])
    assert index.find(np.array([[3, 9], [4, 8], [3, 8]], np.uint64)).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("content", [b"", b"x" * 15, b"x" * 32])
def test_hashes_of_another_number_of_rows_are_left_alone(store: TextStore, tmp_path: Path, content: bytes) -> None:
    file = HashedFile(f"{NIGHT}/a.parquet", 1)
    store.write(file.path, hashes(1))
    (path,) = tmp_path.rglob("*.hashes")
    path.write_bytes(content)
    assert store.read(file) is None
    assert store.load_index([file]).find(hashes(1)).tolist() == [-1]


def test_nothing_is_found_where_nothing_is_known(store: TextStore) -> None:
    index = store.load_index([])
    assert index.find(hashes(1, 2)).tolist() == [-1, -1]
    assert list(index.by_file(np.empty(0, np.int64))) == []
    firsts, groups = group_equal(hashes())
    assert (len(firsts), len(groups)) == (0, 0)


def test_an_object_of_hashes_names_its_file() -> None:
    assert described_path(f"_bertmill/texts/abc/{NIGHT}/a.hashes") == f"{NIGHT}/a.parquet"
    for other in (f"{NIGHT}/a.parquet", "_bertmill/texts/abc/a.hashes", f"_bertmill/texts/abc/{NIGHT}/.x.tmp"):
        assert described_path(other) is None
