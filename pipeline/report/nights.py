"""A table's nights, as their manifests, reports and failures tell of them; nothing here is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.output.log import read_commits, require_table
from pipeline.output.manifests import Manifest, nights_with_manifests, read_manifests
from pipeline.report.failures import Failure, read_failures
from pipeline.report.saved import read_summaries
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.uris import canonical_uri, join_uri

_THREADS = 16


@dataclass(frozen=True)
class NightLine:
    """One published night.

    Attributes:
        counts: What the manifest that speaks for the night says, by field.
        elapsed_s, cost: Of all runs of the night together; None where none said.
        rows_per_s: Of the last run that scored anything.
        num_runs: Runs with a manifest.
        level, findings: What its report found; empty where there is none.
        drift: Figure -> value, of its report.
        is_new_model: Whether another model or other settings scored it than the night before.
    """

    run_date: str
    counts: Mapping[str, Any]
    elapsed_s: float | None
    cost: float | None
    rows_per_s: float | None
    num_runs: int
    level: str
    findings: tuple[str, ...]
    drift: Mapping[str, float | None]
    is_new_model: bool

    def share(self, name: str) -> float | None:
        """A count of the manifest as a share of the night's rows."""
        part, whole = self.counts.get(name), self.counts.get("num_rows")
        return part / whole if part is not None and whole else None


@dataclass(frozen=True)
class TableNights:
    """What a page of nights shows.

    Attributes:
        nights: Published ones, the oldest first.
        num_nights: How many there are in all.
        failures: Runs of these nights, or later ones, that failed.
        committed_runs: Ids of the runs whose commit is still in the table's log.
        unfinished: Nights that a run began and that are not published.
    """

    uri: str
    nights: tuple[NightLine, ...]
    num_nights: int
    failures: tuple[Failure, ...]
    committed_runs: frozenset[str]
    unfinished: tuple[str, ...]


def read_table_nights(uri: str, storage: Storage, most: int) -> TableNights:
    """Read the newest nights' manifests and reports.

    Args:
        uri: The table.
        storage: Its store.
        most: How many nights to read.

    Raises:
        CorpusError: there is no table at the URI.
    """
    uri = canonical_uri(uri)
    require_table(uri, storage)
    every = nights_with_manifests(uri, storage)
    dates = sorted(every[:most])
    manifests = map_threads(lambda night: read_manifests(uri, storage, night), dates, _THREADS)
    summaries = read_summaries(uri, dates, storage)
    lines: list[NightLine] = []
    for night, own in zip(dates, manifests, strict=True):
        before = lines[-1].counts if lines else None
        lines.append(_line(night, own, summaries.get(night, {}), before))
    failures = [failure for failure in read_failures(uri, storage) if not dates or failure.run_date >= dates[0]]
    _, folders = storage.list_level(join_uri(uri, "_bertmill", "ledger"))
    begun = {folder.rstrip("/").rsplit(f"{RUN_DATE}=", 1)[-1] for folder in folders if f"{RUN_DATE}=" in folder}
    facts = [commit.facts for commit in read_commits(uri, storage)]
    runs = frozenset(fact["run_id"] for fact in facts if fact.get("run_id"))
    published = {*every, *(fact.get("run_date", "") for fact in facts)}  # a run may die between commit and manifest
    return TableNights(uri, tuple(lines), len(every), tuple(failures), runs, tuple(sorted(begun - published)))


def _line(
    run_date: str, manifests: Sequence[Manifest], summary: Mapping[str, Any], before: Mapping[str, Any] | None
) -> NightLine:
    counts = manifests[-1].counts
    elapsed = [item.counts["elapsed_s"] for item in manifests if item.counts.get("elapsed_s") is not None]
    usages = [item.counts["usage"] for item in manifests if item.counts.get("usage")]
    costs = [usage["cost"] for usage in usages if usage.get("cost") is not None]
    rates = [usage["rows_per_s"] for usage in usages if usage.get("busy_s")]
    return NightLine(
        run_date=run_date,
        counts=counts,
        elapsed_s=sum(elapsed) if elapsed else None,
        cost=sum(costs) if costs else None,
        rows_per_s=rates[-1] if rates else None,
        num_runs=len(manifests),
        level=str(summary.get("level", "")),
        findings=tuple(summary.get("findings", ())),
        drift=summary.get("drift", {}),
        is_new_model=before is not None and before.get("fingerprint") != counts.get("fingerprint"),
    )
