"""A worker's own process: builds a tiny model's ShardScorer, works through a corpus, prints its peak memory.

    python -m tests.flow.worker_memory BUNDLE CORPUS OUTPUT SHARD_ROWS

Prints shards, rows, and the peak in MB once a tenth of the shards is done and once all are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from pipeline.studies.scale import peak_mb
from tests.unit.inference.scoring import prepared, scorer_for


def main(bundle: str, corpus: str, output: str, shard_rows: str) -> None:
    """Score every shard, one after the other."""
    torch.set_num_threads(1)
    block = {"shard_rows": int(shard_rows), "shard_bytes": 2**20}
    run = prepared(Path(bundle), Path(corpus), Path(output), corpus=block)
    scorer, peaks_mb = scorer_for(run), []
    for shard in run.plan.pending:
        scorer.process(shard)
        peaks_mb.append(peak_mb())
    num_shards = len(peaks_mb)
    print(num_shards, run.plan.num_rows, round(peaks_mb[num_shards // 10 - 1], 1), round(peaks_mb[-1], 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
