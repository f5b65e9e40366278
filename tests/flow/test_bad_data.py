"""Whatever stands in the files: right output, quarantine with a reason, or a clear error; and rows always add up."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.inference.spec import ScoreSpec
from pipeline.output.table import open_table
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.flow.alone import score_alone, without_ray
from tests.tiny import make_bundle
from tests.unit.jobs.command_line import Finished, run_command

SURROGATE = b"lone \xed\xa0\x80 surrogate"
LATIN_1 = "caf\u00e9".encode("latin-1")


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory, ("no", "yes"))
    return str(directory)


@dataclass(frozen=True)
class Night:
    """A finished `bertmill score`: its manifest, its rows in source order, and the reasons of the others."""

    finished: Finished
    manifest: dict[str, Any]
    rows: list[dict[str, Any]]
    bad: list[dict[str, Any]]

    @property
    def reasons(self) -> dict[int, str]:
        """Source row -> reason, for corpora of one file."""
        return {row["source_row"]: row["reason"] for row in self.bad}

    @property
    def names(self) -> Counter[str]:
        """Scored rows by the last part of their file's name."""
        return Counter(row["source_file"].rsplit("/", 1)[-1] for row in self.rows)


class Corpus:
    """A local corpus, and nights over it."""

    def __init__(self, directory: Path, bundle: str) -> None:
        self.directory = directory
        self._bundle = bundle
        (directory / "corpus").mkdir()

    def write(self, name: str, /, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
        path = self.directory / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
        return path

    def spec(self, **corpus: Any) -> ScoreSpec:
        block = {"keep": (), "max_bad_fraction": 1.0, **corpus}
        here = self.directory
        return helpers.score_spec(self._bundle, str(here / "corpus"), str(here / "scores"), corpus=block)

    def score(self, exit_code: int = 0, **corpus: Any) -> Night:
        """Score, check the accounts against the files and the tables, and read the tables back."""
        spec = self.spec(**corpus)
        finished = score_alone(spec, self.directory)
        assert finished.exit_code == exit_code, finished.stderr
        return read_night(finished, spec.output.uri)

    def refused(self, exit_code: int = 2, **corpus: Any) -> str:
        """Score, expect one clear message, and nothing written."""
        finished = score_alone(self.spec(**corpus), self.directory)
        assert finished.exit_code == exit_code, finished
        assert "Traceback" not in finished.stderr
        assert "\n  -> " in finished.stderr
        assert open_table(str(self.directory / "scores"), Storage()) is None
        return finished.stderr


def read_night(finished: Finished, table_uri: str) -> Night:
    storage = Storage()
    names = (item.uri for item in storage.list_objects(join_uri(table_uri, "_manifests")))
    (manifest_uri,) = [name for name in names if name.endswith(".json")]
    manifest = json.loads(storage.read_bytes(manifest_uri) or b"")
    rows = helpers.read_rows(table_uri)
    bad = helpers.read_rows(join_uri(table_uri, "_quarantine"))
    assert (manifest["num_scored_rows"], manifest["num_quarantined_rows"]) == (len(rows), len(bad))
    assert manifest["num_rows"] == len(rows) + len(bad)
    assert len({(row["source_file"], row["source_row"]) for row in rows + bad}) == len(rows) + len(bad)
    assert_other_readers_agree(table_uri, len(rows))
    return Night(finished, manifest, rows, bad)


def assert_other_readers_agree(table_uri: str, num_rows: int) -> None:
    """DuckDB and Polars, which check every string, read every column of every row."""
    options = Storage().delta_options(table_uri)
    night = DeltaTable(table_uri, storage_options=options).to_pyarrow_dataset()
    assert len(duckdb.sql("SELECT * FROM night").fetchall()) == num_rows
    assert night.count_rows() == num_rows
    if table_uri.isascii():  # Polars 2.1 does not find a local table under another name
        assert len(pl.scan_delta(table_uri, storage_options=options or None).collect()) == num_rows


@pytest.fixture
def corpus(tmp_path: Path, bundle: str) -> Corpus:
    return Corpus(tmp_path, bundle)


def test_strings_of_every_kind(corpus: Corpus) -> None:
    texts = [
        "good",
        None,
        "",
        " \t\u00a0\n",
        "nul \x00 bell \x07 esc \x1b[31m",
        "\ufffe\uffff \U0001f600 \u202e",
        "x" * 512,
    ]
    corpus.write("a.parquet", {"text": texts, "id": [f"\x00{row}" for row in range(len(texts))]})
    night = corpus.score(keep=("id", "text"))
    assert night.reasons == {1: "text is null", 2: "text is blank", 3: "text is blank"}
    assert [row["text"] for row in night.rows] == [texts[row] for row in (0, 4, 5, 6)]
    assert [row["id"] for row in night.rows] == [f"\x00{row}" for row in (0, 4, 5, 6)]


def test_ten_megabytes_in_one_row(corpus: Corpus) -> None:
    corpus.write("a.parquet", {"text": ["good " * 2**15, "x" * (10 * 2**20), "good"]})
    night = corpus.score(keep=("text",))
    assert [(row["num_tokens"], row["truncated"]) for row in night.rows] == [(32, True), (3, False), (3, False)]
    assert len(night.rows[1]["text"]) == 10 * 2**20


def test_bytes_that_are_no_text(corpus: Corpus) -> None:
    raw = [b"good", LATIN_1, SURROGATE, "gr\u00fc\u00df".encode(), b"\xff\xfeg\x00", None]
    corpus.write("binary.parquet", {"text": pa.array(raw, pa.binary())})
    night = corpus.score()
    assert [row["source_row"] for row in night.rows] == [0, 3]
    assert night.reasons == {**dict.fromkeys((1, 2, 4), "text is not valid UTF-8"), 5: "text is null"}


def test_strings_that_hold_no_utf_8_in_the_text_and_in_kept_columns(corpus: Corpus) -> None:
    raw = pa.array([b"good", LATIN_1, b"fine", SURROGATE, b"bad"])
    names = pa.array([b"a", b"b", LATIN_1, b"d", None]).view(pa.string())
    tags = pa.array([[b"x"], [b"y"], [b"z"], [], [b"ok", LATIN_1]]).cast(pa.list_(pa.binary()))
    lists = pa.ListArray.from_arrays(tags.offsets, tags.values.view(pa.string()))
    corpus.write("a.parquet", {"text": raw.view(pa.string()), "name": names, "tags": lists}, row_group_size=2)
    night = corpus.score(keep=("name", "tags"))
    assert [(row["source_row"], row["name"]) for row in night.rows] == [(0, "a")]
    bad_text = "text is not valid UTF-8"
    assert night.reasons == {1: bad_text, 3: bad_text, 2: "name is not valid UTF-8", 4: "tags is not valid UTF-8"}


def test_files_that_hold_text_in_every_type_or_none(corpus: Corpus) -> None:
    words = ["good film", "bad plot", "good film"]
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string()), pa.binary()]
    for number, kind in enumerate(kinds):
        values = [word.encode() for word in words] if kind == pa.binary() else words
        corpus.write(f"good-{number}.parquet", {"text": pa.array(values, kind)})
    for number, value in enumerate([1, 2.5, True, {"body": "x"}]):
        corpus.write(f"wrong-{number}.parquet", {"text": [value]})
    night = corpus.score()
    assert night.names == {f"good-{number}.parquet": 3 for number in range(len(kinds))}
    assert len({(row["label"], row["score"]) for row in night.rows}) == 2
    kinds_named = sorted(row["reason"] for row in night.bad)
    assert kinds_named == [
        f"text is {kind}, not a string" for kind in ("bool", "double", "int64", "struct<body: string>")
    ]


