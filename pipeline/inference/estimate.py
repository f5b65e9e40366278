"""What a prepared run would do, in words and numbers, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import PoolOptions
from pipeline.corpus.reader import REASON, Columns, input_column
from pipeline.corpus.sample import SampleSize, Spot, choose_spots, read_sample
from pipeline.corpus.shards import Shard
from pipeline.encoder.batching import IntArray
from pipeline.encoder.bundle import fetch_bundle
from pipeline.encoder.loading import load_counting_tokenizer
from pipeline.encoder.tokenize import TextTokenizer
from pipeline.inference.pace import Sampled, pace_of_nights, pace_of_probe
from pipeline.inference.prepare import PreparedRun
from pipeline.inference.source import token_groups, token_options
from pipeline.inference.spec import FIRST
from pipeline.tasks import find_task

_SAMPLE = SampleSize()


@dataclass(frozen=True)
class Estimate:
    """Work that is left, from a sample of the pending rows.

    Attributes:
        num_rows: Rows to score, counted.
        num_tokens: Tokens to compute, estimated; rows whose results may be copied are counted too.
        num_sampled_rows: From how many rows.
        seconds: From command to commit; None where nothing tells the pace.
        basis: What the pace is known from, or why it is not.
        cost: Of the workers for that long, at the spec's price; None without a price or a time.
    """

    num_rows: int
    num_tokens: float
    num_sampled_rows: int
    seconds: float | None
    basis: str
    cost: float | None

    def describe(self) -> list[str]:
        """Lines for people."""
        tokens = f"about {self.num_tokens:,.0f} tokens (from {self.num_sampled_rows:,} sampled rows)"
        time_ = "time unknown" if self.seconds is None else f"about {self.seconds:,.0f} s from command to commit"
        lines = [f"estimate: {self.num_rows:,} rows, {tokens}", f"  {time_}, by {self.basis}"]
        if self.cost is not None:
            by_rows = self.cost / max(self.num_rows, 1) * 1e6
            lines.append(f"  cost about {self.cost:,.4g}, {by_rows:,.4g} a million rows")
        return lines


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
    if run.added_columns:
        lines.append(f"new columns of the table, null in nights before: {', '.join(run.added_columns)}")
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
        lines.append(f"to redo: {len(plan.stale):,} shards whose files are gone or have other column types")
    why = "new or changed files, or a changed model or setting" if plan.done else "none is done under this fingerprint"
    if plan.pending:
        lines.append(f"to score: {len(plan.pending):,} shards, {plan.num_pending_rows:,} rows ({why})")
    return [*lines, "then: one commit publishes the night"]


def estimate_work(
    run: PreparedRun, pool: PoolOptions | None, before_s: float = 0.0, probes_anew: bool = False
) -> Estimate:
    """Tokenise a sample of the pending rows; time it by an earlier night, or else by scoring some of them here.

    Args:
        run: A run with pending rows.
        pool: The workers it would have on this machine; None where it would run on others.
        before_s: What planning took.
        probes_anew: Score some of them here in any case.

    Raises:
        CorpusError: a sampled file is corrupt or changed.
    """
    sampled = estimate_tokens(run, sample_spots(run))
    pace = None if probes_anew and pool is not None else pace_of_nights(run, pool)
    if pace is None and pool is not None:
        pace = pace_of_probe(run, sampled, pool, before_s, probes_anew)
    if pace is None:
        basis = "no earlier night: the cluster's machines are not this one"
        return Estimate(run.plan.num_pending_rows, sampled.num_tokens, sampled.num_rows, None, basis, None)
    pending = run.plan.pending
    largest = max(shard.num_rows for shard in pending) / run.plan.num_pending_rows
    seconds, price = pace.seconds(sampled.num_tokens, largest), run.spec.compute.price_per_hour
    cost = None if price is None else pace.num_workers * seconds / 3600 * price
    return Estimate(run.plan.num_pending_rows, sampled.num_tokens, sampled.num_rows, seconds, pace.basis, cost)


def sample_spots(run: PreparedRun) -> list[Spot]:
    """Where to look in what is pending."""
    layouts = {footer.layout.file.uri: footer.layout for footer in run.footers}
    pieces = (piece for shard in sorted(run.plan.pending, key=_first_place) for piece in shard.pieces)
    return choose_spots(pieces, layouts, _SAMPLE.spots)


def estimate_tokens(run: PreparedRun, spots: Sequence[Spot]) -> Sampled:
    """Tokens of all that is pending, as far as rows of these spots tell."""
    counted = {FIRST: run.bundles[FIRST]} if run.spec.cascade is not None else run.bundles  # as the worker counts
    names = [group[0] for group in token_groups(counted, run.source.texts)]
    tokenizers = {name: _open_tokenizer(run, name) for name in names}
    options = replace(run.source.options, kept_schema=pa.schema([]))
    columns, total, num_sampled = Columns(run.source.columns.inputs), 0.0, 0
    lengths: list[IntArray] = [np.zeros(0, np.int64)]
    for spot, rows in zip(spots, read_sample(spots, columns, options, run.ledger.storage, _SAMPLE), strict=True):
        good, num_tokens = rows.filter(pc.is_null(rows[REASON])), 0
        for name, tokenizer in tokenizers.items():
            texts = (good[input_column(column)] for column in run.source.texts[name].columns)
            tokens = tokenizer.encode(*texts)
            num_tokens += len(tokens.ids)
            if name == names[0]:
                lengths.append(tokens.lengths)
        total += num_tokens / max(rows.num_rows, 1) * spot.num_meant_rows
        num_sampled += rows.num_rows
    return Sampled(spots, total, num_sampled, np.concatenate(lengths))


def _called(run: PreparedRun, name: str) -> str:
    """A bundle as the spec calls it, and what that was resolved to."""
    model = run.models.get(name)
    return f"{model.asked}, which is {model.version} for this night" if model else run.spec.bundles[name]


def _open_tokenizer(run: PreparedRun, name: str) -> TextTokenizer:
    bundle = fetch_bundle(run.spec.bundles[name], run.ledger.storage, tokenizer_only=True)
    options = token_options(bundle.info, find_task(bundle.info.task, run.spec.bundles[name]))
    return TextTokenizer(load_counting_tokenizer(bundle.path), options)


def _first_place(shard: Shard) -> tuple[str, int]:
    return shard.pieces[0].file.uri, shard.pieces[0].start_row
