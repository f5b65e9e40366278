"""Nights that hold what is new, and snapshots that follow the corpus: always exactly the corpus's rows."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from pipeline.inference.publish import complete_manifest, publish_run
from pipeline.output.compact import compact_night
from pipeline.output.ledger import Ledger
from pipeline.output.table import Night, Published, publish_night
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story, begin, finish, story_of_three
from tests.unit.inference.scoring import score_all, scorer_for

STORAGE = Storage()
D20, D21, D22, D23, D24 = (f"2026-11-{day}" for day in range(20, 25))
NOW = VacuumOptions(retention_s=0, safety_s=0)


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    return story_of_three(tmp_path, bundle_directory)


def snapshot(story: Story, **output: str) -> Story:
    story.output = {"mode": "snapshot", **output}
    return story


def other_bundle(story: Story) -> Path:
    make_bundle(story.root / "other", seed=7)
    return story.root / "other"


def test_each_night_holds_what_is_new_and_together_they_hold_the_corpus(story: Story) -> None:
    assert story.night(D20).num_rows_this_run == 78
    assert story.current() == story.rows
    story.put("d", 10, 3)
    story.put("a", 30, 30)
    report = story.night(D21)
    assert (report.num_rows_this_run, report.num_files, report.num_corpus_files) == (40, 2, 4)
    assert story.shown(D21).keys() == {key for key in story.rows if key[0][-9] in "ad"}
    assert story.verify(D20) == story.verify(D21) == ()
    assert story.current() == story.rows
    assert story.quarantined() == {(str(story.corpus / "b.parquet"), 0)}


def test_a_file_whose_rows_all_turn_bad_has_no_current_rows(story: Story) -> None:
    story.night(D20)
    story.put("d", 30, 3)
    story.put("b", 1, 4, bad=True)
    story.night(D21)
    assert story.current() == story.rows
    assert not any(path.endswith("b.parquet") for path, _ in story.rows)


def test_a_night_with_nothing_new_is_empty_done_and_built_upon(story: Story) -> None:
    story.night(D20)
    version = DeltaTable(story.table).version()
    assert not story.prepare(D21).is_published
    report = story.night(D21)
    assert (report.num_rows, report.published) == (0, False)
    assert story.prepare(D21).is_published
    assert DeltaTable(story.table).version() == version
    story.put("d", 10, 3)
    assert story.night(D22).num_rows == 10
    assert story.current() == story.rows


def test_a_second_run_of_a_night_adds_what_came_since(story: Story) -> None:
    story.night(D20)
    story.put("d", 10, 3)
    story.night(D21)
    story.put("e", 30, 4)
    report = story.night(D21)
    assert (report.num_rows, report.num_rows_this_run >= 30) == (40, True)
    assert story.shown(D21).keys() == {key for key in story.rows if key[0][-9] in "de"}
    assert story.prepare(D21).is_published
    assert story.current() == story.rows


def test_a_changed_model_scores_the_whole_corpus_once(story: Story) -> None:
    story.night(D20)
    story.bundle = other_bundle(story)
    assert story.night(D21).num_rows_this_run == 78
    story.put("d", 10, 3)
    assert story.night(D22).num_rows_this_run == 10
    assert story.current() == story.rows


def test_a_model_taken_back_never_mixes_with_the_one_between(story: Story) -> None:
    first = story.bundle
    story.night(D20)
    story.bundle = other_bundle(story)
    story.night(D21)
    story.bundle = first
    version = story.prepare(D22).model_version
    assert story.night(D22).num_rows == 78
    story.put("d", 10, 3)
    assert story.night(D23).num_rows == 10
    newest = DeltaTable(story.table).to_pyarrow_table(filters=pc.field("run_date") >= date.fromisoformat(D22))
    assert set(newest["model_version"].to_pylist()) == {version}
    assert story.current() == story.rows


def test_another_models_backfill_below_is_scored_over(story: Story) -> None:
    story.night(D20)
    story.put("d", 10, 3)
    story.night(D22)
    first, story.bundle = story.bundle, other_bundle(story)
    story.night(D21)
    story.bundle = first
    assert story.night(D23).num_rows == 78, "all but `d`, whose newest scores are the right model's"
    assert story.current() == story.rows


def test_an_earlier_night_is_filled_in_and_changes_no_current_row(story: Story) -> None:
    story.night(D21)
    story.put("d", 10, 3)
    story.night(D23)
    before = story.current()
    assert story.night(D22).num_rows == 10
    assert story.night(D20).num_rows == 88
    assert story.current() == before == story.rows
    assert story.night(D24).num_rows == 0


def test_a_file_that_changes_before_a_backfill_is_taken_by_the_next_night(story: Story) -> None:
    story.night(D21)
    story.night(D23)
    story.put("a", 7, 50)
    story.night(D22)
    assert story.night(D24).num_rows == 7
    assert story.current() == story.rows


def test_rescoring_takes_everything_once_and_a_plain_run_does_not_undo_it(story: Story) -> None:
    story.night(D20)
    assert story.night(D21, rescore=True).num_rows_this_run == 78
    assert story.prepare(D21).is_published
    story.put("d", 10, 3)
    assert story.night(D22).num_rows == 10
    assert story.current() == story.rows
    assert story.shown(D21).keys() == {key for key in story.rows if key[0][-9] != "d"}


@pytest.mark.parametrize("rescore", [True, False], ids=["same command", "without --rescore"])
def test_a_rescoring_killed_half_way_goes_on(story: Story, rescore: bool) -> None:
    story.night(D20)
    run = story.prepare(D20, rescore=True)
    assert len(run.plan.pending) == len(run.plan.shards)
    begin(run)
    scorer = scorer_for(run, "killed")
    for shard in run.plan.pending[:2]:
        scorer.process(shard)
    again = story.prepare(D20, rescore)
    assert (len(again.plan.done), again.starts_anew, again.is_published) == (2, False, False)
    before = story.live(D20)
    finish(again, "run-2")
    assert not before & story.live(D20)
    assert story.current() == story.rows


def test_a_night_is_scored_again_as_often_as_it_is_asked_for(story: Story) -> None:
    story.night(D20)
    for _ in range(2):
        before = story.live(D20)
        assert story.night(D20, rescore=True).num_rows_this_run == 78
        assert not before & story.live(D20)
        assert story.current() == story.rows


def test_a_rescoring_killed_after_its_commit_has_ended(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.night(D20)

    def die(_ledger: Ledger) -> None:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end_rescoring", die)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            story.night(D20, rescore=True)
    again = story.prepare(D20, rescore=True)
    assert again.is_published
    complete_manifest(again, "run-2", 0.0)
    assert story.night(D20, rescore=True).num_rows_this_run == 78


def test_a_night_killed_before_its_commit_is_not_built_upon(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.night(D20)
    story.put("d", 10, 3)
    killed = story.prepare(D21)
    records = score_all(killed)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.publish.publish_night", _die_at_the_table)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            publish_run(killed, records, "killed", 0.0)
    assert list(story.table.glob(f"_bertmill/coverage/run_date={D21}/*"))
    assert story.night(D22).num_rows == 10
    assert story.current() == story.rows
    assert not story.prepare(D21).is_published


def test_a_second_run_of_a_night_killed_before_its_commit_leaves_what_the_first_covers(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.night(D20)
    before = story.live()
    story.put("d", 10, 3)
    killed = story.prepare(D20)
    records = score_all(killed)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.publish.publish_night", _die_at_the_table)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            publish_run(killed, records, "killed", 0.0)
    assert story.live() == before
    assert story.night(D21).num_rows == 10
    assert story.current() == story.rows


def _die_at_the_table(uri: str, night: Night, storage: Storage) -> Published:
    if not uri.endswith("_quarantine"):
        raise KeyboardInterrupt("killed")
    return publish_night(uri, night, storage)


def test_a_compacted_night_is_built_upon(story: Story) -> None:
    story.night(D20)
    compact_night(str(story.table), D20, 1_000_000, STORAGE)
    story.put("d", 10, 3)
    assert story.night(D21).num_rows == 10
    assert story.prepare(D20).is_published is False, "`d` is new to it"
    assert story.current() == story.rows


def test_a_snapshot_without_vanished_files_is_always_the_corpus(story: Story) -> None:
    snapshot(story)
    versions = {}
    story.night(D20)
    versions[story.prepare(D20).ledger.run_date] = (DeltaTable(story.table).version(), dict(story.rows))
    _change_everything(story)
    assert story.night(D21).num_rows_this_run == _rows_of(story, "ad")
    assert story.shown() == story.rows
    assert story.verify(D20) == story.verify(D21) == ()
    assert story.quarantined() == {(str(story.corpus / "b.parquet"), 0)}
    assert not story.night(D22).published
    assert story.prepare(D23).is_published
    for version, rows in versions.values():
        assert story.shown(version=version) == rows


def _change_everything(story: Story) -> None:
    story.put("d", 30, 3)
    story.put("a", 40, 30)
    story.remove("c")


def _rows_of(story: Story, names: str) -> int:
    return sum(key[0][-9] in names for key in story.rows)


def test_a_snapshot_keeps_the_files_of_unchanged_shards(story: Story) -> None:
    snapshot(story)
    story.night(D20)
    paths = story.live()
    _change_everything(story)
    story.night(D21)
    kept = paths & story.live()
    rows = story.shown(D20)
    assert kept
    assert rows.keys() == {key for key in story.rows if key[0][-9] == "b"}


def test_a_snapshot_keeps_vanished_files_where_asked(story: Story) -> None:
    snapshot(story, vanished="keep")
    story.put("e", 9, 60, bad=True)
    story.night(D20)
    _change_everything(story)
    story.remove("e")
    story.night(D21)
    assert story.shown() == story.rows | story.vanished
    bad = {(str(story.corpus / f"{name}.parquet"), 0) for name in "be"}
    assert story.quarantined() == bad
    assert story.verify(D21) == ()
    story.put("f", 5, 61)
    story.night(D22)
    assert story.shown() == story.rows | story.vanished
    assert story.quarantined() == bad
    story.put("c", 21, 62)
    story.night(D23)
    assert story.shown() == story.rows | story.vanished
    assert story.prepare(D24).is_published


@pytest.mark.parametrize("vanished", ["drop", "keep"])
def test_a_compacted_snapshot_follows_the_corpus(story: Story, vanished: str) -> None:
    snapshot(story, vanished=vanished)
    for index, name in enumerate("ghi"):
        story.put(name, 12, 70 + index)
    story.night(D20)
    for night in (D21, D22, D23):
        compact_night(str(story.table), D20, 1_000_000, STORAGE)
        kept = story.vanished if vanished == "keep" else {}
        assert story.shown() == story.rows | kept
        assert story.night(night).published is False
        assert story.shown() == story.rows | kept
        story.remove({D21: "a", D22: "g", D23: "c"}[night])
        story.put({D21: "b", D22: "h", D23: "i"}[night], 13, int(night[-2:]))
        story.night(night)
        assert story.shown() == story.rows | (story.vanished if vanished == "keep" else {})
        assert story.verify(night) == ()


def test_a_snapshot_of_a_changed_model_is_scored_anew_and_swapped_in_one_commit(story: Story) -> None:
    snapshot(story)
    story.night(D20)
    before, version = story.live(), DeltaTable(story.table).version()
    story.bundle = other_bundle(story)
    assert story.night(D21).num_rows_this_run == 78
    assert not before & story.live()
    assert DeltaTable(story.table).version() == version + 1
    assert story.verify(D21) == ()
    assert story.shown() == story.rows


def test_a_snapshots_rescoring_goes_on_and_ends(story: Story) -> None:
    snapshot(story)
    story.night(D20)
    run = story.prepare(D21, rescore=True)
    begin(run)
    scorer_for(run, "killed").process(run.plan.pending[0])
    assert story.shown() == story.rows
    again = story.prepare(D21, rescore=True)
    assert len(again.plan.done) == 1
    finish(again, "run-2")
    assert story.live() == story.live(D21)
    assert story.shown() == story.rows
    assert story.prepare(D21).is_published
    assert story.night(D21, rescore=True).num_rows_this_run == 78


@pytest.mark.parametrize("vanished", ["drop", "keep"])
def test_vacuum_spares_what_a_snapshot_and_its_next_run_need(story: Story, vanished: str) -> None:
    snapshot(story, vanished=vanished)
    story.night(D20)
    _change_everything(story)
    story.night(D21)
    story.put("f", 30, 80)
    unfinished = story.prepare(D22)
    records = score_all(unfinished)
    for _ in range(3):
        _age(story.table)
        vacuum_table(str(story.table), NOW, STORAGE)
    expected = {key: value for key, value in story.rows.items() if key[0][-9] != "f"}
    kept = story.vanished if vanished == "keep" else {}
    assert story.shown() == expected | kept
    publish_run(unfinished, records, "run-3", 0.0)
    assert story.shown() == story.rows | kept


def _age(table: Path) -> None:
    for path in table.rglob("*"):
        if path.is_file() and "_delta_log" not in path.parts:
            os.utime(path, (1, 1))


def test_verify_finds_what_is_wrong_with_a_snapshot_in_any_of_its_nights_files(story: Story) -> None:
    snapshot(story)
    story.night(D20)
    story.put("d", 30, 3)
    story.night(D21)
    old = min(story.live(D20))
    (story.table / old).unlink()
    problems = verify_night(str(story.table), D21, STORAGE).problems
    assert any("is missing" in problem for problem in problems)
    assert any("num_scored_rows is" in problem for problem in problems)
