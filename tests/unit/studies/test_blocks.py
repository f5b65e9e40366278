from __future__ import annotations

import pytest

from pipeline.errors import SpecError
from pipeline.finetune.spec import BundleSpec, FinetuneSpec
from pipeline.studies.blocks import BlockPlace, merged, read_block

PLACE = BlockPlace("study.yaml: run x", ("output", "training.seed"))


def test_a_block_wins_over_defaults_field_by_field() -> None:
    defaults = {"model": "m", "training": {"epochs": 1, "seed": 3}, "max_length": 64}
    block = {"training": {"epochs": 2}, "max_length": 32}
    assert merged(defaults, block) == {"model": "m", "training": {"epochs": 2, "seed": 3}, "max_length": 32}
    assert defaults["training"] == {"epochs": 1, "seed": 3}


def test_a_block_is_read_with_what_the_study_adds() -> None:
    spec = read_block({"model": "m", "max_length": 32}, {"output": "/o"}, BundleSpec, PLACE)
    assert (spec.model, spec.max_length, spec.output) == ("m", 32, "/o")


@pytest.mark.parametrize(
    ("block", "name"), [({"output": "/x"}, "output"), ({"training": {"seed": 1}}, "training.seed")]
)
def test_what_the_study_fills_in_is_refused(block: dict[str, object], name: str) -> None:
    with pytest.raises(SpecError, match=f"run x: 1 problem\n- {name}: has no place in a study"):
        read_block(block, {}, FinetuneSpec, PLACE)


def test_mistakes_are_those_of_the_other_job() -> None:
    with pytest.raises(SpecError, match="max_lenght: is not a known field"):
        read_block({"model": "m", "max_lenght": 32}, {"output": "/o"}, BundleSpec, PLACE)
