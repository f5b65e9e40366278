"""The end of a scoring run: the accounts, the one commit, the manifest."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline import __version__
from pipeline.config import PoolOptions
from pipeline.corpus.reader import SkippedFile
from pipeline.errors import AccountingError, FilesSkippedError, TooManyBadRowsError
from pipeline.inference.plan import plan_scoring
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.standing import shown_files, shown_quarantine, standing_files
from pipeline.output.current import publish_current
from pipeline.output.ledger import DoneRecord
from pipeline.output.log import last_publication, require_table
from pipeline.output.manifests import read_manifests
from pipeline.output.run_usage import PoolUse, RunUsage, sum_usage
from pipeline.output.table import Night, Published, publish_night
from pipeline.output.usage import shard_table
from pipeline.output.workers import worker_table
from pipeline.output.writer import write_parquet
from pipeline.schema import QUARANTINE, QUARANTINE_SCHEMA, RUN_DATE
from pipeline.tracing import annotate_span, span
from pipeline.uris import join_uri

_MAX_LISTED = 10
DRIVER_ALONE = PoolOptions(1, 0.0, 0.0)


@dataclass(frozen=True)
class RunReport:
    """What a scoring run did; the heart of the run's manifest.

    Files, shards and rows are those the night is about: the whole corpus, or what is new in it.
    """

    run_id: str
    run_date: str
    table_uri: str
    table_version: int
    model_version: str
    fingerprint: str
    num_files: int
    num_shards: int
    num_shards_done_before: int
    num_rows: int
    num_scored_rows: int
    num_quarantined_rows: int
    num_truncated_rows: int
    num_tokens: int
    num_padded_tokens: int
    num_reused_rows: int
    num_rows_this_run: int
    num_reused_rows_this_run: int
    num_tokens_this_run: int
    elapsed_s: float
    published: bool
    mode: str
    num_corpus_files: int
    num_changed_files_in_table: int
    quarantine_reasons: dict[str, int]
    skipped_files: list[SkippedFile]
    usage: RunUsage


@span("publish")
def publish_run(
    run: PreparedRun, fresh: Iterable[DoneRecord], run_id: str, started_s: float, pool: PoolOptions = DRIVER_ALONE
) -> RunReport:
    """Check the accounts, commit the night, and write the manifest beside it.

    Args:
        run: The night.
        fresh: The records of the shards that were pending.
        run_id: The run's name.
        started_s: When the command began, by the monotonic clock.
        pool: What scored; where nothing had to be, the driver itself.

    Raises:
        AccountingError: rows do not add up, or a file is missing; nothing is published.
        TooManyBadRowsError: more rows were quarantined than the spec allows; nothing is published.
    """
    new = {record.shard: record for record in fresh}
    records = {**run.plan.done, **new}
    check_accounts(run, records)
    ledger, storage = run.ledger, run.ledger.storage
    facts = {
        "run_date": ledger.run_date,
        "run_id": run_id,
        "fingerprint": ledger.fingerprint,
        "model_version": run.model_version,
    }
    shown = shown_files(ledger, records.values(), run.kept_uris)
    bad = shown_quarantine(ledger, records.values(), run.kept_uris)
    bad_uri = join_uri(ledger.table_uri, QUARANTINE)
    # Also where no row is bad: who asks it for reasons finds an empty table, not none.
    publish_night(bad_uri, Night(ledger.run_date, bad, QUARANTINE_SCHEMA, facts, ledger.is_snapshot), storage)
    if run.covered is not None:
        run.covered.write(ledger.run_date, run.covers, [file.path for file in shown])
    night = Night(ledger.run_date, shown, run.table_schema, facts, ledger.is_snapshot)
    published = publish_night(ledger.table_uri, night, storage)
    if run.covered is not None:
        publish_current(ledger.table_uri, ledger.run_date, run.current_nights, facts, storage)
    ledger.drop(ledger.names() - records.keys())  # what the corpus no longer has would otherwise be kept for ever
    ledger.end_rescoring()
    annotate_span(run_id=run_id, rows=run.plan.num_rows, files=len(shown), table_version=published.version)
    work = _Work(run_id, new, pool, time.monotonic() - started_s)
    return _write_manifest(run, records, work, published)


def lacks_manifest(run: PreparedRun) -> bool:
    """Whether nothing speaks of a published night as it is.

    Its run was killed between commit and manifest, or a snapshot showed all of it before the night began.
    """
    ledger = run.ledger
    night = None if ledger.is_snapshot else ledger.run_date
    version = last_publication(ledger.table_uri, ledger.storage, night) or 0
    manifests = read_manifests(ledger.table_uri, ledger.storage, night)
    is_told = any(found.fingerprint == ledger.fingerprint and found.version >= version for found in manifests)
    return not is_told or all(found.run_date != ledger.run_date for found in manifests)


def complete_manifest(run: PreparedRun, run_id: str, started_s: float) -> None:
    """End a published night that has no manifest, and write it; nothing if there is one by now, or another night."""
    if run.is_published and lacks_manifest(run):
        run.ledger.end_rescoring()
        table = require_table(run.ledger.table_uri, run.ledger.storage)
        unchanged = Published(table.version(), 0, 0)
        records = dict(run.plan.done)
        work = _Work(run_id, {}, DRIVER_ALONE, time.monotonic() - started_s)
        _write_manifest(run, records, work, unchanged)


@dataclass(frozen=True)
class _Work:
    """What one run added to a night."""

    run_id: str
    records: dict[str, DoneRecord]
    pool: PoolOptions
    elapsed_s: float

    @property
    def own_records(self) -> list[DoneRecord]:
        """Without shards that another run finished in the meantime."""
        return [record for record in self.records.values() if record.run_id == self.run_id]


@span("write manifest")
def _write_manifest(run: PreparedRun, records: dict[str, DoneRecord], work: _Work, published: Published) -> RunReport:
    """What the run was asked, what it did, and beside it the versions of the files it read, its shards, its workers."""
    pool, price = work.pool, run.spec.compute.price_per_hour
    paid = PoolUse(pool.num_workers, pool.cpus_per_worker, pool.gpus_per_worker, price)
    usage, workers = sum_usage(work.own_records, paid, work.elapsed_s)
    report = _report(run, records, work, published, usage)
    spec = run.spec.model_dump(mode="json")  # names of variables, never secrets
    models = {name: asdict(model) for name, model in run.models.items()}
    manifest = {**asdict(report), "bertmill_version": __version__, "spec": spec, "models": models}
    storage, folder = run.ledger.storage, join_uri(run.ledger.table_uri, "_manifests", f"{RUN_DATE}={report.run_date}")
    files = [footer.layout.file for footer in run.footers]
    columns = {
        "uri": [file.uri for file in files],
        "etag": [file.etag for file in files],
        "size_bytes": [file.size_bytes for file in files],
    }
    write_parquet(pa.table(columns), join_uri(folder, f"{report.run_id}.files.parquet"), {}, storage)
    write_parquet(shard_table(work.own_records), join_uri(folder, f"{report.run_id}.shards.parquet"), {}, storage)
    write_parquet(worker_table(workers), join_uri(folder, f"{report.run_id}.workers.parquet"), {}, storage)
    storage.write_bytes(join_uri(folder, f"{report.run_id}.json"), json.dumps(manifest, indent=2).encode())
    return report


@span("check accounts")
def check_accounts(run: PreparedRun, records: dict[str, DoneRecord]) -> None:
    """Every shard has one record, every row is in it, every file stands, and not too many rows are bad.

    Raises:
        AccountingError: a shard's rows are not all accounted for, or its files are gone.
        TooManyBadRowsError: more rows are quarantined than `max_bad_fraction` allows.
    """
    for shard in run.plan.shards:
        record = records.get(shard.name)
        if record is None or record.num_rows != shard.num_rows:
            found = "no record" if record is None else f"{record.num_rows} rows accounted for"
            raise AccountingError(
                f"shard {shard.name} ({shard.pieces[0].file.uri}): {shard.num_rows} rows in, {found}; not published",
                "run the same command again; if it repeats, this is a bug in bertmill",
            )
    gone = plan_scoring(run.plan.shards, records, standing_files(run.ledger, records.values())).stale
    if gone:
        raise AccountingError(
            f"the files of {len(gone)} finished shards are gone from {run.ledger.table_uri}; not published",
            "run the same command again: it scores those shards anew",
        )
    num_bad = sum(record.num_quarantined_rows for record in records.values())
    limit = run.spec.corpus.max_bad_fraction
    if num_bad > limit * run.plan.num_rows:
        shown = "; ".join(f"{reason}: {count}" for reason, count in count_reasons(records.values()).most_common(3))
        worst = max(records.values(), key=lambda record: record.num_quarantined_rows)
        found = join_uri(run.ledger.table_uri, QUARANTINE, worst.quarantine_path or "")
        raise TooManyBadRowsError(
            f"{num_bad} of {run.plan.num_rows} rows cannot be scored, more than max_bad_fraction {limit}; "
            f"not published (reasons: {shown}); file and row of {worst.num_quarantined_rows} of them: {found}",
            "mend the corpus, or raise corpus.max_bad_fraction if this share is expected",
        )


def check_complete(run: PreparedRun) -> None:
    """The last word on a finished night: whether files were left out of it.

    Raises:
        FilesSkippedError: naming up to ten of them; the manifest names all.
    """
    if run.skipped:
        shown = "\n".join(f"- {file.uri}: {file.reason}" for file in run.skipped[:_MAX_LISTED])
        raise FilesSkippedError(
            f"{len(run.skipped)} corrupt files were left out, everything else is published:\n{shown}",
            "restore or remove them, then run again: finished shards are kept",
        )


def count_reasons(records: Iterable[DoneRecord]) -> Counter[str]:
    """Quarantined rows by what is wrong with them."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.reasons)
    return counts


