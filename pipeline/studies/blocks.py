"""Blocks of other jobs' specs inside a study's: merged, filled in, and read by those jobs' own models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.config import SpecModel, parse_spec
from pipeline.errors import Problem, SpecError

SpecT = TypeVar("SpecT", bound=SpecModel)


@dataclass(frozen=True)
class BlockPlace:
    """Which block of a study's spec is read.

    Attributes:
        source: What errors call it.
        filled: Fields (dotted) that it may not hold.
    """

    source: str
    filled: Sequence[str]


def merged(defaults: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """`block` over `defaults`, field by field, into blocks of both."""
    result = dict(defaults)
    for name, value in block.items():
        below = result.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def read_block(block: Mapping[str, Any], additions: Mapping[str, Any], model: type[SpecT], place: BlockPlace) -> SpecT:
    """Read a block as a spec of another job.

    Args:
        block: What the user wrote.
        additions: What the study fills in.
        model: The other job's spec.
        place: Whose block it is.

    Raises:
        SpecError: with every problem found.
    """
    taken = [name for name in place.filled if _holds(block, name)]
    if taken:
        problems = (Problem(name, "has no place in a study", "this field left out") for name in taken)
        raise SpecError(place.source, tuple(problems))
    return parse_spec(merged(block, additions), model, place.source)


def _holds(block: Any, name: str) -> bool:
    first, _, rest = name.partition(".")
    if not isinstance(block, Mapping) or first not in block:
        return False
    return _holds(block[first], rest) if rest else True
