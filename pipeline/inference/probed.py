"""What probes of this machine found, kept in the user's cache: a second plan like it need not load the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pipeline.config import PoolOptions
from pipeline.encoder.batching import BatchBudget, IntArray, padding_factor
from pipeline.inference.prepare import PreparedRun

_MAX_AGE_S = 30 * 86_400.0


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Attributes:
        num_tokens: Tokens that it scored, padding not counted.
        tokens_per_s: Of one worker.
        load_s: What loading the model took.
        at_s: When it was, in seconds since 1970.
        padding_factor: Tokens that it computed, for each of those.
        batch: Tokens and rows of a padded batch; None where nothing is padded.
    """

    num_tokens: int
    tokens_per_s: float
    load_s: float
    at_s: float
    padding_factor: float
    batch: tuple[int, int] | None

    @property
    def day(self) -> str:
        """The day of the probe, UTC."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.at_s))

    def tokens_per_s_of(self, lengths: IntArray) -> float:
        """Of windows of such lengths: a night's are padded less than a probe's, which are few and so less alike."""
        if self.batch is None:
            return self.tokens_per_s
        return self.tokens_per_s * self.padding_factor / padding_factor(lengths, BatchBudget(*self.batch))


def recall_probe(run: PreparedRun, pool: PoolOptions) -> Probed | None:
    """What was found of the same model on the same machine in the last 30 days; None if nothing can be read of that."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = Probed(**json.loads(_place(run, pool).read_text()))
        if found.tokens_per_s > 0 and 0 <= time.time() - found.at_s < _MAX_AGE_S:
            return found
    return None


def keep_probe(run: PreparedRun, pool: PoolOptions, found: Probed) -> None:
    """Write down what was found, or leave it where nothing can be written: it only saves time."""
    place = _place(run, pool)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(asdict(found)))
        scratch.replace(place)


def _place(run: PreparedRun, pool: PoolOptions) -> Path:
    """The file for everything that the pace depends on but the texts: models, precision, threads, machine, versions."""
    compute = run.spec.compute
    parts = (
        *(f"{name}={info.fingerprint}" for name, info in sorted(run.bundles.items())),
        f"{run.spec.cascade.min_score if run.spec.cascade else ''}",
        f"{run.spec.output.embedding} {compute.precision} {compute.batch_tokens} {compute.device}",
        f"{pool.cpus_per_worker} {pool.gpus_per_worker}",
        f"{platform.node()} {platform.machine()} {os.cpu_count()}",
        *(version(name) for name in ("torch", "transformers")),
    )
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bertmill" / "probes"
    return root / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"
