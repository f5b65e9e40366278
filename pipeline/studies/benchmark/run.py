"""The races of a benchmark, and what is written of them."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.encoder.attention import choose_runtime, set_threads
from pipeline.encoder.bundle import resolve_encoder
from pipeline.errors import CorpusError, InputError
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.benchmark.embedding import EmbeddingWork, embedding_contenders
from pipeline.studies.benchmark.rounds import Timing, speed_ratio, take_turns
from pipeline.studies.benchmark.spec import BenchmarkSpec, TextSample
from pipeline.studies.benchmark.training import TrainingWork, training_contenders
from pipeline.studies.blocks import BlockPlace, read_block
from pipeline.studies.rows import TASK
from pipeline.studies.tables import markdown_table
from pipeline.uris import join_uri

_PACKAGES = ("torch", "transformers", "sentence-transformers", "openvino", "accelerate")


@dataclass(frozen=True)
class Line:
    """One contender in a race.

    Attributes:
        race: What was done.
        contender: By whom.
        tokens_per_s: Median over the rounds, without padding.
        ratio: Times bertmill is faster: lowest, median, highest over the rounds.
        quality: Worst cosine to Sentence Transformers in fp32, or accuracy; None where nothing was made.
    """

    race: str
    contender: str
    tokens_per_s: float
    ratio: tuple[float, float, float]
    quality: float | None


def run_benchmark(spec: BenchmarkSpec, num_threads: int) -> str:
    """Run every race and write `benchmark.md` and `benchmark.parquet`.

    Returns:
        The Markdown.

    Raises:
        InputError: a package that a race needs is missing, or texts are.
    """
    set_threads(num_threads)
    lines, notes = [], []
    if spec.texts is not None:
        found, missing = _race_embeddings(spec, spec.texts, num_threads)
        lines += found
        notes += [f"Not run: {name}: {reason}." for name, reason in missing.items()]
    for name, block in spec.training.items():
        lines += _race_training(spec, name, block, num_threads)
    text = f"{_machine(num_threads)}\n\n{_table(lines)}\n{_NOTE}\n" + "".join(f"\n{note}\n" for note in notes)
    storage = Storage(spec.storage)
    storage.write_bytes(join_uri(spec.output, "benchmark.md"), text.encode())
    write_parquet(_as_table(lines), join_uri(spec.output, "benchmark.parquet"), {}, storage)
    return text


def _race_embeddings(spec: BenchmarkSpec, sample: TextSample, num_threads: int) -> tuple[list[Line], dict[str, str]]:
    _need("sentence-transformers")
    encoder = resolve_encoder(spec.model, Storage(spec.storage))
    work = EmbeddingWork(encoder, _read_texts(sample, spec), spec.max_length, choose_runtime(spec.compute), num_threads)
    contenders, missing = embedding_contenders(work)
    timings = take_turns(contenders, spec.rounds)
    num_tokens, reference = int(work.tokenize().lengths.sum()), timings[1].result
    return [
        Line(
            f"embed {len(work.texts):,} texts",
            timing.name,
            num_tokens / median(timing.seconds),
            speed_ratio(timings[0], timing),
            None if timing.result is None else float(np.sum(timing.result * reference, axis=1).min()),
        )
        for timing in timings
    ], missing


def _race_training(spec: BenchmarkSpec, name: str, block: dict[str, object], num_threads: int) -> list[Line]:
    _need("accelerate")
    place = BlockPlace(f"training.{name}", ("heads", "task", "output", "work"))
    with tempfile.TemporaryDirectory() as folder:
        filled = {"task": TASK, "output": f"{folder}/bundle", "work": f"{folder}/work"}
        parsed = read_block(block, filled, FinetuneSpec, place)
        if parsed.data is None or parsed.data.validation is None:
            raise InputError(f"training.{name} has no validation rows to measure accuracy on", "add data.validation")
        work = TrainingWork.of(prepare_training(parsed, place.source), Path(folder), num_threads)
        timings = take_turns(training_contenders(work), spec.rounds, warm_up=False)
        num_tokens = work.num_tokens()
        return [_training_line(work, name, timings[0], timing, num_tokens) for timing in timings]


def _training_line(work: TrainingWork, name: str, ours: Timing, timing: Timing, num_tokens: int) -> Line:
    rate, ratio = num_tokens / median(timing.seconds), speed_ratio(ours, timing)
    return Line(f"fine-tune {name}", timing.name, rate, ratio, work.accuracy(timing.result))


def _read_texts(sample: TextSample, spec: BenchmarkSpec) -> pa.ChunkedArray:
    filesystem, path = Storage(spec.storage).open_arrow(sample.uri)
    try:
        found = ds.dataset(path, filesystem=filesystem).head(sample.rows, columns=[sample.column])[sample.column]
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise CorpusError(f"{sample.uri}: column {sample.column!r} cannot be read: {error}", "mend `texts`") from None
    texts = pc.drop_null(found).cast(pa.large_string())
    if not len(texts):
        raise CorpusError(f"{sample.uri}: column {sample.column!r} holds no text", "name another column or file")
    return texts


def _need(package: str) -> None:
    if _version(package) is None:
        raise InputError(f"the benchmark needs {package}, not installed here", "pip install 'bertmill[benchmark]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_HEADER = ("race", "contender", "tokens/s", "bertmill is faster by (lowest - highest)", "quality")
_NOTE = (
    "Tokens/s: median over the rounds, padding not counted. The ratio is taken round by round, everyone in turns. "
    "Quality: of embeddings the worst cosine to Sentence Transformers in fp32, of trainings the accuracy on validation."
)


def _table(lines: Sequence[Line]) -> str:
    return markdown_table(
        _HEADER,
        [
            (
                line.race,
                line.contender,
                f"{line.tokens_per_s:,.0f}",
                f"{line.ratio[1]:.2f} ({line.ratio[0]:.2f} - {line.ratio[2]:.2f})",
                "-" if line.quality is None else f"{line.quality:.4f}",
            )
            for line in lines
        ],
    )


def _as_table(lines: Sequence[Line]) -> pa.Table:
    return pa.table(
        {
            "race": [line.race for line in lines],
            "contender": [line.contender for line in lines],
            "tokens_per_s": [line.tokens_per_s for line in lines],
            "ratio_lowest": [line.ratio[0] for line in lines],
            "ratio_median": [line.ratio[1] for line in lines],
            "ratio_highest": [line.ratio[2] for line in lines],
            "quality": pa.array([line.quality for line in lines], pa.float64()),
        }
    )


def _machine(num_threads: int) -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES if _version(name))
    return f"{num_threads} threads, {platform.machine()}, Python {platform.python_version()}; {versions}"
