"""Texts -> labels, tags and answers: bertmill's scoring path, and transformers at its best settings.

transformers 5 has pipelines for classification and tagging. Its pipeline for question answering is gone, so a loop over
tokenizer and model stands in (`plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
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
    peers = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if work.runtime.autocast_dtype is not torch.bfloat16:
        del peers["bf16"]
    return [_bertmill(work), *(_transformers(work, name, dtype) for name, dtype in peers.items())]


def _bertmill(work: HeadWork) -> Contender:
    predictor = work.predictor()
    source = {"": TextSource(tuple(work.columns))}
    rows = pa.table({input_column(name): values for name, values in work.columns.items()})

    def run() -> pa.Array:
        columns = bundle_columns(predictor.members[""], predictor.predict(rows, source)[""])
        return columns[ANSWER_COLUMN[work.task]]

    return Contender("bertmill", run)


def _transformers(work: HeadWork, precision: str, dtype: torch.dtype) -> Contender:
    """Longest first; the batch size is the best of several on a part of the texts."""
    order = np.argsort([-len(text) for text in work.texts.to_pylist()], kind="stable")
    texts = np.array(work.texts.to_pylist(), object)[order].tolist()
    answer = answering_loop(work, dtype) if work.task == ANSWERING else _pipeline(work, dtype)
    batch_rows = find_fastest({rows: partial(answer, texts[::_PROBE_SHARE], rows) for rows in _BATCH_ROWS})

    def run() -> Answers:
        answers: Answers = [None] * len(texts)
        for place, found in zip(order, answer(texts, batch_rows), strict=True):
            answers[place] = found
        return answers

    kind = "loop" if work.task == ANSWERING else "pipeline"
    return Contender(f"transformers {kind}, {precision}, sorted, batches of {batch_rows} (its best)", run)


def _pipeline(work: HeadWork, dtype: torch.dtype) -> Callable[[Sequence[str], int], Answers]:
    tokenizer = load_tokenizer(work.bundle)
    tokenizer.model_max_length = work.max_length
    given = {"tokenizer": tokenizer, "device": work.runtime.device}
    if work.task == TAGGING:
        tag = transformers.pipeline(work.task, work.network(dtype), aggregation_strategy="first", **given)
        return lambda texts, rows: [tag_tuples(found, "entity_group") for found in tag(texts, batch_size=rows)]
    classify = transformers.pipeline(work.task, work.network(dtype), top_k=None, **given)
    return lambda texts, rows: [found[0]["label"] for found in classify(texts, batch_size=rows, truncation=True)]
