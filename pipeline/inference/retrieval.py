"""A search judged: queries, documents and what is relevant to what, from Parquet to recall, nDCG and MRR.

The ranking is exact, on the driver: it holds all embeddings (1 million documents of 384 numbers are 1.5 GB).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.config import PoolOptions
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import REASON, Columns, ReadOptions, guard_read, read_shard
from pipeline.corpus.rows import open_rows
from pipeline.corpus.shards import Shard
from pipeline.corpus.stream import stream_shards
from pipeline.encoder.bundle import read_bundle_info
from pipeline.errors import Checks, CorpusError, ModelError, first_line
from pipeline.inference.predictor import Predictor, load_predictor
from pipeline.inference.source import ModelSource, TextSource
from pipeline.inference.spec import EvaluateSpec, RetrievalConfig
from pipeline.registry.resolve import resolve_model
from pipeline.storage import Storage
from pipeline.tasks import find_task
from pipeline.tasks.base import Evaluation
from pipeline.tasks.numbers import matrix, score_lists
from pipeline.tasks.retrieval import SearchSet, search_metrics
from pipeline.telemetry import Meter, ProgressDisplay

_ONLY = ""


@dataclass(frozen=True)
class TextSet:
    """Queries or documents: their shards, and how ids and texts are read."""

    shards: tuple[Shard, ...]
    columns: Columns
    options: ReadOptions

    @property
    def num_rows(self) -> int:
        """Rows of the set."""
        return sum(shard.num_rows for shard in self.shards)


@dataclass(frozen=True)
class PreparedRetrieval:
    """Everything known before Ray starts; `relevance` holds `query`, `document` (strings) and `gain`."""

    spec: EvaluateSpec
    config: RetrievalConfig
    queries: TextSet
    documents: TextSet
    relevance: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows to embed."""
        return self.queries.num_rows + self.documents.num_rows

    @property
    def total(self) -> str:
        """What there is to search, for people."""
        return f"{self.queries.num_rows:,} queries over {self.documents.num_rows:,} documents"

    def measure(self, pool: PoolOptions) -> Evaluation:
        """`run_retrieval`."""
        return run_retrieval(self, pool)


@dataclass(frozen=True)
class EmbedJob:
    """What an embedding worker is told."""

    model: ModelSource
    texts: TextSet

    def build(self) -> ShardEmbedder:
        """Load the model in the worker's own process."""
        return ShardEmbedder(self, load_predictor(self.model))


class ShardEmbedder:
    """Embeds shards of ids and texts."""

    def __init__(self, job: EmbedJob, predictor: Predictor) -> None:
        self._job, self._predictor = job, predictor

    def process(self, shard: Shard) -> pa.Table:
        """The id (as text) and embedding of every row with usable text, and how many tokens it has."""
        job = self._job
        rows = read_shard(shard, job.texts.columns, job.texts.options, job.model.storage)
        rows = rows.filter(pc.is_null(rows[REASON]))
        found = self._predictor.predict(rows, job.model.texts)[_ONLY]
        (id_column,) = job.texts.columns.kept
        tokens = pa.array(found.examples.tokens.row_tokens)
        columns = [rows[id_column].cast(pa.string()), score_lists(found.outputs.embeddings), tokens]
        return pa.table(columns, names=["id", "vector", "num_tokens"])


