"""Each tutorial's rows are written, its specs read, and its training checked as `bertmill finetune` checks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.schema import SPECS, SpecName
from pipeline.config import load_spec
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from tests.rules.documents import blocks
from tests.rules.sources import ROOT

PAGES = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md")
WITH_ROWS = [path for path in PAGES if any(block.file_name == "rows.py" for block in blocks(path))]


def save_files(page: Path, folder: Path) -> set[str]:
    """Save each block that says what file it is; returns their names."""
    files = {block.file_name: block.text for block in blocks(page) if block.file_name is not None}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return set(files)


def test_there_is_a_page_for_each_task() -> None:
    tasks = {path.stem for path in PAGES}
    assert {"text-classification", "token-classification", "question-answering", "embedding"} < tasks
    assert len(WITH_ROWS) == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_files_are_the_specs_they_are_called(page: Path, tmp_path: Path) -> None:
    names = {name for name in save_files(page, tmp_path) if name.endswith(".yaml")}
    assert {"finetune.yaml", "evaluate.yaml", "score.yaml"} <= names
    for name in names:
        assert load_spec(tmp_path / name, SPECS[SpecName(name.removesuffix(".yaml"))])


@pytest.mark.parametrize("page", WITH_ROWS, ids=lambda path: path.stem)
def test_training_can_start(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "rows.py"], check=True)
    prepared = prepare_training(load_spec("finetune.yaml", FinetuneSpec), "finetune.yaml")
    (head,) = prepared.heads
    assert head.spec.task == page.stem
    assert head.validation is not None
    assert head.train.num_rows + head.validation.num_rows > 30
