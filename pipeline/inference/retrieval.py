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
from pipeline.storage import Storage, map_threads
from pipeline.tasks import find_task
from pipeline.tasks.base import Evaluation
from pipeline.tasks.numbers import matrix, score_lists
from pipeline.tasks.retrieval import SearchSet, search_metrics
from pipeline.telemetry import Meter, ProgressDisplay

_ONLY = ""
_THREADS = 4  # each holds a shard of texts


@dataclass(frozen=True)
class TextSet:
    """Queries or documents.

    Attributes:
        shards: Where their rows are.
        columns: Of ids and texts.
        options: How these are read.
        ids: Those of all rows with usable text, as text, in the files' order.
    """

    shards: tuple[Shard, ...]
    columns: Columns
    options: ReadOptions
    ids: pa.ChunkedArray

    @property
    def num_rows(self) -> int:
        """Rows of the set."""
        return sum(shard.num_rows for shard in self.shards)


@dataclass(frozen=True)
class PreparedRetrieval:
    """Everything known before Ray starts; `gains` holds for each query with usable text: document number -> gain."""

    spec: EvaluateSpec
    config: RetrievalConfig
    queries: TextSet
    documents: TextSet
    gains: tuple[dict[int, float], ...]

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
        rows = _usable_rows(shard, job.texts.columns, job.texts.options, job.model.storage)
        found = self._predictor.predict(rows, job.model.texts)[_ONLY]
        tokens = pa.array(found.examples.tokens.row_tokens)
        columns = [_ids_of(rows, job.texts.columns), score_lists(found.outputs.embeddings), tokens]
        return pa.table(columns, names=["id", "vector", "num_tokens"])


def prepare_retrieval(spec: EvaluateSpec) -> PreparedRetrieval:
    """Check bundle, files, columns and ids of a spec that names a search, and read what is relevant. Starts nothing.

    Raises:
        InputError: whatever the user has to mend.
    """
    storage, checks, config = Storage(spec.storage), Checks(), spec.retrieval
    assert config is not None
    spec = spec.model_copy(update={"bundle": resolve_model(spec.bundle, spec.registry, storage)})
    checks.run(lambda: _check_bundle(spec, storage))
    queries = checks.run(lambda: _open_texts("queries", config.queries, config, storage))
    documents = checks.run(lambda: _open_texts("documents", config.documents, config, storage))
    relevance = checks.run(lambda: _read_relevance(config, storage))
    checks.raise_failures()
    assert queries is not None
    assert documents is not None
    assert relevance is not None
    _check_enough(queries, documents, config)
    return PreparedRetrieval(spec, config, queries, documents, _find_gains(queries, documents, relevance))


def run_retrieval(run: PreparedRetrieval, pool: PoolOptions) -> Evaluation:
    """Embed both sets and judge the search; needs a running Ray."""
    found, meter = [], Meter()
    with ProgressDisplay("embedding", run.num_rows, "rows") as display:
        for texts in (run.queries, run.documents):
            parts = []
            for part in stream_shards(texts.shards, _embed_job(run, texts, pool.threads_per_worker), pool):
                parts.append(part)
                meter.num_rows += part.num_rows
                meter.num_tokens += sum(part["num_tokens"].to_pylist())
                display.update(meter.num_rows, meter.rates())
            embedded = pa.concat_tables(parts)
            # Shards come as they end; texts with equal scores are ranked in the files' order all the same.
            found.append(matrix(embedded["vector"].take(pc.index_in(texts.ids, embedded["id"]))))
    judged = SearchSet(found[0], found[1], run.gains)
    return Evaluation(len(judged.asked), search_metrics(judged))


def _check_enough(queries: TextSet, documents: TextSet, config: RetrievalConfig) -> None:
    num_rows = queries.num_rows + documents.num_rows
    num_bad = num_rows - len(queries.ids) - len(documents.ids)
    if num_bad > config.max_bad_fraction * num_rows:
        raise CorpusError(
            f"{num_bad} of {num_rows} queries and documents have no usable text; "
            f"more than retrieval.max_bad_fraction {config.max_bad_fraction}",
            "mend the data, or raise retrieval.max_bad_fraction",
        )


