"""Files and functions that fit in a head."""

from __future__ import annotations

from tests.rules.sources import sources

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_JOB_LINES = 60
MAX_SESSION_LINES = 150


def test_no_file_is_longer_than_400_lines() -> None:
    found = {source.path: source.num_lines for source in sources("pipeline", "jobs", "tests")}
    assert len(found) > 50
    assert {path: lines for path, lines in found.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    found = {
        f"{source.path}:{function.lineno} {function.name}": function.end_lineno - function.lineno + 1
        for source in sources("pipeline", "jobs", "tests")
        for function in source.functions()
        if function.end_lineno is not None
    }
    assert len(found) > 300
    assert {name: lines for name, lines in found.items() if lines > MAX_FUNCTION_LINES} == {}


def test_jobs_are_thin() -> None:
    entries = [source for source in sources("jobs") if not source.path.startswith(("jobs/demo/", "jobs/remote/"))]
    found = {source.path: source.num_lines for source in entries}
    remote = {source.path: source.num_lines for source in sources("jobs/remote")}
    assert {path: lines for path, lines in remote.items() if lines > MAX_SESSION_LINES} == {}
    for shared in (
        "jobs/cells.py",
        "jobs/session.py",
        "jobs/cluster.py",
        "jobs/table/printing.py",
    ):  # what several jobs need around their work
        assert found.pop(shared) <= MAX_SESSION_LINES
    assert {path: lines for path, lines in found.items() if lines > MAX_JOB_LINES} == {}
