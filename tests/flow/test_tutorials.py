"""Each tutorial with rows of its own, typed as the page says: files saved, commands run, the last program reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.rules.documents import Block, blocks, simple_commands
from tests.rules.sources import ROOT

PAGES = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if "# rows.py\n" in path.read_text("utf-8"))
PROGRAMS = {"bertmill": [sys.executable, "-m", "jobs.cli"], "python": [sys.executable]}


def steps(block: Block) -> list[list[str]]:
    """What a reader runs for a block; nothing for one that is only saved."""
    if block.language == "sh":
        return [[*PROGRAMS[program], *rest] for program, *rest in simple_commands(block.text)]
    if block.language == "python" and block.file_name is None:
        return [[sys.executable, "-c", block.text]]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_tutorial_runs_to_its_end(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for block in blocks(page):
        if block.file_name is not None:
            (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
        for command in steps(block):
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    table = DeltaTable(tmp_path / ("vectors" if page.stem == "embedding" else "scores"))
    assert len(table.to_pandas()) == (12 if page.stem == "embedding" else 500)
