"""What is wrong with a spec, in the words of specs: pydantic's findings become problems that users can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.errors import Problem
from pipeline.uris import hide_password

_WORDS = {
    "tuple_type": "a list",
    "dict_type": "a block of fields",
    "model_type": "a block of fields",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "at least {min_length} in it",
    "too_long": "at most {max_length} in it",
    "invalid_key": "a name that is text",
}


def to_problems(error: ValidationError, model: type[BaseModel], raw: dict[str, Any]) -> tuple[Problem, ...]:
    """One problem for each field that does not fit the model.

    Args:
        error: What pydantic found.
        model: What the spec should fit.
        raw: The spec as it was read.
    """
    return _join_choices([_to_problem(dict(detail), model, raw) for detail in error.errors()])


def _to_problem(detail: dict[str, Any], model: type[BaseModel], raw: dict[str, Any]) -> Problem:
    path = _spec_path(detail, raw)
    location = ".".join(path) or "(spec)"
    match detail["type"]:
        case "missing":
            return Problem(location, "is missing", "a value", f"add `{location}: ...` or pass --set {location}=...")
        case "extra_forbidden":
            known = sorted(_known_fields(model, path[:-1]))
            close = difflib.get_close_matches(path[-1], known, 1)
            remedy = f"perhaps `{close[0]}` is meant" if close else ""
            return Problem(location, "is not a known field", f"one of: {', '.join(known)}", remedy)
        case "value_error":  # a rule of ours, which says what it found by itself
            return Problem(location, str(detail["msg"]).removeprefix("Value error, "), "")
        case kind:
            words = _WORDS[kind].format_map(detail.get("ctx", {})) if kind in _WORDS else str(detail["msg"])
            held = detail.get("input")
            found = hide_password(f"holds {held if isinstance(held, date) else repr(held)}")
            may_quote = kind in ("string_type", "invalid_key") and _is_plain(held)
            remedy = f"in quotes it is text: '{held}'" if may_quote else ""
            return Problem(location, found, words.removeprefix("Input should be "), remedy)


def _is_plain(value: object) -> bool:
    """Whether YAML reads something else than text from a word without quotes."""
    return isinstance(value, bool | int | float | date)


def _known_fields(model: type[BaseModel], path: Sequence[str]) -> set[str]:
    """The fields of the block at that place; names of a mapping and places in a list lead no deeper."""
    blocks = [model]
    for part in path:
        fields = [block.model_fields[part] for block in blocks if part in block.model_fields]
        blocks = [inner for field in fields for inner in _blocks_in(field.annotation)] or blocks
    return {name for block in blocks for name in block.model_fields}


def _blocks_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _blocks_in(part)


def _spec_path(detail: Mapping[str, Any], raw: Any) -> list[str]:
    """Where the spec has it: pydantic's path less its names for the alternatives of a field."""
    path, node = [], raw
    for part in detail["loc"]:
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            path.append(str(part))
            node = node[part]
    return [*path, str(detail["loc"][-1])] if detail["type"] == "missing" else path


def _join_choices(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """One problem for each field: what it might have held, or else what is wrong within it."""
    choices: dict[tuple[str, str], dict[str, str]] = {}
    for one in problems:
        if not any(other.field.startswith(f"{one.field}.") for other in problems):
            choices.setdefault((one.field, one.found), {}).setdefault(one.expected, one.remedy)
    return tuple(
        Problem(field, found, ", or ".join(expected), next(filter(None, expected.values()), ""))
        for (field, found), expected in choices.items()
    )
