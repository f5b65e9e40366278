"""The scoring plane on one screen: prepare (no Ray) -> stream the pending shards -> account -> publish."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace

from pipeline.config import PoolOptions
from pipeline.corpus.stream import stream_shards
from pipeline.inference.job import TraceTarget
from pipeline.inference.prepare import PreparedRun, make_job
from pipeline.output.ledger import DoneRecord, records_from
from pipeline.telemetry import Meter, ProgressDisplay
from pipeline.tracing import add_span, annotate_span, span


@span("score")
def score_pending(run: PreparedRun, pool: PoolOptions, run_id: str, trace_uri: str | None = None) -> list[DoneRecord]:
    """Score the shards that are left; needs a running Ray, shows progress, publishes nothing.

    Args:
        run: The night.
        pool: The workers.
        run_id: The run's name.
        trace_uri: Where a trace of the first shard is written, if one is asked for.
    """
    if run.starts_anew:
        run.ledger.begin_rescoring()
    run.ledger.drop(run.plan.stale)
    run.cache.save(run.footers)
    job = make_job(run, pool.threads_per_worker, run_id)
    if trace_uri is not None:
        job = replace(job, trace=TraceTarget(run.plan.pending[0].name, trace_uri))
    records: list[DoneRecord] = []
    num_bad = 0
    meter = Meter()
    with ProgressDisplay("scoring", run.plan.num_pending_rows, "rows") as display:
        for receipt in stream_shards(run.plan.pending, job, pool):
            for record in records_from(receipt):
                records.append(record)
                meter.num_rows += record.num_rows
                meter.num_tokens += record.num_tokens
                num_bad += record.num_quarantined_rows
                add_shard_span(record)
            note = f"{len(records):,}/{len(run.plan.pending):,} shards, {meter.rates()}, {num_bad} quarantined"
            display.update(meter.num_rows, note, tokens=meter.num_tokens, quarantined_rows=num_bad)
    annotate_span(shards=len(records), rows=meter.num_rows, tokens=meter.num_tokens, quarantined_rows=num_bad)
    return records


def add_shard_span(record: DoneRecord) -> None:
    """What a worker did of the trace, as its done-record has it."""
    usage = record.usage
    add_span(
        "shard",
        usage.ended_s,
        record.elapsed_s,
        shard=record.shard,
        run_id=record.run_id,
        worker=usage.worker,
        rows=record.num_rows,
        tokens=record.num_tokens,
        quarantined_rows=record.num_quarantined_rows,
        peak_bytes=usage.peak_bytes,
        **asdict(usage.stages),
    )


def run_id_for(run_date: str) -> str:
    """A new run's name: its night and a random tail."""
    return f"{run_date}-{uuid.uuid4().hex[:8]}"
