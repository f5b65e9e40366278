"""The learning curve: every method on every fraction of a training set with every seed, on one test set."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.encoder.attention import set_threads
from pipeline.encoder.bundle import fingerprint_model
from pipeline.errors import Checks, CorpusError, Problem, SpecError
from pipeline.extras import STUDIES, check_extra
from pipeline.finetune.labelled import LabelledSet, LabelTarget, open_split
from pipeline.finetune.prepare import PreparedTraining, prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.storage import Storage
from pipeline.studies.blocks import BlockPlace, read_block
from pipeline.studies.records import RecordStore, fingerprint_of
from pipeline.studies.rows import TASK, read_rows
from pipeline.studies.spec import CURVE_FILLED, CurveSpec, Method
from pipeline.studies.subsets import subset_rows, take_fraction
from pipeline.tasks import find_task
from pipeline.uris import join_uri

_VERSION = 1  # of the methods; a new one makes every record an old one
_NOT_DECIDING = {"data", "output", "work", "checkpoint", "storage", "compute"}
_MAX_NAMED = 10
_TRUNCATING: tuple[Method, ...] = ("frozen", "bilstm", "cnn")


@dataclass(frozen=True)
class CurvePoint:
    """A finished cell. Seconds are wall time of the whole cell: reading, training, labelling the test set."""

    method: str
    fraction: float
    num_rows: int
    seed: int
    accuracy: float
    macro_f1: float
    seconds: float


@dataclass(frozen=True)
class PreparedCurve:
    """Everything known before Ray starts."""

    spec: CurveSpec
    training: PreparedTraining
    test: LabelledSet
    encoder_fingerprint: str

    @property
    def train(self) -> LabelledSet:
        """All training rows."""
        return self.training.heads[0].train

    @property
    def store(self) -> RecordStore[CurvePoint]:
        """Where the cells' records are."""
        return RecordStore(join_uri(self.spec.output, "cells"), CurvePoint, Storage(self.spec.storage))

    @property
    def cells(self) -> tuple[CurveCell, ...]:
        """Every cell, longest first: then the last ones to finish are short."""
        spec = self.spec
        return tuple(
            CurveCell(self, method, fraction, seed, self._fingerprint(method, fraction, seed))
            for fraction in sorted(spec.fractions, reverse=True)
            for method in spec.methods
            for seed in spec.seeds
        )

    def _fingerprint(self, method: Method, fraction: float, seed: int) -> str:
        data = [self.train.fingerprint, self.test.fingerprint, fraction, seed]
        return fingerprint_of([_VERSION, method, *data, *self._settings(method)])

    def _settings(self, method: Method) -> list[Any]:
        """What decides a method's labels beside the rows and the seed."""
        recipe = self.training.spec.model_dump(mode="json", exclude=_NOT_DECIDING)
        precision = self.spec.compute.precision
        match method:
            case "finetune":
                return [self.encoder_fingerprint, precision, recipe]
            case "frozen":
                names = ("max_length", "pooling", "normalize")
                return [self.encoder_fingerprint, precision, [recipe[name] for name in names]]
            case "tfidf":
                return []
            case _:
                return [self.encoder_fingerprint, recipe["max_length"], self.spec.scratch.model_dump()]


