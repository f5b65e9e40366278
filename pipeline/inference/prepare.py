"""Everything a scoring run can know before Ray starts: bundles, files, shards, what is done and what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa

from pipeline.corpus.column_types import holds_words, kept_schema
from pipeline.corpus.layouts import LayoutCache
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import Columns, FileFooter, ReadOptions, SkippedFile, Survey
from pipeline.corpus.rows import no_rows
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.encoder.bundle import BundleInfo, read_bundle_info
from pipeline.errors import Checks, CorpusError, Problem, SpecError
from pipeline.inference.cascade import check_cascade
from pipeline.inference.coverage import NOTHING, Coverage, CoverageStore
from pipeline.inference.job import ScoreJob
from pipeline.inference.models import NightModels, UsedModel, resolve_bundles
from pipeline.inference.plan import ScorePlan, fingerprint_run, plan_scoring
from pipeline.inference.reuse import ReuseSource
from pipeline.inference.source import FirstModel, InputSource, ModelSource, TextSource, columns_read, joined_versions
from pipeline.inference.spec import FIRST, ScoreSpec
from pipeline.inference.standing import shown_files, shown_quarantine, usable_files
from pipeline.output.columns import columns_of
from pipeline.output.current import says_current
from pipeline.output.ledger import Ledger
from pipeline.output.lock import free_generation
from pipeline.output.mode import check_mode
from pipeline.output.table import check_table_target, open_table, shows_files
from pipeline.output.texts import TextStore
from pipeline.schema import QUARANTINE, BundleFields, scored_schema, written_name
from pipeline.storage import Storage
from pipeline.tasks import check_inputs, find_task
from pipeline.tasks.base import Task
from pipeline.tracing import annotate_span, span
from pipeline.uris import join_uri


@dataclass(frozen=True)
class PreparedRun:
    """Everything known before Ray starts.

    Attributes:
        files: The corpus as listed.
        footers: Of the files this night is about: all, or those that are new.
        skipped: Corrupt files that the spec allows to leave out.
        coverage: What earlier nights hold; nothing unless only new files are selected.
        rescores: Everything was asked to be scored again.
        starts_anew: It is, whatever the ledger says; else a rescoring that was begun goes on.
        models: What bundles that a registry names were resolved to, by name.
        added_columns: What publishing adds to the table's columns.
        lease: The lease of the last run that was at work on the night before this was known; None if one was.
    """

    spec: ScoreSpec
    bundles: Mapping[str, BundleInfo]
    files: tuple[CorpusFile, ...]
    footers: tuple[FileFooter, ...]
    skipped: tuple[SkippedFile, ...]
    coverage: Coverage
    rescores: bool
    starts_anew: bool
    cache: LayoutCache
    source: InputSource
    table_schema: pa.Schema
    ledger: Ledger
    plan: ScorePlan
    models: Mapping[str, UsedModel]
    added_columns: tuple[str, ...]
    lease: int | None

    @property
    def model_version(self) -> str:
        """The bundle's version, or those of several by name."""
        return joined_versions(self.bundles)

    def keep_models(self) -> None:
        """Write down which registered models the night is scored with, so that it stays with them.

        Raises:
            CommitConflictError: another run has begun the night with other versions meanwhile.
        """
        night = NightModels(self.ledger.table_uri, self.ledger.run_date, self.ledger.storage)
        night.keep(self.models, self.rescores)

    @property
    def covered(self) -> CoverageStore | None:
        """Where it is noted which files the nights hold; None unless only new files are selected."""
        if self.spec.output.select == "all":
            return None
        return CoverageStore(self.ledger.table_uri, self.ledger.fingerprint, self.ledger.storage)

    @property
    def is_published(self) -> bool:
        """Whether table and quarantine already show exactly this plan's files."""
        if self.plan.pending:
            return False
        uri, storage, records = self.ledger.table_uri, self.ledger.storage, self.plan.done.values()
        table = open_table(uri, storage)
        if table is None:
            return False
        night = None if self.ledger.is_snapshot else self.ledger.run_date
        scored = {file.path for file in shown_files(self.ledger, records, self.kept_uris)}
        if not shows_files(table, uri, scored, night, storage):
            return False
        bad_uri = join_uri(uri, QUARANTINE)  # holds all there is of a night without a good row
        bad = {file.path for file in shown_quarantine(self.ledger, records, self.kept_uris)}
        if not shows_files(open_table(bad_uri, storage), bad_uri, bad, night, storage):
            return False
        if self.covered is None:
            return True
        is_covered = self.covered.published(self.ledger.run_date) is not None
        return is_covered and says_current(uri, self.ledger.run_date, self.current_nights, storage)

    @property
    def covers(self) -> Coverage:
        """What the nights hold together once this one is published."""
        covered = self.coverage.extended([footer.layout.file for footer in self.footers], self.ledger.run_date)
        return covered.within(self.files) if self.spec.output.vanished == "drop" else covered

    @property
    def current_nights(self) -> Mapping[str, str]:
        """Corpus file -> the night that holds its current rows, once this one is published.

        What `covers` says; and files that are gone, where their rows are kept, or that are corrupt now stay where they
        are current, though another model scored them or everything else was scored again.
        """
        own, ledger, store = self.covers.nights, self.ledger, self.covered
        is_kept, corrupt = self.spec.output.vanished == "keep", {file.uri for file in self.skipped}
        if store is None or not (is_kept or corrupt):
            return own
        there = own.keys() | {file.uri for file in self.files}
        stay = {
            uri: night
            for uri, night in store.current(but_for=ledger.run_date).nights.items()
            if night != ledger.run_date and uri not in own and (uri in corrupt or (is_kept and uri not in there))
        }
        return {**store.held(stay), **own}

    @property
    def kept_uris(self) -> frozenset[str] | None:
        """The corpus's files that can be read, where rows of all others are kept; else None."""
        if not self.spec.output.keeps_files_apart:
            return None
        return frozenset(file.uri for file in self.files) - {file.uri for file in self.skipped}


