from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.uris import canonical_uri, is_temporary, join_uri, name_temporary, split_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/a", ("file", "/data/a")),
        ("/data/../a//b/", ("file", "/a/b")),
        ("file:///data/a b", ("file", "/data/a b")),
        ("s3://bucket/key/", ("s3", "bucket/key")),
        ("s3a://bucket/key", ("s3", "bucket/key")),
        ("s3://bucket", ("s3", "bucket")),
        ("s3://bucket/a?b#c%20d", ("s3", "bucket/a?b#c%20d")),
        ("gs://bucket/key", ("gs", "bucket/key")),
        ("/data/date=2026-01-01T00:00/a", ("file", "/data/date=2026-01-01T00:00/a")),
    ],
)
def test_split_uri(uri: str, expected: tuple[str, str]) -> None:
    assert split_uri(uri) == expected


def test_relative_and_home_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert split_uri("a/b") == ("file", f"{tmp_path}/a/b")
    assert split_uri("time:12/b") == ("file", f"{tmp_path}/time:12/b")
    assert split_uri("~/b") == ("file", "/home/me/b")


@pytest.mark.parametrize("uri", ["/data/a", "s3://bucket/key", "az://container/key"])
def test_a_canonical_uri_stays_as_it_is(uri: str) -> None:
    assert canonical_uri(uri) == uri


@pytest.mark.parametrize(
    "spellings",
    [
        ("/data/a", "/data/a/", "file:///data/a", "/data/x/../a", "/data/./a"),
        ("s3://b/k", "s3://b/k/", "s3a://b/k"),
    ],
)
def test_one_place_has_one_spelling(spellings: tuple[str, ...]) -> None:
    assert {canonical_uri(spelling) for spelling in spellings} == {spellings[0]}


def test_join_uri_adds_exactly_one_slash() -> None:
    assert join_uri("s3://b/k/", "x", "y") == join_uri("s3://b/k", "x", "y") == "s3://b/k/x/y"


def test_a_temporary_name_is_hidden_beside_its_file_and_known_again() -> None:
    names = {name_temporary("/data/b/model.safetensors") for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("/data/b/.") and is_temporary(name) for name in names)
    assert not any(map(is_temporary, ("/data/b/.tmp", "/data/b/x.tmp", "/data/b/model.safetensors")))
