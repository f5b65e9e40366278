"""What transformers says step by step: the answers that everyone's are compared with, and a loop for questions.

Shape letters: B windows of a batch, S tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoder.batching import BatchBudget, plan_batches
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.outputs import FloatArray, ModelOutputs
from pipeline.encoder.tokenize import Padding, flat_positions, pad_rows
from pipeline.studies.benchmark.bundles import CLASSIFICATION, QUESTION, stride_of
from pipeline.studies.benchmark.head_work import ANSWER_COLUMN, Answers, HeadWork, as_answers
from pipeline.tasks.base import Examples

_BATCH = BatchBudget(tokens=2_048, rows=64)
_LONGEST_ANSWER_TOKENS = 30


def plain_answers(work: HeadWork) -> Answers:
    """What transformers' own network says in fp32 of padded batches, decoded as the bundle's task does."""
    member, rows = work.predictor().members[""], work.tokenize()
    tokenizer, network = load_tokenizer(work.bundle), work.network(torch.float32)
    padding, is_over_rows = Padding.of(tokenizer), work.task == CLASSIFICATION
    logits = np.zeros((0, 0), np.float32)
    for part in plan_batches(rows.lengths, _BATCH):
        batch = pad_rows(rows, part, padding)
        types_BS = np.zeros_like(batch.ids_BS) if batch.types_BS is None else batch.types_BS
        arrays = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS, "token_type_ids": types_BS}
        inputs = {name: array for name, array in arrays.items() if name in tokenizer.model_input_names}
        found = _logits(network, inputs, work.runtime.device)
        if not logits.size:
            logits = np.zeros((len(rows) if is_over_rows else len(rows.ids), found.shape[-1]), np.float32)
        if is_over_rows:
            logits[part] = found
        else:
            logits[flat_positions(rows, part)] = found[batch.mask_BS > 0]
    outputs = ModelOutputs(logits, np.zeros((rows.num_rows, 0), np.float32), np.ones(rows.num_rows, np.bool_), 0)
    decoded = member.task.decode(outputs, Examples(tuple(work.columns.values()), rows), member.learned)
    names = [field.name for field in member.task.output_fields()]
    return as_answers(decoded[names.index(ANSWER_COLUMN[work.task])])


def answering_loop(work: HeadWork, dtype: torch.dtype) -> Callable[[Sequence[str], int], Answers]:
    """Tokenizer and model over batches of contexts, and the span with the highest start plus end logit of each."""
    tokenizer, network = load_tokenizer(work.bundle), work.network(dtype)

    def answer(contexts: Sequence[str], batch_rows: int) -> Answers:
        answers: Answers = []
        for start in range(0, len(contexts), batch_rows):
            part = list(contexts[start : start + batch_rows])
            answers += _answer(part, tokenizer, lambda inputs: _logits(network, inputs, work.runtime.device), work)
        return answers

    return answer


def _answer(contexts: list[str], tokenizer: Any, run: Callable[[Any], FloatArray], work: HeadWork) -> Answers:
    encoded = tokenizer(
        [QUESTION] * len(contexts),
        contexts,
        truncation="only_second",
        max_length=work.max_length,
        stride=stride_of(work.max_length),
        padding=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="np",
    )
    rows, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
    in_context_BS = np.array(
        [[part == 1 for part in encoded.sequence_ids(window)] for window in range(len(rows))], np.bool_
    )
    logits_BS2 = np.where(in_context_BS[..., None], run(dict(encoded)), -1e9)
    places_B2, scores_B = best_places(logits_BS2)
    best: dict[int, tuple[float, str]] = {}
    for window, row in enumerate(rows):
        first, last = places_B2[window]
        text = contexts[row][offsets[window, first, 0] : offsets[window, last, 1]]
        best[row] = max(best.get(row, (-np.inf, "")), (float(scores_B[window]), text))
    return [best[row][1] for row in range(len(contexts))]


def best_places(logits_BS2: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """First and last token of each window's best span [B, 2], and its score [B]."""
    length = logits_BS2.shape[1]
    is_span = np.triu(np.ones((length, length), np.bool_)) & ~np.triu(
        np.ones((length, length), np.bool_), _LONGEST_ANSWER_TOKENS
    )
    sums = np.where(is_span, logits_BS2[:, :, None, 0] + logits_BS2[:, None, :, 1], -np.inf).reshape(-1, length**2)
    best = sums.argmax(axis=1)
    return np.stack([best // length, best % length], axis=1), sums.max(axis=1)


def _logits(network: Any, inputs: Mapping[str, npt.NDArray[np.int64]], device: torch.device) -> FloatArray:
    tensors = {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
    with torch.inference_mode():
        output = network(**tensors)
    logits = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], dim=-1)
    return np.asarray(logits.float().cpu().numpy())
