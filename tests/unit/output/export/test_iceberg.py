from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.errors import CommitConflictError, InputError, OutputTakenError, SpecError
from pipeline.output.export.night import ExportedNight, export_night
from pipeline.output.export.parts import PartWriter
from pipeline.output.export.request import IcebergPlace, parse_request
from pipeline.schema import BESIDE
from tests.unit.output import scored
from tests.unit.output.export.exporting import Rows, make_night, read_delta
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, STORAGE

catalogs = pytest.importorskip("pyiceberg.catalog", reason="the extra `iceberg` is not installed")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A night of four files with three rows each."""
    make_night(tmp_path / "scores")
    return tmp_path / "scores"


def place(root: Path, name: str = "ml.scores") -> IcebergPlace:
    return IcebergPlace(f"sqlite:///{root}/catalog.db", name)


def export(root: Path, run_date: str = NIGHT, name: str = "ml.scores", **changes: Any) -> ExportedNight:
    target, columns = changes.pop("target", "lake"), changes.pop("columns", ())
    table = str(root / changes.pop("table", "scores"))
    return export_night(
        parse_request(table, run_date, str(root / target), "iceberg", columns, place(root, name)), STORAGE
    )


def opened(root: Path, name: str = "ml.scores") -> Any:
    return catalogs.load_catalog("default", uri=place(root).catalog, warehouse=str(root / "lake")).load_table(name)


def read(root: Path) -> Rows:
    """The rows as pyiceberg has them."""
    found = opened(root).scan().to_arrow().to_pylist()
    return sorted(found, key=lambda row: (row["run_date"], row["source_file"], row["source_row"]))


def test_both_readers_find_the_nights_rows(table: Path, tmp_path: Path) -> None:
    make_night(table, 2, NEXT_NIGHT, run_id="r2")
    first, second = export(tmp_path), export(tmp_path, NEXT_NIGHT)
    assert (first.switched, first.num_rows, second.num_rows) == (True, 12, 6)
    expected = [*read_delta(table), *read_delta(table, NEXT_NIGHT)]
    assert read(tmp_path) == expected
    metadata = opened(tmp_path).metadata_location
    counted = pl.scan_iceberg(metadata).group_by("run_date").len().sort("run_date").collect()
    assert [(str(day), rows) for day, rows in counted.iter_rows()] == [(NIGHT, 12), (NEXT_NIGHT, 6)]


@pytest.mark.usefixtures("table")
def test_an_export_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Embeddings have no statistics, which pyiceberg would say of each column."""
    export(tmp_path)
    assert caplog.messages == []


def test_only_a_night_s_own_files_are_planned(table: Path, tmp_path: Path) -> None:
    make_night(table, 2, NEXT_NIGHT, run_id="r2")
    export(tmp_path)
    export(tmp_path, NEXT_NIGHT)
    files = [task.file.file_path for task in opened(tmp_path).scan(f"run_date = '{NIGHT}'").plan_files()]
    assert len(files) == 1
    assert f"run_date={NIGHT}/" in files[0]


def test_a_night_that_stands_is_not_committed_again_and_a_new_one_replaces_it(table: Path, tmp_path: Path) -> None:
    export(tmp_path)
    before = opened(tmp_path).metadata_location
    assert not export(tmp_path).switched
    assert opened(tmp_path).metadata_location == before
    make_night(table, run_id="r2", label="new")
    assert export(tmp_path).switched
    assert {row["label"] for row in read(tmp_path)} == {"new"}
    assert len(read(tmp_path)) == 12


def test_a_night_without_rows_is_noted_and_empties_what_was_shown(table: Path, tmp_path: Path) -> None:
    scored.publish(table, NEXT_NIGHT)
    assert export(tmp_path, NEXT_NIGHT).switched
    assert read(tmp_path) == []
    assert not export(tmp_path, NEXT_NIGHT).switched
    export(tmp_path)
    scored.publish(table, NIGHT, run_id="r2")
    assert export(tmp_path).switched
    assert read(tmp_path) == []


def test_an_export_that_dies_before_its_commit_shows_the_old_night(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path)
    make_night(table, run_id="r2", label="new")

    def die(self: PartWriter) -> Any:
        real(self)
        raise KeyboardInterrupt("killed")

    real = PartWriter.write_all
    with monkeypatch.context() as patched:
        patched.setattr(PartWriter, "write_all", die)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            export(tmp_path)
    assert {row["label"] for row in read(tmp_path)} == {"good", "bad"}
    assert export(tmp_path).switched


