from __future__ import annotations

from typing import Any

import pytest

from pipeline.encoder.bundle import BundleInfo
from pipeline.inference.plan import fingerprint_run
from pipeline.inference.spec import ScoreSpec

BUNDLE = BundleInfo(
    task="text-classification",
    inputs={"text": "text"},
    labels=("a", "b"),
    max_length=32,
    base_model="tiny",
    data_fingerprint="0",
    run_fingerprint="1",
    metrics={"macro_f1": 0.5},
    files={"model.safetensors": "abc"},
)
RAW: dict[str, Any] = {"bundle": "/b", "corpus": {"uri": "/c"}, "output": {"uri": "/o"}}


def fingerprint(bundle: BundleInfo = BUNDLE, **changes: Any) -> str:
    return fingerprint_run(ScoreSpec.model_validate({**RAW, **changes}), {"": bundle})


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": BUNDLE.model_copy(update={"max_length": 64})},
        {"bundle": BUNDLE.model_copy(update={"labels": ("a", "c")})},
        {"bundle": BUNDLE.model_copy(update={"files": {"model.safetensors": "abd"}})},
        {"bundle": BUNDLE.model_copy(update={"pooling": "cls"})},
        {"bundle": BUNDLE.model_copy(update={"normalize": False})},
        {"corpus": {"uri": "/c", "keep": ["id"]}},
        {"corpus": {"uri": "/c", "inputs": {"text": "body"}}},
        {"corpus": {"uri": "/c", "empty_text": "score"}},
        {"compute": {"precision": "fp32"}},
        {"output": {"uri": "/o", "embedding": False}},
    ],
)
def test_what_decides_a_row_is_in_the_fingerprint(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) != fingerprint()


def test_the_order_of_kept_columns_counts() -> None:
    one, other = ({"corpus": {"uri": "/c", "keep": keep}} for keep in (["a", "b"], ["b", "a"]))
    assert fingerprint(**one) != fingerprint(**other)


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": BUNDLE.model_copy(update={"metrics": {}, "base_model": "x", "run_fingerprint": "2"})},
        {"corpus": {"uri": ["/elsewhere", "s3://b/c"]}},
        {"corpus": {"uri": "/c", "shard_rows": 10, "shard_bytes": 10}},
        {"corpus": {"uri": "/c", "max_bad_fraction": 0.5}},
        {"corpus": {"uri": "/c", "inputs": {"text": "text"}}},
        {"compute": {"workers": 8, "device": "cpu", "batch_tokens": 100, "cpus_per_worker": 2}},
        {"output": {"uri": "/another/table"}},
        {"storage": {"region": "eu-1"}},
    ],
)
def test_places_sizes_and_workers_are_not(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) == fingerprint()


def fingerprint_of(bundles: dict[str, BundleInfo], **output: Any) -> str:
    raw = {**RAW, "bundle": dict.fromkeys(bundles, "/b"), "output": {"uri": "/o", **output}}
    return fingerprint_run(ScoreSpec.model_validate(raw), bundles)


def test_names_versions_and_embeddings_of_several_bundles_are_in_the_fingerprint() -> None:
    other = BUNDLE.model_copy(update={"pooling": "cls"})
    variants = [
        fingerprint_of({"one": BUNDLE}),
        fingerprint_of({"one": BUNDLE, "two": other}),
        fingerprint_of({"one": other, "two": BUNDLE}),
        fingerprint_of({"one": BUNDLE, "three": other}),
        fingerprint_of({"one": BUNDLE, "two": other}, embedding=["two"]),
        fingerprint_of({"one": BUNDLE, "two": other}, embedding=["one"]),
        fingerprint_of({"one": BUNDLE, "two": other}, embedding=False),
        fingerprint(),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint_of({"one": BUNDLE, "two": other}, embedding=["one", "two"]) == variants[1]


@pytest.mark.parametrize("embedding", [True, False, ["b", "a"]])
def test_bundles_named_in_another_order_are_no_new_work(embedding: Any) -> None:
    """A table knows columns by name: the files that stand are right whatever order the spec has."""
    one, other = {"a": BUNDLE, "b": BUNDLE}, {"b": BUNDLE, "a": BUNDLE}
    assert fingerprint_of(one, embedding=embedding) == fingerprint_of(other, embedding=embedding)