def test_nested_text_and_nested_kept_columns(corpus: Corpus) -> None:
    docs = [
        {"body": "good", "meta": {"lang": "en", "tags": ["a"]}},
        {"body": None, "meta": {"lang": "de", "tags": []}},
        None,
        {"body": "bad", "meta": None},
    ]
    corpus.write("a.parquet", {"doc": docs, "id": [1, 2, 3, 4]}, row_group_size=3)
    night = corpus.score(inputs={"text": "doc.body"}, keep=("id", "doc.meta.lang", "doc.meta.tags"))
    assert night.reasons == {1: "text is null", 2: "text is null"}
    kept = [(row["id"], row["doc_meta_lang"], row["doc_meta_tags"]) for row in night.rows]
    assert kept == [(1, "en", ["a"]), (4, None, None)]


def test_a_column_of_that_very_name_wins_over_a_nested_field(corpus: Corpus) -> None:
    corpus.write("a.parquet", {"doc": [{"body": "nested"}], "doc.body": ["top"]})
    corpus.write("b.parquet", {"doc": [{"body": "nested"}]})
    night = corpus.score(inputs={"text": "doc.body"}, keep=("doc.body",))
    assert [row["doc_body"] for row in night.rows] == ["top", "nested"]


def test_nested_fields_that_are_not_there(corpus: Corpus) -> None:
    corpus.write("a.parquet", {"doc": [{"body": "x"}], "texts": [[{"body": "x"}]]})
    assert "no column 'doc.title'" in corpus.refused(inputs={"text": "doc.title"})
    assert "no column 'texts.body'" in corpus.refused(inputs={"text": "texts.body"})


