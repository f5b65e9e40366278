"""kill -9 of the jobs on a night's embeddings: the last result stays current, on either store."""

from __future__ import annotations

import json
import signal
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.analysis.run import analyse_duplicates, analyse_topics
from pipeline.analysis.spec import DuplicatesSpec, TopicsSpec
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.unit.analysis.embedded import embedded_rows, make_night, noisy_copies
from tests.unit.output.scored import NIGHT, STORAGE

_VICTIM = """
import os, signal, sys
from pipeline.analysis import run
from pipeline.analysis.results import ResultPlace
from pipeline.analysis.spec import DuplicatesSpec, TopicsSpec
from pipeline.analysis.run import analyse_duplicates, analyse_topics

kind, text, run_date, moment = sys.argv[1:]

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before":
    ResultPlace.switch = die
else:
    ResultPlace.remove_replaced = die
if kind == "duplicates":
    analyse_duplicates(DuplicatesSpec.model_validate_json(text), run_date)
else:
    analyse_topics(TopicsSpec.model_validate_json(text), run_date)
"""


def current(output: str) -> dict[str, Any] | None:
    content = STORAGE.read_bytes(join_uri(output, "_current", f"run_date={NIGHT}.json"))
    return None if content is None else dict(json.loads(content))


def read(uri: str) -> list[dict[str, Any]]:
    filesystem, path = STORAGE.open_arrow(uri)
    return list(pq.read_table(path, filesystem=filesystem, partitioning=None).to_pylist())


def kill(spec: DuplicatesSpec | TopicsSpec, moment: str) -> None:
    kind = "topics" if isinstance(spec, TopicsSpec) else "duplicates"
    ended = helpers.run_python(_VICTIM, kind, spec.model_dump_json(), NIGHT, moment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_killed_job_leaves_the_last_result_current(root_uri: str) -> None:
    table, output = join_uri(root_uri, "scores"), join_uri(root_uri, "duplicates")
    rows = embedded_rows(noisy_copies(20, 2, 8, 0.001, seed=1).tolist())
    make_night(table, rows)
    spec = DuplicatesSpec(table=table, output=output, keep=("id",))
    kill(spec, "before")
    assert current(output) is None, "of a first result nothing is seen"
    kill(spec, "after")
    said = current(output)
    assert said is not None
    pairs = [row["id"] for row in read(said["files"]["duplicates.parquet"])]
    assert sorted(map(int, pairs)) == list(range(40))

    other = spec.model_copy(update={"threshold": 0.2, "keep_hours": 0.0})
    kill(other, "before")
    assert current(output) == said
    done = analyse_duplicates(other, NIGHT)
    assert current(output) != said
    files = {item.uri for item in STORAGE.list_objects(output) if item.uri.endswith(".parquet")}
    assert files == set(done.found.files.values())


def test_topics_of_a_killed_job_are_never_half_there(root_uri: str) -> None:
    table, output = join_uri(root_uri, "scores"), join_uri(root_uri, "topics")
    make_night(table, embedded_rows(noisy_copies(3, 20, 8, 0.01, seed=2).tolist()))
    spec = TopicsSpec(table=table, output=output, keep=("id",), num_topics=3, text="label")
    kill(spec, "before")
    assert current(output) is None
    done = analyse_topics(spec, NIGHT)
    rows, topics = (read(done.found.files[name]) for name in ("rows.parquet", "topics.parquet"))
    assert [topic["num_rows"] for topic in topics] == [20, 20, 20]
    of_ids = {int(row["id"]): row["topic"] for row in rows}
    assert np.array([of_ids[index] for index in range(60)]).reshape(3, 20).std(axis=1).tolist() == [0, 0, 0]