def overtaken(root: Path, run_date: str, monkeypatch: pytest.MonkeyPatch) -> ExportedNight:
    """An export of a night during which another one, perhaps of another night, begins and ends."""
    real = PartWriter.write_all

    def be_overtaken(self: PartWriter) -> Any:
        monkeypatch.setattr(PartWriter, "write_all", real)
        export(root, run_date)
        return real(self)

    monkeypatch.setattr(PartWriter, "write_all", be_overtaken)
    return export(root)


def test_of_two_exports_of_one_night_one_commits(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    export(tmp_path)
    make_night(table, run_id="r2", label="new")
    with pytest.raises(CommitConflictError, match=r"ml\.scores of catalog .*: somebody else committed the night"):
        overtaken(tmp_path, NIGHT, monkeypatch)
    assert [row["label"] for row in read(tmp_path)] == ["new"] * 12
    assert not export(tmp_path).switched


def test_exports_of_two_nights_both_commit(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    export(tmp_path)
    make_night(table, run_id="r2", label="new")
    make_night(table, 2, NEXT_NIGHT, run_id="r3", label="next")
    assert overtaken(tmp_path, NEXT_NIGHT, monkeypatch).switched
    assert [row["label"] for row in read(tmp_path)] == ["new"] * 12 + ["next"] * 6
    assert not export(tmp_path).switched
    assert not export(tmp_path, NEXT_NIGHT).switched


def test_chosen_columns_are_the_table_s(table: Path, tmp_path: Path) -> None:
    export(tmp_path, columns=("id", "embedding"))
    assert list(read_keys(tmp_path)) == ["id", "embedding", "run_date"]
    with pytest.raises(OutputTakenError, match="another columns is asked for"):
        export(tmp_path)
    with pytest.raises(OutputTakenError, match="holds id, embedding; the export is asked for all columns"):
        export(tmp_path, target="other")


def test_a_column_that_a_later_night_brings_is_null_in_the_others(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(
            scored, "SCHEMA", scored.SCHEMA.append(pa.field("next_score", pa.float32(), metadata={BESIDE: b"next"}))
        )
        make_night(table, 2, NEXT_NIGHT, run_id="r2", next_score=0.5)
    assert export(tmp_path, NEXT_NIGHT).switched
    assert [(row["label"], row["next_score"]) for row in read(tmp_path)] == [
        *((row["label"], None) for row in read_delta(table)),
        *((row["label"], 0.5) for row in read_delta(table, NEXT_NIGHT)),
    ]
    assert not export(tmp_path).switched
    make_night(table, run_id="r3", label="new")
    assert export(tmp_path).switched, "a night without the column can still be replaced"
    assert [row["next_score"] for row in read(tmp_path)] == [None] * 12 + [0.5] * 6
    counted = pl.scan_iceberg(opened(tmp_path).metadata_location).select(pl.col("next_score").count()).collect()
    assert counted.item() == 6


def read_keys(root: Path) -> list[str]:
    return list(opened(root).scan().to_arrow().column_names)


def test_a_table_of_somebody_else_is_refused(table: Path, tmp_path: Path) -> None:
    export(tmp_path)
    make_night(tmp_path / "others")
    with pytest.raises(OutputTakenError, match=r"ml\.scores of catalog .*: a table is there that is no export of"):
        export(tmp_path, table="others", target="second")


def test_a_catalog_that_cannot_be_used_is_named(table: Path, tmp_path: Path) -> None:
    asked = IcebergPlace("no-such-catalog", "ml.scores")
    request = parse_request(str(table), NIGHT, str(tmp_path / "lake"), "iceberg", (), asked)
    with pytest.raises(InputError, match=r"cannot open ml\.scores of catalog no-such-catalog: "):
        export_night(request, STORAGE)


def test_the_extra_is_asked_for(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs pyiceberg") as caught:
        export(tmp_path)
    assert caught.value.remedy == "pip install 'bertmill[iceberg]'"


@pytest.mark.parametrize(
    ("format_", "iceberg", "message"),
    [
        ("iceberg", None, "--catalog and --as: is missing; expected both"),
        ("csv", IcebergPlace("c", "a.b"), "is given, and --format is csv"),
        ("iceberg", IcebergPlace("c", "scores"), r"--as: 'scores'; expected namespace\.table"),
    ],
)
def test_half_a_place_is_refused(format_: str, iceberg: IcebergPlace | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_request("scores", NIGHT, "lake", format_, (), iceberg)
