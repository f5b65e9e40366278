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
class FreshRow:
    """What transformers says of one row.

    Attributes:
        logits: [C], the mean over its windows; [0] for heads that are not over rows.
        embedding: [hidden].
        num_tokens: Over all windows, special tokens included.
        is_truncated: The text had more tokens than were used.
    """

    logits: FloatArray
    embedding: FloatArray
    num_tokens: int
    is_truncated: bool


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
        self._has_head = task.head_class != "AutoModel" and not task.needs_spans

    def run(self, texts: Sequence[str]) -> FreshRow:
        """One row: a text, or a pair of them."""
        info, is_windowed = self._info, self._info.long_text == "window"
        options: dict[str, Any] = {"stride": info.stride, "return_overflowing_tokens": True} if is_windowed else {}
        encoded = self._tokenizer(*texts, truncation=True, max_length=info.max_length, **options)
        encoded.pop("overflow_to_sample_mapping", None)
        names = [name for name in self._tokenizer.model_input_names if name in encoded]
        num_windows = len(encoded["input_ids"]) if is_windowed else 1
        logits, vectors, lengths = [], [], []
        for index in range(num_windows):
            inputs = {name: torch.tensor([encoded[name][index] if is_windowed else encoded[name]]) for name in names}
            with torch.inference_mode():
                states = self._network.base_model(**inputs)[0][0].numpy()
                if self._has_head:
                    logits.append(self._network(**inputs).logits[0].numpy())
            vectors.append(_pool(states, info.pooling))
            lengths.append(len(states))
        whole = len(self._tokenizer(*texts, truncation=False)["input_ids"])
        is_truncated = not is_windowed and whole > info.max_length
        mean_logits = np.asarray(np.mean(logits, axis=0) if logits else [], np.float64)
        return FreshRow(mean_logits, _merge(vectors, lengths, info), sum(lengths), is_truncated)


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
