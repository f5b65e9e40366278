"""One worker's work: a shard in, a Parquet file and a done-record out. Knows nothing of Ray."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.reader import REASON, Columns, ReadOptions, read_shard
from pipeline.corpus.shards import Shard
from pipeline.encoder.bundle import BundleInfo
from pipeline.encoder.model import ModelOutputs
from pipeline.inference.predictor import Member, ModelSource, Prediction, Predictor, TextSource, load_predictor
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.writer import write_parquet
from pipeline.schema import (
    EMBEDDING_TYPE,
    QUARANTINE,
    QUARANTINE_SCHEMA,
    RUN_DATE,
    SOURCE_FILE,
    SOURCE_FOOTER,
    SOURCE_ROW,
    file_schema,
    prefixed,
)
from pipeline.uris import join_uri

NON_FINITE = "model output is not finite, in fp32 too"


@dataclass(frozen=True)
class InputSource:
    """Which columns a worker reads, how, and which of them each bundle takes."""

    columns: Columns
    options: ReadOptions
    texts: Mapping[str, TextSource]


@dataclass(frozen=True)
class ScoreJob:
    """Everything a worker of one run is told; picklable, holds no secret."""

    model: ModelSource
    source: InputSource
    ledger: Ledger
    table_schema: pa.Schema
    run_id: str

    def build(self) -> ShardScorer:
        """Load the model in the worker's own process."""
        return ShardScorer(self, load_predictor(self.model))


