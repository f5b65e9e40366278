from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.errors import CorpusError
from pipeline.storage import Storage

STORAGE = Storage()
PLACES = pa.table({"text": ["a", "b", "c"], "place": ["x/y z", "ü%20", None]})


def write(table: Path, rows: int, **options: Any) -> None:
    write_deltalake(table, pa.table({"text": ["a"] * rows}), **options)


def listed(*uris: Path | str) -> list[CorpusFile]:
    return list_corpus([str(uri) for uri in uris], STORAGE)


def num_rows(*uris: Path | str) -> int:
    return sum(pq.read_metadata(file.uri).num_rows for file in listed(*uris))


def edit_log(table: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    log = table / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        edit(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def test_of_a_delta_table_only_live_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "table", 3)
    write(tmp_path / "table", 4, mode="overwrite")
    assert num_rows(tmp_path / "table") == 4


def test_a_delta_table_grows_and_shrinks_between_listings(tmp_path: Path) -> None:
    write(tmp_path, 3)
    first = listed(tmp_path)
    write(tmp_path, 4, mode="append")
    second = listed(tmp_path)
    assert set(first) < set(second)
    DeltaTable(str(tmp_path)).optimize.compact()
    (compacted,) = listed(tmp_path)
    assert compacted not in second
    assert pq.read_metadata(compacted.uri).num_rows == 7


def test_tables_below_a_root_lie_beside_plain_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, 3)
        write(tmp_path / name, 4, mode="overwrite")
    pq.write_table(pa.table({"text": ["a"] * 2}), tmp_path / "plain.parquet")
    assert num_rows(tmp_path) == 4 + 4 + 2


def test_hive_keys_of_live_files_are_read_from_their_folders(tmp_path: Path) -> None:
    for mode in ("append", "overwrite"):
        write_deltalake(tmp_path, PLACES, partition_by=["place"], mode=mode)
    found = [dict(file.partition)["place"] for file in listed(tmp_path)]
    assert sorted(map(str, found)) == ["None", "x/y z", "ü%20"]


@pytest.mark.parametrize("part", ["day=1", "day=1/hour=2"])
def test_a_folder_of_a_delta_table_gives_its_live_files(tmp_path: Path, part: str) -> None:
    rows = pa.table({"text": ["a", "b"], "day": [1, 2], "hour": [2, 2]})
    for mode in ("append", "overwrite"):
        write_deltalake(tmp_path, rows, partition_by=["day", "hour"], mode=mode)
    assert num_rows(tmp_path / part) == 1


def test_a_folder_without_live_files_is_an_error(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pa.table({"text": ["a"], "day": [1]}), partition_by=["day"])
    write_deltalake(tmp_path, pa.table({"text": ["a"], "day": [2]}), partition_by=["day"], mode="overwrite")
    with pytest.raises(CorpusError, match=r"day=1: no file there is live in the Delta table"):
        listed(tmp_path / "day=1")


def test_a_file_of_a_table_may_be_named_itself(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (dead,) = listed(tmp_path)
    write(tmp_path, 4, mode="overwrite")
    assert listed(dead.uri) == [dead]


def test_a_live_file_counts_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (file,) = listed(tmp_path)
    Path(file.uri).rename(tmp_path / "_hidden")
    edit_log(tmp_path, lambda action: action.get("add", {}).update(path="_hidden"))
    assert [Path(file.uri).name for file in listed(tmp_path)] == ["_hidden"]


def test_a_live_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 3, mode="append")
    Path(listed(tmp_path)[0].uri).unlink()
    with pytest.raises(CorpusError, match="live in a Delta table's log, and not there"):
        listed(tmp_path)


def need(*features: str) -> dict[str, Any]:
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}


def with_vector(action: dict[str, Any]) -> None:
    if "protocol" in action:
        action["protocol"] = need("deletionVectors")
    if "add" in action:
        # the protocol's own example of a vector in the log: rows 3, 4, 7, 11, 18 and 29
        vector = "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"
        action["add"]["deletionVector"] = {
            "storageType": "i", "pathOrInlineDv": vector, "sizeInBytes": 44, "cardinality": 6,
        }  # fmt: skip


def with_mapping(action: dict[str, Any]) -> None:
    action.get("metaData", {}).update(configuration={"delta.columnMapping.mode": "name"})
    if "protocol" in action:
        action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
    if "metaData" in action:
        named = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
        field = {"name": "text", "type": "string", "nullable": True, "metadata": named}
        action["metaData"]["schemaString"] = json.dumps({"type": "struct", "fields": [field]})


def of_a_clone(action: dict[str, Any]) -> None:
    action.get("add", {}).update(path="file:///elsewhere/a.parquet")


def of_tomorrow(action: dict[str, Any]) -> None:
    if "protocol" in action:
        action["protocol"] = need("unheardOf")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (with_vector, "marks rows of its files as deleted"),
        (with_mapping, "maps its columns to other names"),
        (of_a_clone, "names files outside of its folder"),
        (of_tomorrow, "log cannot be read: .*unheardOf"),
    ],
)
def test_tables_whose_files_do_not_say_all_are_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], told: str
) -> None:
    write(tmp_path, 40)
    edit_log(tmp_path, edit)
    with pytest.raises(CorpusError, match=told):
        listed(tmp_path)


def test_a_table_that_only_allows_deletion_vectors_is_read(tmp_path: Path) -> None:
    write(tmp_path, 3)
    edit_log(tmp_path, lambda action: action.update(protocol=need("deletionVectors")) if "protocol" in action else None)
    assert num_rows(tmp_path) == 3


def test_a_log_without_a_commit_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "_delta_log" / f"{0:020}.json").rename(tmp_path / "_delta_log" / "given-up.json")
    with pytest.raises(CorpusError, match="a Delta table whose log cannot be read"):
        listed(tmp_path)


def test_a_hidden_table_is_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    write(tmp_path / "_quarantine", 3)
    (tmp_path / "_old" / "metadata").mkdir(parents=True)
    (tmp_path / "_old" / "metadata" / "v1.metadata.json").touch()
    assert num_rows(tmp_path) == 1


@pytest.mark.parametrize(
    ("mark", "kind"), [("metadata/v1.metadata.json", "an Iceberg table"), (".hoodie/hoodie.properties", "a Hudi table")]
)
@pytest.mark.parametrize("at", ["", "below"])
def test_other_tables_are_refused(tmp_path: Path, mark: str, kind: str, at: str) -> None:
    log = tmp_path / at / mark
    log.parent.mkdir(parents=True)
    log.touch()
    (tmp_path / at / "data").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / at / "data" / "a.parquet")
    with pytest.raises(CorpusError, match=f"{tmp_path / at}: {kind}"):
        listed(tmp_path)
    shutil.rmtree(log.parent)
    assert num_rows(tmp_path) == 1
