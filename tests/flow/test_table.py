"""A table is looked at, compared, checked, vacuumed and compacted, on a local directory and on a real S3 server."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pipeline.inference.prepare import prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.run import score_pending
from pipeline.inference.verify import SampleCheck, rescore_sample
from pipeline.output.compact import compact_night
from pipeline.output.compare import compare_nights
from pipeline.output.history import list_live_files, read_nights, read_versions
from pipeline.output.ledger import DoneRecord
from pipeline.output.matching import NotCompared
from pipeline.output.vacuum import VacuumReport, vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.tiny import make_bundle
from tests.unit.jobs.command_line import run_command

STORAGE = Storage()
NEXT_NIGHT = "2026-11-24"
AT_ONCE = VacuumOptions(retention_s=0, safety_s=0)
WITH_SAFETY = replace(AT_ONCE, safety_s=3_600)


@pytest.fixture(scope="module")
def bundle_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    make_bundle(directory, max_length=64)
    return directory


@pytest.fixture
def spec(root_uri: str, bundle_directory: Path) -> helpers.ScoreSpec:
    helpers.write_demo_corpus(join_uri(root_uri, "corpus"))
    bundle = helpers.upload_directory(bundle_directory, join_uri(root_uri, "bundle"))
    return helpers.score_spec(bundle, join_uri(root_uri, "corpus"), join_uri(root_uri, "scores"))


def vacuum(spec: helpers.ScoreSpec, options: VacuumOptions = AT_ONCE) -> VacuumReport:
    return vacuum_table(spec.output.uri, options, STORAGE)


def read_as_files(spec: helpers.ScoreSpec) -> list[dict[str, object]]:
    """The live files as a reader without Delta sees them: Polars on any store, DuckDB too on a local one."""
    uris = [file.uri for file in list_live_files(spec.output.uri, STORAGE)]
    options = {name.lower(): value for name, value in STORAGE.delta_options(spec.output.uri).items()}
    columns = ["source_file", "source_row", "label"]
    frames = [pl.read_parquet(uri, columns=columns, storage_options=options or None) for uri in uris]
    rows = pl.concat(frames).sort("source_file", "source_row").to_dicts()
    if not uris[0].startswith("s3://"):
        query = "SELECT source_file, source_row, label FROM read_parquet(?) ORDER BY source_file, source_row"
        assert duckdb.sql(query, params=[uris]).to_arrow_table().to_pylist() == rows
    return rows


def published(spec: helpers.ScoreSpec) -> list[dict[str, object]]:
    keys = ("source_file", "source_row", "label")
    return [{key: row[key] for key in keys} for row in helpers.read_rows(spec.output.uri)]


@pytest.mark.usefixtures("alone")
def test_live_files_hold_exactly_the_published_rows_through_compaction_and_vacuum(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec)
    rows = published(spec)
    assert len(rows) == 1192
    assert read_as_files(spec) == rows

    done = compact_night(spec.output.uri, helpers.NIGHT, 2**30, STORAGE)
    assert (done.num_files_before, done.num_files_after) == (12, 1)
    assert read_as_files(spec) == published(spec) == rows
    assert verify_night(spec.output.uri, helpers.NIGHT, STORAGE).problems == ()

    again = prepare_run(spec, helpers.NIGHT)
    assert again.is_published
    assert not helpers.finish_night(again).published, "a second run leaves the compacted file"

    assert vacuum(spec).removed == (), "the first vacuum only marks the parts"
    assert {reason for _, _, reason in vacuum(spec).removed} == {"its rows stand in a compacted file"}
    assert len(list_live_files(spec.output.uri, STORAGE)) == 1
    assert read_as_files(spec) == rows
    assert prepare_run(spec, helpers.NIGHT).is_published, "and with the parts gone the night is still done"
    assert verify_night(spec.output.uri, helpers.NIGHT, STORAGE).problems == ()


@pytest.mark.parametrize(*helpers.MOSTLY_S3, indirect=True)
@pytest.mark.usefixtures("alone")
def test_a_vacuum_during_a_run_takes_nothing_the_run_publishes(spec: helpers.ScoreSpec) -> None:
    """Vacuums without any retention, over and over, from the first shard to the commit; and one more in between."""
    helpers.run_night(spec, NEXT_NIGHT)  # there is a table to vacuum
    run = prepare_run(spec, helpers.NIGHT)
    ended = threading.Event()
    reports: list[VacuumReport] = []

    def keep_vacuuming() -> None:
        while not ended.is_set():
            reports.append(vacuum(spec, WITH_SAFETY))

    vacuums = threading.Thread(target=keep_vacuuming)
    vacuums.start()
    try:
        records: list[DoneRecord] = score_pending(run, helpers.POOL, "run-1")
        ended.set()
        vacuums.join()
        reports.append(vacuum(spec))  # every file has its record now, so not even the safety age is needed
        report = publish_run(run, records, "run-1", 0.0)
    finally:
        ended.set()
        vacuums.join()
    assert len(reports) > 2
    assert [item.removed for item in reports if item.removed] == []
    assert report.num_scored_rows == 1192
    assert verify_night(spec.output.uri, helpers.NIGHT, STORAGE).problems == ()


@pytest.mark.usefixtures("alone")
def test_a_vacuum_takes_what_dead_attempts_and_older_models_left(
    spec: helpers.ScoreSpec, root_uri: str, tmp_path: Path
) -> None:
    helpers.run_night(spec)
    rows = published(spec)
    lost = join_uri(spec.output.uri, f"run_date={helpers.NIGHT}", "0123-4567.parquet")
    STORAGE.write_bytes(lost, b"an attempt that died before its record")
    assert [path for path, _, _ in vacuum(spec).removed] == [f"run_date={helpers.NIGHT}/0123-4567.parquet"]

    make_bundle(tmp_path / "better", seed=1, max_length=64)
    better = spec.model_copy(
        update={"bundle": {"": helpers.upload_directory(tmp_path / "better", join_uri(root_uri, "better"))}}
    )
    helpers.run_night(better)
    assert vacuum(spec).num_forgotten_records == 12
    assert len(vacuum(spec).removed) == 12 + 4, "scored and quarantined files of the first model"
    assert published(spec) != rows
    assert prepare_run(better, helpers.NIGHT).is_published
    assert verify_night(spec.output.uri, helpers.NIGHT, STORAGE).problems == ()
    assert prepare_run(spec, helpers.NIGHT).plan.num_pending_rows == 1200, "the first model would be scored anew"


@pytest.mark.usefixtures("alone")
def test_nights_are_compared_and_versions_told(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec)
    changed = join_uri(spec.corpus.uri[0], "domain=d1", "part-1.parquet")
    helpers.write_table(helpers.pa.table({"id": ["x", "y"], "text": ["loved it", "hated it"]}), changed)
    helpers.run_night(spec, NEXT_NIGHT)
    found = compare_nights(spec.output.uri, helpers.NIGHT, NEXT_NIGHT, STORAGE)
    assert (found.num_rows_first, found.num_rows_second) == (1192, 896)
    assert (found.num_rows_only_first, found.num_rows_only_second) == (296, 0)
    assert found.not_compared == NotCompared(2, 1, 0, 0), "rows 0 and 1 of the file hold other text"
    assert found.num_rows_both == found.num_rows_unchanged == found.vectors[0].num_rows == 894

    newest, first, _ = read_versions(spec.output.uri, STORAGE)
    assert [version.run_date for version in (newest, first)] == [NEXT_NIGHT, helpers.NIGHT]
    assert [version.num_added_rows for version in (newest, first)] == [896, 1192]
    assert [night.num_rows for night in read_nights(spec.output.uri, STORAGE)] == [1192, 896]


@pytest.mark.usefixtures("alone")
def test_a_night_is_verified_against_its_records_and_plain_transformers(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec)
    found = verify_night(spec.output.uri, helpers.NIGHT, STORAGE)
    assert (found.problems, found.notes) == ((), ())
    assert (found.num_files, found.num_rows, found.num_quarantined_rows) == (12, 1192, 8)
    rescored = rescore_sample(spec.output.uri, helpers.NIGHT, SampleCheck(spec.bundle[""], 40), STORAGE)
    assert (rescored.problems, rescored.num_rows) == ((), 40)
    assert rescored.min_cosine is not None
    assert rescored.min_cosine > 1 - 1e-6

    (first, *_) = list_live_files(spec.output.uri, STORAGE)
    STORAGE.delete(first.uri)
    problems = verify_night(spec.output.uri, helpers.NIGHT, STORAGE).problems
    assert f"{first.uri}: is missing" in problems


@pytest.mark.usefixtures("alone")
def test_the_commands_as_a_user_types_them(spec: helpers.ScoreSpec) -> None:
    helpers.run_night(spec)
    uri = spec.output.uri

    def command(name: str, *arguments: str) -> str:
        done = run_command("table", name, uri, *arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    listed = command("files", "--date", helpers.NIGHT).splitlines()
    assert len(listed) == 12
    assert all(line.startswith(f"{uri}/run_date={helpers.NIGHT}/") for line in listed)
    assert sum(item["num_rows"] for item in json.loads(command("files", "--json"))) == 1192
    assert "files 12 -> 1 (12 merged)" in command("compact", "--date", helpers.NIGHT)
    assert "0 files would be removed" in command("vacuum", "--dry-run")
    assert "compact-" in command("history")
    checked = command("verify", "--date", helpers.NIGHT, "--bundle", spec.bundle[""], "--sample", "10")
    assert "1 files, 1,192 rows read again" in checked
    assert "no problems" in checked
    missing = run_command("table", "nights", join_uri(uri, "elsewhere"))
    assert missing.exit_code == 2
    assert "elsewhere: no Delta table there" in missing.stderr
