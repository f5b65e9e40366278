"""What the documents show is what there is: commands parse, specs are valid, Python compiles, tests exist."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module

import pytest
import typer
import yaml
from pydantic import TypeAdapter, ValidationError
from typer.main import get_command

from jobs.cli import app
from jobs.schema import SPECS
from pipeline.config import SpecModel
from tests.rules.documents import Block, all_blocks, blocks, documents, simple_commands
from tests.rules.sources import ROOT, sources
from tests.unit.infra.command_lines import assert_parses, in_text

NOT_RUN = re.compile(r"^# not run in this repository's tests$", re.MULTILINE)
PART = re.compile(r"# part of a ([\w-]+) spec\b")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PROGRAMS = ("bertmill", "make", "python", "pip")
MODELS = {name.value: model for name, model in SPECS.items()}


def is_shell(block: Block) -> bool:
    """Whether a block is commands to type."""
    first = block.text.split(maxsplit=1)[0] if block.text.strip() else ""
    return block.language in ("sh", "bash", "console") or (not block.language and first in PROGRAMS)


SHELL = [block for block in all_blocks("", "sh", "bash", "console") if is_shell(block)]
YAML = all_blocks("yaml")
PYTHON = all_blocks("python")


def assert_runnable(words: list[str], block: Block) -> None:
    """A command of a program that the repository has: its subcommands, flags, targets and files exist."""
    program, rest = words[0].rpartition("/")[2], words[1:]
    if ">" in rest:
        rest = rest[: rest.index(">")]
    match [program, *rest]:
        case ["bertmill", *arguments]:
            assert_parses(arguments)
        case ["make", *targets]:
            known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
            assert set(targets) <= known
        case ["python", "-m", "pytest", *arguments]:
            assert [path for path in arguments if "/" in path and not (ROOT / path).exists()] == []
        case ["python", "-m", module, *arguments]:
            script = typer.Typer()
            script.command()(getattr(import_module(module), module.rpartition(".")[2]))
            get_command(script).make_context(module, arguments)
        case ["python", script_name]:
            assert script_name in {other.file_name for other in blocks(ROOT / block.document)}
        case ["pip", "install", *requirements]:
            assert_extras_exist(requirements)
        case _:
            pytest.fail(f"{words[0]!r} is no program of this repository: mark the block as not run")


def assert_extras_exist(requirements: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in requirements:
        found = re.fullmatch(r"bertmill(?:\[([\w,]+)\])?", requirement)
        assert found, f"{requirement} is not bertmill"
        assert set((found[1] or "test").split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_exist_or_are_marked_as_not_run(block: Block) -> None:
    if NOT_RUN.search(block.text):
        for words in in_text(block.text):
            assert_parses(words)
        return
    for words in simple_commands(block.text):
        assert_runnable(words, block)


def test_commands_in_running_text_exist() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    found = {
        (path.name, name)
        for path in documents()
        for spelled in re.findall(r"`bertmill ([a-z][a-z\\|-]*)", path.read_text(encoding="utf-8"))
        for name in re.split(r"\\?\|", spelled)
    }
    assert len(found) > 20
    assert {(document, name) for document, name in found if name not in known} == set()


def problems_of(raw: object, model: type[SpecModel]) -> str:
    try:
        model.model_validate(raw)
    except ValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_specs_are_valid(block: Block) -> None:
    raw, part = yaml.safe_load(block.text), PART.match(block.text)
    if part is None:
        problems = {name: problems_of(raw, model) for name, model in MODELS.items()}
        assert not all(problems.values()), min(problems.values(), key=len)
        return
    fields = MODELS[part[1]].model_fields
    for name, value in raw.items():
        TypeAdapter(fields[name].rebuild_annotation()).validate_python(value)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python_compiles(block: Block) -> None:
    assert ast.parse(block.text).body


def test_there_is_something_of_each_kind() -> None:
    assert min(len(SHELL), len(YAML), len(PYTHON)) > 10


def test_named_tests_exist() -> None:
    functions = {source.path: {function.name for function in source.functions()} for source in sources("tests")}
    named = {
        (path.name, file, name)
        for path in documents()
        for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert {(page, file) for page, file, _ in named if file not in functions} == set()
    assert {(page, name) for page, file, name in named if name and name not in functions[file]} == set()


def test_a_promise_that_only_slow_tests_keep_says_so() -> None:
    slow = {
        (source.path, function.name)
        for source in sources("tests")
        for function in source.functions()
        if any(ast.unparse(mark) == "pytest.mark.slow" for mark in function.decorator_list)
    }
    rows = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").splitlines()
    named = {row: re.findall(r"(tests/[\w/]+\.py)::(\w+)", row) for row in rows}
    kept_slowly = [row for row, tests in named.items() if tests and all(test in slow for test in tests)]
    assert len(kept_slowly) > 5
    assert [row for row in kept_slowly if "slow" not in row.split("|")[1]] == []


@pytest.mark.parametrize("name", ["README.md", "infra/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Of the two documents that are no pages of the site, whose links the site's build checks."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", text)
    assert len(links) > 5
    assert [target for target, _ in links if not (path.parent / target).exists()] == []
    for target, anchor in links:
        page = (path.parent / target if target else path).read_text(encoding="utf-8") if anchor else ""
        headings = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in _HEADING.findall(page)}
        assert not anchor or anchor in headings, f"{target}#{anchor}"
