"""A search judged from Parquet, without Ray: the workers are called directly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import PoolOptions, parse_spec
from pipeline.corpus.shards import Shard
from pipeline.errors import CorpusError, SeveralErrors, SpecError
from pipeline.inference import retrieval
from pipeline.inference.retrieval import EmbedJob, prepare_retrieval, run_retrieval
from pipeline.inference.spec import EvaluateSpec
from pipeline.tasks.numbers import score_lists
from tests.tiny import make_bundle

TEXTS = ["good film", "bad table", "seven was blue", "it is lovely", "awful and dull"]
POOL = PoolOptions(1, 1, 0)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(shards: tuple[Shard, ...], job: EmbedJob, _pool: PoolOptions) -> list[pa.Table]:
        worker = job.build()
        parts = [worker.process(shard) for shard in shards]
        return [part for part in parts if part.num_rows]  # as Ray Data, which drops empty blocks

    monkeypatch.setattr(retrieval, "stream_shards", stream)


@pytest.fixture
def spec(tmp_path: Path) -> EvaluateSpec:
    """Every query is one of the documents, word for word; the ids of documents are numbers."""
    make_bundle(tmp_path / "bundle", ("a", "b"))
    write(tmp_path / "queries.parquet", {"id": ["q0", "q1"], "text": [TEXTS[3], TEXTS[1]]})
    write(tmp_path / "documents.parquet", {"id": [10, 11, 12, 13, 14], "text": TEXTS})
    write(tmp_path / "relevance.parquet", {"query_id": ["q0", "q1"], "document_id": [13, 11]})
    names = {name: str(tmp_path / f"{name}.parquet") for name in ("queries", "documents", "relevance")}
    raw = {"bundle": str(tmp_path / "bundle"), "retrieval": names, "compute": {"precision": "fp32"}}
    return parse_spec(raw, EvaluateSpec, "spec")


def cut_small(shards: tuple[Shard, ...]) -> list[Shard]:
    """A shard of each piece."""
    return [replace(shard, pieces=(piece,)) for shard in shards for piece in shard.pieces]


def write(path: Path, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), path)


def test_a_text_is_found_by_itself(spec: EvaluateSpec) -> None:
    run = prepare_retrieval(spec)
    assert run.total == "2 queries over 5 documents"
    result = run_retrieval(run, POOL)
    assert result.num_rows == 2
    assert result.metrics == pytest.approx(dict.fromkeys(result.metrics, 1.0))
    assert {"recall@1", "ndcg@10", "mrr@10"} <= result.metrics.keys()


def test_gains_are_read_where_there_are_some(spec: EvaluateSpec, tmp_path: Path) -> None:
    judged = {"query_id": ["q0", "q0"], "document_id": [13, 10], "relevance": [0, 1]}
    write(tmp_path / "relevance.parquet", judged)
    result = run_retrieval(prepare_retrieval(spec), POOL)
    assert result.num_rows == 1
    assert result.metrics["recall@1"] == 0  # its own text has no gain
    assert result.metrics["recall@10"] == 1


def test_only_queries_with_something_relevant_are_counted(spec: EvaluateSpec, tmp_path: Path) -> None:
    judged = {"query_id": ["q0", "q1"], "document_id": [13, 11], "relevance": [1, 0]}
    write(tmp_path / "relevance.parquet", judged)
    assert run_retrieval(prepare_retrieval(spec), POOL).num_rows == 1


@pytest.mark.parametrize("gains", [[0, -1], []])
def test_a_search_in_which_nothing_is_relevant_is_refused(
    spec: EvaluateSpec, tmp_path: Path, gains: list[object]
) -> None:
    ids = {"query_id": ["q0", "q1"], "document_id": [13, 11]} if gains else {"query_id": [], "document_id": []}
    write(tmp_path / "relevance.parquet", {**ids, "relevance": gains})
    with pytest.raises(
        CorpusError, match=rf"{len(gains)} rows of relevance, and none says that a document is relevant"
    ):
        prepare_retrieval(spec)


@pytest.mark.parametrize("name", ["queries", "documents"])
def test_a_set_without_any_text_is_refused_whatever_may_be_bad(spec: EvaluateSpec, tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.parquet", {"id": ["q0", "q1"], "text": [" ", ""]})
    assert spec.retrieval is not None
    lenient = spec.model_copy(update={"retrieval": spec.retrieval.model_copy(update={"max_bad_fraction": 1.0})})
    with pytest.raises(CorpusError, match=rf"retrieval\.{name}: none of 2 rows has usable text"):
        prepare_retrieval(lenient)


def test_documents_without_text_are_refused_and_counted(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "documents.parquet", {"id": [10, 11, 13], "text": [None, TEXTS[1], TEXTS[3]]})
    with pytest.raises(CorpusError, match="1 of 5 queries and documents have no usable text"):
        prepare_retrieval(spec)


@pytest.mark.parametrize(
    ("query", "document", "named"),
    [("q0", 99, r"document '99', .* none of the 5"), ("q9", 10, "query 'q9', .* none of the 2")],
)
def test_ids_that_are_in_no_set_are_named(
    spec: EvaluateSpec, tmp_path: Path, query: str, document: int, named: str
) -> None:
    write(tmp_path / "relevance.parquet", {"query_id": [query], "document_id": [document]})
    with pytest.raises(CorpusError, match=rf"relevance names {named}"):
        prepare_retrieval(spec)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relevance": [1, None]}, "column 'relevance' holds None in row 1"),
        ({"relevance": [float("nan"), 1.0]}, "column 'relevance' holds nan in row 0"),
        ({"query_id": ["q0", None]}, "column 'query_id' holds None in row 1"),
        ({"relevance": ["high", "low"]}, "column 'relevance' is string: .*\n.*expected numbers"),
        ({"document_id": [[13], [11]]}, "column 'document_id' is list<.*\n.*expected ids: text or numbers"),
    ],
)
def test_relevance_that_cannot_be_used_is_told_first(
    spec: EvaluateSpec, tmp_path: Path, changes: dict[str, list[object]], words: str
) -> None:
    write(tmp_path / "relevance.parquet", {"query_id": ["q0", "q1"], "document_id": [13, 11], **changes})
    with pytest.raises(CorpusError, match=rf"relevance\.parquet: {words}"):
        prepare_retrieval(spec)


def test_a_corrupt_file_of_relevance_is_named(spec: EvaluateSpec, tmp_path: Path) -> None:
    (tmp_path / "relevance.parquet").write_bytes(b"PAR1xxxx")
    with pytest.raises(CorpusError, match=r"relevance\.parquet: not a readable Parquet file"):
        prepare_retrieval(spec)


def test_ids_that_are_lists_are_refused(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "queries.parquet", {"id": [["q0"], ["q1"]], "text": TEXTS[:2]})
    with pytest.raises(CorpusError, match=r"column 'id' is list<.*\n.*expected ids: text or numbers"):
        prepare_retrieval(spec)


def test_an_id_given_twice_is_refused(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "documents.parquet", {"id": [11, 11, 13], "text": TEXTS[:3]})
    with pytest.raises(CorpusError, match=r"retrieval\.documents: 1 ids stand there more than once, '11' among them"):
        prepare_retrieval(spec)


def test_rows_without_an_id_are_refused(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "queries.parquet", {"id": [None, None, "q1"], "text": TEXTS[:3]})
    with pytest.raises(CorpusError, match=r"retrieval\.queries: 2 rows have no 'id'"):
        prepare_retrieval(spec)


def test_an_id_given_twice_in_rows_without_text_is_no_hindrance(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "documents.parquet", {"id": [11, 11, 13], "text": [TEXTS[1], None, TEXTS[3]]})
    assert spec.retrieval is not None
    lenient = spec.model_copy(update={"retrieval": spec.retrieval.model_copy(update={"max_bad_fraction": 0.5})})
    run = prepare_retrieval(lenient)
    assert run.documents.ids.to_pylist() == ["11", "13"]
    assert run_retrieval(run, POOL).metrics["recall@1"] == 1


def test_a_pair_with_two_gains_is_refused_and_one_said_twice_is_not(spec: EvaluateSpec, tmp_path: Path) -> None:
    pairs = {"query_id": ["q0", "q0"], "document_id": [13, 13]}
    write(tmp_path / "relevance.parquet", {**pairs, "relevance": [2, 2]})
    assert prepare_retrieval(spec).gains == ({3: 2.0}, {})
    write(tmp_path / "relevance.parquet", {**pairs, "relevance": [2, 1]})
    with pytest.raises(CorpusError, match=r"document '13' for query 'q0' a gain of 2\.0 and of 1\.0"):
        prepare_retrieval(spec)


def test_equal_texts_are_ranked_in_the_files_order_whichever_shard_ends_first(
    spec: EvaluateSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"documents-{number}.parquet") for number in range(2)]
    for number, file in enumerate(files):
        write(Path(file), {"id": [f"d{number}"], "text": [TEXTS[3]]})
    write(tmp_path / "relevance.parquet", {"query_id": ["q0"], "document_id": ["d0"]})
    assert spec.retrieval is not None
    run = prepare_retrieval(
        spec.model_copy(update={"retrieval": spec.retrieval.model_copy(update={"documents": tuple(files)})})
    )
    documents = replace(run.documents, shards=tuple(cut_small(run.documents.shards)))
    run = replace(run, documents=documents)
    forwards = retrieval.stream_shards
    assert run_retrieval(run, POOL).metrics["recall@1"] == 1
    monkeypatch.setattr(retrieval, "stream_shards", lambda shards, job, pool: forwards(shards[::-1], job, pool))
    assert run_retrieval(run, POOL).metrics["recall@1"] == 1


def test_everything_that_is_missing_is_said_at_once(spec: EvaluateSpec, tmp_path: Path) -> None:
    write(tmp_path / "relevance.parquet", {"query": ["q0"]})
    (tmp_path / "queries.parquet").unlink()
    with pytest.raises(
        SeveralErrors, match=r"2 problems\n.*queries\.parquet: nothing there[\s\S]*no column 'query_id'"
    ):
        prepare_retrieval(spec)


def test_a_spec_measures_labelled_rows_or_a_search(spec: EvaluateSpec) -> None:
    raw = spec.model_dump()
    with pytest.raises(SpecError, match="either `corpus`"):
        parse_spec({**raw, "corpus": {"uri": "x"}}, EvaluateSpec, "spec")
    with pytest.raises(SpecError, match="either `corpus`"):
        parse_spec({**raw, "retrieval": None}, EvaluateSpec, "spec")


def test_vectors_come_back_as_they_were() -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert score_lists(vectors).to_pylist() == vectors.tolist()
