"""What jobs print about runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.inference.publish import RunReport
    from pipeline.output.run_usage import RunUsage


def print_run(report: RunReport) -> None:
    """One paragraph on a finished scoring run."""
    without = "already published" if report.num_scored_rows else "published without a commit, as no row was scored"
    did = "published" if report.published else without
    print(f"{did}: night {report.run_date} of {report.table_uri}, version {report.table_version}")
    print(
        f"  rows {report.num_rows:,} = {report.num_scored_rows:,} scored + {report.num_quarantined_rows:,} "
        f"quarantined; {report.num_truncated_rows:,} truncated; {report.num_files:,} files"
    )
    print(
        f"  shards {report.num_shards:,}, of which {report.num_shards_done_before:,} were already done; "
        f"model_version {report.model_version}; run {report.run_id}"
    )
    rows_per_s = report.num_rows_this_run / max(report.elapsed_s, 1e-9)
    tokens_per_s = report.num_tokens_this_run / max(report.elapsed_s, 1e-9)
    if num_standing := report.num_corpus_files - report.num_files - len(report.skipped_files):
        print(f"  {num_standing:,} files of the corpus stand in earlier nights, unchanged")
    if report.num_reused_rows_this_run:
        print(f"  {report.num_reused_rows_this_run:,} rows copied from equal texts, not computed")
    if report.quarantine_reasons:
        print("  quarantined: " + ", ".join(f"{why}: {count:,}" for why, count in report.quarantine_reasons.items()))
    print(f"  {report.elapsed_s:.1f} s from command to commit: {rows_per_s:,.0f} rows/s, {tokens_per_s:,.0f} tokens/s")
    if report.usage.busy_s:
        print(f"  {_where_time_went(report.usage)}")
        print(f"  {_how_well(report.usage)}")


def _where_time_went(usage: RunUsage) -> str:
    """Shares of the workers' time, and the price of it."""
    parts = [
        f"{name.removesuffix('_s')} {seconds / (usage.stages.busy_s + usage.idle.all_s):.0%}"
        for times in (usage.stages, usage.idle)
        for name, seconds in asdict(times).items()
    ]
    cost = "" if usage.cost is None else f"; cost {usage.cost:,.4g}, {usage.cost_per_million_rows:,.4g} a million rows"
    return f"workers: {usage.num_workers}; their time: {', '.join(parts)}{cost}"


def _how_well(usage: RunUsage) -> str:
    """What the model made of the device, and what all of it took."""
    used = "" if (share := usage.model_flop_utilisation) is None else f", {share:.0%} of what its device does"
    padding = "unknown" if (share := usage.padding_share) is None else f"{share:.0%}"
    again = f"; {usage.num_settled_rows:,} rows again in fp32" if usage.num_settled_rows else ""
    sizes = f"read {usage.read_bytes / 2**20:,.1f} MB, written {usage.written_bytes / 2**20:,.1f} MB"
    memory = f"most memory {usage.peak_bytes / 2**20:,.0f} MB"
    gpu = f" and {usage.peak_gpu_bytes / 2**20:,.0f} MB on the GPU" if usage.peak_gpu_bytes else ""
    return f"model: {usage.model_tflops_per_s:.3g} TFLOP/s{used}; padding {padding}{again}; {sizes}; {memory}{gpu}"
