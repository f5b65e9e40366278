"""The races of a benchmark, and what is written of them."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from pipeline.config import ComputeConfig, PoolOptions
from pipeline.encoder.attention import choose_runtime, set_threads
from pipeline.encoder.bundle import resolve_encoder
from pipeline.errors import InputError
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.output.writer import write_parquet
from pipeline.storage import Storage
from pipeline.studies.benchmark.bundles import CLASSIFICATION, BundleOrder, train_bundles
from pipeline.studies.benchmark.embedding import EmbeddingWork, embedding_contenders
from pipeline.studies.benchmark.head_work import HeadWork, as_answers, share_alike
from pipeline.studies.benchmark.heads import best_settings, head_contenders
from pipeline.studies.benchmark.lines import NOTE, Line, as_markdown, as_table, race_lines
from pipeline.studies.benchmark.night import NIGHT, NightWork, night_contenders, stored_corpus
from pipeline.studies.benchmark.plain import plain_answers
from pipeline.studies.benchmark.ray_data import PipelineOptions
from pipeline.studies.benchmark.rounds import Lap, take_turns
from pipeline.studies.benchmark.sample import read_sample
from pipeline.studies.benchmark.spec import BenchmarkSpec, HeadsConfig, NightConfig
from pipeline.studies.benchmark.start_up import Commands, describe_start
from pipeline.studies.benchmark.training import TrainingWork, training_contenders
from pipeline.studies.blocks import BlockPlace, merged, read_block
from pipeline.uris import join_uri

_PACKAGES = ("ray", "torch", "transformers", "sentence-transformers", "openvino", "onnxruntime", "accelerate")


@dataclass(frozen=True)
class Jobs:
    """What the benchmark asks of the jobs around it.

    Attributes:
        open_session: A Ray and the pool of workers that a compute block asks for.
        commands: What a night's start is timed with.
    """

    open_session: Callable[[ComputeConfig], AbstractContextManager[PoolOptions]]
    commands: Commands


def run_benchmark(spec: BenchmarkSpec, num_threads: int, jobs: Jobs) -> str:
    """Run every race and write `benchmark.md`, `benchmark.parquet` and `benchmark.png`.

    Args:
        spec: The spec.
        num_threads: Cores of everyone.
        jobs: For whole nights.

    Returns:
        The Markdown.

    Raises:
        InputError: a package that a race needs is missing, or texts are.
    """
    _need("matplotlib")
    load = os.getloadavg()[0]
    set_threads(num_threads)
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        races = _Races(spec, num_threads, Path(folder))
        for _ in _run_races(races, jobs):
            text = _write(races, load)  # after each, so that a run that is ended keeps what was measured
    return text


def _run_races(races: _Races, jobs: Jobs) -> Iterator[None]:
    """One after the other, those that the spec asks for."""
    spec = races.spec
    if spec.texts is not None:
        sample = read_sample(spec.texts, races.storage)
        races.embed(sample["text"])
        yield
        if spec.heads is not None:
            bundles = races.answer(sample, spec.heads)
            yield
            if spec.end_to_end is not None:
                races.score(sample["text"], bundles[CLASSIFICATION], spec.end_to_end, jobs)
                yield
    for name, block in spec.training.items():
        races.train(name, block)
        yield


def _write(races: _Races, load: float) -> str:
    from pipeline.studies.benchmark.plot import draw_races

    text, output, storage = _page(races, load), races.spec.output, races.storage
    storage.write_bytes(join_uri(output, "benchmark.md"), text.encode())
    storage.write_bytes(join_uri(output, "benchmark.png"), draw_races(races.lines))
    write_parquet(as_table(races.lines), join_uri(output, "benchmark.parquet"), {}, storage)
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
        race = f"embed {len(texts):,} texts"
        timings = take_turns(race, contenders, spec.rounds)
        reference = timings[1].result
        made = {timing.name: timing.result for timing in timings if timing.result is not None}
        quality = {name: [float(np.sum(vectors * reference, axis=1).min())] for name, vectors in made.items()}
        num_tokens = int(work.tokenize().lengths.sum())
        self.lines += race_lines(race, timings, num_tokens, quality)
        self.notes += [f"Not run: {name}: {reason}." for name, reason in missing.items()]

    def answer(self, sample: pa.Table, heads: HeadsConfig) -> dict[str, Path]:
        """Texts to labels, tags and answers; gives the bundles, by task."""
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
        bundles = train_bundles(order, self.folder)
        for task, bundle in bundles.items():
            work = HeadWork(task, bundle, texts, spec.max_length, spec.compute, self.num_threads)
            race = f"{task}, {len(texts):,} texts"
            timings, reference = take_turns(race, head_contenders(work), spec.rounds), plain_answers(work)
            quality = {timing.name: [share_alike(as_answers(timing.result), reference)] for timing in timings}
            num_tokens = int(work.tokenize().lengths.sum())
            self.lines += race_lines(race, timings, num_tokens, quality)
        return bundles

    def score(self, texts: pa.ChunkedArray, bundle: Path, night: NightConfig, jobs: Jobs) -> None:
        """Parquet to a published night; then what a small one's start takes."""
        spec, texts = self.spec, texts.slice(0, night.rows)
        runtime, encoder = choose_runtime(spec.compute), resolve_encoder(spec.model, self.storage)
        race = f"a night of {len(texts):,} texts"
        bare = EmbeddingWork(encoder, texts, spec.max_length, runtime, self.num_threads)
        with stored_corpus(texts, night.at, self.storage) as place:
            with jobs.open_session(spec.compute) as pool:
                corpus = join_uri(place, "corpus")
                work = NightWork(bundle, corpus, place, spec.max_length, spec.compute, spec.storage, pool)
                best = self._best_pipeline(bundle, texts, pool)
                timings = take_turns(race, night_contenders(work, bare, best), night.rounds, warm_up=False)
            starts = {timing.name: timing.result.before_s for timing in timings if isinstance(timing.result, Lap)}
            self.lines += race_lines(race, timings, int(bare.tokenize().lengths.sum()))
            shown = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in starts.items())
            self.notes.append(f"Before the first text of a night, on a Ray that runs (not counted above): {shown}.")
            self.notes.append(describe_start(work.spec(), NIGHT, jobs.commands, night.rounds).rstrip())

    def _best_pipeline(self, bundle: Path, texts: pa.ChunkedArray, pool: PoolOptions) -> PipelineOptions:
        """What transformers is fastest with, as the race over labels finds it."""
        work = HeadWork(CLASSIFICATION, bundle, texts, self.spec.max_length, self.spec.compute, self.num_threads)
        dtype, batch_rows = best_settings(work)
        return PipelineOptions(str(bundle), self.spec.max_length, pool, dtype, batch_rows, is_sorted=True)

    def train(self, name: str, block: dict[str, object]) -> None:
        """Texts and targets to a saved model, in each round with another seed."""
        _need("accelerate")
        with self._training(name, block) as parsed:
            place, race = f"training.{name}", f"fine-tune {name}"
            if parsed.data is None or parsed.data.validation is None:
                raise InputError(f"{place} has no validation rows to judge it by", "add data.validation")
            seeded = [
                parsed.training.model_copy(update={"seed": parsed.training.seed + number})
                for number in range(self.spec.rounds)
            ]
            runs = [prepare_training(parsed.model_copy(update={"training": recipe}), place) for recipe in seeded]
            work = TrainingWork.of(runs, Path(tempfile.mkdtemp(dir=self.folder)), self.num_threads)
            timings = take_turns(race, training_contenders(work), self.spec.rounds, warm_up=False)
            quality = {timing.name: [work.judge(made) for made in timing.results] for timing in timings}
        self.lines += race_lines(race, timings, work.num_tokens(), quality)

    @contextmanager
    def _training(self, name: str, block: dict[str, object]) -> Iterator[FinetuneSpec]:
        """A block as a spec; compute and storage are the benchmark's where it says nothing else."""
        place = BlockPlace(f"training.{name}", ("heads", "output", "work"))
        given = {part: getattr(self.spec, part).model_dump(exclude_unset=True) for part in ("compute", "storage")}
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            filled = {"output": f"{folder}/bundle", "work": f"{folder}/work"}
            yield read_block(merged({"task": CLASSIFICATION, **given}, block), filled, FinetuneSpec, place)


def _need(package: str) -> None:
    if _version(package) is None:
        raise InputError(f"the benchmark needs {package}, not installed here", "pip install 'bertmill[benchmark]'")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _page(races: _Races, load: float) -> str:
    """Everything, as Markdown."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES if _version(name))
    machine = f"{races.num_threads} threads of {os.cpu_count()} cores ({platform.machine()}), load average {load:.1f}"
    spec = yaml.safe_dump(races.spec.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    parts = [
        "# Benchmarks",
        f"Written by `bertmill benchmark`. {machine} when it began; Python {platform.python_version()}; {versions}.",
        "![tokens per second of everyone](benchmark.png)",
        as_markdown(races.lines).rstrip(),
        NOTE,
        *races.notes,
        f"The spec:\n\n```yaml\n{spec}```",
    ]
    return "\n\n".join(parts) + "\n"
