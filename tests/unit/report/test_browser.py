"""Pages in a real browser, where one is installed: nothing is wider than the screen, light and dark differ."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.report.build import build_report
from pipeline.report.limits import ReportConfig
from pipeline.report.page import render_report
from pipeline.storage import Storage
from tests.unit.output.scored import NEXT_NIGHT, NIGHT, publish, scored_row, write_shard

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed"),
]
# The page itself runs no script: one is added after its policy has been taken out.
MEASURE = "<script>document.title=[innerWidth,document.documentElement.scrollWidth].join(' ')</script>"


def dump(page: Path, profile: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *options]
    done = subprocess.run([*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [500, 1200])
def test_no_page_is_wider_than_its_screen(tmp_path: Path, width: int) -> None:
    rows = [scored_row("folder/" * 40 + "f", row, label="x" * 90) for row in range(40)]
    for night, label in ((NIGHT, "a"), (NEXT_NIGHT, "b")):
        changed = [{**row, "label": label * 60, "score": 0.1 if label == "a" else 0.9} for row in rows]
        publish(tmp_path / "t", night, write_shard(tmp_path / "t", night, "s0", changed))
    text = render_report(build_report(str(tmp_path / "t"), NEXT_NIGHT, ReportConfig(), Storage()))
    policy = text[text.index("<meta http-equiv") : text.index("<title>")]
    page = tmp_path / "page.html"
    page.write_text(text.replace(policy, "").replace("</body>", f"{MEASURE}</body>"))
    found = dump(page, tmp_path / "profile", f"--window-size={width},900")
    inner, scrolled = (int(word) for word in found.split("<title>")[1].split("</title>")[0].split())
    assert abs(inner - width) < 20
    assert scrolled <= inner
