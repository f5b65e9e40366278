"""A night's report as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.build import NightReport
from pipeline.report.drift import Drift
from pipeline.report.figures import FloatArray
from pipeline.report.frame import charts, facts, page, section
from pipeline.report.html import Bars, Html, draw_bars, draw_histogram, join, table, tag
from pipeline.report.time_page import show_time

_MAX_LABELS, _NUM_BINS, _MAX_FLIPS = 12, 24, 15
_DRIFT_WORDS = {
    "rows_change": "change of the number of rows",
    "label_psi": "labels, population stability index",
    "score_psi": "scores, population stability index",
    "embedding_shift": "mean embedding, 1 - cosine",
    "unknown_share": "unknown tokens",
    "truncated_share": "truncated rows",
    "quarantined_share": "quarantined rows",
}


def render_report(report: NightReport) -> str:
    """The page."""
    source = report.source
    last = source.last_manifest.run_date if source.last_manifest else None
    beside = f"beside night {last}" if last else "the first night: there is none to compare it with"
    head = [tag("h1", f"Night {source.run_date}"), tag("p", f"{source.uri}, {beside}", class_="faint")]
    parts = [
        *head,
        *([tag("p", source.not_compared, class_="level warn")] if source.not_compared else []),
        _verdict(report),
        _rows(report),
        show_time(report),
        section("Drift", _drift(report.drift, report)),
        section("Labels and scores", _legend(last), _distributions(report), _sample_note(report)),
        section("Lengths", _lengths(report)),
        *([section("What moved", *_movement(report))] if report.movement is not None else []),
        section("Quarantine", _quarantine(report)),
        section("Lineage and settings", *_lineage(report)),
    ]
    return page(f"Night {source.run_date} of {source.uri}", parts)


def _verdict(report: NightReport) -> Html:
    if not report.findings:
        return tag("p", "Within all limits.", class_="level ok")
    return join(tag("p", str(finding), class_=f"level {finding.level}") for finding in report.findings)


def _rows(report: NightReport) -> Html:
    counts = report.source.manifest.counts
    names = {
        "num_rows": "rows",
        "num_scored_rows": "scored",
        "num_quarantined_rows": "quarantined",
        "num_truncated_rows": "truncated",
        "num_reused_rows": "copied from equal texts",
        "num_tokens": "tokens",
        "num_files": "corpus files",
        "num_shards": "shards",
    }
    return facts(*((label, f"{counts[name]:,}") for name, label in names.items() if counts.get(name) is not None))


def _drift(drift: Drift, report: NightReport) -> Html:
    levels = {finding.name: finding.level for finding in report.findings}
    heads = ("figure", "column", "value", "last night", "warns above", "fails above", "")
    rows = []
    for name, words in _DRIFT_WORDS.items():
        value = getattr(drift, name)
        limits = [getattr(side, name) for side in (report.limits.warn, report.limits.fail)]
        for column, figure in value.items() if isinstance(value, dict) else [("", value)]:
            if figure is not None:
                is_judged = figure == drift.worst(name) and any(limit is not None for limit in limits)
                level = levels.get(name, "ok") if is_judged else ""
                shown = [_figure(name, each) for each in (figure, report.last_shares.get(name), *limits)]
                rows.append((words, column, *shown, tag("span", level, class_=f"level {level}")))
    changed = _model_change(report)
    return join([table(heads, rows, range(2, 6)), *([tag("p", changed, class_="level warn")] if changed else [])])


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if name.endswith(("share", "change")) else f"{value:.4f}"


def _model_change(report: NightReport) -> str:
    last, now = report.source.last_manifest, report.source.manifest
    if last is None or last.fingerprint == now.fingerprint:
        return ""
    versions = f"{last.counts.get('model_version')} to {now.counts.get('model_version')}"
    return f"The model or its settings changed, {versions}: part of every shift is theirs."


def _distributions(report: NightReport) -> Html:
    drawn = []
    for name in report.columns.labels:
        now, last = report.figures.labels[name], report.last_figures.labels[name] if report.last_figures else None
        names = [label for label, _ in (now + last if last else now).most_common(_MAX_LABELS)]
        if names:
            drawn.append((name, draw_bars(f"{name} by share", Bars(names, _shares(now, names), _shares(last, names)))))
    for name in report.columns.numbers:
        values = report.figures.numbers.get(name, np.zeros(0))
        last_values = report.last_figures.numbers.get(name) if report.last_figures else None
        drawn.append((name, _histogram(name, values, last_values)))
    return charts(*drawn) if drawn else tag("p", "The table has neither labels nor scores.", class_="faint")


def _shares(counts: Any, names: Sequence[str]) -> list[float]:
    total = counts.total() if counts else 0
    return [counts[name] / total for name in names] if total else []


def _histogram(name: str, now: FloatArray, last: FloatArray | None) -> Html:
    both = np.concatenate([now, last]) if last is not None else now
    if not len(both):
        return tag("p", "no values", class_="faint")
    edges = np.histogram_bin_edges(both, _NUM_BINS)
    bars = Bars([], *(_binned(side, edges) for side in (now, last)))
    return draw_histogram(f"{name} by share", [float(edge) for edge in edges], bars)


def _binned(values: FloatArray | None, edges: FloatArray) -> list[float]:
    return [] if values is None else [float(share) for share in np.histogram(values, edges)[0] / max(len(values), 1)]


def _lengths(report: NightReport) -> Html:
    drawn = []
    for name, values in report.figures.tokens.items():
        last = report.last_figures.tokens.get(name) if report.last_figures else None
        drawn.append((f"{name} of a row", _histogram(name, values, last)))
    counts = report.source.manifest.counts
    cut, num_rows = counts.get("num_truncated_rows", 0), counts.get("num_rows", 0)
    note = f"{cut:,} of {num_rows:,} rows were truncated ({cut / max(num_rows, 1):.2%})."
    return join([charts(*drawn), tag("p", note)])


def _movement(report: NightReport) -> list[Html]:
    found = report.movement
    assert found is not None
    parts = [tag("p", f"{found.num_rows:,} rows stand in both nights' samples, and were compared.")]
    parts += [tag("p", f"{sentence}.") for sentence in found.not_compared.sentences]
    if found.flips:
        flips = [(*key, f"{count:,}") for key, count in found.flips.most_common(_MAX_FLIPS)]
        parts += [tag("h3", "Labels"), table(("column", "before", "now", "rows"), flips, numbers=(3,))]
    if found.movers:
        rows = [
            (f"{mover.change:.3f}", " | ".join(mover.before), " | ".join(mover.after), *mover.shown, _place(mover))
            for mover in found.movers
        ]
        heads = ("change", "before", "now", *report.shown, "where")
        parts += [tag("h3", "Rows whose scores changed most"), table(heads, rows, numbers=(0,))]
    return parts


def _place(mover: Any) -> str:
    return f"{mover.source_file} row {mover.source_row:,}"


def _quarantine(report: NightReport) -> Html:
    if not report.bad:
        return tag("p", "No row was quarantined.")
    rows = [(item.reason, f"{item.num_rows:,}", "; ".join(item.examples)) for item in report.bad]
    return table(("reason", "rows", "for example"), rows, numbers=(1,))


def _lineage(report: NightReport) -> list[Html]:
    counts = report.source.manifest.counts
    spec = counts.get("spec", {})
    entries = [
        ("table version", counts.get("table_version")),
        ("run", counts.get("run_id")),
        ("bertmill", counts.get("bertmill_version")),
        ("model version", counts.get("model_version")),
        ("fingerprint", report.source.manifest.fingerprint),
        *((f"bundle {name}".rstrip(), uri) for name, uri in spec.get("bundle", {}).items()),
        *(("corpus", uri) for uri in spec.get("corpus", {}).get("uri", [])),
        ("corpus files and their etags", f"{report.source.manifest.uri.removesuffix('.json')}.files.parquet"),
    ]
    skipped = [(item["uri"], item["reason"]) for item in counts.get("skipped_files", [])]
    return [
        table(("what", "which"), [entry for entry in entries if entry[1] is not None]),
        *([tag("h3", "Corrupt files left out"), table(("file", "reason"), skipped[:100])] if skipped else []),
        tag("h3", "Spec"),
        tag("pre", json.dumps(spec, indent=1)),
    ]


def _legend(last: str | None) -> Html:
    keys = [tag("span", tag("i", class_="key now"), " this night")]
    if last:
        keys.append(tag("span", tag("i", class_="key last"), f" {last}"))
    return tag("p", *keys, class_="legend")


def _sample_note(report: NightReport) -> Html:
    whole = sum(file.num_rows for file in report.source.files.values())
    if report.num_sampled_rows >= whole:
        return tag("p", f"From all {whole:,} rows.", class_="faint")
    return tag("p", f"From a sample: {report.num_sampled_rows:,} of {whole:,} rows, whole shards.", class_="faint")
