"""Trainings raced: everyone is given the same targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import parse_spec
from pipeline.encoder.loading import load_tokenizer
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.studies.benchmark.training import TrainingWork, _windows, training_contenders
from tests.tiny import make_rows
from tests.unit.finetune.training import spec_over


@pytest.fixture
def asked(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    """Questions whose answer is a text's second word."""
    for split, seed in (("train", 1), ("validation", 2)):
        texts = make_rows(16, seed)["text"].to_pylist()
        answers = [{"text": [text.split()[1]], "answer_start": [len(text.split()[0]) + 1]} for text in texts]
        rows = {"question": ["was the film"] * len(texts), "context": texts, "answers": answers}
        pq.write_table(pa.table(rows), tmp_path / f"{split}.parquet")
    raw = spec_over(tmp_path, encoder_directory, {"epochs": 1, "batch_rows": 8}, ".parquet")
    return {**raw, "task": "question-answering", "max_length": 96}


def test_answers_are_raced_and_the_trainer_gets_the_tokens_of_each(asked: dict[str, Any], tmp_path: Path) -> None:
    work = TrainingWork.of([prepare_training(parse_spec(asked, FinetuneSpec, "test"), "test")], tmp_path, 1)
    tokenizer = load_tokenizer(work.runs[0].encoder)
    answers = [answer["text"][0] for answer in pq.read_table(tmp_path / "train.parquet")["answers"].to_pylist()]
    windows = _windows(work, tokenizer)
    assert len(windows) == len(answers)
    for window, answer in zip(windows, answers, strict=True):
        found = window["input_ids"][window["start_positions"] : window["end_positions"] + 1]
        assert tokenizer.decode(found) == answer
    contenders = training_contenders(work)
    assert [contender.name for contender in contenders] == [
        "bertmill",  # once: no head of spans is fitted, so its start is random anyway
        "Hugging Face Trainer, group_by_length",
        "Hugging Face Trainer, random",
    ]
    for contender in contenders:
        directory = contender.run()
        assert json.loads((directory / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]
        assert 0 <= work.judge(directory) <= 100  # F1, of 100