@span("plan")
def prepare_run(spec: ScoreSpec, run_date: str, rescore: bool = False, source: str = "spec") -> PreparedRun:
    """List, read footers, check everything that can be checked, and plan. Writes nothing.

    Args:
        spec: The spec.
        run_date: The night, YYYY-MM-DD.
        rescore: Score everything again, done or not; a rescoring that was begun goes on.
        source: The name of the spec, for errors.

    Raises:
        InputError: whatever the user has to mend, before anything is started.
    """
    storage, output = Storage(spec.storage), spec.output
    lease = free_generation(Ledger(output.uri, run_date, "", storage, output.mode == "snapshot"))
    spec, models = resolve_bundles(spec, run_date, rescore)
    bundles, files = open_inputs(spec.bundles, spec.corpus.uri, storage)
    tasks = {name: find_task(info.task, spec.bundles[name]) for name, info in bundles.items()}
    check_inputs(spec.corpus.inputs, [name for task in tasks.values() for name in task.inputs], source, "corpus.inputs")
    if spec.cascade is not None:
        check_cascade(bundles, spec.corpus.inputs, source)
    read = {name: columns_read(info, spec.corpus.inputs) for name, info in bundles.items()}
    columns = Columns(tuple(dict.fromkeys(chain.from_iterable(read.values()))), spec.corpus.keep)
    ledger = Ledger(output.uri, run_date, fingerprint_run(spec, bundles), storage, output.mode == "snapshot")
    coverage, held = _covered_before(ledger, spec, rescore) if output.select == "new" else (NOTHING, frozenset[str]())
    cache = LayoutCache(join_uri(output.uri, "_bertmill", "layouts"), columns, storage)
    skips = spec.corpus.corrupt_files == "skip"
    footers = (survey := cache.survey([file for file in files if coverage.lacks(file)], skips)).footers
    _check_kept(held, spec, run_date, files, survey.skipped)
    size = ShardSize(spec.corpus.shard_rows, spec.corpus.shard_bytes)
    shards = cut_shards((footer.layout for footer in footers), size, packs_files=not output.keeps_files_apart)
    if not shards and not coverage.etags:
        raise _nothing_to_score(spec, survey)
    kept = _kept_columns(footers, spec, storage)
    schema = _table_schema(spec, kept, {name: task for name, task in tasks.items() if name in spec.answering}, source)
    added = check_table_target(output.uri, schema, storage)
    check_mode(output.uri, output.mode, storage)
    starts_anew = rescore and not ledger.is_rescoring()
    records = {} if starts_anew else ledger.read(ledger.names() & {shard.name for shard in shards})
    plan = plan_scoring(shards, records, usable_files(ledger, records.values(), schema))
    annotate_span(files=len(files), shards=len(shards), pending_shards=len(plan.pending), rows=plan.num_rows)
    options = ReadOptions(kept, spec.corpus.empty_text == "quarantine", skips)
    texts = {name: TextSource(inputs, holds_words(footers, Columns(inputs))) for name, inputs in read.items()}
    return PreparedRun(
        spec,
        bundles,
        tuple(files),
        footers,
        survey.skipped,
        coverage,
        rescore,
        starts_anew,
        cache,
        InputSource(columns, options, texts),
        schema,
        ledger,
        plan,
        models,
        tuple(field.name for field in added),
        lease,
    )


def make_job(run: PreparedRun, num_threads: int, run_id: str) -> ScoreJob:
    """What the workers of a run are told; a night that is scored again copies no result."""
    ledger, reuse = run.ledger, None
    if run.spec.reuse == "text-hash":
        texts = TextStore(ledger.table_uri, ledger.fingerprint, ledger.storage)
        reuse = ReuseSource(texts, () if run.rescores or ledger.is_rescored() else texts.newest_files())
    spec, first = run.spec, None
    embedded = frozenset(name for name in spec.answering if spec.output.writes_embedding(name))
    planned = {name: info.fingerprint for name, info in run.bundles.items()}
    model = ModelSource(spec.answering, run.source.texts, spec.compute, num_threads, ledger.storage, embedded, planned)
    if spec.cascade is not None:
        own = replace(
            model,
            bundles={"": spec.cascade.first},
            texts={"": run.source.texts[FIRST]},
            fingerprints={"": planned[FIRST]},
        )
        first = FirstModel(own, spec.cascade.min_score)
    return ScoreJob(model, run.source, ledger, run.table_schema, run_id, reuse, first)


