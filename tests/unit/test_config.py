from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, PositiveInt, ValidationError

from pipeline.config import SpecModel, StorageConfig, Uri, Uris, load_spec, parse_spec
from pipeline.errors import SpecError


class Inner(SpecModel):
    size: int = Field(4, ge=1)
    names: tuple[str, ...] = ()


class Outer(SpecModel):
    uri: Uri
    places: Uris = ("/tmp",)
    inner: Inner = Inner()


def write(directory: Path, text: str) -> Path:
    path = directory / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(directory: Path, text: str, overrides: tuple[str, ...] = ()) -> dict[str, str]:
    with pytest.raises(SpecError, match=r"spec\.yaml") as caught:
        load_spec(write(directory, text), Outer, overrides)
    return {problem.field: str(problem) for problem in caught.value.problems}


def test_a_spec_is_read_with_its_defaults(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, "uri: /data/\ninner: {names: [a, b]}\n"), Outer)
    assert spec == Outer(uri="/data", inner=Inner(size=4, names=("a", "b")))


def test_a_missing_field_says_how_to_give_it(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "inner: {size: 2}\n")
    assert problems == {"uri": "uri: is missing; expected a value\n  -> add `uri: ...` or pass --set uri=..."}


def test_an_unknown_field_lists_the_known_ones(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "uri: /d\ninner: {sise: 2}\nplace: x\n")
    assert problems["inner.sise"].startswith("inner.sise: is not a known field; expected one of: names, size\n")
    assert problems["inner.sise"].endswith("\n  -> perhaps `size` is meant")
    assert problems["place"] == (
        "place: is not a known field; expected one of: inner, places, uri\n  -> perhaps `places` is meant"
    )


def test_a_wrong_type_shows_the_value(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "uri: /d\ninner: {size: many}\n")
    assert problems["inner.size"].startswith("inner.size: holds 'many'; expected ")


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ("0", "share: holds 0; expected greater than 0, or 'auto', or a block of fields"),
        ("many", "share: holds 'many'; expected a whole number, or 'auto', or a block of fields"),
        ("{a: 0}", "share.a: holds 0; expected greater than 0"),
        ("{a: 1, b: 0}", "share.b: holds 0; expected greater than 0"),
    ],
)
def test_a_field_of_several_kinds_is_one_problem_in_the_words_of_the_spec(
    tmp_path: Path, held: str, expected: str
) -> None:
    class Choice(SpecModel):
        share: PositiveInt | Literal["auto"] | dict[str, PositiveInt] = 1

    with pytest.raises(SpecError, match=r"spec\.yaml: 1 problem\n") as caught:
        load_spec(write(tmp_path, f"share: {held}\n"), Choice)
    assert str(caught.value.problems[0]).startswith(expected)


def test_a_value_in_place_of_a_list_or_block_is_told_so(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "uri: /d\ninner: {names: 3}\n")
    assert problems == {"inner.names": "inner.names: holds 3; expected a list"}
    assert problems_of(tmp_path, "uri: /d\ninner: 3\n") == {"inner": "inner: holds 3; expected a block of fields"}


def test_every_problem_is_found_at_once(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, "inner: {size: 0, names: 3}\nplaces: []\nother: 1\n")
    assert set(problems) == {"uri", "inner.size", "inner.names", "places", "other"}


@pytest.mark.parametrize("model", [Outer(uri="/d"), Inner(), StorageConfig()])
def test_specs_are_frozen(model: SpecModel) -> None:
    name = next(iter(type(model).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, name, "other")


def test_defaults_are_checked_too() -> None:
    class Wrong(SpecModel):
        size: int = Field(0, ge=1)

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Wrong()


def test_overrides_are_yaml_and_make_blocks(tmp_path: Path) -> None:
    path = write(tmp_path, "uri: /d\n")
    spec = load_spec(path, Outer, ("inner.size=7", "inner.names=[a, b]", "uri=/x=y", "places=/one"))
    assert spec.inner == Inner(size=7, names=("a", "b"))
    assert (spec.uri, spec.places) == ("/x=y", ("/one",))


def test_a_later_override_wins(tmp_path: Path) -> None:
    assert load_spec(write(tmp_path, "uri: /d\n"), Outer, ("inner.size=7", "inner.size=8")).inner.size == 8


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "inner.size",
            r"--set inner\.size: has no '='; expected field\.sub=value\n  -> .*as in --set training\.epochs=3",
        ),
        ("=3", r"--set =3: names '', and no part .* is empty; expected field\.sub=value\n  -> write the field"),
        ("inner..size=3", r"--set inner\.\.size=3: names 'inner\.\.size', and no part .* is empty; expected"),
        ("inner.=3", r"--set inner\.=3: names 'inner\.', and no part"),
        (" =3", r"--set  =3: names ' ', and no part"),
        ("uri.deep=1", r"--set uri\.deep: uri is not a block"),
        ("inner.names=[a", r"--set inner\.names: '\[a' is not YAML"),
        ("inner.size=big", r"inner\.size: holds 'big'"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        load_spec(write(tmp_path, "uri: /d\n"), Outer, (override,))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=f"(?s)no.yaml.*does not exist.*looked in {tmp_path}"):
        load_spec("no.yaml", Outer)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"uri: [1", "cannot be read"),
        (b"- a\n- b\n", "holds a list; expected a mapping of fields\n  -> `bertmill schema`"),
        (b"", "holds nothing; expected a mapping"),
        (b"some words", "holds 'some words'; expected a mapping"),
        (b"uri:\t/a\n\tinner: 3", r"line 1, column \d+(?s:.*)\n  -> put spaces in place of tabs"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=expected):
        load_spec(path, Outer)


def test_a_key_that_stands_twice_in_a_block_is_refused_with_its_lines(tmp_path: Path) -> None:
    text = "uri: /a\ninner:\n  size: 1\n  names: [a, a]\n  size: 2\nuri: /b\n"
    told = "expected each field once\n  -> leave one of them out"
    assert problems_of(tmp_path, text) == {
        "uri": f"uri: stands in line 6, and before in line 1; {told}",
        "size": f"size: stands in line 5, and before in line 3; {told}",
    }
    assert list(problems_of(tmp_path, "uri: /a\ninner: {size: 1, size: 2}\n")) == ["size"]


def test_a_key_that_stands_twice_in_an_override_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("uri: /a\n")
    expected = "- --set inner: size is given twice; expected each field once\n  -> leave one of them out"
    with pytest.raises(SpecError, match=re.escape(expected)):
        load_spec(tmp_path / "spec.yaml", Outer, ["inner={size: 1, names: [a, a], size: 2}"])


def test_a_block_that_holds_itself_is_looked_at_once(tmp_path: Path) -> None:
    assert list(problems_of(tmp_path, "uri: /a\ninner: &inner\n  names: *inner\n")) == ["inner.names"]


def test_uris_get_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = {"uri": "data/../in/", "places": ["s3a://bucket/a/", "./b"]}
    spec = parse_spec(raw, Outer, "test")
    assert spec.uri == f"{tmp_path}/in"
    assert spec.places == ("s3://bucket/a", f"{tmp_path}/b")
