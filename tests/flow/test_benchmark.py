"""Whole nights raced on both stores, by the command itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.storage import Storage
from pipeline.uris import join_uri
from tests.flow import helpers
from tests.patience import PATIENCE_S
from tests.tiny import make_encoder, make_rows


@pytest.mark.slow
def test_everyone_scores_a_night_and_leaves_nothing_behind(root_uri: str, tmp_path: Path) -> None:
    pq.write_table(make_rows(60), tmp_path / "texts.parquet")
    place = join_uri(root_uri, "nights")
    raw = {
        "model": make_encoder(tmp_path / "tiny"),
        "max_length": 96,
        "texts": {"uri": str(tmp_path / "texts.parquet"), "label": "label", "rows": 60},
        "heads": {"rows": 10, "training_rows": 20},
        "end_to_end": {"at": place, "rows": 40, "rounds": 1},
        "rounds": 1,
        "output": str(tmp_path / "out"),
        "compute": {"device": "cpu", "precision": "fp32"},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "jobs.cli", "benchmark", str(tmp_path / "spec.yaml"), "--debug"]
    done = subprocess.run(command, cwd=helpers.REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    lines = pq.read_table(tmp_path / "out" / "benchmark.parquet").to_pylist()
    contenders = [line["contender"] for line in lines if line["race"] == "a night of 40 texts"]
    assert [name.split(",")[0] for name in contenders] == [
        "bertmill: labels and embeddings",
        "the bare model in transformers",
        "Ray Data",
        "Ray Data",
    ]
    page = (tmp_path / "out" / "benchmark.md").read_text()
    for step in ("Python and imports", "Ray starts", "from command to first rows", "`bertmill plan` after that"):
        assert f"| {step}" in page
    left = Storage().list_objects(place)
    assert [item for item in left if item.size_bytes] == []  # Ray Data makes an empty object of a folder


def test_a_benchmark_without_matplotlib_names_its_extra() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import pipeline.studies.benchmark.run as run; "
    code += "run._version = lambda name: None; run._need('matplotlib')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs matplotlib, not installed here\n  -> pip install 'bertmill[benchmark]'" in done.stderr
