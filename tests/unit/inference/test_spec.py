from __future__ import annotations

import pytest

from pipeline.config import parse_spec
from pipeline.errors import SpecError
from pipeline.inference.spec import ScoreSpec
from pipeline.schema import RESERVED_COLUMNS


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_columns_that_bertmill_writes_cannot_be_kept(name: str) -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c", "keep": ["id", name]}, "output": {"uri": "/o"}}
    with pytest.raises(SpecError, match=f"names columns that bertmill writes itself: {name}"):
        parse_spec(raw, ScoreSpec, "spec.yaml")


def test_defaults_quarantine_blank_text_and_write_embeddings() -> None:
    spec = ScoreSpec.model_validate({"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o"}})
    assert (spec.corpus.empty_text, spec.output.embedding, spec.corpus.keep) == ("quarantine", True, ())
    assert (spec.compute.device, spec.compute.precision, spec.compute.workers) == ("auto", "auto", "auto")
