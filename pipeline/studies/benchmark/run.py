"""The races of a benchmark, and what is written of them."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.encoder.attention import choose_runtime, set_threads
from pipeline.encoder.bundle import resolve_encoder
from pipeline.errors import InputError
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.benchmark.bundles import BundleOrder, train_bundles
from pipeline.studies.benchmark.embedding import EmbeddingWork, embedding_contenders
from pipeline.studies.benchmark.head_work import HeadWork, as_answers, share_alike
from pipeline.studies.benchmark.heads import head_contenders
from pipeline.studies.benchmark.lines import NOTE, Line, as_markdown, as_table, race_lines
from pipeline.studies.benchmark.plain import plain_answers
from pipeline.studies.benchmark.rounds import take_turns
from pipeline.studies.benchmark.sample import read_sample
from pipeline.studies.benchmark.spec import BenchmarkSpec, HeadsConfig
from pipeline.studies.benchmark.training import TrainingWork, training_contenders
from pipeline.studies.blocks import BlockPlace, merged, read_block
from pipeline.studies.rows import TASK
from pipeline.uris import join_uri

_PACKAGES = ("torch", "transformers", "sentence-transformers", "openvino", "accelerate")


def run_benchmark(spec: BenchmarkSpec, num_threads: int) -> str:
    """Run every race and write `benchmark.md` and `benchmark.parquet`.

    Returns:
        The Markdown.

    Raises:
        InputError: a package that a race needs is missing, or texts are.
    """
    set_threads(num_threads)
    with tempfile.TemporaryDirectory() as folder:
        races = _Races(spec, num_threads, Path(folder))
        if spec.texts is not None:
            sample = read_sample(spec.texts, races.storage)
            races.embed(sample["text"])
            if spec.heads is not None:
                races.answer(sample, spec.heads)
        for name, block in spec.training.items():
            races.train(name, block)
    text = f"{_machine(num_threads)}\n\n{as_markdown(races.lines)}\n{NOTE}\n"
    text += "".join(f"\n{note}\n" for note in races.notes)
    races.storage.write_bytes(join_uri(spec.output, "benchmark.md"), text.encode())
    write_parquet(as_table(races.lines), join_uri(spec.output, "benchmark.parquet"), {}, races.storage)
    return text


@dataclass
class _Races:
    """The races run so far.

    Attributes:
        spec: Of the benchmark.
        num_threads: Cores of everyone.
        folder: A local directory that may be written.
        lines: What was found.
        notes: What else is to be said.
    """

    spec: BenchmarkSpec
    num_threads: int
    folder: Path
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        """The spec's stores."""
        return Storage(self.spec.storage)

    def embed(self, texts: pa.ChunkedArray) -> None:
        """Texts to embeddings; Sentence Transformers in fp32, the second, is what quality is measured by."""
        _need("sentence-transformers")
        spec, encoder = self.spec, resolve_encoder(self.spec.model, self.storage)
        work = EmbeddingWork(encoder, texts, spec.max_length, choose_runtime(spec.compute), self.num_threads)
        contenders, missing = embedding_contenders(work)
        timings = take_turns(contenders, spec.rounds)
        reference = timings[1].result
        made = {timing.name: timing.result for timing in timings if timing.result is not None}
        quality = {name: float(np.sum(vectors * reference, axis=1).min()) for name, vectors in made.items()}
        num_tokens = int(work.tokenize().lengths.sum())
        self.lines += race_lines(f"embed {len(texts):,} texts", timings, num_tokens, quality)
        self.notes += [f"Not run: {name}: {reason}." for name, reason in missing.items()]

    def answer(self, sample: pa.Table, heads: HeadsConfig) -> None:
        """Texts to labels, tags and answers."""
        spec, texts = self.spec, sample["text"].slice(0, heads.rows)
        learned = sample.slice(max(0, sample.num_rows - heads.training_rows))
        order = BundleOrder(
            resolve_encoder(spec.model, self.storage),
            learned["text"],
            learned["label"],
            spec.max_length,
            spec.compute.model_dump(exclude_unset=True),
            self.num_threads,
        )
        for task, bundle in train_bundles(order, self.folder).items():
            work = HeadWork(task, bundle, texts, spec.max_length, spec.compute, self.num_threads)
            timings, reference = take_turns(head_contenders(work), spec.rounds), plain_answers(work)
            quality = {timing.name: share_alike(as_answers(timing.result), reference) for timing in timings}
            num_tokens = int(work.tokenize().lengths.sum())
            self.lines += race_lines(f"{task}, {len(texts):,} texts", timings, num_tokens, quality)

    def train(self, name: str, block: dict[str, object]) -> None:
        """Texts and labels to a saved model."""
        _need("accelerate")
        with self._training(name, block) as parsed:
            place = f"training.{name}"
            if parsed.data is None or parsed.data.validation is None:
                raise InputError(f"{place} has no validation rows to measure accuracy on", "add data.validation")
            work = TrainingWork.of(prepare_training(parsed, place), self.folder, self.num_threads)
            timings = take_turns(training_contenders(work), self.spec.rounds, warm_up=False)
            quality = {timing.name: work.accuracy(timing.result) for timing in timings}
        self.lines += race_lines(f"fine-tune {name}", timings, work.num_tokens(), quality)

    @contextmanager
    def _training(self, name: str, block: dict[str, object]) -> Iterator[FinetuneSpec]:
        """A block as a spec; compute and storage are the benchmark's where it says nothing else."""
        place = BlockPlace(f"training.{name}", ("heads", "task", "output", "work"))
        given = {part: getattr(self.spec, part).model_dump(exclude_unset=True) for part in ("compute", "storage")}
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            filled = {"task": TASK, "output": f"{folder}/bundle", "work": f"{folder}/work"}
            yield read_block(merged(given, block), filled, FinetuneSpec, place)


def _need(package: str) -> None:
    if _version(package) is None:
        raise InputError(f"the benchmark needs {package}, not installed here", "pip install 'bertmill[benchmark]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine(num_threads: int) -> str:
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES if _version(name))
    return f"{num_threads} threads, {platform.machine()}, Python {platform.python_version()}; {versions}"
