"""A table's nights as one HTML page: rows, time, cost, drift, failures, models."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.report.failures import Failure
from pipeline.report.frame import charts, facts, format_seconds, page, section
from pipeline.report.html import Column, Html, draw_columns, join, link, table, tag
from pipeline.report.nights import NightLine, TableNights
from pipeline.schema import RUN_DATE

_DRIFT = {"label_psi": "label PSI", "score_psi": "score PSI", "embedding_shift": "shift"}
_HEADS = ("night", "rows", "quarantined", "truncated", "time", "rows/s", "cost", "runs", *_DRIFT.values())


def render_nights(found: TableNights, has_reports_beside: bool) -> str:
    """The page; where it stands in the folder of the reports, each night links to its own."""
    shown = f"{len(found.nights):,} of {found.num_nights:,} nights" if found.nights else "no night is published yet"
    parts = [
        tag("h1", "Nights"),
        tag("p", f"{found.uri}, {shown}", class_="faint"),
        _verdict(found),
        *([_sums(found), section("Night by night", _drawings(found))] if found.nights else []),
        section("Table", _table(found, has_reports_beside)),
        section("Failures", *_failures(found)),
    ]
    return page(f"Nights of {found.uri}", parts)


def _verdict(found: TableNights) -> Html:
    last = found.nights[-1] if found.nights else None
    said = []
    if last is not None:
        words = {"ok": "within all limits", "": "without a report"}
        state = words.get(last.level, "; ".join(last.findings))
        said.append(tag("p", f"The last night, {last.run_date}: {state}.", class_=f"level {last.level or 'warn'}"))
    if found.unfinished:
        nights = ", ".join(found.unfinished)
        said.append(tag("p", f"Begun and not published: {nights}. The same command goes on.", class_="level fail"))
    return join(said)


def _sums(found: TableNights) -> Html:
    nights = found.nights
    costs = [night.cost for night in nights if night.cost is not None]
    times = [night.elapsed_s for night in nights if night.elapsed_s is not None]
    levels = [night.level for night in nights]
    return facts(
        ("nights", f"{len(nights):,}"),
        ("rows", f"{sum(night.counts.get('num_rows', 0) for night in nights):,}"),
        ("time of all runs", format_seconds(sum(times))),
        ("cost", f"{sum(costs):,.4g}" if costs else "no price in the spec"),
        ("nights beyond a warning", f"{levels.count('warn'):,}"),
        ("nights beyond report.fail", f"{levels.count('fail'):,}"),
        ("runs that failed", f"{len(found.failures):,}"),
        ("models or settings changed", f"{sum(night.is_new_model for night in nights):,}"),
    )


def _drawings(found: TableNights) -> Html:
    def drawn(name: str, value: Callable[[NightLine], float | None], form: str) -> list[tuple[str, Html]]:
        columns = [Column(night.run_date, value(night), night.level) for night in found.nights]
        is_known = any(column.value is not None for column in columns)
        return [(name, draw_columns(name, columns, form))] if is_known else []

    return charts(
        *drawn("Rows", lambda night: night.counts.get("num_rows"), ",.0f"),
        *drawn("Seconds, all runs of a night", lambda night: night.elapsed_s, ",.4g"),
        *drawn("Rows a second, from command to commit", lambda night: night.rows_per_s, ",.4g"),
        *drawn("Cost", lambda night: night.cost, ",.4g"),
        *drawn("Quarantined rows", lambda night: night.share("num_quarantined_rows"), ".2%"),
        *drawn("Labels' drift (population stability index)", lambda night: night.drift.get("label_psi"), ".4f"),
        *drawn("Scores' drift (population stability index)", lambda night: night.drift.get("score_psi"), ".4f"),
        *drawn("Shift of the mean embedding (1 - cosine)", lambda night: night.drift.get("embedding_shift"), ".4f"),
    )


def _table(found: TableNights, has_reports_beside: bool) -> Html:
    rows = [_row(night, has_reports_beside) for night in reversed(found.nights)]
    return table((*_HEADS, "limits", "model"), rows, numbers=range(1, len(_HEADS)))


def _row(night: NightLine, has_reports_beside: bool) -> tuple[object, ...]:
    skipped = night.counts.get("skipped_files") or ()
    findings = [*night.findings, *([f"{len(skipped):,} corrupt files left out"] if skipped else [])]
    model = str(night.counts.get("model_version", ""))
    name, is_linked = night.run_date, has_reports_beside and bool(night.level)
    level = tag("span", night.level or "no report", class_=f"level {night.level}")
    return (
        tag("span", link(name, f"{RUN_DATE}%3D{name}.html") if is_linked else name, class_="whole"),
        _number(night.counts.get("num_rows"), ",.0f"),
        _number(night.share("num_quarantined_rows"), ".2%"),
        _number(night.share("num_truncated_rows"), ".2%"),
        "" if night.elapsed_s is None else format_seconds(night.elapsed_s),
        _number(night.rows_per_s, ",.0f"),
        _number(night.cost, ",.4g"),
        f"{night.num_runs:,}",
        *(_number(night.drift.get(figure), ".3f") for figure in _DRIFT),
        join([level, *(tag("div", item) for item in findings)]),
        tag("span", model, " (changed)", class_="warn") if night.is_new_model else model,
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _failures(found: TableNights) -> list[Html]:
    note = (
        "A run that was killed writes nothing down: its night is one that was begun and not published. "
        "Where a run failed after its commit, the night is published and whole."
    )
    if not found.failures:
        return [tag("p", "No run of these nights wrote down a failure."), tag("p", note, class_="faint")]
    rows = [_failure(failure, failure.run_id in found.committed_runs) for failure in reversed(found.failures)]
    heads = ("night", "ended (UTC)", "exit status", "after", "what", "run")
    return [table(heads, rows, numbers=(2, 3)), tag("p", note, class_="faint")]


def _failure(failure: Failure, is_committed: bool) -> tuple[object, ...]:
    dates = (failure.run_date, failure.ended_at[:16].replace("T", " "))
    night, ended = (tag("span", text, class_="whole") for text in dates)
    what = f"{failure.kind}{', after its commit' if is_committed else ''}: {failure.message}"
    return night, ended, str(failure.exit_code), format_seconds(failure.elapsed_s), what, failure.run_id
