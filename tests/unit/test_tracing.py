"""Spans of real work, through OpenTelemetry's own in-memory and console exporters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobs.remote.project import runtime_environment
from jobs.running import running
from pipeline import tracing
from pipeline.errors import NightTakenError, TooManyBadRowsError
from pipeline.inference.run import add_shard_span
from pipeline.report.saved import write_report
from pipeline.tracing import annotate_span, span, traced
from tests.unit.inference.nights import Story, finish
from tests.unit.output.scored import NIGHT

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_open_exporter", lambda: exporter)
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {each.name: each for each in exporter.get_finished_spans()}


def test_a_night_s_parts_and_shards_are_one_trace(
    exported: InMemorySpanExporter, tmp_path: Path, bundle_directory: Path
) -> None:
    story = Story(tmp_path, bundle_directory)
    story.put("a", 40, 0, bad=True)
    with running("nightly", "scores.yaml", False, NIGHT):
        run = story.prepare(NIGHT)
        done = finish(run, "run-7")
        write_report(run.ledger, run.spec.report)
    found = by_name(exported)
    root = found["bertmill nightly"]
    parents = {"plan": root, "publish": root, "report": root, "check accounts": found["publish"]}
    parents |= {"write manifest": found["publish"], "commit": found["publish"]}
    assert found.keys() == parents.keys() | {root.name}
    for name, parent in parents.items():
        assert (found[name].parent or root.context) == parent.context, name
    assert root.attributes == {"bertmill.job": "nightly", "bertmill.spec": "scores.yaml", "bertmill.night": NIGHT}
    assert dict(found["plan"].attributes or {}) == {
        "bertmill.files": 1,
        "bertmill.shards": done.num_shards,
        "bertmill.pending_shards": done.num_shards,
        "bertmill.rows": 40,
    }
    assert (found["publish"].attributes or {})["bertmill.run_id"] == "run-7"
    assert root.resource.attributes["service.name"] == "bertmill"


def test_a_shard_s_span_has_the_times_and_counts_of_its_record(
    exported: InMemorySpanExporter, tmp_path: Path, bundle_directory: Path
) -> None:
    story = Story(tmp_path, bundle_directory)
    story.put("a", 20, 0, bad=True)
    story.night(NIGHT)
    (record,) = story.prepare(NIGHT).plan.done.values()
    with traced("nightly"), span("score"):
        add_shard_span(record)
    found = by_name(exported)["shard"]
    assert found.parent == by_name(exported)["score"].context
    assert found.start_time is not None
    assert found.end_time == int(record.usage.ended_s * 1e9)
    assert (found.end_time - found.start_time) / 1e9 == pytest.approx(record.elapsed_s, abs=1e-5)
    attributes = dict(found.attributes or {})
    assert attributes["bertmill.shard"] == record.shard
    assert (attributes["bertmill.rows"], attributes["bertmill.quarantined_rows"]) == (20, 1)
    assert attributes["bertmill.model_s"] == record.usage.stages.model_s > 0


def test_what_failed_is_marked(exported: InMemorySpanExporter) -> None:
    with pytest.raises(SystemExit, match="3"), running("score", "s.yaml", False), span("publish"):
        raise TooManyBadRowsError("8 of 1200 rows cannot be scored", "look")
    assert by_name(exported).keys() == {"publish", "bertmill score"}
    for each in exported.get_finished_spans():
        assert not each.status.is_ok, each.name
        assert (each.status.description or "").startswith("8 of 1200 rows")
        assert (each.attributes or {})["error.type"] == "TooManyBadRowsError"


def test_a_night_that_another_run_has_is_no_failure(exported: InMemorySpanExporter) -> None:
    with pytest.raises(SystemExit, match="0"), running("score", "s.yaml", False):
        raise NightTakenError("another run is at work")
    (root,) = exported.get_finished_spans()
    assert root.status.is_ok


def test_a_scheduler_s_trace_is_gone_on_with(exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    with traced("nightly"):
        pass
    (root,) = exported.get_finished_spans()
    assert root.parent is not None
    assert root.context is not None
    assert f"00-{root.context.trace_id:032x}-{root.parent.span_id:016x}-01" == PARENT


def test_a_submitted_job_goes_on_with_the_submitter_s_trace(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with traced("submit nightly"):
        travels = runtime_environment(tmp_path, None)["env_vars"]
    (submitter,) = exported.get_finished_spans()
    exported_there = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_open_exporter", lambda: exported_there)
    monkeypatch.setenv("TRACEPARENT", travels["TRACEPARENT"])
    with traced("nightly"):
        pass
    (job,) = exported_there.get_finished_spans()
    assert job.parent is not None
    assert submitter.context is not None
    assert (job.parent.trace_id, job.parent.span_id) == (submitter.context.trace_id, submitter.context.span_id)
    assert "TRACEPARENT" not in runtime_environment(tmp_path, None)["env_vars"]


def test_a_job_within_a_job_is_part_of_its_trace(exported: InMemorySpanExporter) -> None:
    with traced("demo"), traced("score"), span("plan"):
        pass
    assert {each.name for each in exported.get_finished_spans()} == {"bertmill demo", "plan"}


def test_nothing_is_made_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    with traced("nightly"), span("plan", rows=3):
        annotate_span(rows=4)
        assert tracing._tracer is None


def test_the_console_s_lines_are_json_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with traced("nightly"), span("plan", rows=3):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    plan, root = map(json.loads, err.splitlines())
    assert (plan["name"], plan["attributes"]) == ("plan", {"bertmill.rows": 3})
    assert plan["parent_id"] == root["context"]["span_id"]


@pytest.mark.parametrize(
    ("value", "says"),
    [("zipkin", "'zipkin' is none of console, otlp, none"), ("otlp", r"pip install 'bertmill[otel]'")],
)
def test_what_cannot_be_exported_is_said_and_stops_no_night(
    value: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", value)
    monkeypatch.setattr(tracing, "find_spec", lambda _: None)
    with traced("nightly"), span("plan"):
        print("work")
    out, err = capsys.readouterr()
    assert out == "work\n"
    assert err.startswith("note: OTEL_TRACES_EXPORTER: ")
    assert says in err
