"""What a prepared run would do, in words and numbers, before anything is started."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from pipeline.corpus.reader import REASON, input_column, read_shard
from pipeline.corpus.shards import Piece, Shard, name_shard
from pipeline.encoder.bundle import fetch_bundle
from pipeline.encoder.loading import load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.source import token_groups, token_options
from pipeline.tasks import find_task
from pipeline.uris import join_uri

_SAMPLE_SHARDS = 4
_SAMPLE_ROWS = 256


@dataclass(frozen=True)
class Estimate:
    """Work that is left, from a sample of the pending rows.

    Attributes:
        num_rows: Rows to score, counted.
        num_tokens: Tokens to compute, estimated.
        seconds: At the rate of this table's latest run; None when there was none.
    """

    num_rows: int
    num_tokens: float
    num_sampled_rows: int
    seconds: float | None

    def describe(self) -> str:
        """One line for people."""
        time = "time unknown (this table has no earlier run to go by)"
        if self.seconds is not None:
            time = f"about {self.seconds:,.0f} s at the latest run's tokens/s"
        tokens = f"about {self.num_tokens:,.0f} tokens (from {self.num_sampled_rows:,} sampled rows)"
        return f"estimate: {self.num_rows:,} rows, {tokens}, {time}"


def explain_plan(run: PreparedRun) -> list[str]:
    """What `score` would do and why."""
    plan, night = run.plan, run.ledger.run_date
    lines = [
        f"night {night} of {run.ledger.table_uri}",
        f"corpus: {len(run.footers):,} files, {plan.num_rows:,} rows, {len(plan.shards):,} shards",
        *(
            f"model: {f'{name}: ' if name else ''}{_called(run, name)} (model_version {info.model_version})"
            for name, info in run.bundles.items()
        ),
    ]
    num_covered = len(run.files) - len(run.footers)
    if num_covered:
        lines.append(f"in earlier nights, unchanged: {num_covered:,} further files")
    if run.skipped:
        first = run.skipped[0]
        lines.append(f"left out: {len(run.skipped):,} corrupt files (first: {first.uri}: {first.reason})")
    if run.is_published:
        return [*lines, "nothing to do: this night is published and holds exactly these rows"]
    if plan.done:
        done_rows = plan.num_rows - plan.num_pending_rows
        lines.append(f"done before: {len(plan.done):,} shards, {done_rows:,} rows (same files, same fingerprint)")
    if plan.stale:
        lines.append(f"to redo: {len(plan.stale):,} shards whose files are gone")
    why = "new or changed files, or a changed model or setting" if plan.done else "none is done under this fingerprint"
    if plan.pending:
        lines.append(f"to score: {len(plan.pending):,} shards, {plan.num_pending_rows:,} rows ({why})")
    return [*lines, "then: one commit publishes the night"]


def estimate_work(run: PreparedRun) -> Estimate:
    """Tokenise a sample of the pending rows; the sample is spread over the pending shards."""
    groups = [names[0] for names in token_groups(run.bundles, run.source.texts)]
    tokenizers = {name: _open_tokenizer(run, name) for name in groups}
    columns = run.source.columns
    pending = run.plan.pending
    picks = np.unique(np.linspace(0, len(pending) - 1, _SAMPLE_SHARDS).astype(int))
    num_tokens = num_sampled = 0
    for pick in picks:
        rows = read_shard(_head(pending[pick]), columns, run.source.options, run.ledger.storage)
        good = rows.filter(pc.is_null(rows[REASON]))
        for name, tokenizer in tokenizers.items():
            texts = (good[input_column(column)] for column in run.source.texts[name].columns)
            num_tokens += len(tokenizer.encode(*texts).ids)
        num_sampled += rows.num_rows
    total = num_tokens / max(num_sampled, 1) * run.plan.num_pending_rows
    rate = _latest_tokens_per_s(run)
    return Estimate(run.plan.num_pending_rows, total, num_sampled, total / rate if rate else None)


def _called(run: PreparedRun, name: str) -> str:
    """A bundle as the spec calls it, and what that was resolved to."""
    model = run.models.get(name)
    return f"{model.asked}, which is {model.version} for this night" if model else run.spec.bundle[name]


def _open_tokenizer(run: PreparedRun, name: str) -> TextTokenizer:
    bundle = fetch_bundle(run.spec.bundle[name], run.ledger.storage)
    options = token_options(bundle.info, find_task(bundle.info.task, run.spec.bundle[name]))
    return TextTokenizer(load_tokenizer(bundle.path), options)


def _head(shard: Shard) -> Shard:
    first = shard.pieces[0]
    piece = Piece(first.file, first.start_row, min(first.stop_row, first.start_row + _SAMPLE_ROWS))
    return Shard(name_shard([piece]), (piece,), 0)


def _latest_tokens_per_s(run: PreparedRun) -> float | None:
    """From the newest manifest in which something was scored."""
    storage = run.ledger.storage
    found = [item.uri for item in storage.list_objects(join_uri(run.ledger.table_uri, "_manifests"))]
    found = [uri for uri in found if uri.endswith(".json")]
    for uri in sorted(found, reverse=True)[:20]:
        manifest = json.loads(storage.read_bytes(uri) or b"{}")
        if manifest.get("num_tokens_this_run", 0) > 0:
            return float(manifest["num_tokens_this_run"]) / max(float(manifest["elapsed_s"]), 1e-9)
    return None
