"""How a training went, as a page that needs no network: curves, figures, confusions, the hardest rows, settings."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from pipeline.finetune.hardest import HardRow, find_hardest
from pipeline.finetune.loop import Judgement, Judgements, LoopJob
from pipeline.finetune.prepare import PreparedTraining
from pipeline.report.frame import charts, facts, page, section
from pipeline.report.html import Html, draw_series, table, tag
from pipeline.tasks.base import Confusion
from pipeline.uris import join_uri

REPORT = "training-report.html"
_NUM_HARDEST = 20
_MOST_CLASSES = 20  # of a matrix that people can read; of more classes the most frequent confusions are listed
_MOST_POINTS = 2_000
_MOST_REMARKS = 100
_PACKAGES = ("bertmill", "torch", "transformers", "ray", "pyarrow", "numpy")
_SHOWN_WINDOW = ("loss", "learning_rate", "grad_norm", "tokens_per_s")


def report_uri(run: PreparedTraining) -> str:
    """Where a run's report is, beside its `metrics.jsonl`."""
    return join_uri(run.spec.work_uri, run.run_name, REPORT)


def write_training_report(run: PreparedTraining, job: LoopJob, judgements: Judgements) -> bool:
    """Write the report; on rank 0 only, after the bundles and the log.

    Returns:
        Whether it was written: a training that is finished does not fail for its report.
    """
    try:
        log = run.storage.read_bytes(run.metrics_uri) or b""
        lines = [json.loads(line) for line in log.splitlines() if line]
        run.storage.write_bytes(report_uri(run), describe_training(run, job, judgements, lines).encode())
    except Exception:  # whatever it is: hours of training stand beside a page
        return False
    return True


def describe_training(
    run: PreparedTraining, job: LoopJob, judgements: Judgements, lines: Sequence[Mapping[str, Any]]
) -> str:
    """The page.

    Args:
        run: The run.
        job: The first worker's part of it.
        judgements: Figures of the weights that were bundled.
        lines: The training log.
    """
    title = f"Training of {', '.join(head.name or head.task.name for head in run.heads)}"
    head = [
        tag("h1", title),
        tag("p", f"{run.run_name}, bundled at {run.spec.output}", class_="faint"),
        _facts(run, lines),
    ]
    sections = [*_remarks(run, lines), section("Curves", _curves(lines)), section("Evaluations", _evaluations(lines))]
    for name, judgement in judgements.items():
        sections += _of_head(job, name, judgement)
    sections += [section("Settings", _settings(run)), section("Environment", _environment(run, job))]
    return page(title, [*head, *sections])


def _facts(run: PreparedTraining, lines: Sequence[Mapping[str, Any]]) -> Html:
    last: Mapping[str, Any] = lines[-1] if lines else {}
    entries: list[tuple[str, object]] = [("training rows", f"{run.num_rows:,}")]
    if last:
        entries += [("steps", f"{last['step']:,} of {last['num_steps']:,}"), ("last loss", f"{last['loss']:.4f}")]
        entries += [("padding, last steps", f"{last['padding_share']:.1%}")]
    return facts(*entries)


def _remarks(run: PreparedTraining, lines: Sequence[Mapping[str, Any]]) -> list[Html]:
    """What was said before and while it trained; no section where nothing was."""
    said = [("", remark) for remark in run.remarks]
    said += [(f"{line['step']:,}", remark) for line in lines for remark in line.get("remarks", ())]
    return [section("Remarks", table(("by step", "remark"), said[:_MOST_REMARKS], numbers=(0,)))] if said else []


