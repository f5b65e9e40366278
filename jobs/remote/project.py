"""What a submitted job takes along: bertmill's own code, its spec, and the versions of what it imports."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import jobs
import pipeline
from pipeline.config import SpecModel
from pipeline.errors import Problem, SpecError
from pipeline.tracing import trace_variables

SPEC_FILE = "spec.yaml"
_PINS_FILE = "constraints.txt"
_PLACES = frozenset(["model", "train", "validation", "teacher", "uri"])  # of blocks that other specs are made of, too
_STOP_WAIT_S = 60  # Ray kills after 3 s; a stopped job gives up its shards, its lease and its workers first


@dataclass(frozen=True)
class Pins:
    """Packages to install for a job, as `name==version`, and the constraints file they come from."""

    packages: tuple[str, ...]
    constraints: str


def spec_as_yaml(spec: SpecModel) -> str:
    """A spec with its overrides, and every place absolute, since the job starts in another directory."""
    return yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)


def local_places(value: object) -> set[str]:
    """Absolute paths anywhere in a spec: they are read on the cluster's machines, not on this one."""
    match value:
        case dict():
            return set().union(*map(local_places, value.values()))
        case list():
            return set().union(*map(local_places, value))
        case str() if value.startswith("/"):
            return {value}
    return set()


def check_places(spec: SpecModel, source: str) -> None:
    """Refuse places that are looked for in the directory a job starts in: on the cluster that is another one.

    Raises:
        SpecError: naming all of them.
    """
    remedy = "copy it to object storage, or give an absolute path that the cluster's machines have"
    problems = tuple(
        Problem(field, f"{place} is looked for in this directory", "a URI that the cluster can read", remedy)
        for field, place in _relative_places(spec.model_dump(mode="json", exclude_unset=True))
    )
    if problems:
        raise SpecError(source, problems)


def _relative_places(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    from pipeline.encoder.bundle import is_of_hub

    name = field.rpartition(".")[2]
    match value:
        case dict():
            for key, part in value.items():
                yield from _relative_places(part, f"{field}.{key}".removeprefix("."))
        case list():
            for number, part in enumerate(value):
                yield from _relative_places(part, field if name in _PLACES else f"{field}.{number}")
        case str() if name in _PLACES and "://" not in value and not value.startswith("/"):
            if name != "model" or not is_of_hub(value):
                yield field, value


def stage_project(directory: Path, spec_text: str, pins: Pins | None) -> None:
    """Copy the two packages, the spec and the pins into an empty directory: no data, history or environment."""
    for package in (pipeline, jobs):
        source = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, directory / source.name, ignore=ignored)
    (directory / SPEC_FILE).write_text(spec_text, encoding="utf-8")
    if pins is not None:
        (directory / _PINS_FILE).write_text(pins.constraints, encoding="utf-8")


def runtime_environment(directory: Path, pins: Pins | None) -> dict[str, Any]:
    """Ray's runtime environment of a job; it names no secret, and ships no variable of this machine but its trace."""
    environment: dict[str, Any] = {
        "working_dir": str(directory),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S), **trace_variables()},
    }
    if pins is not None:  # what these packages bring along is pinned too
        constraint = f"-c ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{_PINS_FILE}"
        environment["pip"] = {"packages": [*pins.packages, constraint]}
    return environment


def read_pins(names: Sequence[str], constraints: Path) -> Pins | None:
    """Packages at the versions that a constraints file has; None for no packages.

    Raises:
        SpecError: there is no such file, or it does not pin one of them.
    """
    if not names:
        return None
    try:
        text = constraints.read_text(encoding="utf-8")
    except OSError:
        problem = Problem("--constraints", f"{constraints} cannot be read", "a file of name==version lines")
        raise SpecError("command line", (problem,)) from None
    versions = {_normal(line.partition("==")[0]): line.strip() for line in text.splitlines() if "==" in line}
    missing = [name for name in names if _normal(name) not in versions]
    if missing:
        found = f"{', '.join(missing)}: not in {constraints}"
        raise SpecError("command line", (Problem("--pip", found, "packages that it pins"),))
    return Pins(tuple(versions[_normal(name)] for name in names), text)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
