"""What pydantic finds is told in the words of specs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from pipeline.config import SpecModel, Uris, load_spec
from pipeline.errors import SpecError


class Leaf(SpecModel):
    rows: int = Field(1, ge=1)
    share: float = 0.5
    name: str = "a"
    is_kept: bool = True


class Branch(SpecModel):
    leaf: Leaf | None = None
    by_name: dict[str, Leaf] = Field(default_factory=dict)
    listed: tuple[Leaf, ...] = ()


class Tree(SpecModel):
    branch: Branch = Branch()
    uris: Uris = ("/tmp",)
    words: tuple[str, ...] = Field(("a",), min_length=1, max_length=2)
    names: dict[str, str] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("branch.leaf.rows=1.5", "branch.leaf.rows: holds 1.5; expected a whole number"),
        ("branch.leaf.rows=many", "branch.leaf.rows: holds 'many'; expected a whole number"),
        ("branch.leaf.share=5%", "branch.leaf.share: holds '5%'; expected a number"),
        ("branch.leaf.share=.inf", "branch.leaf.share: holds inf; expected a finite number"),
        ("branch.leaf.share=.nan", "branch.leaf.share: holds nan; expected a finite number"),
        ("branch.leaf.is_kept=maybe", "branch.leaf.is_kept: holds 'maybe'; expected true or false"),
        ("branch.leaf.name=3", "branch.leaf.name: holds 3; expected text\n  -> in quotes it is text: '3'"),
        ("branch.leaf.name=[a]", "branch.leaf.name: holds ['a']; expected text"),
        (
            "branch.leaf.name=2026-11-01",
            "branch.leaf.name: holds 2026-11-01; expected text\n  -> in quotes it is text: '2026-11-01'",
        ),
        ("names={1: a}", "names.1: holds 1; expected text\n  -> in quotes it is text: '1'"),
        ("words=[]", "words: holds []; expected at least 1 in it"),
        ("words=[a, b, c]", "words: holds ['a', 'b', 'c']; expected at most 2 in it"),
        ("uris=[]", "uris: holds []; expected at least 1 in it"),
        ("uris=3", "uris: holds 3; expected one URI, or a list of them"),
        ("uris=['']", "uris.0: holds ''; expected text that is not empty"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_what_would(tmp_path: Path, override: str, told: str) -> None:
    assert told_of(tmp_path, override) == told


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("branch.leaf.row=3", "branch.leaf.row"),
        ("branch.by_name={a: {row: 3}}", "branch.by_name.a.row"),
        ("branch.listed=[{row: 3}]", "branch.listed.0.row"),
    ],
)
def test_an_unknown_field_deep_in_a_spec_lists_those_that_stand_there(
    tmp_path: Path, override: str, place: str
) -> None:
    known = "is not a known field; expected one of: is_kept, name, rows, share"
    assert told_of(tmp_path, override) == f"{place}: {known}\n  -> perhaps `rows` is meant"


def test_an_unknown_field_unlike_any_other_has_no_guess(tmp_path: Path) -> None:
    assert told_of(tmp_path, "zzz=3") == "zzz: is not a known field; expected one of: branch, names, uris, words"


def told_of(directory: Path, override: str) -> str:
    (directory / "spec.yaml").write_text("uris: /tmp\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"spec\.yaml: 1 problem") as caught:
        load_spec(directory / "spec.yaml", Tree, [override])
    (problem,) = caught.value.problems
    return str(problem)
