"""Every `bertmill ...` that infra/ tells somebody to run is one that the command line takes."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.rules.documents import blocks
from tests.unit.infra.command_lines import assert_parses, in_text
from tests.unit.infra.manifests import INFRA, ROOT, cronjob, ray_jobs

GUIDES = sorted((ROOT / "docs" / "targets").glob("*.md"))
SCHEDULES = [INFRA / "schedules" / name for name in ("bertmill-nightly@.service", "crontab")]


def script() -> str:
    """What the CronJob's pod runs."""
    (container,) = cronjob()["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/sh", "-euc"]
    (text,) = container["args"]
    return str(text)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.name)
def test_schedules_run_nightly_with_a_date(path: Path) -> None:
    lines = in_text(path.read_text(encoding="utf-8"))
    assert lines
    for words in lines:
        assert_parses(words)
        assert words[0] == "nightly"
        assert "--date" in words


def test_manifests_run_commands_that_exist() -> None:
    texts = [job["entrypoint"] for _, job in ray_jobs()] + [script()]
    lines = [words for text in texts for words in in_text(text)]
    assert [words[0] for words in lines] == ["finetune", "nightly", "nightly", "submit"]
    for words in lines:
        assert_parses(words)
        assert ("--date" in words) == ("nightly" in words)


@pytest.mark.parametrize(
    "words", [["submitt"], ["nightly", "spec.yaml"], ["table", "nights"], ["score", "a", "--dat", "x"]]
)
def test_the_parser_refuses_what_a_user_could_not_run(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"no command|Missing|No such option"):
        assert_parses(words)


@pytest.fixture
def stub(tmp_path: Path) -> dict[str, str]:
    """An environment whose `bertmill` says what it was given."""
    program = tmp_path / "bertmill"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "TZ": "Etc/UTC"}


@pytest.mark.parametrize(
    ("environment", "night"),
    [
        ({"JOB_NAME": "bertmill-nightly-29920410"}, "2026-11-21"),  # 01:30 UTC
        ({"JOB_NAME": "bertmill-nightly-29920319"}, "2026-11-20"),  # 23:59 UTC of the day before
        ({"JOB_NAME": "bertmill-nightly-29920319", "TZ": "Europe/Berlin"}, "2026-11-21"),
        ({"JOB_NAME": "by-hand", "NIGHT": "2026-11-01"}, "2026-11-01"),
        ({"JOB_NAME": "bertmill-nightly-29920410", "NIGHT": "2026-11-01"}, "2026-11-01"),
    ],
)
def test_the_pod_s_night_is_the_one_it_was_scheduled_for(
    stub: dict[str, str], environment: dict[str, str], night: str
) -> None:
    command = ["/bin/sh", "-euc", script()]
    done = subprocess.run(command, env={**stub, **environment}, capture_output=True, text=True)
    assert done.stdout.split() == ["submit", "nightly", "/etc/bertmill/nightly.yaml", "--date", night], done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"JOB_NAME": "by-hand"},
        {"JOB_NAME": "manual-1"},
        {"JOB_NAME": "night-2026-11-22"},
        {"JOB_NAME": "night-29920410"},
        {"JOB_NAME": "bertmill-nightly-manual-7"},
        {"JOB_NAME": "bertmill-nightly-7"},
        {"JOB_NAME": "bertmill-nightly-00000007"},
        {"JOB_NAME": "bertmill-nightly-29920410", "NIGHT": "today"},
    ],
)
def test_a_job_made_by_hand_must_say_its_night(stub: dict[str, str], environment: dict[str, str]) -> None:
    command = ["/bin/sh", "-euc", script()]
    done = subprocess.run(command, env={**stub, **environment}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "set NIGHT" in done.stderr


@pytest.mark.parametrize("zone", ["Etc/UTC", "Europe/Berlin", "America/Los_Angeles", "Pacific/Auckland"])
def test_cron_s_lines_give_one_night_in_any_time_zone(stub: dict[str, str], tmp_path: Path, zone: str) -> None:
    (tmp_path / "date").write_text('#!/bin/sh\nexec /usr/bin/date -d "@$NOW" "$@"\n')
    (tmp_path / "date").chmod(0o755)
    text = (INFRA / "schedules" / "crontab").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    for line in lines:
        minute, hour, *_fields, user, command = line.split(None, 6)
        assert user == "bertmill"
        assert "%" not in command.replace("\\%", "")
        shell = command.replace("\\%", "%").replace(". /etc/bertmill/environment; /opt/bertmill/bin/", "")
        now = datetime(2026, 11, 23, int(hour), int(minute), tzinfo=ZoneInfo(zone)).timestamp()
        environment = {**stub, "TZ": zone, "NOW": f"{now:.0f}"}
        done = subprocess.run(["/bin/sh", "-c", shell], env=environment, capture_output=True, text=True)
        assert done.stdout.split() == ["nightly", "/etc/bertmill/nightly.yaml", "--date", "2026-11-23"]


def shell_texts() -> list[str]:
    """Every piece of shell in infra/: scripts of manifests, launchers' commands, guides."""
    guides = [block.text for path in GUIDES for block in blocks(path) if block.language == "sh"]
    return [script(), *(job["entrypoint"] for _, job in ray_jobs()), *guides]


def test_all_shell_parses() -> None:
    texts = shell_texts()
    assert len(texts) > 6
    for text in texts:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr}\n{text}"
