"""The site of docs/ builds with nothing left to warn about, and its reference has every field and command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.schema import SPECS
from tests.rules.sources import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a broken link, a missing anchor or a page that stands nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    command += ["--config-file", str(ROOT / "infra" / "site" / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    written = {path.with_suffix(".html").as_posix() for path in documents}
    made = {f"reference/{name}.html" for name in ("specs", "command-line", "code")}
    assert pages == written | {"404.html"} | made


def test_the_reference_has_every_field_of_every_spec(site: Path) -> None:
    page = (site / "reference" / "specs.html").read_text(encoding="utf-8")
    for name, model in SPECS.items():
        (section,) = re.findall(rf'<h2 id="{name.value}">(.*?)(?=<h2|\Z)', page, re.DOTALL)
        fields = re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", section)
        assert [field for field in model.model_fields if field not in fields] == [], name
    assert "tokens that neighbouring windows share" in page
    assert 'href="#block-trainingconfig"' in page


def test_every_field_says_what_it_is(site: Path) -> None:
    page = (site / "reference" / "specs.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>\s*<td><code>(\w+)</code></td>(.*?)</tr>", page, re.DOTALL)
    assert len(rows) > 100
    assert [name for name, cells in rows if re.search(r"<td></td>\s*$", cells)] == []


def test_the_reference_has_every_command(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    headings = set(re.findall(r'<h2 id="[\w-]+">bertmill ([\w -]+)', page))
    assert {"finetune", "nightly", "submit", "table vacuum", "models promote"} <= headings
    assert "--retention-hours" in page


def test_the_reference_has_every_file_with_its_sentence(site: Path) -> None:
    page = (site / "reference" / "code.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>\s*<td><code>([\w.]+)</code></td>\s*<td>(.*?)</td>", page, re.DOTALL)
    there = [
        path.name for top in ("pipeline", "jobs") for path in (ROOT / top).rglob("*.py") if path.name != "__init__.py"
    ]
    assert sorted(name for name, _ in rows) == sorted(there)
    assert [name for name, sentence in rows if not sentence.strip()] == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    loaded = [
        address
        for path in site.rglob("*.html")
        for address in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text("utf-8"))
    ]
    assert loaded == []
