"""What a finetune spec may say is learned: one task, or several heads."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import ComputeConfig, parse_spec
from pipeline.errors import SpecError
from pipeline.finetune.spec import BundleSpec, FinetuneSpec

DATA = {"train": "/data/train"}
BASE = {"model": "/m", "output": "/out/b"}
HEAD = {"task": "text-classification", "data": DATA}


def parse(**fields: Any) -> FinetuneSpec:
    return parse_spec({**BASE, **fields}, FinetuneSpec, "spec.yaml")


def problems_of(**fields: Any) -> list[str]:
    with pytest.raises(SpecError, match=r"spec\.yaml") as caught:
        parse(**fields)
    return [str(problem) for problem in caught.value.problems]


def test_a_single_task_is_a_head_without_a_name() -> None:
    spec = parse(**HEAD)
    assert [(name, head.task, head.weight) for name, head in spec.all_heads.items()] == [("", "text-classification", 1)]
    assert (spec.output_of(""), spec.field_of("", "data")) == ("/out/b", "data")


def test_heads_have_names_weights_and_bundles_of_their_own() -> None:
    spec = parse(heads={"tone": {**HEAD, "weight": 2}, "topic_2": {"task": "multi-label", "data": DATA}})
    assert [(name, head.weight) for name, head in spec.all_heads.items()] == [("tone", 2), ("topic_2", 1)]
    assert (spec.output_of("tone"), spec.field_of("tone", "data")) == ("/out/b/tone", "heads.tone.data")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "`task` and `data` missing: give `task` and `data`, or `heads` for several tasks"),
        ({"task": "embedding"}, "`data` missing: give `task` and `data`, or `heads` for several tasks"),
        ({"data": DATA}, "`task` missing: give `task` and `data`, or `heads` for several tasks"),
        ({"heads": {}}, "`task` and `data` missing"),
        ({"heads": {"a": HEAD}, "task": "embedding"}, "`heads` says what is learned, so `task` has no place beside it"),
        ({"heads": {"a": HEAD}, "data": DATA}, "`heads` says what is learned, so `data` has no place beside it"),
        ({"heads": {"a": HEAD}, **HEAD}, "`heads` says what is learned, so `task` has no place beside it"),
    ],
)
def test_what_is_learned_is_said_once(fields: dict[str, Any], message: str) -> None:
    (problem,) = problems_of(**fields)
    assert message in problem
    assert "Value error" not in problem
    assert "; expected" not in problem


@pytest.mark.parametrize("field", ["price_per_hour", "workers_per_gpu"])
def test_what_only_a_night_uses_is_no_field_of_a_training(field: str) -> None:
    (problem,) = problems_of(**HEAD, compute={field: 1})
    assert problem.startswith(f"compute.{field}: is not a known field; expected one of: batch_tokens, compile")


@pytest.mark.parametrize("name", ["", "Tone", "2nd", "_tone", "to-ne", "to ne", "to.ne", "tone/", "töne"])
def test_a_name_that_cannot_prefix_columns_is_refused(name: str) -> None:
    (problem,) = problems_of(heads={name: HEAD})
    assert f"{name!r} cannot prefix columns: lower-case letters, digits and '_', a letter first" in problem


def test_a_head_must_be_whole_and_known_by_its_field() -> None:
    problems = problems_of(heads={"tone": {"task": "multi-label"}, "topic": {**HEAD, "weight": 0, "size": 3}})
    assert len(problems) == 3
    assert any(problem.startswith("heads.tone.data: is missing") for problem in problems)
    assert any(problem.startswith("heads.topic.weight: holds 0") for problem in problems)
    assert any(problem.startswith("heads.topic.size: is not a known field") for problem in problems)


@pytest.mark.parametrize("place", ["train", "validation"])
def test_no_heads_data_may_lie_in_the_output(place: str) -> None:
    data = {**DATA, place: "/out/b/rows"}
    (problem,) = problems_of(heads={"tone": HEAD, "topic": {"task": "embedding", "data": data}})
    assert "/out/b overlaps with the training data" in problem


@pytest.mark.parametrize(
    ("changes", "inside"),
    [
        ({**HEAD, "work": "/out/b"}, "/out/b"),
        ({**HEAD, "work": "/out/b/work"}, "/out/b"),
        ({"heads": {"tone": HEAD, "topic": HEAD}, "work": "/out/b/topic/work"}, "/out/b/topic"),
        ({**HEAD, "seeds": [1, 2], "work": "/out/b/seed-2"}, "/out/b/seed-2"),
    ],
)
def test_work_may_not_lie_where_a_bundle_is_written(changes: dict[str, Any], inside: str) -> None:
    (problem,) = problems_of(**changes)
    assert f"work: {changes['work']} is in the bundle's place, {inside}: " in problem


@pytest.mark.parametrize(
    "changes",
    [
        {**HEAD, "work": "/out/b2"},
        {**HEAD, "work": "/out"},
        {"heads": {"tone": HEAD, "topic": HEAD}, "work": "/out/b/work"},
        {**HEAD, "seeds": [1, 2], "work": "/out/b/work"},
    ],
)
def test_work_may_lie_beside_and_around_bundles(changes: dict[str, Any]) -> None:
    assert parse(**changes).work_uri == changes["work"]


def test_one_heads_windows_ask_for_a_stride_that_moves_on() -> None:
    questions = {"task": "question-answering", "data": DATA}
    (problem,) = problems_of(heads={"tone": HEAD, "faq": questions}, max_length=24)
    assert "stride 32 is more than half of max_length 24: set stride to 12 or less" in problem
    assert parse(heads={"tone": HEAD}, max_length=24).max_length == 24


def test_names_weights_and_tasks_decide_the_run() -> None:
    variants = [
        {"heads": {"tone": HEAD}},
        {"heads": {"topic": HEAD}},
        {"heads": {"tone": {**HEAD, "weight": 2}}},
        {"heads": {"tone": {**HEAD, "task": "multi-label"}}},
        {"heads": {"tone": HEAD, "topic": HEAD}},
        HEAD,
    ]
    prints = {parse(**variant).fingerprint("data", "model") for variant in variants}
    assert len(prints) == len(variants)


def test_the_order_of_heads_is_part_of_the_run() -> None:
    """Rows are numbered through the heads in their order, so another order is another training."""
    one, other = parse(heads={"a": HEAD, "b": HEAD}), parse(heads={"b": HEAD, "a": HEAD})
    assert one.fingerprint("data", "model") != other.fingerprint("data", "model")


def test_a_bundle_of_an_encoder_is_described_as_any_other() -> None:
    raw = {"model": "/m", "output": "/o", "pooling": "cls", "normalize": False}
    spec = parse_spec(raw, BundleSpec, "spec.yaml")
    assert spec.encoder_use() == {
        "max_length": 256,
        "long_text": "truncate",
        "stride": 32,
        "pooling": "cls",
        "normalize": False,
    }
    assert spec.encoder_use().keys() == parse(**HEAD).encoder_use().keys()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"batch_rows": 8, "batch_tokens": 512}, "batch_rows and batch_tokens: give one of the two"),
        ({"patience": 2}, "patience counts evaluations without a better figure: say which with keep_best, or auto"),
        ({"keep_best": "auto"}, "training.keep_best compares figures on validation rows: give data.validation"),
        ({"class_weights": "even"}, "balanced"),
        ({"class_weights": {"a": 0}}, "greater than 0"),
        ({"seed": -1}, "training.seed: holds -1; expected greater than or equal to 0"),
    ],
)
def test_a_recipe_must_agree_with_itself(recipe: dict[str, Any], message: str) -> None:
    assert message in "\n".join(problems_of(**HEAD, training=recipe))


def test_a_recipe_with_validation_rows_may_keep_the_best() -> None:
    held_out = {"task": "embedding", "data": {**DATA, "validation": "/data/validation"}}
    spec = parse(**held_out, training={"keep_best": "auto", "patience": 2, "batch_tokens": 512})
    assert (spec.training.patience, spec.training.batch_tokens) == (2, 512)


def test_training_may_have_between_two_numbers_of_workers() -> None:
    spec = parse(**HEAD, compute={"workers": [1, 4], "cpus_per_worker": 2})
    assert spec.compute.workers == (1, 4)
    fixed = parse(**HEAD, compute={"workers": 4})
    assert spec.recipe("data", "model") == fixed.recipe("data", "model"), "a run may go on with another number"


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"workers": [3, 1], "cpus_per_worker": 2}, r"[3, 1] is [min, max], so the first is not above the second"),
        ({"workers": [1, 3]}, "workers: [min, max] needs cpus_per_worker, the same whichever nodes are there"),
        ({"workers": [0, 3], "cpus_per_worker": 2}, "holds 0; expected greater than 0"),
        ({"workers": [1, 2, 3], "cpus_per_worker": 2}, "at most 2 in it"),
    ],
)
def test_a_range_of_workers_has_an_order_and_says_what_each_takes(compute: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems_of(**HEAD, compute=compute))


def test_scoring_takes_a_fixed_number_of_workers() -> None:
    with pytest.raises(SpecError, match="workers"):
        parse_spec({"workers": [1, 3], "cpus_per_worker": 2}, ComputeConfig, "score.yaml")
