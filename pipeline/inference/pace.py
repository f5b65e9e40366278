"""How fast a night would be scored: as fast as the newest night like it, or as rows of it are right now, right here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import PoolOptions
from pipeline.corpus.sample import Spot, head_of
from pipeline.corpus.shards import Piece, Shard, name_shard
from pipeline.encoder.batching import IntArray
from pipeline.inference.prepare import PreparedRun, make_job
from pipeline.inference.probed import Probed, keep_probe, recall_probe
from pipeline.output.ledger import DoneRecord, records_from
from pipeline.output.manifests import Manifest, nights_with_manifests, read_manifests
from pipeline.output.usage import StageTimes

if TYPE_CHECKING:
    from pipeline.inference.worker import ShardScorer

_MAX_NIGHTS = 20
_MIN_TOKENS = 20_000  # a night of fewer says more about starting than about scoring
_PROBE_S, _PROBES, _FIRST_ROWS, _MAX_ROWS = 3.0, 3, 64, 8_192
RAY_START_S = 10.0
"""What a local Ray's start and its worker's imports take, as estimated from one night on 2 cores: see docs/scale.md."""


@dataclass(frozen=True)
class Sampled:
    """What is known of the rows to come.

    Attributes:
        spots: Where some of them stand.
        num_tokens: Of all of them, estimated.
        num_rows: From how many.
        lengths: Tokens of each window of those, as the first bundle reads them.
    """

    spots: Sequence[Spot]
    num_tokens: float
    num_rows: int
    lengths: IntArray


@dataclass(frozen=True)
class Pace:
    """What one worker does a second, and what a run takes besides.

    Attributes:
        worker_tokens_per_s: Of one worker while it is at work, all its stages counted.
        fixed_s: Before the first shard and after the last.
        num_workers: How many there would be.
        basis: Where this is known from, for people.
    """

    worker_tokens_per_s: float
    fixed_s: float
    num_workers: int
    basis: str

    def seconds(self, num_tokens: float, largest_share: float) -> float:
        """From command to commit.

        Args:
            num_tokens: Of all shards.
            largest_share: The largest shard's part of them: no number of workers is faster than one of them on that.
        """
        return self.fixed_s + num_tokens / self.worker_tokens_per_s * max(1 / self.num_workers, largest_share)


def pace_of_nights(run: PreparedRun, pool: PoolOptions | None) -> Pace | None:
    """That of the newest night scored by the same model in the same way; None if no late night was.

    Args:
        run: The night to come.
        pool: The workers it would have; None: whatever those of the night had.
    """
    storage, uri = run.ledger.storage, run.ledger.table_uri
    for night in nights_with_manifests(uri, storage)[:_MAX_NIGHTS]:
        for manifest in reversed(read_manifests(uri, storage, night)):
            if _is_like(manifest, run, pool):
                return _pace_of(manifest, pool)
    return None


def pace_of_probe(
    run: PreparedRun, sampled: Sampled, pool: PoolOptions, before_s: float, probes_anew: bool = False
) -> Pace:
    """That of rows of the sample, scored here for a few seconds, now or by a plan of the last 30 days.

    Args:
        run: The night to come.
        sampled: Its rows.
        pool: The workers it would have; the probe is one of them.
        before_s: What planning took.
        probes_anew: Whatever an earlier plan found.

    Raises:
        BertmillError: what the worker would raise.
    """
    known = None if probes_anew else recall_probe(run, pool)
    found = known or _probe(run, sampled.spots, pool)
    rate = found.tokens_per_s_of(sampled.lengths)
    threads = f"{pool.cpus_per_worker:g} CPUs" if pool.gpus_per_worker == 0 else "a GPU"
    when = f", on {known.day}" if known else ""
    basis = f"a probe of {found.num_tokens:,} tokens here{when}, with {threads}: {rate:,.0f} tokens/s"
    return Pace(rate, before_s + found.load_s + RAY_START_S, pool.num_workers, basis)


def _probe(run: PreparedRun, spots: Sequence[Spot], pool: PoolOptions) -> Probed:
    """Score rows as a worker would, into a folder that is then thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        job = make_job(run, pool.threads_per_worker, "probe")
        started_s = time.monotonic()
        scorer = replace(job, ledger=replace(job.ledger, table_uri=scratch), reuse=None).build()
        load_s = time.monotonic() - started_s
        _score(scorer, _mixed_shard(spots, _FIRST_ROWS // 4))  # the first batches of a process are slow
        _, first_s = _score(scorer, _mixed_shard(spots, _FIRST_ROWS))
        num_rows = max(_FIRST_ROWS, min(_MAX_ROWS, int(_FIRST_ROWS * _PROBE_S / _PROBES / first_s)))
        # Each a row longer, as a shard that is done keeps its record; the best is the least disturbed one.
        tries = [_score(scorer, _mixed_shard(spots, num_rows + 1 + more)) for more in range(_PROBES)]
        batch = scorer.padded_batch
    best, seconds = max(tries, key=lambda found: found[0].num_tokens / found[1])
    num_tokens = max(round(_with_copies(best.num_tokens, best.num_rows, best.num_reused_rows)), 1)
    probed = Probed(
        num_tokens,
        num_tokens / seconds,
        load_s,
        time.time(),
        best.num_padded_tokens / best.num_tokens if best.num_tokens else 1.0,
        None if batch is None else (batch.tokens, batch.rows),
    )
    keep_probe(run, pool, probed)
    return probed


def _is_like(manifest: Manifest, run: PreparedRun, pool: PoolOptions | None) -> bool:
    """Whether a run was of the same model, in the same precision, on workers like these, and large enough to tell."""
    said, usage = manifest.counts, _usage(manifest)
    spec = said.get("spec", {})
    compute, cascade = spec.get("compute", {}), spec.get("cascade") or {}
    how = {"precision": run.spec.compute.precision, "batch_tokens": run.spec.compute.batch_tokens}
    return bool(
        said.get("model_version") == run.model_version
        and cascade.get("min_score") == (run.spec.cascade.min_score if run.spec.cascade else None)
        and {name: compute.get(name) for name in how} == how
        and usage.get("num_tokens", 0) >= _MIN_TOKENS
        and usage.get("busy_s", 0.0) > 0.0
        and "gpus_per_worker" in usage
        and (pool is None or _workers(usage) == (pool.cpus_per_worker, pool.gpus_per_worker))
    )


def _pace_of(manifest: Manifest, pool: PoolOptions | None) -> Pace:
    usage = _usage(manifest)
    num_rows, num_copied = (manifest.counts[f"num_{name}_this_run"] for name in ("rows", "reused_rows"))
    rate = _with_copies(usage["num_tokens"], num_rows, num_copied) / usage["busy_s"]
    basis = f"night {manifest.run_date} of this table, with the same model: {rate:,.0f} tokens/s a worker"
    num_workers = usage["num_workers"] if pool is None else pool.num_workers
    return Pace(rate, usage["before_s"] + usage["after_s"], num_workers, basis)


def _with_copies(num_tokens: int, num_rows: int, num_copied_rows: int) -> float:
    """Tokens of all rows, from those that were computed: an estimate counts the texts that are equal to others too."""
    return num_tokens * num_rows / max(num_rows - num_copied_rows, 1)


def _usage(manifest: Manifest) -> dict[str, Any]:
    return dict(manifest.counts.get("usage") or {})


def _workers(usage: dict[str, Any]) -> tuple[float, float]:
    return usage["cpus_per_worker"], usage["gpus_per_worker"]


def _mixed_shard(spots: Iterable[Spot], num_rows: int) -> Shard:
    """About so many rows, of each spot in proportion to the rows it stands for."""
    meant = np.cumsum([spot.num_meant_rows for spot in spots])
    shares = np.diff(np.floor(meant / meant[-1] * num_rows + 0.5).astype(int), prepend=0)
    pieces = tuple(head_of(spot, int(share)) for spot, share in zip(spots, shares, strict=True) if share)
    return _shard_of(pieces)


def _shard_of(pieces: tuple[Piece, ...]) -> Shard:
    return Shard(name_shard(pieces), pieces, 0)


def _score(scorer: ShardScorer, shard: Shard) -> tuple[DoneRecord, float]:
    """The record, and seconds without those of reading, which opens a file here for every few rows."""
    (record,) = records_from(scorer.process(shard))
    stages: StageTimes = record.usage.stages
    return record, max(stages.busy_s - stages.read_s, 1e-9)
