"""Every public name in pipeline/ says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.sources import FunctionNode, sources


def public_nodes(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, FunctionNode | ast.ClassDef]]:
    """Public classes and functions, and the public methods of public classes."""
    for node in body:
        if isinstance(node, FunctionNode | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_nodes(node.body, f"{node.name}.")


def test_every_public_name_has_a_docstring() -> None:
    found = {
        f"{source.path} {name}": ast.get_docstring(node)
        for source in sources("pipeline")
        for name, node in public_nodes(source.tree.body)
    }
    assert len(found) > 150
    assert [name for name, text in found.items() if not text] == []


def test_every_module_says_what_it_is_for() -> None:
    found = {source.path: ast.get_docstring(source.tree) for source in sources("pipeline", "jobs")}
    assert [path for path, text in found.items() if not text] == []
