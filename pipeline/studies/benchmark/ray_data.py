"""What people write with Ray Data: read_parquet, map_batches with a transformers pipeline, write_parquet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.config import PoolOptions
from pipeline.storage import Storage

_MAPPED_ROWS = 1_024


@dataclass(frozen=True)
class PipelineOptions:
    """A pipeline's settings.

    Attributes:
        model: A directory.
        max_length: Tokens kept of a text.
        pool: Its workers.
        dtype: Of the weights, by torch's name.
        batch_rows: Of the pipeline; None leaves it to transformers.
        is_sorted: Texts of one mapped batch go longest first.
    """

    model: str
    max_length: int
    pool: PoolOptions
    dtype: str
    batch_rows: int | None
    is_sorted: bool


def score_naively(corpus: str, output: str, storage: Storage, options: PipelineOptions) -> float:
    """Read, classify, write; needs a running Ray.

    Returns:
        When the first batch began, in seconds since 1970.
    """
    import ray.data

    filesystem, path = storage.open_arrow(corpus)
    _, target = storage.open_arrow(output)
    ray.data.read_parquet(path, filesystem=filesystem, columns=["text"]).map_batches(
        _Classifier,
        batch_size=_MAPPED_ROWS,
        fn_constructor_args=(options,),
        compute=ray.data.ActorPoolStrategy(size=options.pool.num_workers),
        num_cpus=options.pool.cpus_per_worker,
        num_gpus=options.pool.gpus_per_worker,
    ).write_parquet(target, filesystem=filesystem)
    began = ds.dataset(target, filesystem=filesystem).to_table(columns=["began_s"])["began_s"]
    return float(pc.min(began).as_py())


class _Classifier:
    """What runs in an actor."""

    def __init__(self, options: PipelineOptions) -> None:
        import torch
        import transformers

        self._options = options
        torch.set_num_threads(options.pool.threads_per_worker)
        device = 0 if options.pool.gpus_per_worker else -1
        self._classify: Any = transformers.pipeline(
            "text-classification", options.model, dtype=getattr(torch, options.dtype), device=device
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began_s, texts = time.time(), [str(text) for text in batch["text"]]
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row])) if self._options.is_sorted else None
        batched = {} if self._options.batch_rows is None else {"batch_size": self._options.batch_rows}
        rows = list(range(len(texts))) if order is None else order
        found = self._classify(
            [texts[row] for row in rows], truncation=True, max_length=self._options.max_length, **batched
        )
        return {
            "text": np.array([texts[row] for row in rows]),
            "label": np.array([item["label"] for item in found]),
            "score": np.array([item["score"] for item in found], np.float32),
            "began_s": np.full(len(found), began_s),
        }
