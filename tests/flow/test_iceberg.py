"""kill -9 of an export into an Iceberg table, files on either store: readers find the last night or the new one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.output.export.night import export_night
from pipeline.output.export.request import IcebergPlace, parse_request
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.unit.output.export.exporting import make_night
from tests.unit.output.scored import NIGHT, STORAGE

catalogs = pytest.importorskip("pyiceberg.catalog", reason="the extra `iceberg` is not installed")
_VICTIM = """
import os, signal, sys
from pipeline.output.export import night
from pipeline.output.export.iceberg import IcebergTable
from pipeline.output.export.request import IcebergPlace, parse_request
from pipeline.storage import Storage

table, run_date, target, catalog, moment = sys.argv[1:]

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before":
    IcebergTable.switch = die
else:
    night.remove_replaced = die
night.export_night(parse_request(table, run_date, target, "iceberg", (), IcebergPlace(catalog, "ml.scores")), Storage())
"""


def read_labels(catalog: str, target: str) -> list[str]:
    options = STORAGE.delta_options(target)
    names = {"AWS_ENDPOINT_URL": "s3.endpoint", "AWS_REGION": "s3.region"}
    names |= {"AWS_ACCESS_KEY_ID": "s3.access-key-id", "AWS_SECRET_ACCESS_KEY": "s3.secret-access-key"}
    known: dict[str, Any] = {name: options[key] for key, name in names.items() if key in options}
    table = catalogs.load_catalog("default", uri=catalog, warehouse=target, **known).load_table("ml.scores")
    return list(table.scan().to_arrow()["label"].to_pylist())


def test_a_killed_export_shows_the_last_night_or_the_new_one(root_uri: str, tmp_path: Path) -> None:
    table, target = join_uri(root_uri, "scores"), join_uri(root_uri, "lake")
    catalog = f"sqlite:///{tmp_path}/catalog.db"

    def kill(moment: str) -> None:
        ended = helpers.run_python(_VICTIM, table, NIGHT, target, catalog, moment)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    make_night(table, 2, label="old")
    kill("before")
    assert read_labels(catalog, target) == []
    kill("after")
    assert read_labels(catalog, target) == ["old"] * 6
    make_night(table, 2, run_id="r2", label="new")
    kill("before")
    assert read_labels(catalog, target) == ["old"] * 6
    request = parse_request(table, NIGHT, target, "iceberg", (), IcebergPlace(catalog, "ml.scores"))
    assert export_night(request, STORAGE).switched
    assert read_labels(catalog, target) == ["new"] * 6
