"""Bad training rows, task by task: all are named with file, row and reason, at once, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import parse_spec
from pipeline.errors import CorpusError, SpecError
from pipeline.finetune.alone import train_alone
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from tests.tiny import make_encoder


def answer(text: str, start: int) -> dict[str, list[Any]]:
    return {"text": [text], "answer_start": [start]}


GOOD_TAGS = {"tokens": ["a", "b"], "tags": ["O", "B-x"]}
GOOD_PAIR = {"text_a": "a", "text_b": "b", "score": 1.0}
GOOD_QUESTION = {"question": "which?", "context": "one two", "answers": answer("two", 4)}
CASES: dict[str, tuple[str, list[dict[str, Any]], dict[int, str]]] = {
    "tags and tokens differ in number": (
        "token-classification",
        [GOOD_TAGS, {"tokens": ["a", "b"], "tags": ["O"]}, GOOD_TAGS, {"tokens": ["a"], "tags": ["O", "B-x"]}],
        {1: "1 tags", 3: "2 tags"},
    ),
    "no scheme has such a tag, and no word": (
        "token-classification",
        [GOOD_TAGS, {"tokens": [], "tags": []}, {"tokens": None, "tags": ["O"]}],
        {1: "text is blank", 2: "text is null"},
    ),
    "the answer is not where it is said to be": (
        "question-answering",
        [GOOD_QUESTION, {**GOOD_QUESTION, "answers": answer("two", 0)}, {**GOOD_QUESTION, "question": " "}],
        {1: "answer", 2: "text is blank"},
    ),
    "a score that is no finite number": (
        "similarity",
        [{**GOOD_PAIR, "score": 0.0}, GOOD_PAIR, {**GOOD_PAIR, "score": None}, {**GOOD_PAIR, "score": float("inf")}],
        {2: "score is null or not finite", 3: "score is null or not finite"},
    ),
    "scored pairs for embeddings": (
        "embedding",
        [GOOD_PAIR, {**GOOD_PAIR, "score": float("nan")}, {**GOOD_PAIR, "text_b": None}],
        {1: "score is null or not finite", 2: "text is null"},
    ),
    "a label that is missing": (
        "text-classification",
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": None}],
        {2: "label is null"},
    ),
}


def spec_for(task: str, rows: list[dict[str, Any]], directory: Path) -> FinetuneSpec:
    make_encoder(directory / "encoder")
    pq.write_table(pa.Table.from_pylist(rows), directory / "rows.parquet")
    data: dict[str, Any] = {"train": str(directory / "rows.parquet")}
    if task == "token-classification":
        data["inputs"] = {"text": "tokens"}
    if task == "embedding":
        data["label"] = "score"
    raw = {"task": task, "model": str(directory / "encoder"), "data": data, "output": str(directory / "bundle")}
    return parse_spec({**raw, "max_length": 32, "stride": 8}, FinetuneSpec, "spec")


@pytest.mark.parametrize("name", CASES)
def test_bad_rows_are_all_named_and_nothing_is_trained(name: str, tmp_path: Path) -> None:
    task, rows, reasons = CASES[name]
    run = prepare_training(spec_for(task, rows, tmp_path), "spec")
    with pytest.raises(CorpusError, match=f"{len(reasons)} of {len(rows)} labelled rows cannot be used") as refused:
        train_alone(run, num_threads=1)
    lines = str(refused.value).splitlines()
    for row, reason in reasons.items():
        (line,) = [line for line in lines if f"rows.parquet row {row}: " in line]
        assert reason in line
    assert not (tmp_path / "bundle").exists()


def test_one_class_only_is_refused_before_anything_is_read_twice(tmp_path: Path) -> None:
    spec = spec_for("text-classification", [{"text": "a", "label": "x"}] * 3, tmp_path)
    with pytest.raises(SpecError, match=r"holds the labels: x; expected two labels or more"):
        prepare_training(spec, "spec")


def test_a_target_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    spec = spec_for("similarity", [{**GOOD_PAIR, "score": "much"}], tmp_path)
    with pytest.raises(CorpusError, match="column 'score' is string; task similarity cannot learn from it"):
        prepare_training(spec, "spec")


def test_a_negative_beside_a_score_is_refused(tmp_path: Path) -> None:
    spec = spec_for("embedding", [{**GOOD_PAIR, "negative": "c"}], tmp_path)
    data = spec.data.model_copy(update={"inputs": {"negative": "negative"}}) if spec.data else None
    with pytest.raises(SpecError, match=r"data\.inputs: 'negative' beside a label"):
        prepare_training(spec.model_copy(update={"data": data}), "spec")