def _curves(lines: Sequence[Mapping[str, Any]]) -> Html:
    thinned = lines[:: -(-len(lines) // _MOST_POINTS) or 1]
    drawn = [(f"{name} over steps", _points(thinned, [name])) for name in _SHOWN_WINDOW]
    judged = [line for line in lines if line.get("validation")]
    names = list(dict.fromkeys(name for line in judged for name in line["validation"]))
    drawn += [(f"validation {name} over steps", _points(judged, ["validation", name])) for name in names]
    return charts(
        *((title, draw_series(title, dots if "validation" in title else [], dots)) for title, dots in drawn if dots)
    )


def _points(lines: Sequence[Mapping[str, Any]], path: Sequence[str]) -> list[tuple[float, float]]:
    """A figure by step; none at all where some are below zero, for pictures begin at zero."""
    found: list[tuple[float, float]] = []
    for line in lines:
        value: Any = line
        for name in path:
            value = value.get(name) if value is not None else None
        if value is not None and math.isfinite(value):
            found.append((float(line["step"]), float(value)))
    return found if all(value >= 0 for _, value in found) else []


def _evaluations(lines: Sequence[Mapping[str, Any]]) -> Html:
    judged = [line for line in lines if line.get("validation")]
    if not judged:
        return tag("p", "No validation rows were given.", class_="faint")
    names = list(dict.fromkeys(name for line in judged for name in line["validation"]))
    rows = [
        (
            line["epoch"] + 1,
            f"{line['step']:,}",
            f"{line['loss']:.4f}",
            *(_figure(line["validation"], name) for name in names),
        )
        for line in judged
    ]
    heads = ("epoch", "step", "training loss", *names)
    return table(heads, rows, numbers=range(len(heads)))


def _figure(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.4f}" if name in metrics else "-"


def _of_head(job: LoopJob, name: str, judgement: Judgement) -> list[Html]:
    of_head, evaluation = f" of {name}" if name else "", judgement.evaluation
    rows = [(metric, f"{value:.4f}") for metric, value in evaluation.metrics.items()]
    parts = [section(f"Bundled weights{of_head}", table(("figure", "value"), rows, numbers=(1,)))]
    if evaluation.confusion is not None:
        parts.append(section(f"Confusions{of_head}", _confusions(evaluation.confusion)))
    if judgement.own is not None:
        hard = find_hardest(judgement.own, job.validation[name], judgement.learned, _NUM_HARDEST)
        note = f"The highest losses among the {judgement.own.num_rows:,} validation rows that the first worker judged."
        parts += [section(f"Hardest rows{of_head}", tag("p", note, class_="faint"), _hardest(hard))] if hard else []
    return parts


def _confusions(confusion: Confusion) -> Html:
    labels, counts = confusion.labels, confusion.counts
    if len(labels) <= _MOST_CLASSES:
        heads = ("true \\ predicted", *labels)
        rows = [(label, *(f"{count:,}" for count in row)) for label, row in zip(labels, counts.tolist(), strict=True)]
        return table(heads, rows, numbers=range(1, len(heads)))
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CLASSES]
    pairs = [(int(place) // len(labels), int(place) % len(labels)) for place in order]
    listed = [(labels[true], labels[taken], f"{wrong[true, taken]:,}") for true, taken in pairs if wrong[true, taken]]
    return table(("true", "predicted", "rows"), listed, numbers=(2,))


def _hardest(rows: Sequence[HardRow]) -> Html:
    cells = [(f"{row.loss:.3f}", row.truth, row.predicted, row.text) for row in rows]
    return table(("loss", "true", "predicted", "text"), cells, numbers=(0,))


def _settings(run: PreparedTraining) -> Html:
    data = {run.spec.field_of(head.name, "data"): head.spec.data.model_dump(mode="json") for head in run.heads}
    hashes = {f"fingerprint of {name}": run.recipe[name] for name in ("data", "model")}
    shown = {**run.recipe, "model": run.spec.model, **data, **hashes}
    if "data" not in data:
        del shown["data"]  # of several heads, each has its own
    del shown["training.batch_tokens" if run.spec.training.batch_tokens is None else "training.batch_rows"]
    return table(("field", "value"), [(name, json.dumps(value)) for name, value in shown.items()])


def _environment(run: PreparedTraining, job: LoopJob) -> Html:
    runtime = job.context.runtime
    half = runtime.autocast_dtype
    device = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else platform.processor()
    rows: list[tuple[str, object]] = [
        ("device", f"{runtime.device} {device}".strip()),
        ("precision", "fp32" if half is None else f"{half} autocast over fp32 weights"),
        ("workers", _describe_workers(run, job.context.world_size)),
        ("threads of the first worker", torch.get_num_threads()),
        ("system", platform.platform()),
        ("python", platform.python_version()),
    ]
    return table(("what", "which"), [*rows, *((name, _version(name)) for name in _PACKAGES)])


def _describe_workers(run: PreparedTraining, num_workers: int) -> str:
    compute = run.spec.compute
    shared = ", each holds a part of the weights" if num_workers > 1 and compute.data_parallel == "fsdp" else ""
    return f"{num_workers}{shared}{', compiled layers' if compute.compile else ''}"


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from its source tree
        return "not installed as a package"
