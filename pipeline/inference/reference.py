"""A bundle as plain transformers runs it: fp32, on the CPU, one text at a time, nothing padded or batched.

Nothing of `encoder.model` or of the tasks' `decode` is used, so that a mistake there shows against this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from pipeline.encoder.bundle import Bundle, BundleInfo
from pipeline.tasks.base import Task

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlainWindow:
    """What a head over tokens says of one window.

    Attributes:
        logits: [S, C].
        spans: int [S, 2]; character range of each token in the row's last text, -1 for tokens that are not of it.
        words: int [S]; the tokenizer's word number, -1 where `spans` is.
    """

    logits: FloatArray
    spans: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FreshRow:
    """What transformers says of one row.

    Attributes:
        logits: [C], the mean over its windows; [0] for heads that are not over rows.
        embedding: [hidden].
        num_tokens: Over all windows, special tokens included.
        is_truncated: The text had more tokens than were used.
        text: The row's last text, as it was tokenised.
        are_words: It is a list of words joined by single spaces.
        windows: What a head over tokens says; empty for other heads.
    """

    logits: FloatArray
    embedding: FloatArray
    num_tokens: int
    is_truncated: bool
    text: str
    are_words: bool
    windows: tuple[PlainWindow, ...] = ()


class PlainModel:
    """A bundle as transformers loads it."""

    def __init__(self, bundle: Bundle, task: Task) -> None:
        transformers.utils.logging.disable_progress_bar()
        self._info = bundle.info
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(bundle.path), trust_remote_code=False)
        head = getattr(transformers, task.head_class)
        self._network = head.from_pretrained(
            str(bundle.path), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
        self._has_row_head = task.head_class != "AutoModel" and not task.needs_spans
        self._has_token_head = task.needs_spans
        self._is_windowed = bundle.info.long_text == "window" or task.windows_always

    def run(self, given: Sequence[str], are_words: bool = False) -> FreshRow:
        """One row: a text, or a pair of them, of which the last may be a list of words joined by single spaces."""
        texts = list(given)
        whole = len(self._tokenizer(*texts, truncation=False)["input_ids"])
        if len(texts) == 2 and self._has_token_head:
            texts[0] = self._fitting(texts[0])
        encoded = self._encode(texts)
        logits, vectors, lengths, windows = [], [], [], []
        for index in range(len(encoded["input_ids"])):
            names = [name for name in self._tokenizer.model_input_names if name in encoded]
            inputs = {name: torch.tensor([encoded[name][index]]) for name in names}
            with torch.inference_mode():
                states = self._network.base_model(**inputs)[0][0].numpy()
                if self._has_row_head:
                    logits.append(self._network(**inputs).logits[0].numpy())
                if self._has_token_head:
                    windows.append(_window(self._network(**inputs), encoded, index, len(texts) - 1))
            vectors.append(_pool(states, self._info.pooling))
            lengths.append(len(states))
        is_truncated = texts[0] != given[0] or (not self._is_windowed and whole > self._info.max_length)
        mean_logits = np.asarray(np.mean(logits, axis=0) if logits else [], np.float64)
        vector = _merge(vectors, lengths, self._info)
        return FreshRow(mean_logits, vector, sum(lengths), is_truncated, texts[-1], are_words, tuple(windows))

    def _encode(self, texts: Sequence[str]) -> Any:
        """All windows of a row; one where long text is cut."""
        only_second = len(texts) == 2 and self._has_token_head
        options: dict[str, Any] = {"truncation": "only_second" if only_second else True}
        if self._is_windowed:
            self._tokenizer.truncation_side = "right"  # windows hold the whole text, from the left
            options |= {"stride": self._info.stride, "return_overflowing_tokens": True}
        if self._has_token_head:
            options["return_offsets_mapping"] = True
        columns = [[text] for text in texts]
        return self._tokenizer(*columns, max_length=self._info.max_length, **options)

    def _fitting(self, question: str) -> str:
        """A question cut to half a window, so that a context can move on behind it."""
        room = self._info.max_length - self._tokenizer.num_special_tokens_to_add(pair=True)
        limit = max(0, min(room // 2, room - self._info.stride - 1))
        while True:
            found = self._tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            if len(found) <= limit:
                return question
            question = question[: min(found[limit][0], len(question) - 1)]


def _window(output: Any, encoded: Any, index: int, last_text: int) -> PlainWindow:
    heads = [output.start_logits, output.end_logits] if "start_logits" in output else [output.logits]
    logits = torch.stack([head[0] for head in heads], dim=-1) if len(heads) == 2 else heads[0][0]
    inside = np.array([text == last_text for text in encoded.sequence_ids(index)])
    spans = np.array(encoded["offset_mapping"][index], np.int64).reshape(-1, 2)
    words = np.array([-1 if word is None else word for word in encoded.word_ids(index)], np.int64)
    return PlainWindow(
        np.asarray(logits.numpy(), np.float64), np.where(inside[:, None], spans, -1), np.where(inside, words, -1)
    )


def _pool(states: npt.NDArray[np.float32], pooling: str) -> FloatArray:
    if pooling == "cls":
        return np.asarray(states[0], np.float64)
    return np.asarray(states.max(axis=0) if pooling == "max" else states.mean(axis=0, dtype=np.float64), np.float64)


def _merge(vectors: Sequence[FloatArray], lengths: Sequence[int], info: BundleInfo) -> FloatArray:
    """Windows to one vector: mean by tokens, maximum, or plain mean for `cls`."""
    if info.pooling == "max":
        merged = np.max(vectors, axis=0)
    else:
        merged = np.average(vectors, axis=0, weights=lengths if info.pooling == "mean" else None)
    return np.asarray(merged / np.linalg.norm(merged) if info.normalize else merged, np.float64)
