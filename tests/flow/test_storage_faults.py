"""Nights through a store that fails: the table of an undisturbed run, or the right error and the same table later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline.output.table as table_module
import pipeline.storage as storage_module
from pipeline.config import StorageConfig
from pipeline.inference.spec import ScoreSpec
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.flow.alone import score_alone, without_ray
from tests.flow.faulty_s3 import FaultyS3, Rule, faulty_s3
from tests.flow.s3_server import S3Server
from tests.tiny import make_bundle

CORPUS_FILE = r"/corpus/.*parquet"
DATA_FILE = r"/run_date=[^/]*/[^/]*parquet"
RECORD = r"/_bertmill/ledger/.*json"
COMMIT = r"/_delta_log/0*1\.json"
SHARDS = {"shard_rows": 40}


@dataclass(frozen=True)
class Place:
    """A corpus and a bundle on the server, and the rows of an undisturbed night."""

    root: str
    bundle: str
    rows: list[dict[str, object]]

    def spec(self, name: str, endpoint_url: str | None = None) -> ScoreSpec:
        """A table of its own over this corpus; through a proxy where one is given."""
        storage = StorageConfig(endpoint_url=endpoint_url)
        output = join_uri(self.root, f"scores-{name}")
        return helpers.score_spec(self.bundle, join_uri(self.root, "corpus"), output, corpus=SHARDS, storage=storage)


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = f"s3://{s3_server.bucket}/faults"
    directory = tmp_path_factory.mktemp("place")
    make_bundle(directory / "bundle", ("no", "yes"))
    bundle = helpers.upload_directory(directory / "bundle", join_uri(root, "bundle"))
    helpers.write_demo_corpus(join_uri(root, "corpus"), num_files=2, rows_per_file=60)
    spec = Place(root, bundle, []).spec("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        assert score_alone(spec, directory).exit_code == 0
    rows = helpers.read_rows(spec.output.uri)
    assert len(rows) == 116
    return Place(root, bundle, rows)


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A proxy, and a process that waits less: reads time out after a second, our own pauses cost nothing."""
    without_ray(monkeypatch)
    monkeypatch.setattr(storage_module, "READ_TIMEOUT_S", 1)
    awake = SimpleNamespace(sleep=lambda _seconds: None, time=time.time)
    monkeypatch.setattr(storage_module, "time", awake)
    monkeypatch.setattr(table_module, "time", awake)
    with faulty_s3(s3_server.endpoint_url) as proxy:
        yield proxy


def rows_of(spec: ScoreSpec) -> list[dict[str, object]]:
    """The table, read past the proxy, through any other reader's eyes."""
    return helpers.read_rows(spec.output.uri)


@pytest.mark.parametrize(
    ("kind", "share"), [("500", 0.1), ("503", 0.1), ("reset", 0.4), ("lost", 0.4), ("truncated", 0.4)]
)
def test_requests_that_fail_once_change_nothing(
    kind: str, share: float, place: Place, proxy: FaultyS3, tmp_path: Path
) -> None:
    spec = place.spec(kind, proxy.endpoint_url)
    always = [Rule(kind, target=target) for target in (CORPUS_FILE, RECORD, COMMIT)]
    plan = proxy.fail(*always, Rule(kind, probability=share), seed=1)

    done = score_alone(spec, tmp_path)

    assert done.exit_code == 0, done.stderr
    assert plan.injected[kind] >= 6
    assert rows_of(spec) == place.rows
    proxy.fail()
    assert "already done" in score_alone(spec, tmp_path).stdout


def test_answers_later_than_the_timeout_change_nothing(place: Place, proxy: FaultyS3, tmp_path: Path) -> None:
    spec = place.spec("delay", proxy.endpoint_url)
    asked = [("GET", r"/domain=d0/.*parquet"), ("PUT", RECORD), ("PUT", r"/scores-delay/_delta_log/0*1\.json")]
    plan = proxy.fail(*(Rule("delay", method, target) for method, target in asked), delay_s=1.3)

    done = score_alone(spec, tmp_path)

    assert done.exit_code == 0, done.stderr
    assert plan.injected["delay"] >= 4, plan.log
    assert rows_of(spec) == place.rows


