"""kill -9 of an export at every moment: who starts from the manifest always reads one whole night, on either store."""

from __future__ import annotations

import signal
from dataclasses import replace

import pyarrow.dataset as ds

from pipeline.output.export.night import ExportedNight, export_night
from pipeline.output.export.request import parse_request
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.unit.output.export.exporting import make_night
from tests.unit.output.scored import NIGHT, STORAGE

_VICTIM = """
import os, signal, sys
from dataclasses import replace
from pipeline.output.export import night
from pipeline.output.export.parts import PartWriter
from pipeline.output.export.request import parse_request
from pipeline.storage import Storage

table, run_date, target, moment = sys.argv[1:]

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def claim(self, index, part):
    return die() if index == 2 else real_claim(self, index, part)

real_claim, real_switch = PartWriter._claim, night._switch
if moment == "part":
    PartWriter._claim = claim
if moment == "manifest":
    Storage.write_bytes = die
if moment == "after":
    night.remove_replaced = die
night.export_night(replace(parse_request(table, run_date, target), part_bytes=1), Storage())
"""


def named_files(target: str) -> list[str]:
    content = STORAGE.read_bytes(join_uri(target, "_symlink_format_manifest", f"run_date={NIGHT}", "manifest"))
    return content.decode().splitlines() if content is not None else []


def read_labels(target: str) -> list[str]:
    """The label of every row that the manifest leads to."""
    files = named_files(target)
    if not files:
        return []
    filesystem, _ = Storage().open_arrow(target)
    paths = [Storage().open_arrow(uri)[1] for uri in files]
    rows = ds.dataset(paths, filesystem=filesystem).to_table(columns=["label"])
    return list(rows["label"].to_pylist())


def kill_export(table: str, target: str, moment: str) -> None:
    ended = helpers.run_python(_VICTIM, table, NIGHT, target, moment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def data_files(target: str) -> set[str]:
    return {item.uri for item in STORAGE.list_objects(join_uri(target, f"run_date={NIGHT}"))}


def finish(table: str, target: str) -> ExportedNight:
    request = replace(parse_request(table, NIGHT, target), part_bytes=1, keep_s=0)
    return export_night(request, STORAGE)


def test_a_killed_export_leaves_the_old_one_current_and_the_next_one_goes_on(root_uri: str) -> None:
    table, target = join_uri(root_uri, "scores"), join_uri(root_uri, "plain")
    make_night(table, 5, label="old")
    kill_export(table, target, "part")
    assert read_labels(target) == [], "of a first export nothing is seen"
    kill_export(table, target, "after")
    assert read_labels(target) == ["old"] * 15

    make_night(table, 5, run_id="r2", label="new")
    kill_export(table, target, "part")
    assert read_labels(target) == ["old"] * 15
    written = data_files(target) - set(named_files(target))
    kill_export(table, target, "manifest")
    assert read_labels(target) == ["old"] * 15
    done = finish(table, target)
    assert (done.switched, done.num_rows) == (True, 15)
    assert read_labels(target) == ["new"] * 15
    assert len(written & set(named_files(target))) >= 2, "parts that a killed export had finished are not written again"
    assert data_files(target) == set(named_files(target)), "nothing but the night is left"