def prepare_retrieval(spec: EvaluateSpec) -> PreparedRetrieval:
    """Check bundle, files and columns of a spec that names a search, and read what is relevant. Starts nothing.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage, checks, config = Storage(spec.storage), Checks(), spec.retrieval
    assert config is not None
    spec = spec.model_copy(update={"bundle": resolve_model(spec.bundle, spec.registry, storage)})
    checks.run(lambda: _check_bundle(spec, storage))
    queries = checks.run(lambda: _open_texts(config.queries, config, storage))
    documents = checks.run(lambda: _open_texts(config.documents, config, storage))
    relevance = checks.run(lambda: _read_relevance(config, storage))
    checks.raise_failures()
    assert queries is not None
    assert documents is not None
    return PreparedRetrieval(spec, config, queries, documents, relevance)


def run_retrieval(run: PreparedRetrieval, pool: PoolOptions) -> Evaluation:
    """Embed both sets and judge the search; needs a running Ray.

    Raises:
        CorpusError: too many rows without text, or all of a set, or a judged query or document that is in neither set.
    """
    threads = pool.threads_per_worker
    meter = Meter()
    found = []
    with ProgressDisplay("embedding", run.num_rows, "rows") as display:
        for name, texts in (("queries", run.queries), ("documents", run.documents)):
            parts, num_before = [], meter.num_rows
            for part in stream_shards(texts.shards, _embed_job(run, texts, threads), pool):
                parts.append(part)
                meter.num_rows += part.num_rows
                meter.num_tokens += sum(part["num_tokens"].to_pylist())
                display.update(meter.num_rows, meter.rates())
            if meter.num_rows == num_before:
                raise CorpusError(
                    f"retrieval.{name}: none of {texts.num_rows} rows has usable text",
                    "mend the data, or name the column of the texts as retrieval.text",
                )
            found.append(pa.concat_tables(parts))
    num_bad = run.num_rows - meter.num_rows
    if num_bad > run.config.max_bad_fraction * run.num_rows:
        raise CorpusError(
            f"{num_bad} of {run.num_rows} queries and documents have no usable text; "
            f"more than retrieval.max_bad_fraction {run.config.max_bad_fraction}",
            "mend the data, or raise retrieval.max_bad_fraction",
        )
    queries, documents = found
    return judge_search(queries, documents, run.relevance)


def judge_search(queries: pa.Table, documents: pa.Table, relevance: pa.Table) -> Evaluation:
    """Metrics of a search.

    Args:
        queries: `id` and `vector`.
        documents: `id` and `vector`.
        relevance: `query`, `document` and `gain`.

    Raises:
        CorpusError: an id is twice in a set, or judged and in none; nothing is relevant to any query.
    """
    query_numbers, document_numbers = _numbers(queries, "queries"), _numbers(documents, "documents")
    gains: list[dict[int, float]] = [{} for _ in query_numbers]
    for row in relevance.to_pylist():
        for kind, known in (("query", query_numbers), ("document", document_numbers)):
            if row[kind] not in known:
                raise CorpusError(
                    f"relevance names {kind} {row[kind]!r}, which is none of the {len(known):,} with usable text",
                    "check the id columns, and that rows with unusable text are not judged",
                )
        gains[query_numbers[row["query"]]][document_numbers[row["document"]]] = float(row["gain"])
    found = SearchSet(matrix(queries["vector"]), matrix(documents["vector"]), gains)
    if not found.asked:
        raise CorpusError(
            f"{relevance.num_rows} rows of relevance, and none says that a document is relevant to a query",
            "give files of relevance with gains above 0",
        )
    return Evaluation(len(found.asked), search_metrics(found))


def _numbers(rows: pa.Table, name: str) -> dict[str, int]:
    ids = rows["id"].to_pylist()
    numbers = {identity: number for number, identity in enumerate(ids)}
    if len(numbers) < len(ids):
        raise CorpusError(
            f"retrieval.{name}: {len(ids) - len(numbers)} ids stand there more than once", "give each one"
        )
    return numbers


def _embed_job(run: PreparedRetrieval, texts: TextSet, threads: int) -> EmbedJob:
    sources = {_ONLY: TextSource((run.config.text,))}
    storage = Storage(run.spec.storage)
    return EmbedJob(ModelSource({_ONLY: run.spec.bundle}, sources, run.spec.compute, threads, storage), texts)


def _check_bundle(spec: EvaluateSpec, storage: Storage) -> None:
    info = read_bundle_info(spec.bundle, storage)
    if len(find_task(info.task, spec.bundle).inputs) != 1:
        raise ModelError(f"{spec.bundle}: a {info.task} bundle reads pairs", "a search needs a bundle of single texts")


def _open_texts(uris: Iterable[str], config: RetrievalConfig, storage: Storage) -> TextSet:
    columns = Columns((config.text,), (config.id,))
    opened = open_rows(list_corpus(uris, storage), columns, storage)
    _cast(pa.nulls(0, opened.options.kept_schema.field(0).type), pa.string(), f"column {config.id!r}")
    return TextSet(opened.shards, columns, opened.options)


def _read_relevance(config: RetrievalConfig, storage: Storage) -> pa.Table:
    return pa.concat_tables([_relevance_of(file, config, storage) for file in list_corpus(config.relevance, storage)])


def _relevance_of(file: CorpusFile, config: RetrievalConfig, storage: Storage) -> pa.Table:
    filesystem, path = storage.open_arrow(file.uri)
    table = guard_read(file, lambda: ds.dataset(path, filesystem=filesystem, format="parquet").to_table())
    missing = [name for name in (config.query_id, config.document_id) if name not in table.column_names]
    if missing:
        raise CorpusError(f"{file.uri}: no column {missing[0]!r}", f"it has: {', '.join(table.column_names)}")
    if config.gain not in table.column_names:
        table = table.append_column(config.gain, pa.array(np.ones(table.num_rows)))
    found = {}
    for name, column in (("query", config.query_id), ("document", config.document_id), ("gain", config.gain)):
        kind = pa.float64() if name == "gain" else pa.string()
        found[name] = _cast(table[column], kind, f"{file.uri}: column {column!r}")
        is_value = pc.is_finite(found[name]) if name == "gain" else pc.is_valid(found[name])
        if not pc.all(pc.fill_null(is_value, False), min_count=0).as_py():
            row = pc.index(pc.fill_null(is_value, False), False).as_py()
            raise CorpusError(f"{file.uri}: column {column!r} holds {table[column][row]} in row {row}", "mend the data")
    return pa.table(found)


def _cast(values: pa.Array | pa.ChunkedArray, kind: pa.DataType, what: str) -> pa.ChunkedArray:
    try:
        return values.cast(kind)
    except pa.ArrowException as error:
        expected = "numbers" if kind == pa.float64() else "ids: text or numbers"
        raise CorpusError(f"{what} is {values.type}: {first_line(error)}", f"expected {expected}") from None