@pytest.mark.parametrize(
    ("method", "target", "skip"),
    [("GET", CORPUS_FILE, 1), ("PUT|POST", DATA_FILE, 0), ("PUT", RECORD, 0), ("PUT", COMMIT, 0)],
    ids=["read", "write", "record", "commit"],
)
@pytest.mark.parametrize(
    ("kind", "exit_code", "words"), [("expired", 2, "check the credentials"), ("500", 75, "run the same command again")]
)
def test_what_does_not_pass_stops_the_night_and_the_next_run_finishes_it(
    kind: str,
    exit_code: int,
    words: str,
    method: str,
    target: str,
    skip: int,
    place: Place,
    proxy: FaultyS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_module, "NUM_REQUEST_ATTEMPTS", 1)
    spec = place.spec(tmp_path.name, proxy.endpoint_url)
    plan = proxy.fail(Rule(kind, method, target, skip=skip, times=None))

    stopped = score_alone(spec, tmp_path)

    assert plan.injected[kind] > 0
    assert stopped.exit_code == exit_code, stopped.stderr
    assert words in stopped.stderr
    assert rows_of(spec) == []
    proxy.fail()
    again = score_alone(spec, tmp_path)
    assert again.exit_code == 0, again.stderr
    assert rows_of(spec) == place.rows


def moving_corpus(place: Place, proxy: FaultyS3, name: str) -> ScoreSpec:
    """A spec over a corpus of its own, scored once through the proxy, which has seen every listing."""
    uri = join_uri(place.root, f"corpus-{name}")
    helpers.write_demo_corpus(uri, num_files=2, rows_per_file=60)
    storage = StorageConfig(endpoint_url=proxy.endpoint_url)
    return helpers.score_spec(place.bundle, uri, join_uri(place.root, f"scores-{name}"), corpus=SHARDS, storage=storage)


def change_corpus(spec: ScoreSpec) -> None:
    """One file is replaced, one is added."""
    (uri,) = spec.corpus.uri
    helpers.write_demo_corpus(join_uri(uri, "more"), num_files=1, rows_per_file=50)
    changed = helpers.pa.table({"id": ["x"], "text": ["loved it"]})
    helpers.write_table(changed, join_uri(uri, "domain=d1", "part-1.parquet"))


@pytest.mark.parametrize(
    ("name", "target", "exit_code", "words"),
    [
        ("everything", "list-type=2", 2, "changed or vanished while the job ran"),
        ("corpus", "prefix=[^&]*/corpus-", 0, ""),
        ("table", "prefix=[^&]*/scores-", 0, ""),
        ("log", "prefix=[^&]*/_delta_log/", 0, ""),
    ],
)
def test_listings_of_yesterday(
    name: str, target: str, exit_code: int, words: str, place: Place, proxy: FaultyS3, tmp_path: Path
) -> None:
    spec = moving_corpus(place, proxy, name)
    assert score_alone(spec, tmp_path).exit_code == 0
    before = rows_of(spec)
    change_corpus(spec)
    plan = proxy.fail(Rule("stale", "GET", target))

    second = score_alone(spec, tmp_path)
    assert plan.injected["stale"] > 0
    assert second.exit_code == exit_code, second.stderr
    assert words in second.stderr
    assert name in ("table", "log") or rows_of(spec) == before, "a corpus seen as it was leaves the table as it was"
    assert score_alone(spec, tmp_path).exit_code == 0
    undisturbed = spec.model_copy(update={"output": helpers.OutputConfig(uri=f"{spec.output.uri}-undisturbed")})
    proxy.fail()
    assert score_alone(undisturbed, tmp_path).exit_code == 0
    assert rows_of(spec) == rows_of(undisturbed)
    assert len(rows_of(spec)) == 58 + 1 + 48


@pytest.mark.slow  # each failure alone, without Ray, is above
def test_a_night_on_ray_through_a_store_that_fails_in_every_way(place: Place, ray_local: None) -> None:
    kinds = ("500", "503", "reset", "lost", "truncated")
    always = [Rule("500", "PUT", RECORD), Rule("lost", "PUT", COMMIT), Rule("truncated", "GET", CORPUS_FILE)]
    with faulty_s3(Storage().delta_options(place.root)["AWS_ENDPOINT_URL"]) as proxy:
        plan = proxy.fail(*always, *(Rule(kind, probability=0.05) for kind in kinds), seed=11)
        spec = place.spec("ray", proxy.endpoint_url)
        report = helpers.run_night(spec)
    assert (report.num_rows, report.num_quarantined_rows) == (120, 4)
    assert all(plan.injected[kind] for kind in kinds), plan.injected
    assert rows_of(spec) == place.rows
