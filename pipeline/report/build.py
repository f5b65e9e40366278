"""A published night and the one before -> everything a report shows; nothing here is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.output.history import table_columns
from pipeline.output.keys import read_row_groups
from pipeline.output.manifests import Manifest
from pipeline.output.matching import NightRows
from pipeline.output.nights import read_etags
from pipeline.output.row_groups import shared_columns
from pipeline.report.drift import Drift, Finding, judge, measure_drift, share_of
from pipeline.report.figures import FigureColumns, Figures, choose_figure_columns, display_columns, read_figures
from pipeline.report.limits import ReportConfig
from pipeline.report.movers import Movement, find_movement
from pipeline.report.source import ReportSource, count_rows, open_source, sample_files
from pipeline.schema import QUARANTINE, SOURCE_FILE, SOURCE_ROW, written_name
from pipeline.storage import Storage
from pipeline.uris import join_uri

_EXAMPLES, _QUARANTINE_ROWS = 3, 100_000


@dataclass(frozen=True)
class BadRows:
    """Rows that one reason kept out, and where some of them stand."""

    reason: str
    num_rows: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class NightReport:
    """All of a report.

    Attributes:
        source: Which night, beside which, from which files.
        columns, shown: The columns that were read, and the kept ones that name a row.
        figures, last_figures: Of the samples; None where there is no night before.
        num_sampled_rows: Of this night's rows, how many distributions are from.
        shards, workers: Of the night's last run that scored anything, if it wrote them down.
        drift, findings: Differences, and those beyond limits.
        movement: Rows that changed; None where there is no night before.
        bad: Quarantined rows by reason.
        limits: What `findings` were judged by.
        last_shares: Figures of drift that the last night's manifest tells of that night.
    """

    source: ReportSource
    columns: FigureColumns
    shown: tuple[str, ...]
    figures: Figures
    last_figures: Figures | None
    num_sampled_rows: int
    shards: pa.Table | None
    workers: pa.Table | None
    drift: Drift
    findings: tuple[Finding, ...]
    movement: Movement | None
    bad: tuple[BadRows, ...]
    limits: ReportConfig
    last_shares: Mapping[str, float | None]

    @property
    def level(self) -> str:
        """`fail`, `warn` or `ok`."""
        levels = {finding.level for finding in self.findings}
        return "fail" if "fail" in levels else "warn" if levels else "ok"

    @property
    def summary(self) -> dict[str, Any]:
        """The figures that are kept beside the page, for the page of all nights."""
        names = [*Drift.__dataclass_fields__]
        return {
            "run_date": self.source.run_date,
            "last_date": self.source.last_manifest.run_date if self.source.last_manifest else None,
            "fingerprint": self.source.manifest.fingerprint,
            "run_id": self.source.manifest.counts.get("run_id"),
            "level": self.level,
            "findings": [str(finding) for finding in self.findings],
            "drift": {name: self.drift.worst(name) for name in names},
            "num_sampled_rows": self.num_sampled_rows,
            "not_compared": asdict(self.movement.not_compared) if self.movement else None,
        }


def build_report(uri: str, run_date: str, config: ReportConfig, storage: Storage) -> NightReport:
    """Read a night, and the one before it, back from the table.

    Raises:
        CorpusError: there is no such table, or no manifest of the night, or files of a snapshot are gone.
    """
    source = open_source(uri, run_date, storage)
    kept = [written_name(name) for name in source.manifest.counts.get("spec", {}).get("corpus", {}).get("keep", [])]
    paths, last_paths = (sample_files(files, config.sample_rows) for files in (source.files, source.last_files))
    uris = [join_uri(source.uri, path) for path in (*paths, *last_paths)]
    schema = shared_columns(table_columns(source.uri, storage), uris, storage)
    columns, shown = choose_figure_columns(schema, kept), display_columns(schema, kept)
    now = read_figures(source.uri, paths, columns, storage)
    last = read_figures(source.uri, last_paths, columns, storage) if last_paths else None
    drift = measure_drift(last, now, _shares(source))
    movement = None
    if last_paths:
        pair = _changed_rows(source, last_paths, paths, storage)
        movement = find_movement(source.uri, pair, columns, shown, storage)
    return NightReport(
        source=source,
        columns=columns,
        shown=tuple(shown),
        figures=now,
        last_figures=last,
        num_sampled_rows=count_rows(source.files, paths),
        shards=source.working_manifest.shards(storage),
        workers=source.working_manifest.workers(storage),
        drift=drift,
        findings=tuple(judge(drift, config)),
        movement=movement,
        bad=_read_bad(source, storage),
        limits=config,
        last_shares=_manifest_shares(source.last_manifest, source.last_manifest) if source.last_manifest else {},
    )


def _changed_rows(
    source: ReportSource, last_paths: Sequence[str], paths: Sequence[str], storage: Storage
) -> tuple[NightRows, NightRows]:
    """The samples of both nights, without files that a snapshot left as they were."""
    common = set(paths) & set(last_paths)
    sides = ((source.last_manifest, last_paths), (source.manifest, paths))
    last, now = (
        NightRows([path for path in side if path not in common], read_etags(source.uri, manifest, storage))
        for manifest, side in sides
    )
    return last, now


def _shares(source: ReportSource) -> dict[str, float | None]:
    """The figures of drift that manifests tell."""
    num_before = source.last_manifest.counts.get("num_rows") if source.last_manifest else None
    change = share_of(source.manifest.counts.get("num_rows"), num_before)
    found = _manifest_shares(source.manifest, source.working_manifest)
    return {"rows_change": abs(change - 1) if change is not None else None, **found}


def _manifest_shares(manifest: Manifest, working: Manifest) -> dict[str, float | None]:
    """Shares of a night's tokens and rows; `working` is of the run that scored them."""
    counts, usage = manifest.counts, working.counts.get("usage", {})
    num_rows = counts.get("num_rows")
    return {
        "unknown_share": share_of(usage.get("num_unknown_tokens"), usage.get("num_tokens")),
        "truncated_share": share_of(counts.get("num_truncated_rows"), num_rows),
        "quarantined_share": share_of(counts.get("num_quarantined_rows"), num_rows),
    }


def _read_bad(source: ReportSource, storage: Storage) -> tuple[BadRows, ...]:
    """Every reason with its count, and examples from the first rows of the quarantine."""
    reasons: Mapping[str, int] = source.manifest.counts.get("quarantine_reasons", {})
    examples: dict[str, list[str]] = {reason: [] for reason in reasons}
    num_read, root = 0, join_uri(source.uri, QUARANTINE)
    for path in sorted(source.quarantine):
        if num_read >= _QUARANTINE_ROWS or all(len(found) >= _EXAMPLES for found in examples.values()):
            break
        for _, rows in read_row_groups(root, path, [SOURCE_FILE, SOURCE_ROW, "reason"], storage):
            num_read += rows.num_rows
            for row in rows.to_pylist():
                found = examples.setdefault(row["reason"], [])
                if len(found) < _EXAMPLES:
                    found.append(f"{row[SOURCE_FILE]} row {row[SOURCE_ROW]:,}")
    return tuple(BadRows(reason, reasons.get(reason, 0), tuple(found)) for reason, found in examples.items())
