from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pipeline.config import StorageConfig
from pipeline.errors import GateError, ModelError
from pipeline.inference import gates
from pipeline.inference.gates import LabelledRows, MetricGate, ParityGate
from pipeline.inference.latency import LatencyGate
from pipeline.inference.reference import PlainModel
from pipeline.inference.tolerance import Tolerance
from tests.tiny import make_bundle, make_network, make_rows, tiny_config


@pytest.fixture
def rows(tmp_path: Path) -> LabelledRows:
    pq.write_table(make_rows(30), tmp_path / "labelled.parquet")
    return LabelledRows(str(tmp_path / "labelled.parquet"), StorageConfig())


@pytest.fixture
def always(tmp_path: Path) -> list[str]:
    """Bundles that call every text negative, neutral: a third of the rows is so; and one that knows less."""
    found = []
    for index in (0, 1):
        network = make_network()
        with torch.no_grad():
            network.classifier.weight.zero_()
            network.classifier.bias.copy_(torch.nn.functional.one_hot(torch.tensor(index), 3).float() * 5)
        make_bundle(tmp_path / f"always-{index}", network=network)
        found.append(str(tmp_path / f"always-{index}"))
    return found


def skewed(rows: LabelledRows, label: str, count: int) -> LabelledRows:
    """The rows without all but so many of one label."""
    table = pq.read_table(rows.uri)
    own = [index for index, value in enumerate(table["label"].to_pylist()) if value == label][count:]
    pq.write_table(table.take([index for index in range(table.num_rows) if index not in own]), rows.uri)
    return rows


def test_a_better_model_passes_and_a_worse_one_does_not(rows: LabelledRows, always: list[str]) -> None:
    rows = skewed(rows, "neutral", 5)  # 10 negative, 5 neutral, 10 positive
    negative, neutral = always
    found = MetricGate("accuracy").check(negative, neutral, rows)
    assert found == f"accuracy 0.4000, present model 0.2000, on 25 rows of {rows.uri}"
    with pytest.raises(GateError, match=r"accuracy 0\.2000, present model 0\.4000, .*: worse by 0\.2000"):
        MetricGate("accuracy").check(neutral, negative, rows)
    MetricGate("accuracy", allowance=0.21).check(neutral, negative, rows)
    MetricGate("accuracy").check(negative, negative, rows)


def test_of_a_loss_less_is_better(rows: LabelledRows, always: list[str]) -> None:
    rows = skewed(rows, "neutral", 5)
    negative, neutral = always
    MetricGate("loss").check(negative, neutral, rows)
    with pytest.raises(GateError, match=r"loss .*: worse by"):
        MetricGate("loss").check(neutral, negative, rows)


def test_the_first_model_is_measured_alone(rows: LabelledRows, always: list[str]) -> None:
    found = MetricGate("accuracy").check(always[0], None, rows)
    assert found == f"accuracy 0.3333 on 30 rows of {rows.uri}; no present model to compare with"


def test_models_that_judge_different_rows_are_not_compared(
    rows: LabelledRows, tmp_path: Path, always: list[str]
) -> None:
    rows = skewed(rows, "neutral", 1)  # 1 in 21: few enough to be left out of the figure of a bundle without it
    make_bundle(tmp_path / "fewer", ("negative", "positive"))
    fewer = str(tmp_path / "fewer")
    with pytest.raises(GateError, match=r"accuracy: judged on 20 rows of .*, present model on 21; .*\n.*both know"):
        MetricGate("accuracy", allowance=1).check(fewer, always[0], rows)
    with pytest.raises(GateError, match=r"accuracy: judged on 21 rows of .*, present model on 20; "):
        MetricGate("accuracy", allowance=1).check(always[0], fewer, rows)
    assert "on 20 rows of" in MetricGate("accuracy").check(fewer, None, rows)


def test_models_that_leave_out_equally_many_but_other_rows_are_not_compared(tmp_path: Path) -> None:
    pq.write_table(make_rows(63), tmp_path / "labelled.parquet")
    rows = LabelledRows(str(tmp_path / "labelled.parquet"), StorageConfig())
    rows = skewed(skewed(rows, "neutral", 1), "negative", 1)  # 1 in 23 for each bundle
    for name, labels in (("one", ("negative", "positive")), ("other", ("neutral", "positive"))):
        make_bundle(tmp_path / name, labels)
    expected = r"accuracy: judged on 22 rows of .*, present model on 22 that are not the same; .*\n.*both know"
    with pytest.raises(GateError, match=expected):
        MetricGate("accuracy", allowance=1).check(str(tmp_path / "one"), str(tmp_path / "other"), rows)


def test_an_unknown_figure_is_named(rows: LabelledRows, always: list[str]) -> None:
    with pytest.raises(ModelError, match=r"has no metric 'f2'\n.*it has: accuracy"):
        MetricGate("f2").check(always[0], None, rows)


def test_parity_passes_for_a_sound_bundle(rows: LabelledRows, bundle_directory: Path) -> None:
    found = ParityGate(num_rows=12).check(str(bundle_directory), rows)
    assert found.startswith("parity with fp32 on 12 rows of")


def test_parity_sees_results_that_are_off(
    rows: LabelledRows, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(PlainModel):
        def run(self, given, are_words=False):  # type: ignore[no-untyped-def]
            return super().run([given[0][::-1]], are_words)

    monkeypatch.setattr(gates, "PlainModel", Off)
    with pytest.raises(GateError, match=r"parity with fp32: \d+ problems; first: .*labelled\.parquet row 0"):
        ParityGate(12, Tolerance()).check(str(bundle_directory), rows)


def test_latency_is_bounded_alone_and_beside_the_present_model(
    rows: LabelledRows, tmp_path: Path, bundle_directory: Path
) -> None:
    deep = BertForSequenceClassification(BertConfig(**{**tiny_config().to_dict(), "num_hidden_layers": 40}))
    make_bundle(tmp_path / "deep", network=deep)
    own = str(bundle_directory)
    found = LatencyGate(max_ms=60_000, num_rows=5).check(own, None, rows)
    assert re.fullmatch(r"latency of one row, 95th percentile of 5 rows .*: \d+\.\d\d ms; no present model .*", found)
    with pytest.raises(GateError, match=r": \d+\.\d\d ms; allowed are 0\.001 ms\n"):
        LatencyGate(max_ms=0.001, num_rows=5).check(own, own, rows)
    with pytest.raises(GateError, match=r"all rows \+\d+\.\d%; allowed is \+50\.0%"):
        LatencyGate(max_slowdown=0.5, num_rows=5).check(str(tmp_path / "deep"), own, rows)
    assert "all rows -" in LatencyGate(max_slowdown=0.5, num_rows=5).check(own, str(tmp_path / "deep"), rows)


def test_latency_needs_a_row(rows: LabelledRows, bundle_directory: Path) -> None:
    table = pq.read_table(rows.uri)
    pq.write_table(table.set_column(1, "text", pa.nulls(table.num_rows, pa.string())), rows.uri)
    with pytest.raises(GateError, match="has no usable row"):
        LatencyGate(max_ms=1).check(str(bundle_directory), None, rows)
