"""Tests that can fail, fail for one reason, and stay quick."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.sources import FunctionNode, Source, sources


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name of what is called, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield ast.unparse(node.func), node


def imported_roots(source: Source) -> set[str]:
    """Top-level packages a file imports, at any depth of its code."""
    roots = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.split(".")[0])
    return roots


def checks_something(function: FunctionNode) -> bool:
    """Whether a test asserts, expects an exception, or calls a helper that asserts."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    return any(name == "pytest.raises" or name.split(".")[-1].startswith("assert_") for name, _ in calls(function))


def test_every_raises_has_a_match() -> None:
    found = [
        (f"{source.path}:{call.lineno}", {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for source in sources("tests")
        for name, call in calls(source.tree)
        if name in ("pytest.raises", "raises")
    ]
    assert len(found) > 50
    assert [place for place, options in found if options.get("match") in (None, "''", "'.*'", "'.+'")] == []


def test_unit_and_property_tests_do_not_import_ray() -> None:
    files = sources("tests/unit", "tests/property")
    assert len(files) > 30
    assert [source.path for source in files if "ray" in imported_roots(source)] == []


def test_unit_and_property_tests_do_not_sleep() -> None:
    found = [
        f"{source.path}:{call.lineno}"
        for source in sources("tests/unit", "tests/property")
        for name, call in calls(source.tree)
        if name in ("time.sleep", "sleep")
    ]
    assert found == []


def test_every_test_checks_something() -> None:
    tests = [
        (f"{source.path}:{function.lineno} {function.name}", function)
        for source in sources("tests/unit", "tests/property", "tests/rules")
        for function in source.functions()
        if function.name.startswith("test_")
    ]
    assert len(tests) > 200
    assert [place for place, function in tests if not checks_something(function)] == []


def unread_values(function: FunctionNode) -> set[str]:
    """Names that a test is parametrised by and does nothing with."""
    named: set[str] = set()
    for decorator in function.decorator_list:
        for name, call in calls(decorator):
            if name == "pytest.mark.parametrize" and isinstance(call.args[0], ast.Constant | ast.Tuple):
                found = ast.literal_eval(call.args[0])
                named |= {each.strip() for each in found.split(",")} if isinstance(found, str) else set(found)
    return named - {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}


def test_what_a_test_is_parametrised_by_is_read() -> None:
    found = [(source.path, function) for source in sources("tests") for function in source.functions()]
    assert [f"{path} {function.name}" for path, function in found if unread_values(function)] == []


def test_no_two_tests_of_a_file_share_a_name() -> None:
    for source in sources("tests"):
        names = [node.name for node in source.tree.body if isinstance(node, FunctionNode)]
        assert len(names) == len(set(names)), source.path
