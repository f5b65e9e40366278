from __future__ import annotations

import pytest

from pipeline.config import parse_spec
from pipeline.errors import SpecError
from pipeline.inference.spec import EvaluateSpec, ScoreSpec
from pipeline.schema import RESERVED_COLUMNS


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_columns_that_bertmill_writes_cannot_be_kept(name: str) -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c", "keep": ["id", name]}, "output": {"uri": "/o"}}
    with pytest.raises(SpecError, match=f"names columns that bertmill writes itself: {name}"):
        parse_spec(raw, ScoreSpec, "spec.yaml")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["source.file"], "names columns that bertmill writes itself: source_file"),
        (["doc.id", "doc_id"], "names a column twice"),
        (["doc.id", "DOC.ID"], "names a column twice"),
        (["doc id", "doc_id"], "names a column twice"),
        (["run date"], "names columns that bertmill writes itself: run_date"),
        ([""], "text that is not empty"),
    ],
)
def test_kept_names_are_judged_as_they_are_written(keep: list[str], message: str) -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c", "keep": keep}, "output": {"uri": "/o"}}
    with pytest.raises(SpecError, match=message):
        parse_spec(raw, ScoreSpec, "spec.yaml")


def test_a_rule_is_told_in_its_own_words() -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c", "keep": ["run_id"]}, "output": {"uri": "/o"}}
    with pytest.raises(SpecError, match=r"^s: 1 problem\n- corpus: corpus\.keep names [^;]*: run_id$"):
        parse_spec(raw, ScoreSpec, "s")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corrupt_files": "skip"}, "figures over part of the data would mislead"),
        ({"keep": ["id"]}, "corpus: keep is for scoring: an evaluation writes no rows"),
    ],
)
def test_an_evaluation_skips_no_file_and_keeps_no_column(fields: dict[str, object], message: str) -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c", **fields}}
    with pytest.raises(SpecError, match=message):
        parse_spec(raw, EvaluateSpec, "spec.yaml")


def test_defaults_quarantine_blank_text_and_write_embeddings() -> None:
    spec = ScoreSpec.model_validate({"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o"}})
    assert (spec.corpus.empty_text, spec.output.embedding, spec.corpus.keep) == ("quarantine", True, ())
    assert (spec.compute.device, spec.compute.precision, spec.compute.workers) == ("auto", "auto", "auto")


def test_gpus_are_not_shared_where_none_is_used() -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c"}, "compute": {"device": "cpu", "workers_per_gpu": 2}}
    with pytest.raises(SpecError, match="workers_per_gpu: 2 is about GPUs, and device: cpu uses none"):
        parse_spec(raw, EvaluateSpec, "spec.yaml")


def test_only_a_night_has_a_price() -> None:
    raw = {"bundle": "/b", "corpus": {"uri": "/c"}, "compute": {"price_per_hour": 2.5}}
    assert parse_spec({**raw, "output": {"uri": "/o"}}, ScoreSpec, "spec.yaml").compute.price_per_hour == 2.5
    with pytest.raises(SpecError, match=r"compute\.price_per_hour: is not a known field"):
        parse_spec(raw, EvaluateSpec, "spec.yaml")
