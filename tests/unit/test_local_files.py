"""Local files are there whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.local_files import create_file, replace_file


def test_a_file_takes_the_place_of_the_one_before_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in ("one", "two"):
        replace_file(str(path), lambda temporary, content=content: Path(temporary).write_text(content))
        assert path.read_text() == content
    assert [found.name for found in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("put", [replace_file, create_file])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(put, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def write_half(temporary: str) -> None:
        Path(temporary).write_text("ha")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        put(str(path), write_half)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("put", [replace_file, create_file])
def test_a_file_in_the_folders_place_is_no_folder(put, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        put(str(tmp_path / "file" / "new"), lambda at: Path(at).write_text("new"))
    assert (tmp_path / "file").read_text() == "before"


def test_of_many_writers_one_creates_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with ThreadPoolExecutor(8) as threads:
        won = list(
            threads.map(lambda number: create_file(str(path), lambda at: Path(at).write_text(str(number))), range(32))
        )
    assert sum(won) == 1
    assert path.read_text() == str(won.index(True))
    assert list(tmp_path.iterdir()) == [path]
