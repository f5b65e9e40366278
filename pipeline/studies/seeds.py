"""One recipe trained with several seeds: its figures on validation rows, their mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.encoder.bundle import BundleInfo
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.studies.tables import markdown_table, spread
from pipeline.uris import join_uri

_DIGITS = 4
_NOTE = "Mean ± sample standard deviation over seeds, on validation rows."


def describe_seeds(found: Mapping[int, Mapping[str, BundleInfo]]) -> str:
    """Seed -> head -> bundle, as a table with a line for each figure; empty if there is none."""
    lines = []
    for head, first in next(iter(found.values())).items():
        for metric in first.metrics:
            values = [infos[head].metrics[metric] for infos in found.values()]
            name = f"{head}.{metric}" if head else metric
            lines.append((name, spread(values).show(_DIGITS), *(f"{value:.{_DIGITS}f}" for value in values)))
    header = ("figure", "all", *(f"seed {seed}" for seed in found))
    return f"{markdown_table(header, lines)}\n{_NOTE}\n" if lines else ""


def write_seeds(spec: FinetuneSpec, found: Mapping[int, Mapping[str, BundleInfo]]) -> str:
    """Write the table beside the bundles, as `seeds.md`.

    Returns:
        It; without figures nothing is written, and the text says so.
    """
    text = describe_seeds(found)
    if not text:
        return "no validation rows, so no figures over seeds"
    Storage(spec.storage).write_bytes(join_uri(spec.output, "seeds.md"), text.encode())
    return text