class ShardScorer:
    """Scores shards of one run, one at a time; doing one twice leaves one result."""

    def __init__(self, job: ScoreJob, predictor: Predictor) -> None:
        self._job = job
        self._predictor = predictor
        self._version = joined_versions({name: member.info for name, member in predictor.members.items()})

    def process(self, shard: Shard) -> pa.Table:
        """Score a shard, write its file, claim its done-record.

        Returns:
            The record that stands, as one row of text: a receipt under 1 KB.
        """
        started_s = time.monotonic()
        job = self._job
        rows = read_shard(shard, job.source.columns, job.source.options, job.model.storage)
        scored, bad, accounts = self._score(rows)
        attempt = f"{shard.name}-{uuid.uuid4().hex[:8]}.parquet"
        path, size_bytes = self._write(scored, job.ledger.table_uri, attempt, shard)
        bad_path, bad_bytes = self._write(bad, join_uri(job.ledger.table_uri, QUARANTINE), attempt, shard)
        record = DoneRecord(
            shard=shard.name,
            path=path,
            size_bytes=size_bytes,
            num_scored_rows=scored.num_rows,
            quarantine_path=bad_path,
            quarantine_size_bytes=bad_bytes,
            num_quarantined_rows=bad.num_rows,
            num_tokens=accounts.num_tokens,
            num_padded_tokens=accounts.num_padded_tokens,
            num_truncated_rows=accounts.num_truncated_rows,
            run_id=job.run_id,
            elapsed_s=round(time.monotonic() - started_s, 3),
            reasons={str(item["values"]): int(item["counts"]) for item in bad["reason"].value_counts().to_pylist()},
        )
        standing = job.ledger.claim(record)
        if standing != record:
            self._discard(record)
        return standing.to_table()

    def _score(self, rows: pa.Table) -> tuple[pa.Table, pa.Table, _Accounts]:
        """Split rows into scored and quarantined; every row goes to exactly one of the two."""
        usable = pc.is_null(rows[REASON])
        good = rows.filter(usable)
        source = self._job.source
        predictions = self._predictor.predict(good, source.texts)
        finite = pa.array(np.logical_and.reduce([item.outputs.finite for item in predictions.values()]))
        failed = good.filter(pc.invert(finite))
        reasons = pa.repeat(pa.scalar(NON_FINITE), failed.num_rows)
        bad = pa.concat_tables(
            [
                self._quarantined(rows.filter(pc.invert(usable)), rows[REASON].filter(pc.invert(usable))),
                self._quarantined(failed, reasons),
            ]
        )
        return self._assemble(good, predictions).filter(finite), bad, _count(predictions)

    def _assemble(self, good: pa.Table, predictions: Mapping[str, Prediction]) -> pa.Table:
        schema = file_schema(self._job.table_schema)
        arrays = {field.name: good[field.name] for field in schema if field.name in good.column_names}
        for name, prediction in predictions.items():
            columns = _bundle_columns(self._predictor.members[name], prediction)
            arrays.update({prefixed(name, column): values for column, values in columns.items()})
        arrays["run_id"] = pa.repeat(pa.scalar(self._job.run_id), good.num_rows)
        return pa.table([arrays[field.name] for field in schema], schema=schema)

    def _quarantined(self, rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
        version = pa.repeat(pa.scalar(self._version), rows.num_rows)
        run_id = pa.repeat(pa.scalar(self._job.run_id), rows.num_rows)
        arrays = [rows[SOURCE_FILE], rows[SOURCE_ROW], reasons, version, run_id]
        return pa.table(arrays, schema=file_schema(QUARANTINE_SCHEMA))

    def _write(self, rows: pa.Table, table_uri: str, name: str, shard: Shard) -> tuple[str | None, int]:
        if rows.num_rows == 0:
            return None, 0
        job, members = self._job, self._predictor.members.values()
        path = f"{RUN_DATE}={job.ledger.run_date}/{name}"
        footer = {
            "bertmill.model": ", ".join(dict.fromkeys(member.info.base_model for member in members)),
            "bertmill.model_version": self._version,
            "bertmill.fingerprint": job.ledger.fingerprint,
            "bertmill.run_id": job.run_id,
            **(_source_footer(shard) if job.ledger.is_snapshot else {}),
        }
        written = write_parquet(rows, join_uri(table_uri, path), footer, job.model.storage)
        return path, written.size_bytes

    def _discard(self, record: DoneRecord) -> None:
        """Remove the files of an attempt that another one forestalled."""
        root, storage = self._job.ledger.table_uri, self._job.model.storage
        if record.path is not None:
            storage.delete(join_uri(root, record.path))
        if record.quarantine_path is not None:
            storage.delete(join_uri(root, QUARANTINE, record.quarantine_path))


@dataclass(frozen=True)
class _Accounts:
    num_tokens: int
    num_padded_tokens: int
    num_truncated_rows: int


def _source_footer(shard: Shard) -> dict[str, str]:
    """The corpus file a shard is of, where it is of one alone: a snapshot that keeps vanished files goes by it."""
    uris = {piece.file.uri for piece in shard.pieces}
    return {SOURCE_FOOTER: uris.pop()} if len(uris) == 1 else {}


def joined_versions(bundles: Mapping[str, BundleInfo]) -> str:
    """The model version of a run: that of its one bundle, or `name=version` for each of several."""
    return ", ".join(f"{name}={info.model_version}" if name else info.model_version for name, info in bundles.items())


def _bundle_columns(member: Member, prediction: Prediction) -> dict[str, pa.Array]:
    """Everything one bundle adds to its rows, unprefixed."""
    outputs, tokens = prediction.outputs, prediction.examples.tokens
    decoded = member.task.decode(outputs, prediction.examples, member.learned)
    return {
        **dict(zip((field.name for field in member.task.output_fields()), decoded, strict=True)),
        "embedding": _embedding_array(outputs),
        "num_tokens": pa.array(tokens.row_tokens, pa.int32()),
        "truncated": pa.array(tokens.truncated),
        "num_windows": pa.array(tokens.row_windows, pa.int32()),
        "model_version": pa.repeat(pa.scalar(member.info.model_version), tokens.num_rows),
    }


def _count(predictions: Mapping[str, Prediction]) -> _Accounts:
    """Tokens once for each tokenisation; a row is truncated if any bundle truncated it."""
    once = {id(item.examples): item for item in predictions.values()}.values()
    truncated = np.logical_or.reduce([item.examples.tokens.truncated for item in once])
    return _Accounts(
        sum(int(item.examples.tokens.lengths.sum()) for item in once),
        sum(item.outputs.num_padded_tokens for item in once),
        int(truncated.sum()),
    )


def _embedding_array(outputs: ModelOutputs) -> pa.Array:
    num_rows, width = outputs.embeddings.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(outputs.embeddings.reshape(-1))).cast(EMBEDDING_TYPE)
