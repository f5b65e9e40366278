"""Parquet -> a published night: bertmill's own run, a naive one of Ray Data, and the bare model as a bound.

All use one local Ray and as many CPUs. What counts is the time from the first text that is read to the commit (for
Ray Data from its model's first batch, reading left out); starting workers and loading models is told apart.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.config import ComputeConfig, PoolOptions, StorageConfig
from pipeline.inference.prepare import prepare_run
from pipeline.inference.publish import publish_run
from pipeline.inference.run import run_id_for, score_pending
from pipeline.inference.spec import ScoreSpec
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.benchmark.embedding import EmbeddingWork, bare_model
from pipeline.studies.benchmark.ray_data import PipelineOptions, score_naively
from pipeline.studies.benchmark.rounds import Contender, Lap
from pipeline.uris import join_uri

NIGHT = "2000-01-01"
_NUM_FILES = 4


@dataclass(frozen=True)
class NightWork:
    """What everyone does.

    Attributes:
        bundle: A local directory: text classification.
        corpus: URI of a folder of Parquet files with a column `text`.
        at: URI under which everyone writes.
        max_length: Tokens kept of a text.
        compute: Device and precision.
        storage: Of corpus and results.
        pool: The workers that everyone has.
    """

    bundle: Path
    corpus: str
    at: str
    max_length: int
    compute: ComputeConfig
    storage: StorageConfig
    pool: PoolOptions

    def spec(self) -> ScoreSpec:
        """A night of a table of its own: labels, scores and embeddings."""
        return ScoreSpec.model_validate(
            {
                "bundle": str(self.bundle),
                "corpus": {"uri": self.corpus},
                "output": {"uri": self._new_place()},
                "compute": self.compute.model_dump(exclude_unset=True),
                "storage": self.storage.model_dump(exclude_unset=True),
            }
        )

    def _new_place(self) -> str:
        return join_uri(self.at, uuid.uuid4().hex[:8])

    def run_bertmill(self) -> Lap:
        """Plan, score and publish."""
        started_s, spec = time.monotonic(), self.spec()
        run, run_id = prepare_run(spec, NIGHT), run_id_for(NIGHT)
        records = score_pending(run, self.pool, run_id)
        report = publish_run(run, records, run_id, started_s, self.pool)
        return Lap(report.elapsed_s - report.usage.before_s, report.usage.before_s)

    def run_ray_data(self, options: PipelineOptions) -> Lap:
        """Read, map, write."""
        started_s, storage = time.time(), Storage(self.storage)
        began_s = score_naively(self.corpus, self._new_place(), storage, options)
        return Lap(time.time() - began_s, began_s - started_s)


def night_contenders(work: NightWork, bare: EmbeddingWork, best: PipelineOptions) -> list[Contender]:
    """bertmill, the bare model, Ray Data as people write it, and as it does best."""
    naive = PipelineOptions(str(work.bundle), work.max_length, work.pool, "float32", None, is_sorted=False)
    known = f"{'bf16' if best.dtype == 'bfloat16' else 'fp32'}, sorted, batches of {best.batch_rows}"
    return [
        Contender("bertmill: labels and embeddings, published", work.run_bertmill),
        bare_model(bare),
        Contender("Ray Data, pipeline as it comes (fp32, text by text)", lambda: work.run_ray_data(naive)),
        Contender(f"Ray Data, pipeline at its best ({known})", lambda: work.run_ray_data(best)),
    ]


@contextmanager
def stored_corpus(texts: pa.ChunkedArray, at: str, storage: Storage) -> Iterator[str]:
    """The texts as Parquet files below a folder, which is emptied afterwards."""
    corpus, size = join_uri(at, f"benchmark-{uuid.uuid4().hex[:8]}"), -(-len(texts) // _NUM_FILES)
    for number, start in enumerate(range(0, len(texts), size)):
        part = pa.table({"text": texts.slice(start, size)})
        write_parquet(part, join_uri(corpus, "corpus", f"part-{number}.parquet"), {}, storage)
    try:
        yield corpus
    finally:
        for item in storage.list_objects(corpus):
            storage.delete(item.uri)