@dataclass(frozen=True)
class CurveCell:
    """One method on one fraction with one seed."""

    curve: PreparedCurve
    method: Method
    fraction: float
    seed: int
    fingerprint: str

    @property
    def name(self) -> str:
        """As people call it."""
        return f"{self.method} {self.fraction:g} seed {self.seed}"

    def run(self, num_threads: int) -> str:
        """Train on the fraction, label the test set, store the figures."""
        from sklearn.metrics import accuracy_score, f1_score
        from threadpoolctl import threadpool_limits

        from pipeline.studies.methods import MethodContext, predict

        started_s = time.monotonic()
        set_threads(num_threads)
        spec, training = self.curve.spec, self.curve.training
        learned, storage, limit = self.curve.train.learned, Storage(spec.storage), spec.data.max_bad_fraction
        rows = read_rows(self.curve.train, learned, limit, storage)
        rows = rows.take(take_fraction(rows.labels, self.fraction, self.seed))
        test = read_rows(self.curve.test, learned, limit, storage)
        subset = join_uri(spec.output, "subsets", f"fraction-{self.fraction:g}-seed-{self.seed}.parquet")
        context = MethodContext(training.encoder, training.spec, spec.scratch, self.seed, num_threads, subset)
        with threadpool_limits(num_threads):
            labels = predict(self.method, rows, test.texts, context)
        accuracy, macro_f1 = accuracy_score(test.labels, labels), f1_score(test.labels, labels, average="macro")
        figures = (float(accuracy), float(macro_f1), time.monotonic() - started_s)
        self.curve.store.write(self.fingerprint, CurvePoint(self.method, self.fraction, len(rows), self.seed, *figures))
        return f"accuracy {accuracy:.3f}"


def prepare_curve(spec: CurveSpec, source: str) -> PreparedCurve:
    """Check the extra, the encoder, both data sets and the fractions. Starts nothing, writes nothing.

    Args:
        spec: The spec.
        source: Its name, for errors.

    Raises:
        InputError: whatever the user has to mend.
    """
    check_extra("a learning curve needs", "studies", STUDIES)
    storage, checks = Storage(spec.storage), Checks()
    checks.run(lambda: _check_long_text(spec, source))
    training = checks.run(lambda: _prepare_training(spec, source))
    texts, label = ((spec.data.inputs.get("text", "text"),),), spec.data.label or "label"
    test = checks.run(lambda: open_split(spec.data.test, find_task(TASK, source), texts, LabelTarget(label), storage))
    checks.raise_failures()
    assert training is not None
    assert test is not None
    curve = PreparedCurve(spec, training, test, fingerprint_model(training.encoder))
    _check_labels(curve.train, test, source)
    _check_fractions(spec, curve.train.num_rows, source)
    return curve


def _prepare_training(spec: CurveSpec, source: str) -> PreparedTraining:
    """The fine-tuning as it would be on all rows; cells train on parts of them."""
    train = spec.data.model_dump(include={"train", "inputs", "label", "max_bad_fraction"})
    additions = {
        "task": TASK,
        "data": train,
        "output": join_uri(spec.output, "bundle"),
        "compute": spec.compute.model_dump(),
        "storage": spec.storage.model_dump(),
    }
    full = read_block(spec.finetune, additions, FinetuneSpec, BlockPlace(f"{source}: finetune", CURVE_FILLED))
    return prepare_training(full, source)


def _check_long_text(spec: CurveSpec, source: str) -> None:
    """Methods that see a text's beginning alone would be compared with one that sees all of it, without a word."""
    cut = [method for method in spec.methods if method in _TRUNCATING]
    if cut and spec.finetune.get("long_text") == "window":
        remedy = f"take long_text: truncate, or leave {', '.join(cut)} out of methods"
        found = f"is window, beyond max_length nothing is read by: {', '.join(cut)}"
        raise SpecError(source, (Problem("finetune.long_text", found, "truncate beside these methods", remedy),))


def _check_labels(train: LabelledSet, test: LabelledSet, source: str) -> None:
    if pa.types.is_struct(train.options.kept_schema.field(0).type):
        raise SpecError(source, (Problem("data.label", "holds probabilities", "one label a row"),))
    unknown = sorted(set(test.learned.labels) - set(train.learned.labels))
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:_MAX_NAMED])
        raise CorpusError(f"data.test holds labels that data.train never has: {named}", "test on rows of known labels")


def _check_fractions(spec: CurveSpec, num_rows: int, source: str) -> None:
    small = [fraction for fraction in spec.fractions if subset_rows(fraction, num_rows) < 2]
    if small:
        found = f"{small[0]:g} of {num_rows} rows is {subset_rows(small[0], num_rows)} rows"
        raise SpecError(source, (Problem("fractions", found, "two rows or more", "choose larger fractions"),))
