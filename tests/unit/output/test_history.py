from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CorpusError
from pipeline.output.history import NightSummary, read_nights, table_columns
from pipeline.output.table import publish_night
from pipeline.storage import Storage
from tests.unit.output.records import SCHEMA, night, write_rows

STORAGE = Storage()
FIRST, SECOND = "2026-11-23", "2026-11-24"


def test_nights_are_summed_up_by_date(tmp_path: Path) -> None:
    a, b = write_rows(tmp_path, FIRST, "a", [1, 2]), write_rows(tmp_path, FIRST, "b", [3])
    later = write_rows(tmp_path, SECOND, "c", [4])
    publish_night(str(tmp_path), night(SECOND, later, model_version="m2"), STORAGE)
    publish_night(str(tmp_path), night(FIRST, a), STORAGE)
    published = publish_night(str(tmp_path), night(FIRST, a, b, model_version="m3"), STORAGE)
    first, second = read_nights(f"{tmp_path}/", STORAGE)
    assert first == NightSummary(FIRST, 3, 2, a.size_bytes + b.size_bytes, 0, published.version, ("m3",))
    assert second == NightSummary(SECOND, 1, 1, later.size_bytes, 0, 1, ("m2",))


def test_quarantined_rows_are_counted_by_night(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    publish_night(str(tmp_path), night(SECOND, write_rows(tmp_path, SECOND, "b", [2])), STORAGE)
    quarantine = tmp_path / "_quarantine"
    publish_night(str(quarantine), night(SECOND, write_rows(quarantine, SECOND, "bad", [7, 8])), STORAGE)
    assert [item.num_quarantined_rows for item in read_nights(str(tmp_path), STORAGE)] == [0, 2]


def test_a_place_without_a_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no Delta table there"):
        read_nights(str(tmp_path), STORAGE)


def test_the_columns_are_those_published(tmp_path: Path) -> None:
    publish_night(str(tmp_path), night(FIRST, write_rows(tmp_path, FIRST, "a", [1])), STORAGE)
    assert table_columns(str(tmp_path), STORAGE).names == SCHEMA.names
