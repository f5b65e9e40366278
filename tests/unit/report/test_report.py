"""A night's report against the table it is of."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError, DriftError
from pipeline.output.matching import NotCompared
from pipeline.output.table import DataFile
from pipeline.report.build import NightReport, build_report
from pipeline.report.figures import choose_figure_columns, read_figures
from pipeline.report.limits import DriftLimits, ReportConfig
from pipeline.report.page import render_report
from pipeline.report.saved import check_drift, read_summary, write_report
from pipeline.report.source import open_source, sample_files
from pipeline.storage import Storage
from tests.unit.inference.nights import Story, finish
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, Row, publish, scored_row, write_shard
from tests.unit.report.reading import Page

STORAGE = Storage()
EVIL = "<script>alert('x')</script>"


def make_nights(table: Path, first: list[Row], second: list[Row], bad: list[Row] | None = None) -> None:
    publish(table, NIGHT, write_shard(table, NIGHT, "s0", first))
    publish(table, NEXT_NIGHT, write_shard(table, NEXT_NIGHT, "s0", second, bad))


def report_of(table: Path, night: str = NEXT_NIGHT, **options: Any) -> NightReport:
    return build_report(str(table), night, ReportConfig(**options), STORAGE)


def as_page(report: NightReport) -> Page:
    return Page(render_report(report))


def test_movers_flips_and_distributions_are_the_tables(tmp_path: Path) -> None:
    first = [scored_row("f", row, label="a", score=0.5, class_scores=[0.5, 0.5]) for row in range(100)]
    second = [dict(row) for row in first]
    for row in (3, 5, 8):
        second[row].update(label="b", score=0.5 + row / 100, class_scores=[0.5 - row / 100, 0.5 + row / 100])
    make_nights(tmp_path, first, second, [scored_row("f", 200)])
    report = report_of(tmp_path)
    assert report.figures.labels["label"] == Counter(a=97, b=3)
    assert report.movement is not None
    assert [mover.source_row for mover in report.movement.movers] == [8, 5, 3]
    page = as_page(report)
    assert page.table("column") == [{"column": "label", "before": "a", "now": "b", "rows": "3"}]
    assert page.table("change")[0] == {"change": "0.080", "before": "a | 0.500", "now": "b | 0.580", "where": "f row 8"}
    assert "97.0%" in page.text
    assert "100 rows stand in both nights' samples" in page.text
    assert page.figure("quarantined") == "1"


def test_of_many_nights_the_manifests_of_two_are_read(tmp_path: Path) -> None:
    nights = [f"2026-10-{day:02d}" for day in range(1, 8)]
    for night in nights:
        publish(tmp_path, night, write_shard(tmp_path, night, "s0", [scored_row("f", 0)]))
    read: list[str] = []

    class Counting(Storage):
        def read_bytes(self, uri: str) -> bytes | None:
            read.append(uri)
            return super().read_bytes(uri)

    source = open_source(str(tmp_path), nights[4], Counting())
    assert source.last_manifest is not None
    assert (source.manifest.run_date, source.last_manifest.run_date) == (nights[4], nights[3])
    assert {uri.rsplit("/", 2)[-2] for uri in read if "_manifests" in uri} == {f"run_date={n}" for n in nights[3:5]}


def test_a_night_that_is_as_the_last_one_does_not_drift(tmp_path: Path) -> None:
    rows = [scored_row("f", row, score=row / 100) for row in range(100)]
    make_nights(tmp_path, rows, rows)
    report = report_of(tmp_path)
    assert report.drift.label_psi == {"label": 0}
    assert report.drift.score_psi == {"score": 0}
    assert report.drift.embedding_shift["embedding"] == pytest.approx(0)
    assert (report.level, report.movement is not None and report.movement.movers) == ("ok", [])


def test_embeddings_that_turn_are_said_and_can_fail(tmp_path: Path) -> None:
    first = [scored_row("f", row, embedding=[1.0, 0.0]) for row in range(50)]
    second = [scored_row("f", row, embedding=[0.0, 1.0]) for row in range(50)]
    make_nights(tmp_path, first, second)
    report = report_of(tmp_path, fail=DriftLimits(embedding_shift=0.5))
    assert report.drift.embedding_shift == {"embedding": pytest.approx(1)}
    assert "embedding_shift is 1, fail limit 0.5" in as_page(report).text
    with pytest.raises(
        DriftError, match=r"is published, and beyond the limits of report.fail:\n- embedding_shift is 1"
    ):
        check_drift(report.summary)
    check_drift(report_of(tmp_path, fail=DriftLimits(rows_change=0.5)).summary)


def test_text_of_the_corpus_stays_text(tmp_path: Path) -> None:
    first = [scored_row(EVIL, row, label=EVIL, score=0.1) for row in range(20)]
    second = [scored_row(EVIL, row, label=f"b{EVIL}", score=0.9) for row in range(20)]
    make_nights(tmp_path, first, second)
    uri = tmp_path / "_manifests" / f"run_date={NEXT_NIGHT}" / "r1.json"
    counts = json.loads(uri.read_text())
    spec = {"corpus": {"keep": ["id"], "uri": [EVIL]}, "bundle": {EVIL: EVIL}}
    skipped = [{"uri": EVIL, "reason": EVIL}]
    uri.write_text(json.dumps({**counts, "spec": spec, "quarantine_reasons": {EVIL: 3}, "skipped_files": skipped}))
    text = render_report(report_of(tmp_path))
    page = Page(text)
    assert "script" not in {name for name, _ in page.elements}
    assert page.text.count(EVIL) >= 10
    assert page.table("change")[0]["id"] == second[0]["id"] or EVIL in page.table("change")[0]["id"]


def test_a_page_fetches_and_runs_nothing(tmp_path: Path) -> None:
    make_nights(tmp_path, [scored_row("f", 0)], [scored_row("f", 0)])
    text = render_report(report_of(tmp_path))
    page = Page(text)
    assert {name for name, _ in page.elements} & {"script", "link", "img", "iframe", "a", "object"} == set()
    names = {key for _, attributes in page.elements for key in attributes}
    assert {name for name in names if name.startswith("on") or name in ("src", "href", "style")} == set()
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_first_night_has_nothing_beside_it(tmp_path: Path) -> None:
    publish(tmp_path, NIGHT, write_shard(tmp_path, NIGHT, "s0", [scored_row("f", 0)]))
    report = report_of(tmp_path, NIGHT)
    assert (report.last_figures, report.movement, report.drift.label_psi) == (None, None, {})
    assert "the first night" in as_page(report).text


def test_a_night_without_manifest_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, NIGHT, write_shard(tmp_path, NIGHT, "s0", [scored_row("f", 0)]))
    with pytest.raises(CorpusError, match=f"no manifest of night {NEXT_NIGHT}"):
        report_of(tmp_path, NEXT_NIGHT)


def test_a_sample_is_whole_shards_and_the_same_ones_each_night(tmp_path: Path) -> None:
    sides = [
        {f"run_date={night}/{name}-{tail}.parquet": DataFile("", 1, 10) for name in "cab"}
        for night, tail in ((NIGHT, "1"), (NEXT_NIGHT, "2"))
    ]
    assert [path[20:-8] for path in sample_files(sides[0], 15)] == ["a-1", "b-1"]
    assert [path[20:-8] for path in sample_files(sides[1], 15)] == ["a-2", "b-2"]
    assert len(sample_files(sides[0], 1)) == 1
    rows = [scored_row("f", row) for row in range(20)]
    publish(tmp_path, NIGHT, *(write_shard(tmp_path, NIGHT, f"s{i}", rows[i * 10 : i * 10 + 10]) for i in (0, 1)))
    assert "From a sample: 10 of 20 rows" in as_page(report_of(tmp_path, NIGHT, sample_rows=10)).text


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    story = Story(tmp_path, bundle_directory, blocks={"compute": {"price_per_hour": 10.0}})
    for index, name in enumerate("ab"):
        story.put(name, 40, index, bad=name == "b")
    return story


def test_a_night_without_tokens_has_no_share_of_padding(tmp_path: Path, bundle_directory: Path) -> None:
    story = Story(tmp_path, bundle_directory, {"select": "new"})
    story.put("a", 20, 0)
    shares = []
    for night in (NIGHT, NEXT_NIGHT):
        run = story.prepare(night)
        finish(run)
        write_report(run.ledger, run.spec.report)
        shares.append(Page((story.table / "_reports" / f"run_date={night}.html").read_text()).figure("padding"))
    assert shares[0].endswith("%")
    assert shares[1] == "unknown"


def test_a_real_nights_page_shows_its_manifest(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    story.night(NIGHT)
    run = story.prepare(NEXT_NIGHT)
    done = finish(run, "run-7")
    summary = write_report(run.ledger, run.spec.report)
    assert summary == read_summary(str(story.table), NEXT_NIGHT, STORAGE)
    written = story.table / "_reports" / f"run_date={NEXT_NIGHT}.html"
    assert f"report: {written}" in capsys.readouterr().out
    page = Page(written.read_text())
    assert (page.figure("rows"), page.figure("scored"), page.figure("quarantined")) == ("80", "79", "1")
    assert page.figure("cost, all runs of the night") == f"{done.usage.cost:,.4g}"
    assert page.table("reason") == [
        {"reason": "text is null", "rows": "1", "for example": f"{story.corpus / 'b.parquet'} row 0"}
    ]
    lineage = {row["what"]: row["which"] for row in page.table("what")}
    assert (lineage["run"], lineage["fingerprint"], lineage["bundle"]) == ("run-7", done.fingerprint, str(story.bundle))
    (worker,) = page.table("worker")
    assert (worker["worker"], worker["shards"]) == (f"{socket.gethostname()}:{os.getpid()}", str(done.num_shards))
    assert worker["FLOP used"] == f"{done.usage.model_flop_utilisation:.1%}"
    assert page.figure("of what devices do, in the model") == worker["FLOP used"]
    legend = [text.strip() for text in page.words]
    times = [*asdict(done.usage.stages).values(), *asdict(done.usage.idle).values()]
    all_s = sum(times)  # in the page's order: another one would round shares that are near a tie differently
    for seconds in times:
        share = f"{seconds / all_s:.1%}"
        assert any(text.endswith(f" {share}") for text in legend), share
    assert f"What devices could do: {done.usage.peak_basis}." in page.text
    circles = [attributes for name, attributes in page.elements if name == "circle"]
    assert len(circles) == done.num_shards
    assert story.verify(NEXT_NIGHT) == ()


def test_a_snapshot_is_compared_with_the_table_before(story: Story) -> None:
    story.output = {"mode": "snapshot"}
    story.night(NIGHT)
    story.put("a", 40, 9)
    story.night(NEXT_NIGHT)
    report = build_report(str(story.table), NEXT_NIGHT, ReportConfig(), STORAGE)
    assert (report.figures.num_rows, report.last_figures and report.last_figures.num_rows) == (79, 79)
    assert report.movement is not None
    assert (report.movement.num_rows, report.movement.not_compared) == (0, NotCompared(40, 1, 0, 0))


def test_rows_of_rewritten_files_do_not_move(tmp_path: Path) -> None:
    rows = [[scored_row(file, row, score=score) for file in "fg" for row in range(5)] for score in (0.25, 0.75)]
    publish(tmp_path, NIGHT, write_shard(tmp_path, NIGHT, "s0", rows[0]))
    publish(tmp_path, NEXT_NIGHT, write_shard(tmp_path, NEXT_NIGHT, "s0", rows[1]), etags={"f": "v2"})
    report = report_of(tmp_path)
    assert report.movement is not None
    assert {mover.source_file for mover in report.movement.movers} == {"g"}
    assert "5 rows stand in both nights' samples, and were compared." in as_page(report).text
    assert "5 rows of 1 rewritten files are not compared." in as_page(report).text
    assert report.summary["not_compared"] == asdict(NotCompared(5, 1, 0, 0))


def test_a_snapshot_is_compared_with_one_that_was_compacted_and_vacuumed(story: Story) -> None:
    story.output = {"mode": "snapshot"}
    story.split("a")
    story.night(NIGHT)
    num_rows = len(story.rows)
    story.compact_and_vacuum(NIGHT)
    assert build_report(str(story.table), NIGHT, ReportConfig(), STORAGE).figures.num_rows == num_rows
    story.put("a", 40, 9)
    story.night(NEXT_NIGHT)
    report = build_report(str(story.table), NEXT_NIGHT, ReportConfig(), STORAGE)
    assert report.last_figures is not None
    assert report.last_figures.num_rows == num_rows
    assert (list(report.drift.label_psi), report.source.not_compared) == (["label"], "")


def test_a_snapshot_whose_files_are_gone_has_no_figures(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    story.output = {"mode": "snapshot"}
    story.night(NIGHT)
    story.put("a", 40, 9)
    run = story.prepare(NEXT_NIGHT)
    finish(run)
    story.compact_and_vacuum(NEXT_NIGHT)
    with pytest.raises(CorpusError, match=f"files of the snapshot that run_date={NIGHT} left are gone"):
        build_report(str(story.table), NIGHT, ReportConfig(), STORAGE)
    report = build_report(str(story.table), NEXT_NIGHT, ReportConfig(), STORAGE)
    assert (report.last_figures, report.movement, dict(report.drift.label_psi)) == (None, None, {})
    said = f"labels, scores and rows are not compared with night {NIGHT}: "
    assert said in as_page(report).text
    write_report(run.ledger, run.spec.report)
    assert said in capsys.readouterr().out


def test_a_night_with_nothing_new_has_a_page(story: Story) -> None:
    story.output = {"select": "new"}
    story.night(NIGHT)
    run = story.prepare(NEXT_NIGHT)
    finish(run)
    report = build_report(str(story.table), NEXT_NIGHT, ReportConfig(), STORAGE)
    assert report.figures.num_rows == 0
    assert as_page(report).figure("rows") == "0"


def test_a_report_that_cannot_be_written_changes_nothing(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    run = story.prepare(NIGHT)
    finish(run)
    for path in story.table.glob(f"run_date={NIGHT}/*.parquet"):
        path.unlink()
    assert write_report(run.ledger, run.spec.report) is None
    assert "the night is published, but its report could not be written" in capsys.readouterr().err


def test_entities_are_counted_by_label(tmp_path: Path) -> None:
    entities = pa.list_(pa.struct([("text", pa.string()), ("label", pa.string())]))
    rows = [[{"text": "Bonn", "label": "LOC"}, {"text": "Ada", "label": "PER"}], [], [{"text": "Rom", "label": "LOC"}]]
    table = pa.table({"entities": pa.array(rows, entities), "num_tokens": [3, 4, 5]})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = choose_figure_columns(table.schema, [])
    found = read_figures(str(tmp_path), ["a.parquet"], columns, STORAGE)
    assert found.labels["entities"] == {"LOC": 2, "PER": 1, "(none)": 1}
    assert found.tokens["num_tokens"].tolist() == [3, 4, 5]
