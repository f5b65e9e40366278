"""Nights scored with registered models: pinned, and followed by the next night."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CommitConflictError, ModelError
from pipeline.inference.estimate import explain_plan
from pipeline.inference.evaluate import prepare_evaluation
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.spec import EvaluateSpec
from pipeline.registry.aliases import Alias
from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.tiny import make_bundle, write_corpus
from tests.unit.inference.nights import begin, finish
from tests.unit.inference.scoring import prepare_run, score_spec

D21, D22 = "2026-11-21", "2026-11-22"
ASKED = "models://sentiment@production"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("bundles")
    for seed in (1, 2):
        make_bundle(root / str(seed), seed=seed)
    return [str(root / "1"), str(root / "2")]


@pytest.fixture
def alias(tmp_path: Path, bundles: list[str]) -> Alias:
    """`sentiment@production`, which names the first of two versions."""
    registry = Registry(str(tmp_path / "registry"), Storage())
    first, _ = (registry.publish(uri, "sentiment") for uri in bundles)
    alias = Alias(registry, "sentiment", "production")
    alias.move(first, alias.now())
    write_corpus(tmp_path / "corpus", num_files=1)
    return alias


def promote_second(alias: Alias) -> None:
    alias.move(alias.registry.version("sentiment", 2), alias.now())


def prepare(alias: Alias, night: str, rescore: bool = False, **changes: Any) -> PreparedRun:
    root = Path(alias.registry.uri).parent
    changes = {"bundle": ASKED, "registry": alias.registry.uri, **changes}
    spec = score_spec(root, root / "corpus", root / "table").model_dump(mode="json")
    return prepare_run(
        score_spec(root, root / "corpus", root / "table").model_validate({**spec, **changes}), night, rescore
    )


def score(run: PreparedRun) -> dict[str, Any]:
    """The night's newest manifest."""
    run.keep_models()
    report = finish(run)
    folder = Path(run.ledger.table_uri, "_manifests", f"run_date={report.run_date}")
    newest = max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


def test_the_manifest_says_which_version_was_used(alias: Alias) -> None:
    manifest = score(prepare(alias, D21))
    version = alias.version()
    assert manifest["models"] == {"": {"asked": ASKED, "version": "sentiment@1", "uri": version.uri}}
    assert manifest["spec"]["bundle"] == {"": version.uri}
    assert manifest["model_version"] == alias.registry.info(version).model_version


def test_a_night_stays_with_its_version_and_the_next_follows_the_alias(alias: Alias) -> None:
    score(prepare(alias, D21))
    promote_second(alias)
    again = prepare(alias, D21)
    assert again.is_published
    assert again.models[""].version == "sentiment@1"
    assert score(prepare(alias, D22))["models"][""]["version"] == "sentiment@2"


def test_a_night_that_was_begun_goes_on_with_its_version(alias: Alias) -> None:
    prepare(alias, D21).keep_models()  # and killed then
    promote_second(alias)
    resumed = prepare(alias, D21)
    assert resumed.models[""].version == "sentiment@1"
    assert f"model: {ASKED}, which is sentiment@1 for this night" in "\n".join(explain_plan(resumed))


def test_a_night_that_is_scored_again_follows_the_alias(alias: Alias) -> None:
    score(prepare(alias, D21))
    promote_second(alias)
    assert score(prepare(alias, D21, rescore=True))["models"][""]["version"] == "sentiment@2"
    assert prepare(alias, D21).models[""].version == "sentiment@2"


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed before", "done before"])
def test_after_a_rollback_a_night_is_scored_again_with_the_earlier_version(alias: Alias, is_killed: bool) -> None:
    first = prepare(alias, D21, rescore=True)
    if is_killed:
        first.keep_models()
        begin(first)
    else:
        score(first)
    promote_second(alias)
    score(prepare(alias, D21, rescore=True))
    alias.move(alias.registry.version("sentiment", 1), alias.now())
    assert score(prepare(alias, D21, rescore=True))["models"][""]["version"] == "sentiment@1"


def test_another_question_gets_another_answer(alias: Alias) -> None:
    prepare(alias, D21).keep_models()
    other = prepare(alias, D21, bundle="models://sentiment@2")
    other.keep_models()
    assert prepare(alias, D21, bundle="models://sentiment@2").models[""].version == "sentiment@2"


def test_of_two_runs_that_saw_the_alias_differently_one_does_not_go_on(alias: Alias) -> None:
    early = prepare(alias, D21)
    promote_second(alias)
    prepare(alias, D21).keep_models()
    with pytest.raises(CommitConflictError, match=r"was begun with sentiment@2 meanwhile"):
        early.keep_models()


def test_a_plan_writes_nothing(alias: Alias) -> None:
    run = prepare(alias, D21)
    assert run.models
    assert not Path(run.ledger.table_uri).exists()


def test_bundles_by_name_are_resolved_one_by_one(alias: Alias, bundles: list[str]) -> None:
    run = prepare(alias, D21, bundle={"now": ASKED, "next": "models://sentiment@2", "plain": bundles[0]})
    assert {name: model.version for name, model in run.models.items()} == {"now": "sentiment@1", "next": "sentiment@2"}
    assert run.spec.bundle["plain"] == bundles[0]


def test_evaluate_takes_a_registered_model(alias: Alias) -> None:
    corpus = {"uri": str(Path(alias.registry.uri).parent / "corpus")}
    raw = {"bundle": ASKED, "registry": alias.registry.uri, "corpus": corpus}
    assert prepare_evaluation(EvaluateSpec.model_validate(raw)).spec.bundle == alias.version().uri


def test_an_alias_that_is_not_there_is_bad_input(alias: Alias) -> None:
    with pytest.raises(ModelError, match="has no alias 'staging'"):
        prepare(alias, D21, bundle="models://sentiment@staging")
