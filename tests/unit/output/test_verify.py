from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.output.compact import compact_night
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.origins import origin_of
from pipeline.output.table import DataFile, Night, publish_night
from pipeline.output.verify import VerifiedNight, verify_night
from pipeline.storage import Storage
from tests.unit.output import scored
from tests.unit.output.scored import FINGERPRINT, NIGHT, SCHEMA, publish, scored_row, write_shard

STORAGE = Storage()
PATH = f"run_date={NIGHT}/s0-0.parquet"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two shards: rows 0-9 of f and rows 10-19 with g, of which two are quarantined."""
    first = write_shard(tmp_path, NIGHT, "s0", [scored_row("f", row) for row in range(10)])
    second_rows = [scored_row("f", row) for row in range(12, 20)] + [scored_row("g", 0)]
    second = write_shard(tmp_path, NIGHT, "s1", second_rows, [scored_row("f", 10), scored_row("f", 11)])
    publish(tmp_path, NIGHT, first, second)
    return tmp_path


def verify(table: Path) -> VerifiedNight:
    return verify_night(f"{table}/", NIGHT, STORAGE)


def rewrite(table: Path, change: Callable[[pa.Table], pa.Table], path: str = PATH) -> None:
    """Change a file behind the table's back; its footer stays."""
    rows = pq.read_table(table / path)
    pq.write_table(change(rows).replace_schema_metadata(rows.schema.metadata), table / path)


def test_a_sound_night_has_no_problems(table: Path) -> None:
    found = verify(table)
    assert (found.problems, found.notes) == ((), ())
    assert (found.num_files, found.num_rows, found.num_quarantined_rows) == (2, 19, 2)
    assert found.fingerprint == FINGERPRINT


def test_a_compacted_night_is_as_sound(table: Path) -> None:
    compact_night(str(table), NIGHT, 1_000_000, STORAGE)
    found = verify(table)
    assert (found.problems, found.notes, found.num_files, found.num_rows) == ((), (), 1, 19)


def test_a_kept_map_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored, "SCHEMA", SCHEMA.append(pa.field("k", pa.map_(pa.string(), pa.int64()))))
    publish(tmp_path, NIGHT, write_shard(tmp_path, NIGHT, "s0", [scored_row("f", 0, k=[("a", 1)])]))
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda table: (table / PATH).unlink(), [f"{PATH}: is missing", "num_scored_rows is 19, the files say 9"]),
        (lambda table: (table / PATH).write_bytes(b"junk"), ["holds 4 bytes, the log says", "cannot be read"]),
        (
            lambda table: rewrite(table, lambda rows: rows.slice(1)),
            ["bytes, the log says", "holds 9 rows, the log says 10", "num_scored_rows is 19, the files say 18"],
        ),
        (
            lambda table: rewrite(table, lambda rows: rows.drop_columns(["label"])),
            ["has other columns than the table: label is missing"],
        ),
        (
            lambda table: rewrite(table, lambda rows: rows.set_column(2, "id", pa.array(range(10)))),
            ["id is int64 instead of string"],
        ),
        (
            lambda table: rewrite(table, lambda rows: pa.concat_tables([rows.slice(0, 9), rows.slice(0, 1)])),
            ["row group 0 holds a row of the corpus twice"],
        ),
    ],
    ids=["missing", "corrupt", "fewer rows", "a column less", "another type", "a row twice"],
)
def test_a_file_that_is_not_what_was_published(
    table: Path, spoil: Callable[[Path], object], expected: list[str]
) -> None:
    spoil(table)
    problems = "\n".join(verify(table).problems)
    assert f"{table}/{PATH}" in problems
    for words in expected:
        assert words in problems


@pytest.mark.parametrize(("column", "other"), [("model_version", "m0"), ("run_id", "r0")])
def test_a_row_that_names_another_model_or_run_is_found(table: Path, column: str, other: str) -> None:
    def change(rows: pa.Table) -> pa.Table:
        names = [other, *rows[column].to_pylist()[1:]]
        return rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), pa.array(names))

    rewrite(table, change)
    said = "m1" if column == "model_version" else "r1"
    words = f"{table}/{PATH}: holds rows of {column} {other}; the file's footer says {said}"
    assert words in verify(table).problems
    compact_night(str(table), NIGHT, 1_000_000, STORAGE)
    problems = "\n".join(verify(table).problems)
    assert f"holds rows of {column} {other}; the file's footer says {said}" in problems


@pytest.mark.parametrize("bad", [[], [scored_row("h", 1, model_version="m0", run_id="r0")]], ids=["scored", "bad too"])
def test_a_file_of_another_model_or_run_than_manifest_and_record_is_found(
    table: Path, bad: list[dict[str, object]]
) -> None:
    rows = [scored_row("h", 0, model_version="m0", run_id="r0")]
    republish(table, write_shard(table, NIGHT, "s2", rows, bad, model_version="m0", run_id="r0"))
    problems = verify(table).problems
    name = f"run_date={NIGHT}/s2-0.parquet"
    for file in [f"{table}/{name}", *([f"{table}/_quarantine/{name}"] if bad else [])]:
        manifest = f"{table}/_manifests/run_date={NIGHT}/r2.json"
        assert f"{file}: its footer names model_version m0, {manifest} says m1" in problems
        assert f"{file}: holds rows of run_id r0; its done-record says r1" in problems


