"""What the user writes of a search space, and values drawn from it."""

from __future__ import annotations

import json
import math
import random
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config import SpecModel

Point = dict[str, Any]
"""Dotted field of a finetune spec -> its value in one trial."""
_MAX_DOUBLES = 50  # draws for each trial that is asked for, before a space counts as used up


class Dimension(SpecModel):
    """Where one field's values come from: exactly one of these."""

    model_config = ConfigDict(populate_by_name=True)
    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of a list")
    uniform: tuple[float, float] | None = Field(None, description="any number between two")
    loguniform: tuple[float, float] | None = Field(None, description="the same, even in its logarithm")
    whole: tuple[int, int] | None = Field(None, alias="int", description="any whole number from one to another")

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if len(self.model_fields_set) != 1 or self.kind[1] is None:
            raise ValueError("give one of: choice, uniform, loguniform, int")
        name, values = self.kind
        if name != "choice" and not values[0] < values[1]:
            raise ValueError(f"{name}: {list(values)} does not go from a lower number to a higher one")
        if name == "loguniform" and not values[0] > 0:
            raise ValueError("loguniform: a logarithm needs numbers above 0")
        return self

    @property
    def kind(self) -> tuple[str, Any]:
        """Which one, as the spec spells it, and its values."""
        (name,) = self.model_fields_set
        return "int" if name == "whole" else name, getattr(self, name)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Every choice, or both ends of a range."""
        values: tuple[Any, ...] = self.kind[1]
        return values

    def draw(self, source: random.Random) -> Any:
        """One value."""
        match self.kind:
            case "choice", values:
                return source.choice(values)
            case "uniform", (low, high):
                return source.uniform(low, high)
            case "loguniform", (low, high):
                return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)
            case _, (low, high):
                return source.randint(low, high)


def draw_points(space: Mapping[str, Dimension], num_points: int, seed: int) -> list[Point]:
    """Distinct points, the same for the same seed; more of them begin with the fewer.

    Returns:
        As many as were asked for, or fewer if the space seems to hold no more.
    """
    found: dict[str, Point] = {}
    for number in range(num_points * _MAX_DOUBLES):
        point = {path: drawn.draw(random.Random(f"{seed}/{number}/{path}")) for path, drawn in space.items()}
        found.setdefault(json.dumps(point, sort_keys=True), point)
        if len(found) == num_points:
            break
    return list(found.values())


def as_block(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as blocks within blocks, as a spec spells it."""
    block: dict[str, Any] = {}
    for path, value in point.items():
        *parents, leaf = path.split(".")
        node = block
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return block


def field_names(model: type[BaseModel], path: str) -> list[str] | None:
    """What stands beside the last part of a dotted field, itself included; None if there is no such block."""
    name, _, rest = path.partition(".")
    if not rest:
        return sorted(model.model_fields)
    inner = _block_of(model.model_fields[name].annotation) if name in model.model_fields else None
    return None if inner is None else field_names(inner, rest)


def _block_of(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((item for item in options if isinstance(item, type) and issubclass(item, BaseModel)), None)
