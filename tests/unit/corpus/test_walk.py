from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.corpus.listing import list_corpus
from pipeline.corpus.walk import walk
from pipeline.errors import CorpusError, StorageDeniedError
from pipeline.storage import Storage, StoredObject

STORAGE = Storage()
LONG_AGO_S = 1_000_000_000


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1")
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def found_below(root: Path) -> list[str]:
    return [file.uri.removeprefix(f"{root}/") for file in list_corpus([str(root)], STORAGE)]


def test_a_link_to_a_file_has_the_etag_of_the_file(tmp_path: Path) -> None:
    target = touch(tmp_path / "elsewhere" / "a.parquet")
    (tmp_path / "corpus").mkdir()
    link = tmp_path / "corpus" / "a.parquet"
    link.symlink_to(target)
    (listed,) = list_corpus([str(tmp_path / "corpus")], STORAGE)
    (alone,) = list_corpus([str(link)], STORAGE)
    (stored,) = STORAGE.list_objects(str(link))
    assert listed == alone
    assert (listed.etag, listed.size_bytes) == (stored.etag, 4)
    os.utime(target, (LONG_AGO_S + 1, LONG_AGO_S + 1))
    (changed,) = list_corpus([str(tmp_path / "corpus")], STORAGE)
    assert changed.etag != listed.etag


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "deep" / "a.parquet")
    corpus = tmp_path / "corpus"
    touch(corpus / "b.parquet")
    (corpus / "day=1").symlink_to(tmp_path / "elsewhere")
    (corpus / "self").symlink_to(corpus)
    (tmp_path / "elsewhere" / "back").symlink_to(corpus)
    assert found_below(corpus) == ["b.parquet", "day=1/deep/a.parquet"]


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.parquet")
    (tmp_path / "corpus").symlink_to(tmp_path / "elsewhere")
    assert found_below(tmp_path / "corpus") == ["a.parquet"]


def test_a_link_to_nothing_is_named_and_hidden_ones_are_left_alone(tmp_path: Path) -> None:
    touch(tmp_path / "a.parquet")
    (tmp_path / ".#a.parquet").symlink_to("nobody@nowhere")
    assert found_below(tmp_path) == ["a.parquet"]
    (tmp_path / "b.parquet").symlink_to("gone.parquet")
    with pytest.raises(CorpusError, match=r"b\.parquet: a link to gone\.parquet, which is not there"):
        found_below(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    touch(tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")
    assert found_below(tmp_path) == ["a.parquet"]


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "closed" / "a.parquet")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageDeniedError, match="closed"):
        found_below(tmp_path)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.parquet")))
    with pytest.raises(CorpusError, match=r"caf\\xe9\.parquet: its name is not UTF-8"):
        found_below(tmp_path)


@dataclass(frozen=True)
class TreeStorage(Storage):
    """A remote store of some keys, that notes what it was asked."""

    keys: tuple[str, ...] = ()
    asked: list[tuple[str, str]] = field(default_factory=list)

    def list_level(self, uri: str) -> tuple[list[StoredObject], list[str]]:
        self.asked.append(("level", uri))
        below = [key.removeprefix(f"{uri}/") for key in self.keys if key.startswith(f"{uri}/")]
        names = sorted({name.split("/")[0] for name in below if "/" in name})
        return [StoredObject(f"{uri}/{name}", 1, "e") for name in below if "/" not in name], [
            f"{uri}/{name}" for name in names
        ]

    def list_objects(self, uri: str) -> list[StoredObject]:
        self.asked.append(("all", uri))
        return [StoredObject(key, 1, "e") for key in self.keys if key.startswith(f"{uri}/")]


@pytest.mark.parametrize("num_folders", [0, 1, 5, 31, 32, 100, 5_000])
def test_every_object_of_a_remote_tree_is_found(num_folders: int) -> None:
    keys = [f"s3://b/root/day={index}/hour={hour}/x.parquet" for index in range(num_folders) for hour in range(2)]
    storage = TreeStorage(keys=("s3://b/root/top.parquet", *keys))
    assert {item.uri for item in walk("s3://b/root", storage)} == set(storage.keys)
    assert len(list_corpus(["s3://b/root"], storage)) == len(storage.keys)


def test_folders_are_listed_one_by_one_only_where_that_is_fewer_requests() -> None:
    days = TreeStorage(keys=tuple(f"s3://b/root/day={index}/x.parquet" for index in range(365)))
    list(walk("s3://b/root", days))
    assert days.asked.count(("level", "s3://b/root")) == 1
    assert len([kind for kind, _ in days.asked if kind == "all"]) == 365
    many = TreeStorage(keys=tuple(f"s3://b/root/id={index}/x.parquet" for index in range(5_000)))
    list(walk("s3://b/root", many))
    assert many.asked == [("level", "s3://b/root"), ("all", "s3://b/root")]


def test_the_empty_object_of_a_folder_is_no_file() -> None:
    storage = TreeStorage(keys=("s3://b/root/", "s3://b/root/day=1/", "s3://b/root/day=1/x.parquet"))
    assert [file.uri for file in list_corpus(["s3://b/root"], storage)] == ["s3://b/root/day=1/x.parquet"]