def test_no_rows_in_a_file_or_a_row_group(corpus: Corpus) -> None:
    empty = pa.table({"text": pa.array([], pa.string())})
    corpus.write("empty.parquet", empty)
    with pq.ParquetWriter(corpus.directory / "corpus" / "holes.parquet", empty.schema) as writer:
        for texts in ([], ["good"], [], [], ["bad", None], []):
            writer.write_table(pa.table({"text": pa.array(texts, pa.string())}))
    assert pq.read_metadata(corpus.directory / "corpus" / "holes.parquet").num_row_groups == 6
    night = corpus.score()
    assert ([row["source_row"] for row in night.rows], night.reasons) == ([0, 1], {2: "text is null"})
    assert night.manifest["num_files"] == 2


def test_a_corpus_without_rows_says_so(corpus: Corpus) -> None:
    corpus.write("empty.parquet", {"text": pa.array([], pa.string())})
    assert "no rows in 1 files" in corpus.refused()


def test_columns_in_another_order_and_columns_too_many(corpus: Corpus) -> None:
    corpus.write("a.parquet", {"id": [1], "text": ["good"]})
    corpus.write("b.parquet", {"text": ["good"], "extra": [[1.5]], "id": [2]})
    night = corpus.score(keep=("id",))
    assert [row["id"] for row in night.rows] == [1, 2]
    assert len({row["score"] for row in night.rows}) == 1
    assert "extra" not in night.rows[0]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_file_without_the_text_column_is_never_skipped(corpus: Corpus, policy: str) -> None:
    corpus.write("a.parquet", {"text": ["good"]})
    corpus.write("b.parquet", {"body": ["good"]})
    message = corpus.refused(corrupt_files=policy)
    assert "b.parquet: no column 'text'" in message
    assert "the file's columns are: body" in message


