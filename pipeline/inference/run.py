"""The scoring plane on one screen: prepare (no Ray) -> stream the pending shards -> account -> publish."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.config import PoolOptions
from pipeline.corpus.layouts import LayoutCache
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import Columns, FileFooter, ReadOptions, SkippedFile, holds_words, kept_schema
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.corpus.stream import stream_shards
from pipeline.encoder.bundle import BundleInfo, read_bundle_info
from pipeline.errors import (
    AccountingError,
    Checks,
    CorpusError,
    FilesSkippedError,
    Problem,
    SpecError,
    TooManyBadRowsError,
)
from pipeline.inference.plan import ScorePlan, fingerprint_run, plan_scoring, quarantine_files, scored_files
from pipeline.inference.predictor import ModelSource
from pipeline.inference.spec import EvaluateSpec, ScoreSpec
from pipeline.inference.worker import InputSource, ScoreJob
from pipeline.output.ledger import DoneRecord, Ledger, records_from
from pipeline.output.table import Night, Published, check_table_target, live_files, open_table, publish_night
from pipeline.schema import QUARANTINE_SCHEMA, RUN_DATE, scored_schema, written_name
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, find_task
from pipeline.tasks.base import Task
from pipeline.telemetry import Meter, ProgressDisplay
from pipeline.uris import join_uri

_MAX_LISTED = 10


@dataclass(frozen=True)
class PreparedRun:
    """Everything known before Ray starts."""

    spec: ScoreSpec
    bundle: BundleInfo
    footers: tuple[FileFooter, ...]
    skipped: tuple[SkippedFile, ...]
    cache: LayoutCache
    source: InputSource
    table_schema: pa.Schema
    ledger: Ledger
    plan: ScorePlan

    @property
    def is_published(self) -> bool:
        """Whether the table already shows exactly this plan's files."""
        table = open_table(self.ledger.table_uri, self.ledger.storage)
        if self.plan.pending or table is None:
            return False
        wanted = {file.path for file in scored_files(self.plan.done.values())}
        return set(live_files(table, self.ledger.run_date)) == wanted


@dataclass(frozen=True)
class RunReport:
    """What a scoring run did; also the run's manifest."""

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
    num_rows_this_run: int
    num_tokens_this_run: int
    elapsed_s: float
    published: bool
    skipped_files: list[SkippedFile]


def prepare_run(spec: ScoreSpec, run_date: str) -> PreparedRun:
    """List, read footers, check everything that can be checked, and plan. Writes nothing.

    Raises:
        InputError: whatever the user has to mend, before anything is started.
    """
    storage = Storage(spec.storage)
    table_uri = spec.output.uri
    bundle, files = open_inputs(spec, storage)
    task = find_task(bundle.task, spec.bundle)
    _check_names(spec, task)
    inputs = {**bundle.inputs, **spec.corpus.inputs}
    columns = Columns(tuple(inputs[name] for name in task.inputs), spec.corpus.keep)
    cache = LayoutCache(join_uri(table_uri, "_bertmill", "layouts"), columns, storage)
    skips = spec.corpus.corrupt_files == "skip"
    survey = cache.survey(files, skips)
    footers = survey.footers
    kept = pa.schema([field.with_name(written_name(field.name)) for field in kept_schema(footers, spec.corpus.keep)])
    shards = cut_shards(
        (footer.layout for footer in footers), ShardSize(spec.corpus.shard_rows, spec.corpus.shard_bytes)
    )
    if not shards:
        left_out = f" ({len(survey.skipped)} corrupt ones left out)" if survey.skipped else ""
        found = f"no rows in {len(footers)} files{left_out}"
        raise CorpusError(f"{', '.join(spec.corpus.uri)}: {found}", "nothing to score")
    schema = scored_schema(kept, task.output_fields(), spec.output.embedding)
    check_table_target(table_uri, schema, storage)
    ledger = Ledger(table_uri, run_date, fingerprint_run(spec, bundle), storage)
    records = ledger.read(ledger.names() & {shard.name for shard in shards})
    plan = plan_scoring(shards, records, _standing_files(ledger))
    options = ReadOptions(kept, spec.corpus.empty_text == "quarantine", skips)
    source = InputSource(columns, options, holds_words(footers, columns))
    return PreparedRun(spec, bundle, footers, survey.skipped, cache, source, schema, ledger, plan)


def open_inputs(spec: ScoreSpec | EvaluateSpec, storage: Storage) -> tuple[BundleInfo, list[CorpusFile]]:
    """Read a spec's bundle and list its corpus.

    Raises:
        InputError: what is wrong with either; with both, if both are wrong.
    """
    checks = Checks()
    bundle = checks.run(lambda: read_bundle_info(spec.bundle, storage))
    files = checks.run(lambda: list_corpus(spec.corpus.uri, storage))
    checks.raise_failures()
    assert bundle is not None
    assert files is not None
    return bundle, files


def _check_names(spec: ScoreSpec, task: Task) -> None:
    """Names that can be judged only once the bundle's task is known."""
    check_inputs(spec.corpus.inputs, task.inputs, "spec")
    written = {field.name for field in task.output_fields()}
    taken = sorted(name for name in spec.corpus.keep if written_name(name).lower() in written)
    if taken:
        remedy = "leave it out, or rename it in the corpus"
        problem = Problem("corpus.keep", f"{taken[0]!r} is written by task {task.name}", "other names", remedy)
        raise SpecError("spec", (problem,))


