"""The README's tree is the tree."""

from __future__ import annotations

import re

from tests.rules.sources import ROOT


def tree_paths() -> list[str]:
    """First word of each line in the fenced block under `## The tree`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## The tree$(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section is not None, "README.md has no section `## The tree`"
    block = re.search(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block is not None, "`## The tree` has no fenced code block"
    return [line.split()[0] for line in block[1].splitlines() if line.strip()]


def rooms() -> set[str]:
    """The packages below pipeline/ and jobs/, but for those within another room."""
    parents = {path.parent for top in ("pipeline", "jobs") for path in (ROOT / top).glob("*/__init__.py")}
    return {f"{parent.relative_to(ROOT).as_posix()}/" for parent in parents}


def test_the_tree_names_every_room() -> None:
    named = set(tree_paths())
    assert rooms() - named == set()
    infra = {
        f"infra/{path.name}/" for path in (ROOT / "infra").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert infra - named == set()


def test_no_path_is_named_twice_and_every_one_exists() -> None:
    paths = tree_paths()
    assert len(paths) == len(set(paths))
    assert [path for path in paths if not list(ROOT.glob(path.rstrip("/")))] == []


def test_directories_end_in_a_slash() -> None:
    assert [path for path in tree_paths() if (ROOT / path).is_dir() and not path.endswith("/")] == []
