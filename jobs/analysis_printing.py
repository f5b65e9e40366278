"""What the jobs on a night's embeddings print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.analysis.run import Analysis


def print_analysis(done: Analysis, summary: str) -> None:
    """What was found, in a sentence whose blanks are the result's facts, and where it is."""
    found, facts = done.found, done.found.facts
    print(f"{found.kind} of {found.table}, version {found.version}{'' if done.is_new else ': already there'}")
    print(f"  {summary.format_map(facts)}; {facts['num_without_embedding']:,} without an embedding")
    for uri in found.files.values():
        print(f"  {uri}")
    if done.removed:
        print(f"  replaced earlier and removed now: {len(done.removed):,} files")
