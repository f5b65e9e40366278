"""What the flow tests share: corpora with bad rows, whole scoring runs in this process, and tables as rows."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import CorpusConfig, NightCompute, PoolOptions
from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import RunReport, publish_run
from pipeline.inference.run import run_id_for, score_pending
from pipeline.inference.spec import OutputConfig, ScoreSpec
from pipeline.output.table import open_table
from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.patience import PATIENCE_S

# What takes long runs on the S3 server, and on a local directory in the slow suite only.
MOSTLY_S3 = ("root_uri", ["s3", pytest.param("local", marks=pytest.mark.slow)])

REPOSITORY = Path(__file__).resolve().parents[2]
NIGHT = "2026-11-23"
POOL = PoolOptions(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
WORDS = ("good", "bad", "great", "awful", "film", "phone", "battery", "plot", "day", "night", "never", "always", "the")


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))


def write_table(rows: pa.Table, uri: str) -> None:
    """One Parquet file at a URI of any store."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, row_group_size=100)
    Storage().write_bytes(uri, sink.getvalue())


def write_demo_corpus(uri: str, num_files: int = 4, rows_per_file: int = 300) -> int:
    """A hive-partitioned corpus with a null and a blank text in every file; returns its rows."""
    for index in range(num_files):
        rng = random.Random(index)
        texts: list[str | None] = [random_text(rng) for _ in range(rows_per_file)]
        texts[7], texts[11] = None, "  "
        ids = [f"{index}-{row}" for row in range(rows_per_file)]
        rows = pa.table({"id": ids, "text": pa.array(texts, pa.string())})
        write_table(rows, join_uri(uri, f"domain=d{index % 2}", f"part-{index}.parquet"))
    return num_files * rows_per_file


def upload_directory(source: Path, uri: str) -> str:
    """Copy a local directory to a URI."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            Storage().upload(path, join_uri(uri, path.relative_to(source).as_posix()))
    return uri


def score_spec(bundle: str | dict[str, str], corpus_uri: str, output: str, **changes: Any) -> ScoreSpec:
    """A spec of small shards (100 rows) in fp32."""
    corpus_block: dict[str, Any] = {"keep": ("id", "domain"), "shard_rows": 100, **changes.pop("corpus", {})}
    return ScoreSpec(
        bundle=bundle,  # type: ignore[arg-type]
        corpus=CorpusConfig(uri=(corpus_uri,), **corpus_block),
        output=OutputConfig(uri=output),
        compute=NightCompute(precision="fp32", device="cpu"),
        **changes,
    )


def run_night(spec: ScoreSpec, run_date: str = NIGHT) -> RunReport:
    """Prepare, score what is pending, publish: what `bertmill score` does, on the test's Ray."""
    run = prepare_run(spec, run_date)
    return finish_night(run)


def finish_night(run: PreparedRun) -> RunReport:
    run_id = run_id_for(run.ledger.run_date)
    fresh = score_pending(run, POOL, run_id) if run.plan.pending else []
    return publish_run(run, fresh, run_id, time.monotonic())


def read_rows(table_uri: str, drop: tuple[str, ...] = ("run_id",)) -> list[dict[str, Any]]:
    """Every published row, in source order, without what differs from run to run."""
    table = open_table(table_uri, Storage())
    if table is None:
        return []
    rows = table.to_pyarrow_table().drop_columns(list(drop))
    return list(
        rows.sort_by([("run_date", "ascending"), ("source_file", "ascending"), ("source_row", "ascending")]).to_pylist()
    )


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, from the repository, with this process's environment."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE_S
    )


def write_spec(directory: Path, spec: ScoreSpec) -> Path:
    """The spec as the YAML a user would write."""
    path = directory / "score.yaml"
    path.write_text(spec.model_dump_json())  # JSON is YAML
    return path