def _find_gains(queries: TextSet, documents: TextSet, relevance: pa.Table) -> tuple[dict[int, float], ...]:
    numbers = {
        kind: {identity: number for number, identity in enumerate(texts.ids.to_pylist())}
        for kind, texts in (("query", queries), ("document", documents))
    }
    gains: list[dict[int, float]] = [{} for _ in numbers["query"]]
    for row in relevance.to_pylist():
        for kind, known in numbers.items():
            if row[kind] not in known:
                raise CorpusError(
                    f"relevance names {kind} {row[kind]!r}, which is none of the {len(known):,} with usable text",
                    "check the id columns, and that rows with unusable text are not judged",
                )
        of_query, document = gains[numbers["query"][row["query"]]], numbers["document"][row["document"]]
        if of_query.setdefault(document, row["gain"]) != row["gain"]:
            raise CorpusError(
                f"relevance gives document {row['document']!r} for query {row['query']!r} a gain of "
                f"{of_query[document]} and of {row['gain']}",
                "give each pair one gain",
            )
    if not any(gain > 0 for of_query in gains for gain in of_query.values()):
        raise CorpusError(
            f"{relevance.num_rows} rows of relevance, and none says that a document is relevant to a query",
            "give files of relevance with gains above 0",
        )
    return tuple(gains)


def _embed_job(run: PreparedRetrieval, texts: TextSet, threads: int) -> EmbedJob:
    sources = {_ONLY: TextSource((run.config.text,))}
    storage = Storage(run.spec.storage)
    return EmbedJob(ModelSource({_ONLY: run.spec.bundle}, sources, run.spec.compute, threads, storage), texts)


def _check_bundle(spec: EvaluateSpec, storage: Storage) -> None:
    info = read_bundle_info(spec.bundle, storage)
    if len(find_task(info.task, spec.bundle).inputs) != 1:
        raise ModelError(f"{spec.bundle}: a {info.task} bundle reads pairs", "a search needs a bundle of single texts")


def _open_texts(name: str, uris: Iterable[str], config: RetrievalConfig, storage: Storage) -> TextSet:
    columns = Columns((config.text,), (config.id,))
    opened = open_rows(list_corpus(uris, storage), columns, storage)
    _cast(pa.nulls(0, opened.options.kept_schema.field(0).type), pa.string(), f"column {config.id!r}")

    def ids_in(shard: Shard) -> pa.ChunkedArray:
        return _ids_of(_usable_rows(shard, columns, opened.options, storage), columns)

    parts = map_threads(ids_in, opened.shards, _THREADS)
    ids = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    texts = TextSet(opened.shards, columns, opened.options, ids)
    if len(ids) == 0:
        raise CorpusError(
            f"retrieval.{name}: none of {texts.num_rows} rows has usable text",
            "mend the data, or name the column of the texts as retrieval.text",
        )
    if ids.null_count:
        raise CorpusError(f"retrieval.{name}: {ids.null_count} rows have no {config.id!r}", "give each row one")
    counted = ids.value_counts()
    doubled = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    if len(doubled):
        raise CorpusError(
            f"retrieval.{name}: {len(doubled)} ids stand there more than once, {doubled[0].as_py()!r} among them",
            "give each row an id of its own",
        )
    return texts


def _usable_rows(shard: Shard, columns: Columns, options: ReadOptions, storage: Storage) -> pa.Table:
    rows = read_shard(shard, columns, options, storage)
    return rows.filter(pc.is_null(rows[REASON]))


def _ids_of(rows: pa.Table, columns: Columns) -> pa.ChunkedArray:
    return rows[columns.kept[0]].cast(pa.string())


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
