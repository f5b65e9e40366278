"""One worker's work: a shard in, a Parquet file and a done-record out. Knows nothing of Ray."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.reader import REASON, read_shard
from pipeline.corpus.shards import Shard
from pipeline.encoder.batching import BatchBudget
from pipeline.encoder.outputs import ModelOutputs
from pipeline.encoder.peak import device_name, find_peak
from pipeline.inference.cascade import ask_in_turn
from pipeline.inference.job import ScoreJob
from pipeline.inference.predictor import Member, Prediction, Predictor
from pipeline.inference.reuse import Answers, ResultReuse, compute_once, group_texts, hash_texts
from pipeline.inference.source import ModelSource, joined_versions
from pipeline.inference.spec import FIRST
from pipeline.inference.stages import StageClock
from pipeline.inference.trace import traced
from pipeline.output.ledger import DoneRecord
from pipeline.output.texts import HashArray, IntArray
from pipeline.output.usage import WorkerFacts
from pipeline.output.writer import write_parquet
from pipeline.schema import (
    EMBEDDING_TYPE,
    FINGERPRINT_FOOTER,
    MODEL_VERSION_FOOTER,
    QUARANTINE,
    QUARANTINE_SCHEMA,
    RUN_DATE,
    RUN_ID_FIELD,
    RUN_ID_FOOTER,
    SOURCE_FILE,
    SOURCE_FOOTER,
    SOURCE_ROW,
    file_schema,
    prefixed,
)
from pipeline.uris import join_uri

NON_FINITE = "model output is not finite, in fp32 too"


class ShardScorer:
    """Scores shards of one run, one at a time; doing one twice leaves one result.

    Args:
        job: The run.
        predictor: Its bundles.
        began_s: When this worker began to load them, seconds since 1970.
        first: A cascade's first bundle, where the job has one.
    """

    def __init__(self, job: ScoreJob, predictor: Predictor, began_s: float, first: Predictor | None = None) -> None:
        self._job, self._first = job, first
        peak = find_peak(predictor.runtime)
        device = device_name(predictor.runtime.device)
        self._facts = WorkerFacts(round(began_s, 3), round(time.time(), 3), device, round(peak.flops_per_s), peak.basis)
        self._predictor = predictor
        kept = {SOURCE_FILE, SOURCE_ROW, RUN_ID_FIELD.name, *job.source.options.kept_schema.names}
        self._answer_schema = pa.schema([field for field in file_schema(job.table_schema) if field.name not in kept])
        self._reuse = ResultReuse(job.reuse, self._answer_schema) if job.reuse is not None else None
        self._members = {**predictor.members, **({FIRST: first.members[""]} if first is not None else {})}
        self._version = joined_versions({name: member.info for name, member in self._members.items()})

    @property
    def padded_batch(self) -> BatchBudget | None:
        """What a padded batch of the encoder that every row runs through holds; None where it takes packs."""
        return (self._first or self._predictor).padded_batch

    def process(self, shard: Shard) -> pa.Table:
        """Score a shard, write its file, claim its done-record.

        Returns:
            The record that stands, as one row of text: a receipt under 2 KB.
        """
        clock = StageClock()
        with traced(self._job.trace, shard.name, clock, self._job.model.storage):
            return self._process(shard, clock).to_table()

    def _process(self, shard: Shard, clock: StageClock) -> DoneRecord:
        job = self._job
        with clock.timing("read"):
            rows = read_shard(shard, job.source.columns, job.source.options, job.model.storage)
        clock.read_bytes = rows.nbytes
        good = rows.filter(pc.is_null(rows[REASON]))
        hashes = hash_texts(good, job.source.texts) if self._reuse is not None else None
        answers = self._answer(good, hashes, clock)
        scored, bad = self._split(rows, good, answers)
        attempt = f"{shard.name}-{uuid.uuid4().hex[:8]}.parquet"
        with clock.timing("write"):
            path, size_bytes = self._write(scored, job.ledger.table_uri, attempt, shard)
            if self._reuse is not None and hashes is not None and path is not None:
                self._reuse.texts.write(path, hashes[answers.finite])
            bad_path, bad_bytes = self._write(bad, join_uri(job.ledger.table_uri, QUARANTINE), attempt, shard)
        record = DoneRecord(
            shard=shard.name,
            path=path,
            size_bytes=size_bytes,
            num_scored_rows=scored.num_rows,
            quarantine_path=bad_path,
            quarantine_size_bytes=bad_bytes,
            num_quarantined_rows=bad.num_rows,
            num_tokens=answers.num_tokens,
            num_padded_tokens=answers.num_padded_tokens,
            num_truncated_rows=self._count_truncated(answers),
            run_id=job.run_id,
            elapsed_s=round(clock.elapsed_s, 3),
            reasons={str(item["values"]): int(item["counts"]) for item in bad["reason"].value_counts().to_pylist()},
            num_reused_rows=answers.num_reused_rows,
            usage=clock.usage(self._facts),
        )
        standing = job.ledger.claim(record)
        if standing != record:
            self._discard(record)
        return standing

    def _answer(self, good: pa.Table, hashes: HashArray | None, clock: StageClock) -> Answers:
        """What the bundles say about usable rows: of equal texts once, of those scored before what they said."""

        def compute(numbers: IntArray) -> Answers:
            return self._compute(good.take(pa.array(numbers)), clock)

        if self._reuse is not None and hashes is not None:
            return self._reuse.answer(hashes, compute)
        groups = group_texts(good, self._job.source.texts)
        return self._compute(good, clock) if len(groups[0]) == good.num_rows else compute_once(groups, compute)

    def _compute(self, good: pa.Table, clock: StageClock) -> Answers:
        def ask(predictor: Predictor, model: ModelSource, rows: pa.Table) -> Answers:
            return self._join(predictor, predictor.predict(rows, model.texts, clock))

        if self._first is None or self._job.first is None:
            return ask(self._predictor, self._job.model, good)
        quick = ask(self._first, self._job.first.model, good)
        return ask_in_turn(
            quick,
            self._job.first.min_score,
            lambda rows: ask(self._predictor, self._job.model, good.take(pa.array(rows))),
        )

    def _join(self, predictor: Predictor, predictions: Mapping[str, Prediction]) -> Answers:
        arrays = {}
        for name, prediction in predictions.items():
            columns = bundle_columns(predictor.members[name], prediction)
            arrays.update({prefixed(name, column): values for column, values in columns.items()})
        once = {id(item.examples): item for item in predictions.values()}.values()  # tokens count once a tokenisation
        return Answers(
            pa.table([arrays[field.name] for field in self._answer_schema], schema=self._answer_schema),
            np.logical_and.reduce([item.outputs.finite for item in predictions.values()]),
            sum(int(item.examples.tokens.lengths.sum()) for item in once),
            sum(item.outputs.num_padded_tokens for item in once),
        )

    def _split(self, rows: pa.Table, good: pa.Table, answers: Answers) -> tuple[pa.Table, pa.Table]:
        """Scored and quarantined rows; every row goes to exactly one of the two."""
        finite = pa.array(answers.finite)
        failed = good.filter(pc.invert(finite))
        unusable = rows.filter(pc.is_valid(rows[REASON]))
        reasons = pa.repeat(pa.scalar(NON_FINITE), failed.num_rows)
        bad = pa.concat_tables(
            [self._quarantined(unusable, unusable[REASON]), self._quarantined(failed, reasons)],
        )
        return self._assemble(good, answers).filter(finite), bad

    def _assemble(self, good: pa.Table, answers: Answers) -> pa.Table:
        schema = file_schema(self._job.table_schema)
        arrays = {field.name: good[field.name] for field in schema if field.name in good.column_names}
        arrays.update({name: answers.columns[name] for name in self._answer_schema.names})
        arrays["run_id"] = pa.repeat(pa.scalar(self._job.run_id), good.num_rows)
        return pa.table([arrays[field.name] for field in schema], schema=schema)

    def _count_truncated(self, answers: Answers) -> int:
        """A row is truncated if any bundle truncated it."""
        columns = (answers.columns[prefixed(name, "truncated")] for name in self._predictor.members)
        return int(np.logical_or.reduce([column.to_numpy() for column in columns]).sum())

    def _quarantined(self, rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
        version = pa.repeat(pa.scalar(self._version), rows.num_rows)
        run_id = pa.repeat(pa.scalar(self._job.run_id), rows.num_rows)
        arrays = [rows[SOURCE_FILE], rows[SOURCE_ROW], reasons, version, run_id]
        return pa.table(arrays, schema=file_schema(QUARANTINE_SCHEMA))

    def _write(self, rows: pa.Table, table_uri: str, name: str, shard: Shard) -> tuple[str | None, int]:
        if rows.num_rows == 0:
            return None, 0
        job, members = self._job, self._members.values()
        path = f"{RUN_DATE}={job.ledger.run_date}/{name}"
        footer = {
            "bertmill.model": ", ".join(dict.fromkeys(member.info.base_model for member in members)),
            MODEL_VERSION_FOOTER: self._version,
            FINGERPRINT_FOOTER: job.ledger.fingerprint,
            RUN_ID_FOOTER: job.run_id,
            **(_source_footer(shard) if job.ledger.is_snapshot else {}),
        }
        written = write_parquet(rows, join_uri(table_uri, path), footer, job.model.storage)
        return path, written.size_bytes

    def _discard(self, record: DoneRecord) -> None:
        """Remove the files of an attempt that another one forestalled."""
        root, storage = self._job.ledger.table_uri, self._job.model.storage
        if record.path is not None:
            storage.delete(join_uri(root, record.path))
            if self._reuse is not None:
                self._reuse.texts.delete(record.path)
        if record.quarantine_path is not None:
            storage.delete(join_uri(root, QUARANTINE, record.quarantine_path))


def _source_footer(shard: Shard) -> dict[str, str]:
    """The corpus file a shard is of, where it is of one alone: a snapshot that keeps vanished files goes by it."""
    uris = {piece.file.uri for piece in shard.pieces}
    return {SOURCE_FOOTER: uris.pop()} if len(uris) == 1 else {}


def bundle_columns(member: Member, prediction: Prediction) -> dict[str, pa.Array]:
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


def _embedding_array(outputs: ModelOutputs) -> pa.Array:
    num_rows, width = outputs.embeddings.shape
    offsets = pa.array(np.arange(num_rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(outputs.embeddings.reshape(-1))).cast(EMBEDDING_TYPE)
