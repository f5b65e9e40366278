from __future__ import annotations

from pathlib import Path

from pipeline.storage import Storage
from pipeline.studies.curve import CurvePoint
from pipeline.studies.records import RecordStore, fingerprint_of
from pipeline.studies.suite import SuiteResult

POINT = CurvePoint("cnn", 0.1, 90, 3, 0.75, 0.5, 12.5)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    points = RecordStore(str(tmp_path / "cells"), CurvePoint, Storage())
    results = RecordStore(str(tmp_path / "cells"), SuiteResult, Storage())
    result = SuiteResult(10, {"f1": 0.5}, None, None)
    points.write("a" * 64, POINT)
    results.write("b" * 64, result)
    assert points.read("a" * 64) == POINT
    assert results.read("b" * 64) == result


def test_no_record_and_one_of_another_kind_are_none(tmp_path: Path) -> None:
    points = RecordStore(str(tmp_path / "cells"), CurvePoint, Storage())
    assert points.read("a" * 64) is None
    RecordStore(str(tmp_path / "cells"), SuiteResult, Storage()).write("a" * 64, SuiteResult(10, {}, None, None))
    assert points.read("a" * 64) is None
    (tmp_path / "cells" / f"{'a' * 32}.json").write_text("{")
    assert points.read("a" * 64) is None


def test_a_fingerprint_depends_on_every_part_and_not_on_the_order_of_fields() -> None:
    assert fingerprint_of([1, {"a": 1, "b": 2}]) == fingerprint_of([1, {"b": 2, "a": 1}])
    assert len({fingerprint_of(parts) for parts in ([1, 2], [2, 1], [1, "2"], [1, 2, None])}) == 4