def score_pending(run: PreparedRun, pool: PoolOptions, run_id: str) -> list[DoneRecord]:
    """Score the shards that are left; needs a running Ray, shows progress, publishes nothing."""
    run.ledger.drop(run.plan.stale)
    run.cache.save(run.footers)
    threads = max(1, int(pool.cpus_per_worker))
    model = ModelSource(run.spec.bundle, run.spec.compute, threads, run.ledger.storage)
    job = ScoreJob(model, run.source, run.ledger, run.table_schema, run_id)
    records: list[DoneRecord] = []
    meter = Meter()
    with ProgressDisplay("scoring", run.plan.num_pending_rows, "rows") as display:
        for receipt in stream_shards(run.plan.pending, job, pool):
            for record in records_from(receipt):
                records.append(record)
                meter.num_rows += record.num_rows
                meter.num_tokens += record.num_tokens
            bad = sum(record.num_quarantined_rows for record in records)
            display.update(meter.num_rows, f"{len(records)} shards, {meter.rates()}, {bad} quarantined")
    return records


def publish_run(run: PreparedRun, fresh: Iterable[DoneRecord], run_id: str, started_s: float) -> RunReport:
    """Check the accounts, commit the night, and write the manifest beside it.

    Raises:
        AccountingError: rows do not add up, or a file is missing; nothing is published.
        TooManyBadRowsError: more rows were quarantined than the spec allows; nothing is published.
    """
    new = {record.shard: record for record in fresh}
    records = {**run.plan.done, **new}
    check_accounts(run, records)
    night = Night(
        run.ledger.run_date,
        scored_files(records.values()),
        run.table_schema,
        {
            "run_date": run.ledger.run_date,
            "run_id": run_id,
            "fingerprint": run.ledger.fingerprint,
            "model_version": run.bundle.model_version,
        },
    )
    _publish_quarantine(run, night, quarantine_files(records.values()))
    published = publish_night(run.ledger.table_uri, night, run.ledger.storage)
    report = _report(run, records, new, published, run_id, time.monotonic() - started_s)
    manifest = join_uri(run.ledger.table_uri, "_manifests", f"{RUN_DATE}={run.ledger.run_date}", f"{run_id}.json")
    run.ledger.storage.write_bytes(manifest, json.dumps(asdict(report), indent=2).encode())
    return report


def check_accounts(run: PreparedRun, records: dict[str, DoneRecord]) -> None:
    """Every shard has one record, every row is in it, every file stands, and not too many rows are bad."""
    for shard in run.plan.shards:
        record = records.get(shard.name)
        if record is None or record.num_rows != shard.num_rows:
            found = "no record" if record is None else f"{record.num_rows} rows accounted for"
            raise AccountingError(
                f"shard {shard.name} ({shard.pieces[0].file.uri}): {shard.num_rows} rows in, {found}; not published",
                "run the same command again; if it repeats, this is a bug in bertmill",
            )
    gone = plan_scoring(run.plan.shards, records, _standing_files(run.ledger)).stale
    if gone:
        raise AccountingError(
            f"the files of {len(gone)} finished shards are gone from {run.ledger.table_uri}; not published",
            "run the same command again: it scores those shards anew",
        )
    num_bad = sum(record.num_quarantined_rows for record in records.values())
    limit = run.spec.corpus.max_bad_fraction
    if num_bad > limit * run.plan.num_rows:
        raise TooManyBadRowsError(
            f"{num_bad} of {run.plan.num_rows} rows cannot be scored, more than max_bad_fraction {limit}; "
            f"not published (reasons: {_reasons(run, records)})",
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


def run_id_for(run_date: str) -> str:
    """A new run's name: its night and a random tail."""
    return f"{run_date}-{uuid.uuid4().hex[:8]}"


def _standing_files(ledger: Ledger) -> dict[str, int]:
    """Path -> size of this night's files as they stand, scored and quarantined."""
    folders = (f"{RUN_DATE}={ledger.run_date}", f"_quarantine/{RUN_DATE}={ledger.run_date}")
    return {
        item.uri.removeprefix(ledger.table_uri).strip("/"): item.size_bytes
        for folder in folders
        for item in ledger.storage.list_objects(join_uri(ledger.table_uri, folder))
    }


def _publish_quarantine(run: PreparedRun, night: Night, files: tuple) -> None:  # type: ignore[type-arg]
    uri = join_uri(run.ledger.table_uri, "_quarantine")
    if files or open_table(uri, run.ledger.storage) is not None:
        publish_night(uri, Night(night.run_date, files, QUARANTINE_SCHEMA, night.facts), run.ledger.storage)


def _reasons(run: PreparedRun, records: dict[str, DoneRecord]) -> str:
    """The most frequent reason in one quarantine file, for an error message."""
    paths = [record.quarantine_path for record in records.values() if record.quarantine_path]
    filesystem, root = run.ledger.storage.open_arrow(join_uri(run.ledger.table_uri, "_quarantine"))
    with filesystem.open_input_file(f"{root}/{paths[0]}") as stream:
        reasons = pa.parquet.read_table(stream, columns=["reason"])["reason"]
    counts = sorted(((item["counts"], item["values"]) for item in reasons.value_counts().to_pylist()), reverse=True)
    return "; ".join(f"{reason}: {count} in one file" for count, reason in counts[:3])


def _report(
    run: PreparedRun,
    records: dict[str, DoneRecord],
    new: dict[str, DoneRecord],
    published: Published,
    run_id: str,
    elapsed_s: float,
) -> RunReport:
    everything = records.values()
    return RunReport(
        run_id=run_id,
        run_date=run.ledger.run_date,
        table_uri=run.ledger.table_uri,
        table_version=published.version,
        model_version=run.bundle.model_version,
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
        num_rows_this_run=sum(record.num_rows for record in new.values()),
        num_tokens_this_run=sum(record.num_tokens for record in new.values()),
        elapsed_s=round(elapsed_s, 2),
        published=published.changed,
        skipped_files=list(run.skipped),
    )