def _report(
    run: PreparedRun,
    records: dict[str, DoneRecord],
    work: _Work,
    published: Published,
    usage: RunUsage,
) -> RunReport:
    everything, new = records.values(), work.records.values()
    return RunReport(
        run_id=work.run_id,
        run_date=run.ledger.run_date,
        table_uri=run.ledger.table_uri,
        table_version=published.version,
        model_version=run.model_version,
        fingerprint=run.ledger.fingerprint,
        num_files=len(run.footers),
        num_shards=len(run.plan.shards),
        num_shards_done_before=len(run.plan.done),
        num_rows=run.plan.num_rows,
        num_scored_rows=sum(record.num_scored_rows for record in everything),
        num_quarantined_rows=sum(record.num_quarantined_rows for record in everything),
        num_truncated_rows=sum(record.num_truncated_rows for record in everything),
        num_tokens=sum(record.num_tokens for record in everything),
        num_padded_tokens=sum(record.num_padded_tokens for record in everything),
        num_reused_rows=sum(record.num_reused_rows for record in everything),
        num_rows_this_run=sum(record.num_rows for record in new),
        num_reused_rows_this_run=sum(record.num_reused_rows for record in new),
        num_tokens_this_run=sum(record.num_tokens for record in new),
        elapsed_s=round(work.elapsed_s, 2),
        published=published.changed,
        mode=run.spec.output.mode,
        num_corpus_files=len(run.files),
        num_changed_files_in_table=published.num_added_files + published.num_removed_files,
        quarantine_reasons=dict(count_reasons(everything).most_common()),
        skipped_files=list(run.skipped),
        usage=usage,
    )
