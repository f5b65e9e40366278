"""Scores a sample of a published night again, in fp32 with plain transformers, and compares.

The text is read again from the corpus.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpus.lookup import read_rows_at
from pipeline.corpus.text import clean_text, is_word_list
from pipeline.encoder.bundle import fetch_bundle
from pipeline.errors import ModelError
from pipeline.inference.closeness import Comparison, OwnColumns, RescoredSample, Row
from pipeline.inference.reference import PlainModel
from pipeline.inference.spec import FIRST
from pipeline.inference.tolerance import Tolerance
from pipeline.output.columns import columns_of
from pipeline.output.log import require_night, require_table
from pipeline.output.manifests import read_manifests
from pipeline.output.row_groups import read_row_groups, shared_columns
from pipeline.registry.resolve import resolve_model
from pipeline.schema import MODEL_VERSION_FIELD, SOURCE_FILE, SOURCE_ROW, prefixed
from pipeline.storage import Storage, map_threads
from pipeline.tasks import check_inputs, find_task
from pipeline.uris import canonical_uri, join_uri

_THREADS = 16
IntArray = npt.NDArray[np.int64]
_REMEDY = "name the column that the rows were scored from: --input INPUT=COLUMN"


@dataclass(frozen=True)
class _RowTexts:
    """The input texts of a row; whether the last was a list of words."""

    values: list[str]
    are_words: bool


@dataclass(frozen=True)
class SampleCheck:
    """Which rows are scored again, and how.

    Attributes:
        bundle_uri: The bundle that scored the night, or models://...
        num_rows: Size of the sample, spread over the night's rows; the same rows each time.
        inputs: Task input -> corpus column, where the spec that scored the night named another than the bundle.
        bundle_name: What its columns are prefixed by, if it was one of several.
        registry: Where models:// are; default: the environment's.
    """

    bundle_uri: str
    num_rows: int = 64
    inputs: Mapping[str, str] = field(default_factory=dict)
    bundle_name: str = ""
    registry: str | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)


def rescore_sample(uri: str, run_date: str, check: SampleCheck, storage: Storage) -> RescoredSample:
    """Score some rows of a night again and compare; of a cascade's night, those that this bundle answered.

    Raises:
        CorpusError: there is no such table or night, or the corpus cannot be read again.
        ModelError: the bundle is not the one that scored the night, or cannot be checked this way.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    files = require_night(table, uri, run_date, storage)
    bundle = fetch_bundle(canonical_uri(resolve_model(check.bundle_uri, check.registry, storage)), storage)
    task = find_task(bundle.info.task, check.bundle_uri)
    check_inputs(check.inputs, task.inputs, "command line")
    there = shared_columns(columns_of(table), [join_uri(uri, path) for path in files], storage)
    own = OwnColumns(frozenset(there.names), check.bundle_name)
    comparison = Comparison(bundle.info, task, own, check.tolerance)
    version = prefixed(check.bundle_name, MODEL_VERSION_FIELD.name)
    counts, find = {join_uri(uri, path): file.num_rows for path, file in files.items()}, None
    own_version = bundle.info.model_version
    if not check.bundle_name and own_version in _cascade_of(uri, run_date, storage):
        find = partial(_find_answered, there.field(version), own_version, storage)
        counts = dict(zip(counts, map_threads(lambda each: len(find(each)), counts, _THREADS), strict=True))
    rows = _sample_rows(counts, find, check.num_rows, [*comparison.columns, version], storage)
    if not rows and any(file.num_rows for file in files.values()):
        raise ModelError(
            f"{check.bundle_uri}: the cascade's other bundle answered every row of {run_date}", "give the other bundle"
        )
    _check_version({row[version] for row in rows}, own_version, check)
    texts = _read_texts(rows, [{**bundle.info.inputs, **check.inputs}[name] for name in task.inputs], storage)
    model = PlainModel(bundle, task)
    for row, row_texts in zip(rows, texts, strict=True):
        comparison.add(row, model.run(row_texts.values, row_texts.are_words))
    return comparison.result(len(rows))


def _find_answered(column: pa.Field, version: str, storage: Storage, uri: str) -> IntArray:
    """Which rows of a cascade's file this bundle answered."""
    groups = read_row_groups(uri, storage, pa.schema([column]))
    answered = [pc.equal(group[column.name], version).to_numpy() for group in groups]
    return np.flatnonzero(np.concatenate([np.zeros(0, bool), *answered]))


def _sample_rows(
    counts: Mapping[str, int],
    find: Callable[[str], IntArray] | None,
    num_rows: int,
    columns: list[str],
    storage: Storage,
) -> list[Row]:
    """Rows drawn evenly over so many of each file, which `find` finds, if not all; of one file at a time."""
    total = sum(counts.values())
    chosen = sorted(random.Random(total).sample(range(total), min(num_rows, total)))
    rows: list[Row] = []
    start = 0
    for uri, count in sorted(counts.items()):
        own = [number - start for number in chosen if start <= number < start + count]
        start += count
        if own:
            positions = own if find is None else find(uri)[own].tolist()
            rows += read_rows_at(uri, positions, [SOURCE_FILE, SOURCE_ROW, *columns], storage).to_pylist()
    return rows


def _cascade_of(uri: str, run_date: str, storage: Storage) -> frozenset[str]:
    """Both versions of a cascade's night, as its manifest names them; none of another night."""
    manifests = read_manifests(uri, storage, run_date)
    said = str(manifests[-1].counts.get("model_version", "")) if manifests else ""
    last, _, first = said.partition(f", {FIRST}=")
    return frozenset([first, last]) if first else frozenset()


def _check_version(found: set[str], own: str, check: SampleCheck) -> None:
    strangers = found - {own}
    if strangers:
        raise ModelError(
            f"{check.bundle_uri}: has model_version {own}, the night was scored with {min(strangers)}",
            "give the bundle that scored the night",
        )


def _read_texts(rows: Sequence[Row], columns: list[str], storage: Storage) -> list[_RowTexts]:
    """The input texts of some rows, from the corpus."""
    texts: dict[tuple[str, int], _RowTexts] = {}
    by_file: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_file[row[SOURCE_FILE]].append(row[SOURCE_ROW])
    for uri, numbers in by_file.items():
        ordered = sorted(numbers)
        table = read_rows_at(uri, ordered, columns, storage, _REMEDY)
        cleaned = [clean_text(table[name].combine_chunks(), False).values.to_pylist() for name in columns]
        are_words = is_word_list(table.schema.field(columns[-1]).type)
        for number, row_texts in zip(ordered, zip(*cleaned, strict=True), strict=True):
            texts[uri, number] = _RowTexts([text or "" for text in row_texts], are_words)
    return [texts[row[SOURCE_FILE], row[SOURCE_ROW]] for row in rows]
