"""Which files a report reads: of its night and of the one before, and a sample of them where they are many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deltalake import DeltaTable

from pipeline.errors import CorpusError
from pipeline.output.log import require_table
from pipeline.output.manifests import Manifest, nights_with_manifests, read_manifests
from pipeline.output.nights import find_snapshot_files
from pipeline.output.table import DataFile, live_files, night_of, open_table
from pipeline.report.limits import ReportConfig
from pipeline.schema import QUARANTINE
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri

Files = Mapping[str, DataFile]


@dataclass(frozen=True)
class ReportSource:
    """A night and the one before it.

    Attributes:
        uri: The table.
        run_date: The night.
        manifests: Of every run of the night, the last one last; that one speaks for the night.
        last_manifest: What speaks for the night before; None if there is none.
        files: The night's data files (of a snapshot: the whole table's, as the night left it).
        last_files: The same of the night before.
        quarantine: The night's files in the quarantine table.
        not_compared: Why there are no files of a night before whose manifest stands; empty if there are.
    """

    uri: str
    run_date: str
    manifests: tuple[Manifest, ...]
    last_manifest: Manifest | None
    files: Files
    last_files: Files
    quarantine: Files
    not_compared: str = ""

    @property
    def manifest(self) -> Manifest:
        """The run that speaks for the night."""
        return self.manifests[-1]

    @property
    def working_manifest(self) -> Manifest:
        """The last run of the night that scored anything, else the last."""
        worked = [item for item in self.manifests if item.counts.get("usage", {}).get("busy_s")]
        return worked[-1] if worked else self.manifest


def open_source(uri: str, run_date: str, storage: Storage) -> ReportSource:
    """Find what a report is made from.

    Raises:
        CorpusError: there is no such table, or no manifest of the night, or files of a snapshot are gone.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    own = tuple(read_manifests(uri, storage, run_date))
    if not own:
        there = ", ".join(reversed(nights_with_manifests(uri, storage)[:10])) or "none"
        raise CorpusError(f"{uri}: no manifest of night {run_date}", f"nights with one (the last 10): {there}")
    manifest = own[-1]
    bad_table = open_table(join_uri(uri, QUARANTINE), storage)
    bad = {} if bad_table is None else live_files(bad_table, None if manifest.is_snapshot else run_date)
    if manifest.is_snapshot:
        nights = nights_with_manifests(uri, storage)
        last = _last_manifest((night for night in nights if night < run_date), manifest, storage, uri)
        _, files = find_snapshot_files(table, uri, manifest, storage)
        last_files, not_compared = _last_snapshot(table, uri, last, storage)
        return ReportSource(uri, run_date, own, last, files, last_files, bad, not_compared)
    live = live_files(table)
    files = {path: file for path, file in live.items() if night_of(path) == run_date}
    last_date = max((night_of(path) for path in live if night_of(path) < run_date), default="")
    last = _last_manifest([last_date] if last_date else [], manifest, storage, uri)
    last_files = {path: file for path, file in live.items() if last_date and night_of(path) == last_date}
    return ReportSource(uri, run_date, own, last, files, last_files, bad)


def _last_manifest(nights: Iterable[str], manifest: Manifest, storage: Storage, uri: str) -> Manifest | None:
    """What speaks for the first of some nights that has a manifest like this one, of a night or of the whole table."""
    for night in nights:
        for item in reversed(read_manifests(uri, storage, night)):
            if item.is_snapshot == manifest.is_snapshot:
                return item
    return None


def sample_files(files: Files, max_rows: int) -> list[str]:
    """As many files as hold `max_rows` rows, at least one.

    They are taken by name, which begins with the hash of a shard's content: a random choice, and yet the same shards
    of every night, so that rows of two samples can be compared with each other.
    """
    chosen: list[str] = []
    num_rows = 0
    for path in sorted(files, key=lambda path: path.rsplit("/", 1)[-1]):
        if chosen and num_rows >= max_rows:
            break
        chosen.append(path)
        num_rows += files[path].num_rows
    return chosen


def count_rows(files: Files, paths: Sequence[str]) -> int:
    """Rows in some of the files, as the log says."""
    return sum(files[path].num_rows for path in paths)


def _last_snapshot(table: DeltaTable, uri: str, manifest: Manifest | None, storage: Storage) -> tuple[Files, str]:
    """The files of the snapshot before; or why there are none."""
    if manifest is None:
        return {}, ""
    try:
        return find_snapshot_files(table, uri, manifest, storage)[1], ""
    except CorpusError as error:
        return {}, f"labels, scores and rows are not compared with night {manifest.run_date}: {error.message}"


def spec_limits(uri: str, run_date: str, storage: Storage, sample_rows: int | None) -> ReportConfig:
    """What the night's own spec said of reports, with another sample if one is asked for."""
    manifests = read_manifests(canonical_uri(uri), storage, run_date)
    said = manifests[-1].counts.get("spec", {}).get("report", {}) if manifests else {}
    config = ReportConfig.model_validate(said)
    return config if sample_rows is None else config.model_copy(update={"sample_rows": sample_rows})
