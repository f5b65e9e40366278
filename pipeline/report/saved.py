"""Reports beside the manifests: `_reports/run_date=D.html`, and the figures that the page of all nights shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.errors import DriftError, OutputTakenError
from pipeline.output.ledger import Ledger
from pipeline.output.manifests import read_manifests
from pipeline.report.build import NightReport, build_report
from pipeline.report.limits import ReportConfig
from pipeline.report.page import render_report
from pipeline.schema import REPORTS, RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.tracing import span
from pipeline.uris import join_uri

_THREADS = 16


def save_report(report: NightReport, storage: Storage) -> str:
    """Write a night's page and its figures, over those of an earlier run; returns the page's URI."""
    folder, name = join_uri(report.source.uri, REPORTS), f"{RUN_DATE}={report.source.run_date}"
    uri = join_uri(folder, f"{name}.html")
    storage.write_bytes(uri, render_report(report).encode())
    storage.write_bytes(join_uri(folder, f"{name}.json"), json.dumps(report.summary, indent=1).encode())
    return uri


def save_nights_page(table_uri: str, content: str, storage: Storage) -> str:
    """Write the page of all nights beside the nights' own; returns its URI."""
    uri = join_uri(table_uri, REPORTS, "nights.html")
    storage.write_bytes(uri, content.encode())
    return uri


def save_page(place: str, content: str, storage: Storage) -> None:
    """Write a page where it was asked for, over one that is there.

    Raises:
        OutputTakenError: a folder is there, or a file where its folder would be.
    """
    try:
        storage.write_bytes(place, content.encode())
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise OutputTakenError(f"{place} cannot be written: {error.strerror}", "name a file for the page") from None


@span("report")
def write_report(ledger: Ledger, config: ReportConfig) -> Mapping[str, Any] | None:
    """Make and save the report of a night that was just published, and print where it is and what it found.

    Returns:
        Its figures; None where that went wrong, which is printed: the night is published all the same.
    """
    try:
        report = build_report(ledger.table_uri, ledger.run_date, config, ledger.storage)
        print(f"  report: {save_report(report, ledger.storage)}")
    except Exception as error:
        print(f"note: the night is published, but its report could not be written: {error}", file=sys.stderr)
        return None
    if report.source.not_compared:
        print(f"  {report.source.not_compared}")
    for finding in report.findings:
        print(f"  {finding}")
    return report.summary


def complete_report(ledger: Ledger, config: ReportConfig, writes: bool) -> Mapping[str, Any] | None:
    """The figures of a published night's report; with `writes`, it is written now if none is of the night's last run.

    Its run was stopped between the manifest and the report, then, or the report could not be written.
    """
    summary = read_summary(ledger.table_uri, ledger.run_date, ledger.storage)
    runs = [found.counts.get("run_id") for found in read_manifests(ledger.table_uri, ledger.storage, ledger.run_date)]
    if not writes or not runs or (summary is not None and summary.get("run_id") == runs[-1]):
        return summary
    print("its report was missing; now:")
    return write_report(ledger, config)


def read_summary(table_uri: str, run_date: str, storage: Storage) -> Mapping[str, Any] | None:
    """The figures of one night's report, if one was written."""
    content = storage.read_bytes(join_uri(table_uri, REPORTS, f"{RUN_DATE}={run_date}.json"))
    return None if content is None else dict(json.loads(content))


def read_summaries(table_uri: str, nights: list[str], storage: Storage) -> dict[str, Mapping[str, Any]]:
    """The figures of the reports of several nights; nights without one are left out."""
    found = map_threads(lambda night: read_summary(table_uri, night, storage), nights, _THREADS)
    return {night: summary for night, summary in zip(nights, found, strict=True) if summary is not None}


def check_drift(summary: Mapping[str, Any] | None) -> None:
    """Raise if a report, where there is one, found more than its spec allows.

    Raises:
        DriftError: it did; the night stays published.
    """
    if summary is not None and summary["level"] == "fail":
        listed = "\n".join(f"- {finding}" for finding in summary["findings"])
        raise DriftError(
            f"night {summary['run_date']} is published, and beyond the limits of report.fail:\n{listed}",
            "look at its report; if the change is meant, raise the limit. `bertmill nightly --rescore` scores it again",
        )
