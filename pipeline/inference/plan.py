"""Corpus versus ledger -> the work that is left. Pure functions over what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.corpus.shards import Shard
from pipeline.encoder.bundle import BundleInfo
from pipeline.inference.spec import ScoreSpec
from pipeline.output.ledger import DoneRecord
from pipeline.output.table import DataFile
from pipeline.schema import QUARANTINE

OUTPUT_FORMAT = 3  # raise when the same inputs would be written differently


@dataclass(frozen=True)
class ScorePlan:
    """What a night needs.

    Attributes:
        shards: Every shard of the corpus.
        done: Shard name -> its record, for shards of this corpus that are finished and whose files are there.
        stale: Names whose record points to a file that is gone, or has other column types; they are
            scored again.
    """

    shards: tuple[Shard, ...]
    done: Mapping[str, DoneRecord]
    stale: tuple[str, ...]

    @cached_property
    def pending(self) -> tuple[Shard, ...]:
        """Shards still to score, the largest first, so that no long one is left for the end."""
        left = [shard for shard in self.shards if shard.name not in self.done]
        return tuple(sorted(left, key=lambda shard: (-shard.num_bytes, shard.name)))

    @cached_property
    def num_rows(self) -> int:
        """Rows of the corpus."""
        return sum(shard.num_rows for shard in self.shards)

    @cached_property
    def num_pending_rows(self) -> int:
        """Rows still to score."""
        return sum(shard.num_rows for shard in self.pending)


def plan_scoring(
    shards: Sequence[Shard], records: Mapping[str, DoneRecord], file_sizes: Mapping[str, int]
) -> ScorePlan:
    """Subtract finished shards.

    Args:
        shards: The corpus.
        records: The ledger's records for (at least) these shards.
        file_sizes: Path -> size of the files that stand in the table's folder; a record whose file is missing
            or has another size does not count.
    """
    names = {shard.name for shard in shards}
    known = {name: record for name, record in records.items() if name in names}
    sound = {name: record for name, record in known.items() if _files_stand(record, file_sizes)}
    return ScorePlan(tuple(shards), sound, tuple(sorted(known.keys() - sound.keys())))


def fingerprint_run(spec: ScoreSpec, bundles: Mapping[str, BundleInfo]) -> str:
    """Hash of everything that decides what a row's scores are and how they are written.

    Where the corpus lies and how it is cut is not in it: that is in the shards' names.
    """
    parts: dict[str, object] = {
        "format": OUTPUT_FORMAT,
        "bundles": {name: bundle.fingerprint for name, bundle in bundles.items()},
        "inputs": {name: {**bundle.inputs, **spec.corpus.inputs} for name, bundle in bundles.items()},
        "keep": list(spec.corpus.keep),
        "empty_text": spec.corpus.empty_text,
        "precision": spec.compute.precision,
        "embedding": [name for name in sorted(bundles) if spec.output.writes_embedding(name)],
    }
    if spec.cascade is not None:
        parts["cascade"] = spec.cascade.min_score
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scored_files(records: Iterable[DoneRecord]) -> tuple[DataFile, ...]:
    """The files a night's scored rows stand in."""
    return tuple(
        DataFile(record.path, record.size_bytes, record.num_scored_rows)
        for record in records
        if record.path is not None
    )


def quarantine_files(records: Iterable[DoneRecord]) -> tuple[DataFile, ...]:
    """The files a night's quarantined rows stand in, relative to the quarantine table."""
    return tuple(
        DataFile(record.quarantine_path, record.quarantine_size_bytes, record.num_quarantined_rows)
        for record in records
        if record.quarantine_path is not None
    )


def _files_stand(record: DoneRecord, file_sizes: Mapping[str, int]) -> bool:
    scored = record.path is None or file_sizes.get(record.path) == record.size_bytes
    path = record.quarantine_path
    return scored and (path is None or file_sizes.get(f"{QUARANTINE}/{path}") == record.quarantine_size_bytes)
