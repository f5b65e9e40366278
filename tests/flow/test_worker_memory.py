"""A worker's memory is that of its model and of one shard, however many shards it works through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.rules.sources import ROOT
from tests.tiny import make_bundle, write_corpus

SHARD_ROWS, NUM_SHARDS = 500, 20


def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    write_corpus(tmp_path / "corpus", NUM_SHARDS, SHARD_ROWS, SHARD_ROWS)
    arguments = [str(tmp_path / "bundle"), str(tmp_path / "corpus"), str(tmp_path / "scores"), str(SHARD_ROWS)]
    command = [sys.executable, "-m", "tests.flow.worker_memory", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    num_shards, num_rows, tenth_mb, peak_mb = map(float, done.stdout.split())
    assert (num_shards, num_rows) == (NUM_SHARDS, NUM_SHARDS * SHARD_ROWS)
    assert peak_mb < 1.3 * tenth_mb
    # libraries are most of a tiny worker's memory and would hide a leak from the ratio: 9,000 rows kept, at 1 KB or
    # more each as Python objects, are seen only here
    assert peak_mb - tenth_mb < 9
