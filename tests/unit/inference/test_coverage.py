"""Lists of what the nights hold: believed only where the table shows exactly what they name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.corpus.listing import CorpusFile
from pipeline.errors import AccountingError
from pipeline.inference.coverage import NOTHING, Coverage, CoverageStore
from pipeline.output.compact import compact_night
from tests.unit.output.scored import FINGERPRINT, NEXT_NIGHT, NIGHT, STORAGE, publish, scored_row, write_shard

AFTER = "2026-11-25"
PATHS = [f"run_date={NIGHT}/s0-0.parquet", f"run_date={NIGHT}/s1-0.parquet"]
FILES = [CorpusFile("c/f.parquet", 10, "e1"), CorpusFile("c/g.parquet", 20, "e2")]
COVERED = NOTHING.extended(FILES, NIGHT)


@pytest.fixture
def store(tmp_path: Path) -> CoverageStore:
    """A night of two shards, and the list that goes with it."""
    _publish_night(tmp_path, NIGHT, "s0", "s1")
    store = CoverageStore(str(tmp_path), FINGERPRINT, STORAGE)
    store.write(NIGHT, COVERED, PATHS)
    return store


def _publish_night(table: Path, night: str, *shards: str, **footer: str) -> None:
    records = [
        write_shard(table, night, shard, [scored_row(shard, row) for row in range(3)], **footer) for shard in shards
    ]
    publish(table, night, *records)


def test_a_file_is_lacking_if_unknown_or_of_another_version() -> None:
    assert [COVERED.lacks(file) for file in FILES] == [False, False]
    assert COVERED.lacks(CorpusFile("c/f.parquet", 10, "e3"))
    assert COVERED.lacks(CorpusFile("c/h.parquet", 10, "e1"))
    assert NOTHING.lacks(FILES[0])


def test_a_list_comes_back_as_it_was_written(store: CoverageStore) -> None:
    assert store.published(NIGHT) == COVERED
    assert store.before(NEXT_NIGHT) == COVERED
    assert store.before(NIGHT) == NOTHING
    assert store.published(NEXT_NIGHT) is None


def test_files_keep_the_night_that_holds_them(store: CoverageStore, tmp_path: Path) -> None:
    later = COVERED.extended([CorpusFile("c/g.parquet", 20, "e9")], NEXT_NIGHT)
    assert later == Coverage(
        {"c/f.parquet": "e1", "c/g.parquet": "e9"}, {"c/f.parquet": NIGHT, "c/g.parquet": NEXT_NIGHT}
    )
    _publish_night(tmp_path, NEXT_NIGHT, "s2")
    store.write(NEXT_NIGHT, later, [f"run_date={NEXT_NIGHT}/s2-0.parquet"])
    assert store.before(AFTER) == later
    assert store.before(NEXT_NIGHT) == COVERED


@pytest.mark.parametrize("held", [[], [CorpusFile("c/f.parquet", 10, "e3")]])
def test_a_file_that_its_night_no_longer_holds_in_that_version_is_new(
    store: CoverageStore, tmp_path: Path, held: list[CorpusFile]
) -> None:
    _publish_night(tmp_path, NEXT_NIGHT, "s2")
    store.write(NEXT_NIGHT, COVERED.extended([], NEXT_NIGHT), [f"run_date={NEXT_NIGHT}/s2-0.parquet"])
    assert store.before(AFTER) == COVERED
    _publish_night(tmp_path, NIGHT, "s3")
    store.write(NIGHT, NOTHING.extended([FILES[1], *held], NIGHT), [f"run_date={NIGHT}/s3-0.parquet"])
    assert store.before(AFTER) == NOTHING.extended([FILES[1]], NIGHT)


@pytest.mark.parametrize("paths", [PATHS[:1], [*PATHS, "run_date=2026-11-23/s2-0.parquet"], []])
def test_a_list_that_names_other_files_than_the_night_shows_is_not_believed(tmp_path: Path, paths: list[str]) -> None:
    _publish_night(tmp_path, NIGHT, "s0", "s1")
    store = CoverageStore(str(tmp_path), FINGERPRINT, STORAGE)
    store.write(NIGHT, COVERED, paths)
    assert store.published(NIGHT) is None
    assert store.before(NEXT_NIGHT) == NOTHING


def test_a_list_that_is_not_believed_leaves_the_believed_one_as_it_was(store: CoverageStore, tmp_path: Path) -> None:
    more = COVERED.extended([CorpusFile("c/h.parquet", 1, "e")], NIGHT)
    later = f"run_date={NIGHT}/s2-0.parquet"
    store.write(NIGHT, more, [*PATHS, later])
    assert store.published(NIGHT) == COVERED
    assert store.before(NEXT_NIGHT) == COVERED
    _publish_night(tmp_path, NIGHT, "s0", "s1", "s2")
    assert store.published(NIGHT) == more


def test_of_two_lists_that_name_the_shown_files_the_newer_counts(store: CoverageStore, tmp_path: Path) -> None:
    other = COVERED.extended([CorpusFile("c/old.parquet", 1, "e")], "2026-11-20")
    (first,) = tmp_path.glob("_bertmill/coverage/*/*.parquet")
    os.utime(first, (1, 1))
    store.write(NIGHT, other, PATHS)
    assert store.published(NIGHT) == other
    store.write(NIGHT, COVERED, PATHS)
    assert len(list(tmp_path.glob("_bertmill/coverage/*/*.parquet"))) == 2, "a list written twice is one"
    (second,) = set(tmp_path.glob("_bertmill/coverage/*/*.parquet")) - {first}
    os.utime(second, (1, 1))
    assert store.published(NIGHT) == COVERED


def test_an_unbelieved_night_is_passed_over(store: CoverageStore) -> None:
    store.write(NEXT_NIGHT, COVERED.extended([CorpusFile("c/h.parquet", 1, "e")], NEXT_NIGHT), ["run_date=x/y.parquet"])
    assert store.before(AFTER) == COVERED


def test_a_list_without_a_table_is_not_believed(tmp_path: Path) -> None:
    store = CoverageStore(str(tmp_path / "none"), FINGERPRINT, STORAGE)
    store.write(NIGHT, COVERED, [])
    assert store.published(NIGHT) is None


def test_an_empty_night_is_believed_with_its_list(store: CoverageStore) -> None:
    store.write(NEXT_NIGHT, COVERED, [])
    assert store.published(NEXT_NIGHT) == COVERED
    assert store.before(AFTER) == COVERED


def test_a_compacted_night_shows_what_its_list_names(store: CoverageStore, tmp_path: Path) -> None:
    compact_night(str(tmp_path), NIGHT, 1_000_000, STORAGE)
    assert store.before(NEXT_NIGHT) == COVERED


def test_another_fingerprints_list_is_another_list(store: CoverageStore, tmp_path: Path) -> None:
    other = CoverageStore(str(tmp_path), "e" * 64, STORAGE)
    assert other.before(NEXT_NIGHT) == NOTHING
    assert other.published(NIGHT) is None


def test_what_stands_below_another_fingerprints_night_counts_as_new(store: CoverageStore, tmp_path: Path) -> None:
    _publish_night(tmp_path, "2026-11-24", "s2", fingerprint="e" * 64)
    assert store.before("2026-11-24") == COVERED
    assert store.before(AFTER) == NOTHING
    _publish_night(tmp_path, AFTER, "s3")
    store.write(AFTER, COVERED.extended([FILES[1]], AFTER), [f"run_date={AFTER}/s3-0.parquet"])
    assert store.before("2026-11-26") == Coverage({"c/g.parquet": "e2"}, {"c/g.parquet": AFTER})


@pytest.mark.parametrize("content", [b"", b"junk", b"{}"])
def test_a_list_that_cannot_be_read_says_what_to_do(store: CoverageStore, tmp_path: Path, content: bytes) -> None:
    (path,) = tmp_path.glob(f"_bertmill/coverage/run_date={NIGHT}/*.parquet")
    path.write_bytes(content)
    with pytest.raises(AccountingError, match="its night then counts as not covered"):
        store.before(NEXT_NIGHT)
