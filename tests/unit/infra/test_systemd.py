from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.infra.manifests import INFRA

UNITS = ["bertmill-nightly.timer", "bertmill-nightly.service", "bertmill-nightly@.service"]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((INFRA / "schedules" / name).read_text(encoding="utf-8"))
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_it(name: str, tmp_path: Path) -> None:
    for each in UNITS:  # systemd looks for the programs too: here, one that every machine has
        text = (INFRA / "schedules" / each).read_text(encoding="utf-8")
        (tmp_path / each).write_text(text.replace("/opt/bertmill/bin/bertmill", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "bertmill" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_an_attempt_after_midnight_keeps_its_night() -> None:
    start = unit("bertmill-nightly.service")["Service"]["ExecStart"]
    assert "bertmill-nightly@$(date -u +%%F).service" in start
    run = unit("bertmill-nightly@.service")["Service"]
    assert run["ExecStart"].endswith("--date %i")
    (shell,) = re.findall(r"'(.*)'", start)
    assert subprocess.run(["bash", "-n"], input=shell.replace("%%", "%"), text=True).returncode == 0


def test_only_what_can_pass_is_tried_again() -> None:
    run = unit("bertmill-nightly@.service")["Service"]
    assert run["Restart"] == "on-failure"
    assert set(run["RestartPreventExitStatus"].split()) == {"2", "3", "4", "5", "8"}
    assert run["SuccessExitStatus"] == "6"