def _nothing_to_score(spec: ScoreSpec, survey: Survey) -> CorpusError:
    without = f" ({len(survey.skipped)} corrupt ones left out)" if survey.skipped else ""
    return no_rows(spec.corpus.uri, f"no rows in {len(survey.footers)} files{without}")


def _covered_before(ledger: Ledger, spec: ScoreSpec, rescore: bool) -> tuple[Coverage, Set[str]]:
    """What nights before a ledger's cover, and the files whose rows stand in its own, if it was published.

    Of those that another model or a rescoring left there only where `_check_kept` may have to keep them.

    Run again, a night keeps what it holds: a missed night before it that was filled in may hold the same files, but
    nights after it say that their rows stand here. A night that is scored again builds on nothing.
    """
    if rescore or ledger.is_rescoring():
        return NOTHING, frozenset()
    store = CoverageStore(ledger.table_uri, ledger.fingerprint, ledger.storage)
    may_lose = spec.output.vanished == "keep" or spec.corpus.corrupt_files == "skip"
    current = store.current().held_by(ledger.run_date) if may_lose else frozenset[str]()
    if ledger.is_rescored():
        return NOTHING, current
    held = (store.published(ledger.run_date) or NOTHING).held_by(ledger.run_date)
    return store.before(ledger.run_date).without(held), held | current


def _check_kept(
    held: Set[str], spec: ScoreSpec, run_date: str, files: Sequence[CorpusFile], skipped: Sequence[SkippedFile]
) -> None:
    """A night that was published, and is run again, can show no more what it held of files that cannot be read now.

    Args:
        held: URIs of the files whose rows stand in it.
        spec: The spec.
        run_date: The night.
        files: The corpus.
        skipped: What of it is corrupt.

    Raises:
        CorpusError: it holds such rows, and they are to be kept.
    """
    gone = held - {file.uri for file in files} if spec.output.vanished == "keep" else set[str]()
    lost = sorted(gone | (held & {file.uri for file in skipped}))
    if lost:
        why = "are gone from the corpus" if gone else "are corrupt now"
        raise CorpusError(
            f"night {run_date} of {spec.output.uri} holds rows of {len(lost)} files that {why}, as {lost[0]}; "
            "run again it would lose them",
            "nothing was changed; what came since is scored by the next night's date, which keeps them; "
            "--rescore scores all that is there for this one, without them",
        )


def _kept_columns(footers: Sequence[FileFooter], spec: ScoreSpec, storage: Storage) -> pa.Schema:
    """The kept columns under the names the table gives them, and as it has them where a night adds no file."""
    table = open_table(spec.output.uri, storage) if spec.corpus.keep else None
    before = columns_of(table) if table is not None else pa.schema([])
    known = {name: before.field(written_name(name)) for name in spec.corpus.keep if written_name(name) in before.names}
    if not footers:
        return pa.schema(list(known.values()))
    remedy = "leave the column out of `corpus.keep`, or write it with one type in every file"
    kept = kept_schema(footers, spec.corpus.keep, remedy, {name: field.type for name, field in known.items()})
    return pa.schema([field.with_name(written_name(field.name)) for field in kept])


def open_inputs(
    bundles: Mapping[str, str], corpus: Sequence[str], storage: Storage
) -> tuple[dict[str, BundleInfo], list[CorpusFile]]:
    """Read what bundles say of themselves, and list a corpus.

    Raises:
        InputError: what is wrong with one of them; with all, if several are wrong.
    """
    checks = Checks()
    infos = {name: checks.run(lambda at=uri: read_bundle_info(at, storage)) for name, uri in bundles.items()}  # type: ignore[misc]
    files = checks.run(lambda: list_corpus(corpus, storage))
    checks.raise_failures()
    assert files is not None
    return {name: info for name, info in infos.items() if info is not None}, files


def _table_schema(spec: ScoreSpec, kept: pa.Schema, tasks: Mapping[str, Task], source: str) -> pa.Schema:
    """Every column of the table, each under a name of its own; `source` names the spec in the error.

    Raises:
        SpecError: a kept column, or another bundle's, has a name that a bundle writes.
    """
    parts = [
        BundleFields(name, tuple(task.output_fields()), spec.output.writes_embedding(name), name in spec.beside)
        for name, task in tasks.items()
    ]
    schema = scored_schema(kept, parts)
    names = [name.lower() for name in schema.names]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        by_keep = doubled[0] in {written_name(name).lower() for name in spec.corpus.keep}
        remedy = "leave it out, or rename it in the corpus" if by_keep else "name the bundles otherwise"
        field = "corpus.keep" if by_keep else "bundle"
        problem = Problem(field, f"{doubled[0]!r} is a column that a bundle writes", "other names", remedy)
        raise SpecError(source, (problem,))
    return schema