@pytest.mark.parametrize(
    ("said", "columns"),
    [
        ("m1, first=m0", {"model_version": ["m0", "m1"]}),
        ("m1, new=m2", {"model_version": ["m1"], "new_model_version": ["m2"]}),
        ("a=m1, b=m2", {"a_model_version": ["m1"], "b_model_version": ["m2"]}),
    ],
    ids=["cascade", "beside", "several"],
)
def test_rows_name_the_bundle_that_answered(said: str, columns: dict[str, list[str]]) -> None:
    def problems(changes: dict[str, list[str]]) -> list[str]:
        origin = origin_of({b"bertmill.model_version": said.encode(), b"bertmill.run_id": b"r1,r2"})
        for row in range(max(map(len, columns.values()))):
            values = {name: [versions[row % len(versions)]] for name, versions in (columns | changes).items()}
            origin.add(pa.table({**values, "run_id": [f"r{1 + row}"]}))
        return list(origin.problems("f", is_quarantine=False))

    assert problems({}) == []
    for column in columns:
        (problem,) = problems({column: ["m3"]})
        assert f"f: holds rows of {column} m3; the file's footer says" in problem


def republish(table: Path, *others: DoneRecord) -> None:
    """Publish what the ledger holds now, and other records."""
    (table / "_manifests" / f"run_date={NIGHT}" / "r1.json").unlink()
    ledger = Ledger(str(table), NIGHT, FINGERPRINT, STORAGE)
    publish(table, NIGHT, *ledger.read(ledger.names()).values(), *others, run_id="r2")


def test_a_row_in_two_files_is_found(table: Path) -> None:
    write_shard(table, NIGHT, "s2", [scored_row("f", 30), scored_row("f", 5), scored_row("f", 7)])
    republish(table)
    (problem,) = verify(table).problems
    assert problem.startswith("f: 2 rows stand in the night more than once (rows 5, 7;")
    assert "s0-0.parquet" in problem


def test_a_row_both_scored_and_quarantined_is_found(table: Path) -> None:
    write_shard(table, NIGHT, "s2", [scored_row("f", 11)])
    republish(table)
    (problem,) = verify(table).problems
    assert problem.startswith("f: 1 rows stand in the night more than once (rows 11;")
    assert "_quarantine" in problem


def test_rows_that_lie_between_others_are_no_problem(table: Path) -> None:
    write_shard(table, NIGHT, "s2", [scored_row("h", row) for row in range(0, 20, 2)])
    write_shard(table, NIGHT, "s3", [scored_row("h", row) for row in range(1, 20, 2)])
    republish(table)
    assert verify(table).problems == ()


def test_files_of_two_fingerprints_are_found(table: Path) -> None:
    other = write_shard(table, NIGHT, "s2", [scored_row("h", 0)], fingerprint="e" * 64)
    republish(table, other)
    problems = "\n".join(verify(table).problems)
    assert "files of more than one fingerprint" in problems
    assert "s2-0.parquet: no done-record names it" in problems


def test_a_file_without_its_record_is_found(table: Path) -> None:
    Ledger(str(table), NIGHT, FINGERPRINT, STORAGE).drop(["s0"])
    (problem,) = verify(table).problems
    assert "s0-0.parquet: no done-record" in problem


def test_a_record_that_says_something_else_is_found(table: Path) -> None:
    path = next((table / "_bertmill" / "ledger").rglob("s0.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "num_scored_rows": 12, "size_bytes": 3}))
    problems = "\n".join(verify(table).problems)
    assert "s0-0.parquet: its done-record says 3 bytes" in problems
    assert "s0-0.parquet: done-records say 12 rows, the log says 10" in problems


@pytest.mark.parametrize(
    ("key", "value"), [("num_scored_rows", 18), ("num_quarantined_rows", 0), ("fingerprint", "e" * 64)]
)
def test_a_manifest_that_says_something_else_is_found(table: Path, key: str, value: object) -> None:
    path = table / "_manifests" / f"run_date={NIGHT}" / "r1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    (problem,) = verify(table).problems
    assert f"r1.json: {key} is {value}, the files say" in problem


def test_a_night_without_a_manifest_of_its_last_publication_is_only_noted(table: Path) -> None:
    path = table / "_manifests" / f"run_date={NIGHT}" / "r1.json"
    old = path.read_text()
    write_shard(table, NIGHT, "s2", [scored_row("h", 0)])
    republish(table)
    path.with_name("r2.json").unlink()
    found = verify(table)
    assert found.problems == ()
    assert "no manifest" in found.notes[0]
    path.write_text(old)
    found = verify(table)
    assert found.problems == ()
    assert "is older than the night's version 2" in found.notes[0]


def test_what_the_log_says_of_a_file_is_checked(table: Path) -> None:
    file = DataFile(PATH, (table / PATH).stat().st_size, 11)
    facts = {"run_date": NIGHT}
    publish_night(str(table), Night(NIGHT, (), SCHEMA, facts), STORAGE)
    publish_night(str(table), Night(NIGHT, (file,), SCHEMA, facts), STORAGE)
    assert "holds 10 rows, the log says 11" in "\n".join(verify(table).problems)


def test_a_night_or_table_that_is_not_there_is_named(table: Path) -> None:
    with pytest.raises(CorpusError, match="no night 2026-11-30"):
        verify_night(str(table), "2026-11-30", STORAGE)
    with pytest.raises(CorpusError, match="no Delta table there"):
        verify_night(str(table / "else"), NIGHT, STORAGE)
