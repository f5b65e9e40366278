"""The page of a training: what it shows, what it escapes, and that it fails nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.encoder.tokenize import TextTokenizer, TokenOptions
from pipeline.finetune.alone import learn_alone
from pipeline.finetune.hardest import find_hardest
from pipeline.finetune.loop import ValidationRows
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec, TrainingConfig
from pipeline.finetune.training_report import describe_training, report_uri, write_training_report
from pipeline.tasks.base import Examples, Learned
from tests.tiny import make_rows, make_tokenizer
from tests.unit.finetune.training import spec_over

LEARNED = Learned(("no", "yes"))


@pytest.fixture
def run(tmp_path: Path, encoder_directory: Path) -> PreparedTraining:
    pq.write_table(make_rows(48, 1), tmp_path / "train.parquet")
    rows = make_rows(9, 2)
    texts = ["<script>alert(1)</script> good", *rows["text"].to_pylist()[1:]]
    rows = rows.set_column(rows.schema.get_field_index("text"), "text", [texts])
    pq.write_table(rows, tmp_path / "validation.parquet")
    raw = spec_over(tmp_path, encoder_directory, {"epochs": 2, "batch_rows": 8}, ".parquet")
    return prepare_training(FinetuneSpec.model_validate({**raw, "max_length": 32}), "spec.yaml")


def test_a_page_shows_the_training_and_escapes_its_texts(run: PreparedTraining) -> None:
    job, _, judgements = learn_alone(run, 1, lambda status: None)
    assert write_training_report(run, job, judgements)
    page = Path(report_uri(run)).read_text()
    for words in (
        "loss over steps",
        "learning_rate over steps",
        "validation macro_f1 over steps",
        "Confusions",
        "fp32",
    ):
        assert words in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page  # all nine rows are among the hardest twenty
    assert f"{judgements[''].evaluation.metrics['macro_f1']:.4f}" in page
    assert "training.learning_rate" in page
    assert ("training.batch_rows" in page, "training.batch_tokens" in page) == (True, False)
    assert "validation.parquet" in page
    assert page.count("<polyline") >= 4


def test_a_training_too_short_for_lines_shows_points(run: PreparedTraining) -> None:
    job, _, judgements = learn_alone(run, 1, lambda status: None)
    line = {"step": 8, "num_steps": 8, "epoch": 1, "loss": 0.5, "learning_rate": 1e-5, "padding_share": 0.0}
    assert describe_training(run, job, judgements, [line]).count("<circle") == 2
    assert "<circle" not in describe_training(run, job, judgements, [{**line, "step": 4}, line])


def test_what_was_said_before_and_while_it_trained_is_on_the_page(run: PreparedTraining) -> None:
    job, _, judgements = learn_alone(run, 1, lambda status: None)
    lines = [{"step": 8, "num_steps": 8, "epoch": 1, "loss": 0.5, "padding_share": 0.0, "remarks": ["norm <9>"]}]
    assert "norm &lt;9&gt;" in describe_training(run, job, judgements, lines)
    assert "Remarks" not in describe_training(run, job, judgements, [{**lines[0], "remarks": []}])


def test_the_batches_that_were_cut_by_tokens_are_not_told_by_rows(run: PreparedTraining) -> None:
    recipe = {name: value for name, value in run.spec.training.model_dump().items() if name != "batch_rows"}
    by_tokens = run.spec.model_copy(update={"training": TrainingConfig(**{**recipe, "batch_tokens": 60})})
    run = replace(run, spec=by_tokens, recipe=by_tokens.recipe("data", "model"))
    job, _, judgements = learn_alone(run, 1, lambda status: None)
    page = describe_training(run, job, judgements, [])
    assert ("training.batch_rows" in page, "training.batch_tokens" in page) == (False, True)


def test_a_report_that_cannot_be_written_fails_nothing(run: PreparedTraining, tmp_path: Path) -> None:
    job, _, judgements = learn_alone(run, 1, lambda status: None)
    (tmp_path / "file").write_text("")
    elsewhere = replace(run, spec=run.spec.model_copy(update={"work": str(tmp_path / "file" / "work")}))
    assert not write_training_report(elsewhere, job, judgements)


def rows_of(tmp_path: Path, texts: list[str]) -> ValidationRows:
    column = pa.chunked_array([texts], pa.large_string())
    tokens = TextTokenizer(make_tokenizer(tmp_path / "tokenizer"), TokenOptions(16)).encode(column)
    return ValidationRows(Examples((column,), tokens), (tokens,), column)


def test_the_hardest_rows_come_first(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ["a", "b", "c", "x" * 500])
    judged = pa.table({"truth": [0, 1, 0, -1], "logits": [[3.0, 0.0], [5.0, 0.0], [0.0, 0.0], [9.0, 0.0]]})
    found = find_hardest(judged, rows, LEARNED, 2)
    assert [(row.text, row.truth, row.predicted) for row in found] == [("b", "yes", "no"), ("c", "no", "no")]
    assert [row.loss for row in found] == pytest.approx([5.0067, 0.6931], abs=1e-4)

    several = pa.table(
        {"truth": [[1.0, 0.0]] * 3 + [[0.0, 0.0]], "scores": [[0.9, 0.1], [0.2, 0.6], [0.5, 0.5], [0.9, 0.9]]}
    )
    (worst,) = find_hardest(several, rows, LEARNED, 1)
    assert (worst.truth, worst.predicted, len(worst.text)) == ("(none)", "no, yes", 400)

    numbers = pa.table({"truth": [1.0, 2.0, 3.0, 4.0], "predicted": [1.0, 2.5, 0.0, 4.0]})
    assert find_hardest(numbers, rows, Learned(), 1)[0].loss == pytest.approx(9.0)
    assert find_hardest(pa.table({"truth": [["O"]], "predicted": [["O"]]}), rows, LEARNED, 1) == []
