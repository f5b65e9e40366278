"""Records of a suite -> suite.parquet and suite.md."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

import pyarrow as pa

from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.suite import PreparedSuite, PreparedSuiteRun, SuiteResult
from pipeline.studies.tables import markdown_table, spread
from pipeline.uris import join_uri

_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("num_train_rows", pa.int64()),
        ("num_test_rows", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("trivial", pa.float64()),
        ("trivial_kind", pa.string()),
        ("reference", pa.float64()),
        ("reference_source", pa.string()),
        ("train_s", pa.float64()),
        ("tokens_per_s", pa.float64()),
    ]
)
_HEADER = (
    *("run", "task", "training rows", "test rows", "metric", "result", "seeds"),
    *("trivial", "reference", "training s", "tokens/s"),
)
_NOTE = (
    "Result: mean ± sample standard deviation over seeds. Trivial: what a prediction without a model reaches on the "
    "same rows. Training seconds (mean over seeds) are wall time from text to bundle, tokens/s (median) without "
    "padding, both on a run's share of the machine. Question answering is in percent, all else from 0 to 1."
)
_NONE = "-"


def write_suite(suite: PreparedSuite) -> str:
    """Write what is known so far.

    Returns:
        The Markdown; empty if no cell is finished, and then nothing is written.
    """
    found = [(run, _read_results(run)) for run in suite.runs]
    rows = [row for run, results in found for row in _as_rows(run, results)]
    if not rows:
        return ""
    storage, output = Storage(suite.spec.storage), suite.spec.output
    text = _describe(found)
    write_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA), join_uri(output, "suite.parquet"), {}, storage)
    storage.write_bytes(join_uri(output, "suite.md"), text.encode())
    return text


def _read_results(run: PreparedSuiteRun) -> list[tuple[int | None, SuiteResult]]:
    read = [(cell.seed, cell.store.read(cell.fingerprint)) for cell in run.cells]
    return [(seed, result) for seed, result in read if result is not None]


def _as_rows(run: PreparedSuiteRun, results: list[tuple[int | None, SuiteResult]]) -> list[dict[str, Any]]:
    reference = run.spec.reference
    return [
        {
            "run": run.spec.name,
            "task": run.task,
            "seed": seed,
            "num_train_rows": run.num_train_rows,
            "num_test_rows": result.num_test_rows,
            "metric": run.metric,
            "value": result.metrics[run.metric],
            "metrics": sorted(result.metrics.items()),
            "trivial": _trivial_value(run),
            "trivial_kind": run.trivial.kind if run.trivial else None,
            "reference": reference.value if reference else None,
            "reference_source": reference.source if reference else None,
            "train_s": result.train_s,
            "tokens_per_s": result.tokens_per_s,
        }
        for seed, result in results
    ]


def _describe(found: list[tuple[PreparedSuiteRun, list[tuple[int | None, SuiteResult]]]]) -> str:
    lines = [_line(run, [result for _, result in results]) for run, results in found]
    sources = [f"- {run.spec.name}: {run.spec.reference.source}\n" for run, _ in found if run.spec.reference]
    num_missing = sum(len(run.cells) - len(results) for run, results in found)
    text = f"{markdown_table(_HEADER, lines)}\n{_NOTE}\n"
    if sources:
        text += f"\nReferences:\n\n{''.join(sources)}"
    return text + (f"\n{num_missing} cells are missing.\n" if num_missing else "")


def _line(run: PreparedSuiteRun, results: list[SuiteResult]) -> tuple[str, ...]:
    reference, trivial = run.spec.reference, _trivial_value(run)
    digits = 1 if run.task == "question-answering" else 3  # that task's figures are percent
    values = [result.metrics[run.metric] for result in results]
    seconds = [result.train_s for result in results if result.train_s is not None]
    rates = [result.tokens_per_s for result in results if result.tokens_per_s is not None]
    return (
        run.spec.name,
        run.task,
        _NONE if run.num_train_rows is None else f"{run.num_train_rows:,}",
        f"{results[0].num_test_rows:,}" if results else _NONE,
        run.metric,
        spread(values).show(digits) if values else "missing",
        str(len(values)),
        _NONE if trivial is None or run.trivial is None else f"{trivial:.{digits}f} ({run.trivial.kind})",
        f"{reference.value:g}" if reference else _NONE,
        f"{fmean(seconds):,.0f}" if seconds else _NONE,
        f"{median(rates):,.0f}" if rates else _NONE,
    )


def _trivial_value(run: PreparedSuiteRun) -> float | None:
    return run.trivial.values.get(run.metric) if run.trivial else None