def spoil_files(corpus: Corpus) -> dict[str, str]:
    """Three sound files, and three that no longer are; returns what is said about each of these."""
    for name in "abc":
        corpus.write(f"{name}.parquet", {"text": [f"good {name} {row}" for row in range(50)]}, row_group_size=20)
    whole = (corpus.directory / "corpus" / "a.parquet").read_bytes()
    other = corpus.write("other.parquet", {"text": ["a", "b"], "id": [1, 2]}).read_bytes()
    footer_bytes = int.from_bytes(other[-8:-4], "little") + 8
    spoilt = {
        "truncated.parquet": (whole[: len(whole) // 2], "Parquet magic bytes not found"),
        "long-footer.parquet": (whole[:-8] + (2**30).to_bytes(4, "little") + b"PAR1", "not a readable Parquet file"),
        "other.parquet": (b"PAR1" + other[-footer_bytes:], "not a readable Parquet file"),
    }
    for name, (content, _) in spoilt.items():
        (corpus.directory / "corpus" / name).write_bytes(content)
    return {name: words for name, (_, words) in spoilt.items()}


def test_corrupt_files_are_an_error_that_names_them(corpus: Corpus) -> None:
    spoilt = spoil_files(corpus)
    message = corpus.refused()
    assert "2 of 6 files cannot be used" in message
    assert all(name in message for name in spoilt if name != "other.parquet")


def test_corrupt_files_are_left_out_and_listed_where_the_spec_says_so(corpus: Corpus) -> None:
    spoilt = spoil_files(corpus)
    night = corpus.score(6, corrupt_files="skip")
    assert night.names == {f"{name}.parquet": 50 for name in "abc"}
    skipped = {item["uri"].rsplit("/", 1)[-1]: item["reason"] for item in night.manifest["skipped_files"]}
    assert skipped.keys() == {"truncated.parquet", "long-footer.parquet"}
    assert all(spoilt[name] in reason for name, reason in skipped.items())
    assert "2 corrupt files were left out, everything else is published" in night.finished.stderr
    (rows_of_a_foreign_footer,) = {row["reason"] for row in night.bad}
    assert rows_of_a_foreign_footer.startswith("not a readable Parquet file")
    assert {row["source_file"].rsplit("/", 1)[-1] for row in night.bad} == {"other.parquet"}

    again = score_alone(corpus.spec(corrupt_files="skip"), corpus.directory)
    assert (again.exit_code, "already done" in again.stdout) == (6, True)
    plan = run_command("plan", str(corpus.directory / "score.yaml"), "--date", helpers.NIGHT)
    assert "left out: 2 corrupt files (first: " in plan.stdout
    for name in spoilt:
        corpus.write(name, {"text": ["good"]})
    assert score_alone(corpus.spec(corrupt_files="skip"), corpus.directory).exit_code == 0
    assert len(helpers.read_rows(str(corpus.directory / "scores"))) == 153


def test_a_night_of_nothing_but_corrupt_files(corpus: Corpus) -> None:
    (corpus.directory / "corpus" / "a.parquet").write_bytes(b"PAR1")
    assert "no rows in 0 files (1 corrupt ones left out)" in corpus.refused(corrupt_files="skip")


@pytest.mark.parametrize("num_files", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_tiny_files(num_files: int, corpus: Corpus) -> None:
    for number in range(num_files):
        corpus.write(f"{number % 7}/{number:05d}.parquet", {"text": ["good" if number % 100 else None]})
    night = corpus.score(shard_rows=500, max_bad_fraction=0.01)
    num_bad = num_files // 100
    assert (len(night.rows), len(night.bad), night.manifest["num_files"]) == (num_files - num_bad, num_bad, num_files)
    assert night.manifest["num_shards"] < num_files / 50


def test_one_giant_row_group_is_split_by_rows(corpus: Corpus) -> None:
    texts = ["good film" if row % 50 else None for row in range(3_000)]
    path = corpus.write("a.parquet", {"text": texts, "id": range(3_000)}, row_group_size=3_000)
    assert pq.read_metadata(path).num_row_groups == 1
    night = corpus.score(shard_rows=700, keep=("id",))
    assert night.manifest["num_shards"] == 5
    assert [row["id"] for row in night.rows] == [row["source_row"] for row in night.rows]
    assert sorted(night.reasons) == list(range(0, 3_000, 50))


def test_hive_keys_come_out_as_columns(corpus: Corpus) -> None:
    for folder in ("day=2026-01-01/lang=en", "day=2026-01-01/lang=__HIVE_DEFAULT_PARTITION__", "day=a%2Fb/lang=d e"):
        corpus.write(f"{folder}/part-0.parquet", {"text": ["good"]})
    night = corpus.score(keep=("day", "lang"))
    found = {(row["day"], row["lang"]) for row in night.rows}
    assert found == {("2026-01-01", "en"), ("2026-01-01", None), ("a/b", "d e")}


STRANGE_NAMES = (
    "with space.parquet",
    "100%.parquet",
    "a%20b.parquet",
    "k=v/x=1.parquet",
    "\u00fcml\u00e4ut \u65e5\u672c.parquet",
    "a+b&c.parquet",
    "q?#[1]*.parquet",
    "'quoted' \"twice\".parquet",
)


def test_names_with_strange_characters(root_uri: str, bundle: str, tmp_path: Path) -> None:
    corpus_uri = join_uri(root_uri, "c\u00f6rpus 1=%")
    for number, name in enumerate(STRANGE_NAMES):
        helpers.write_table(pa.table({"text": ["good", None], "id": [number, -1]}), join_uri(corpus_uri, name))
    keep = {"keep": ("id",), "max_bad_fraction": 1.0, "shard_rows": 1}
    spec = helpers.score_spec(bundle, corpus_uri, join_uri(root_uri, "sc\u00f6res (a)"), corpus=keep)
    finished = score_alone(spec, tmp_path)
    assert finished.exit_code == 0, finished.stderr
    night = read_night(finished, spec.output.uri)
    assert {row["id"]: row["source_file"] for row in night.rows} == {
        number: join_uri(corpus_uri, name) for number, name in enumerate(STRANGE_NAMES)
    }
    assert "already done" in score_alone(spec, tmp_path).stdout
