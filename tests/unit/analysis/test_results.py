"""Results of a night: found by their one object, switched when complete, asked for twice and made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.analysis import run as run_module
from pipeline.analysis.results import ResultPlace, read_current
from pipeline.analysis.run import Analysis, analyse_duplicates
from pipeline.analysis.spec import DuplicatesSpec
from pipeline.analysis.vectors import VectorColumn
from pipeline.errors import CorpusError, OutputTakenError, SpecError
from tests.unit.analysis.embedded import embedded_rows, make_night, night_column
from tests.unit.output import scored
from tests.unit.output.scored import NIGHT, STORAGE, publish, write_shard

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.01], [0.0, 1.0], [-1.0, 0.0]]


@pytest.fixture(autouse=True)
def table(tmp_path: Path) -> Path:
    make_night(tmp_path / "scores", embedded_rows(VECTORS))
    return tmp_path / "scores"


def analyse(tmp_path: Path, **fields: Any) -> Analysis:
    raw = {"table": str(tmp_path / "scores"), "output": str(tmp_path / "found"), "keep": ("id", "label"), **fields}
    return analyse_duplicates(DuplicatesSpec.model_validate(raw), NIGHT)


def test_columns_that_some_files_lack_are_null_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = embedded_rows([[1.0, 0.0]], "a"), embedded_rows([[1.0, 0.0]], "b")
    shards = [write_shard(tmp_path / "scores", NIGHT, "a", old)]
    tag, vector = pa.field("tag", pa.string()), pa.field("other", pa.list_(pa.float32()))
    monkeypatch.setattr(scored, "SCHEMA", scored.SCHEMA.append(tag).append(vector))
    shards.append(write_shard(tmp_path / "scores", NIGHT, "b", [{**new[0], "tag": "new", "other": [1.0]}]))
    publish(tmp_path / "scores", NIGHT, *shards, run_id="r2")
    found = analyse(tmp_path, keep=("id", "tag")).found
    rows = pq.read_table(found.files["duplicates.parquet"], partitioning=None).to_pylist()
    assert [(row["source_file"], row["tag"]) for row in rows] == [("a", None), ("b", "new")]
    assert analyse(tmp_path, column="other").found.facts["num_without_embedding"] == 1


def current(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "found" / "_current" / f"run_date={NIGHT}.json").read_text())


def test_the_one_object_leads_to_the_rows_and_says_what_they_are(tmp_path: Path) -> None:
    done = analyse(tmp_path)
    said = current(tmp_path)
    rows = pq.read_table(said["files"]["duplicates.parquet"], partitioning=None).to_pylist()
    assert [(row["group_id"], row["source_file"], row["id"], row["label"]) for row in rows] == [
        (0, "a", "2", "bad"),
        (0, "b", "0", "bad"),
        (1, "a", "3", "good"),
        (1, "b", "1", "good"),
    ]
    assert (said["kind"], said["version"], said["facts"]["threshold"]) == ("duplicates", 1, 0.95)
    assert read_current(str(tmp_path / "found"), NIGHT, "duplicates", STORAGE) == done.found


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyse(tmp_path)
    monkeypatch.setattr(run_module, "find_groups", None)
    again = analyse(tmp_path, block_rows=32)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.found == first.found


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"kind": "duplicates"}'])
def test_an_object_that_says_nothing_known_is_named(tmp_path: Path, content: bytes) -> None:
    analyse(tmp_path)
    path = tmp_path / "found" / "_current" / f"run_date={NIGHT}.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=f"run_date={NIGHT}.json: says in no known way what is current"):
        read_current(str(tmp_path / "found"), NIGHT, "duplicates", STORAGE)
    with pytest.raises(CorpusError, match="delete it, and run the job again"):
        analyse(tmp_path)


def test_another_question_or_night_replaces_it_and_the_old_one_stays_for_a_while(tmp_path: Path) -> None:
    old = Path(analyse(tmp_path).found.files["duplicates.parquet"])
    assert analyse(tmp_path, threshold=0.99999).removed == ()
    assert old.exists()
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0]] * 5), run_id="r2")
    last = analyse(tmp_path, keep_hours=0)
    assert last.found.facts["num_members"] == 5
    assert str(old) in last.removed
    files = [str(path) for path in (tmp_path / "found").rglob("*.parquet")]
    assert files == list(last.found.files.values())


def test_a_job_that_dies_leaves_the_last_result_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyse(tmp_path)

    def die(*_arguments: Any) -> Any:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patched:
        patched.setattr(ResultPlace, "switch", die)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            analyse(tmp_path, threshold=0.5)
    assert current(tmp_path)["content_id"] == first.found.content_id
    assert analyse(tmp_path, threshold=0.5, keep_hours=0).is_new
    assert len(list((tmp_path / "found").rglob("*.parquet"))) == 1


def test_a_night_without_duplicates_has_an_empty_result(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0]]), run_id="r2")
    rows = pq.read_table(analyse(tmp_path).found.files["duplicates.parquet"], partitioning=None)
    assert (rows.num_rows, rows.column_names[-2:]) == (0, ["id", "label"])


def test_a_place_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "letter.txt").write_text("mine")
    with pytest.raises(OutputTakenError, match=r"is no result \(first: .*letter.txt"):
        analyse(tmp_path)
    (tmp_path / "found" / "letter.txt").unlink()
    analyse(tmp_path)
    make_night(tmp_path / "other", embedded_rows(VECTORS))
    with pytest.raises(OutputTakenError, match=r"holds duplicates of .*scores"):
        analyse(tmp_path, table=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"column": "vector"},
            r"'vector' is not in the table; expected a column of vectors \(class_scores, embedding\)",
        ),
        ({"column": "label"}, "'label' is string; expected lists of floats"),
        ({"keep": ("name",)}, "name not there; expected some of source_file, "),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        analyse(tmp_path, **fields)
    assert not (tmp_path / "found").exists()


def test_a_night_without_embeddings_is_told_how_to_have_them(table: Path) -> None:
    column = night_column(table)
    schema = column.schema.remove(column.schema.get_field_index("embedding"))
    expected = r"vectors \(class_scores\)\n  -> score with `output: {embedding: true}`"
    with pytest.raises(SpecError, match=expected):
        VectorColumn(column.night, schema, "embedding").check([])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "TABLE/found"}, "output and table overlap"),
        ({"keep": ("group_id",)}, "keep names group_id, which the result has anyway"),
        ({"keep": ("id", "id")}, "keep names one twice"),
        ({"threshold": 0}, "greater than 0"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    if "output" in fields:
        fields = {"output": str(tmp_path / "scores" / "found")}
    with pytest.raises(ValueError, match=message):
        analyse(tmp_path, **fields)


def test_a_night_that_is_not_there_is_named(tmp_path: Path) -> None:
    spec = DuplicatesSpec(table=str(tmp_path / "scores"), output=str(tmp_path / "found"))
    with pytest.raises(CorpusError, match="no night 2026-11-30"):
        analyse_duplicates(spec, "2026-11-30")
    with pytest.raises(CorpusError, match="no topics of night"):
        read_current(str(tmp_path / "found"), NIGHT, "topics", STORAGE)


def test_a_night_of_two_widths_or_of_none_is_refused(tmp_path: Path) -> None:
    make_night(tmp_path / "wide", embedded_rows([[1.0, 0.0], [1.0, 0.0, 0.0]]), num_files=2)
    with pytest.raises(CorpusError, match="vectors of 2 and of 3 numbers"):
        analyse(tmp_path, table=str(tmp_path / "wide"))
    make_night(tmp_path / "none", embedded_rows([None, None]))
    with pytest.raises(CorpusError, match="no row of night 2026-11-23 has a vector in 'embedding'"):
        analyse(tmp_path, table=str(tmp_path / "none"))
