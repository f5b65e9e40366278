"""Texts -> labels, tags and answers: bertmill's scoring path, and transformers at its best settings.

transformers 5 has pipelines for classification and tagging. Its pipeline for question answering is gone, so a loop over
tokenizer and model stands in (`plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import torch
import transformers

from pipeline.corpus.reader import input_column
from pipeline.encoder.loading import load_tokenizer
from pipeline.inference.source import TextSource
from pipeline.inference.worker import bundle_columns
from pipeline.studies.benchmark.bundles import ANSWERING, TAGGING
from pipeline.studies.benchmark.head_work import ANSWER_COLUMN, Answers, HeadWork, tag_tuples
from pipeline.studies.benchmark.plain import answering_loop
from pipeline.studies.benchmark.rounds import Contender, find_fastest

_BATCH_ROWS = (8, 16, 32, 64, 128)
_PROBE_SHARE = 8


def head_contenders(work: HeadWork) -> list[Contender]:
    """bertmill, then transformers in bf16 (where the hardware has it) and fp32; each gives `Answers`."""
    dtypes = dict.fromkeys([_best_dtype(work), torch.float32])
    return [_bertmill(work), *(_transformers(work, dtype) for dtype in dtypes)]


def best_settings(work: HeadWork) -> tuple[str, int]:
    """Name of the dtype and rows of a batch that transformers is fastest with, found on a part of the texts."""
    dtype = _best_dtype(work)
    return str(dtype).removeprefix("torch."), _best_batch_rows(_answering(work, dtype), _longest_first(work)[1])


def _bertmill(work: HeadWork) -> Contender:
    predictor = work.predictor()
    source = {"": TextSource(tuple(work.columns))}
    rows = pa.table({input_column(name): values for name, values in work.columns.items()})

    def run() -> pa.Array:
        columns = bundle_columns(predictor.members[""], predictor.predict(rows, source)[""])
        return columns[ANSWER_COLUMN[work.task]]

    return Contender("bertmill", run)


def _transformers(work: HeadWork, dtype: torch.dtype) -> Contender:
    order, texts = _longest_first(work)
    answer = _answering(work, dtype)
    batch_rows = _best_batch_rows(answer, texts)

    def run() -> Answers:
        answers: Answers = [None] * len(texts)
        for place, found in zip(order, answer(texts, batch_rows), strict=True):
            answers[place] = found
        return answers

    kind = "loop" if work.task == ANSWERING else "pipeline"
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    return Contender(f"transformers {kind}, {precision}, sorted, batches of {batch_rows} (its best)", run)


def _best_dtype(work: HeadWork) -> torch.dtype:
    return torch.bfloat16 if work.runtime.autocast_dtype is torch.bfloat16 else torch.float32


def _longest_first(work: HeadWork) -> tuple[list[int], list[str]]:
    """Places of the texts, and the texts in that order."""
    texts = work.texts.to_pylist()
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return order, [texts[row] for row in order]


def _best_batch_rows(answer: Callable[[Sequence[str], int], Answers], texts: Sequence[str]) -> int:
    return find_fastest({rows: partial(answer, texts[::_PROBE_SHARE], rows) for rows in _BATCH_ROWS})


def _answering(work: HeadWork, dtype: torch.dtype) -> Callable[[Sequence[str], int], Answers]:
    return answering_loop(work, dtype) if work.task == ANSWERING else _pipeline(work, dtype)


def _pipeline(work: HeadWork, dtype: torch.dtype) -> Callable[[Sequence[str], int], Answers]:
    tokenizer = load_tokenizer(work.bundle)
    tokenizer.model_max_length = work.max_length
    given = {"tokenizer": tokenizer, "device": work.runtime.device}
    if work.task == TAGGING:
        tag = transformers.pipeline(work.task, work.network(dtype), aggregation_strategy="first", **given)
        return lambda texts, rows: [tag_tuples(found, "entity_group") for found in tag(texts, batch_size=rows)]
    classify = transformers.pipeline(work.task, work.network(dtype), top_k=None, **given)
    return lambda texts, rows: [found[0]["label"] for found in classify(texts, batch_size=rows, truncation=True)]
