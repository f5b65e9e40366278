"""`bertmill models` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.tiny import make_bundle, make_network, make_rows, write_corpus
from tests.unit.inference.nights import finish
from tests.unit.inference.scoring import NIGHT, prepared
from tests.unit.jobs.command_line import assert_refused, models, run_command


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two bundles, of which the first is right about every row of `labelled.parquet` and the second about none."""
    rows = make_rows(30)
    pq.write_table(
        rows.filter([label == "negative" for label in rows["label"].to_pylist()]), tmp_path / "labelled.parquet"
    )
    for index in (0, 1):
        network = make_network(seed=index)
        with torch.no_grad():
            network.classifier.weight.zero_()
            network.classifier.bias.copy_(torch.nn.functional.one_hot(torch.tensor(index), 3).float() * 5)
        make_bundle(tmp_path / f"bundle-{index}", network=network)
    monkeypatch.setenv("BERTMILL_REGISTRY", str(tmp_path / "registry"))
    return [str(tmp_path / "bundle-0"), str(tmp_path / "bundle-1")]


def test_publish_promote_roll_back(bundles: list[str], tmp_path: Path) -> None:
    for number, bundle in enumerate(bundles, 1):
        assert models("publish", bundle, "--name", "sentiment").startswith(f"sentiment@{number}  model_version ")
    assert models("promote", "sentiment@2", "--to", "production") == "sentiment@production is sentiment@2 now\n"
    gates = [*gate(tmp_path), "--parity", "5", "--latency-ms", "60000"]
    gated = models("promote", "sentiment@1", "--to", "production", *gates)
    assert "passed: accuracy 1.0000, present model 0.0000" in gated
    assert "passed: parity with fp32 on 5 rows" in gated
    assert "passed: latency of one row, 95th percentile of 10 rows" in gated
    assert models("promote", "sentiment@1", "--to", "production") == "sentiment@production is sentiment@1 already\n"
    listed = models("list").splitlines()
    assert [line.split()[0] for line in listed] == ["sentiment@1", "sentiment@2"]
    assert [line.endswith(" @production") for line in listed] == [True, False]
    assert models("rollback", "sentiment@production") == "sentiment@production is sentiment@2 again\n"
    shown = models("show", "sentiment@production")
    assert shown.startswith("sentiment@2  ")
    assert f"  data {'0' * 64}\n  training run {'1' * 64}\n" in shown
    assert "accuracy 1.0000, present model 0.0000" in shown


def test_a_model_that_is_not_there_is_named_with_those_that_are(bundles: list[str], tmp_path: Path) -> None:
    models("publish", bundles[0], "--name", "sentiment")
    said = f"{tmp_path}/registry: no model polarity; there are: sentiment"
    assert_refused(run_command("models", "list", "polarity"), said)
    assert models("list", "sentiment").startswith("sentiment@1  ")


@pytest.mark.parametrize("name", [[], ["sentiment"]])
def test_a_place_without_any_model_is_no_registry(tmp_path: Path, name: list[str]) -> None:
    place = str(tmp_path / "registri")
    assert_refused(run_command("models", "list", *name, "--registry", place), f"no registry at {place}: no model")


def gate(tmp_path: Path) -> list[str]:
    return ["--metric", "accuracy", "--on", str(tmp_path / "labelled.parquet")]


def test_a_gate_that_is_not_passed_ends_with_7_and_promotes_nothing(bundles: list[str], tmp_path: Path) -> None:
    for bundle in bundles:
        models("publish", bundle, "--name", "sentiment")
    models("promote", "sentiment@1", "--to", "production")
    finished = run_command("models", "promote", "sentiment@2", "--to", "production", *gate(tmp_path))
    assert (finished.exit_code, finished.stdout) == (7, "")
    assert "accuracy 0.0000, present model 1.0000" in finished.stderr
    assert models("show", "sentiment@production").startswith("sentiment@1  ")


def test_a_night_is_traced_to_its_model(bundles: list[str], tmp_path: Path) -> None:
    models("publish", bundles[0], "--name", "sentiment")
    write_corpus(tmp_path / "corpus", num_files=1)
    finish(prepared(Path(bundles[0]), tmp_path / "corpus", tmp_path / "table"))
    traced = models("trace", str(tmp_path / "table"), "--date", NIGHT)
    assert "\nsentiment@1  model_version " in traced
    assert f" from {bundles[0]}\n" in traced


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["promote", "sentiment@1", "--to", "production"], "no version 1 of sentiment; there are: none"),
        (["promote", "sentiment@1", "--to", "9", "--parity", "3"], "labelled rows beside a gate"),
        (["promote", "sentiment@1", "--to", "production", "--on", "x"], "is given, and no gate"),
        (["promote", "good@1", "--to", "staging", "--allowance", "0.1"], "--allowance: is given, and no --metric"),
        (["promote", "good@1", "--to", "staging", "--label", "y"], "--label: is given, and no --on"),
        (["promote", "good@1", "--to", "staging", "--input", "text=body"], "--input: is given, and no --on"),
        (["rollback", "sentiment@3"], "is no name for an alias"),
        (["show", "sentiment"], "expected NAME@ALIAS or NAME@VERSION"),
        (["publish", "nowhere", "--name", "sentiment"], "no bundle.json"),
    ],
)
def test_what_cannot_be_done_is_said(bundles: list[str], arguments: list[str], says: str) -> None:
    assert bundles
    assert_refused(run_command("models", *arguments), says)


def test_without_a_registry_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTMILL_REGISTRY", raising=False)
    assert_refused(run_command("models", "list"), "no registry is named")
