"""What changed between two nights, row by row.

Rows are joined by `matching`, without those of corpus files that were rewritten. In memory: what it needs, and counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CorpusError
from pipeline.output.columns import columns_of
from pipeline.output.keys import read_row_groups
from pipeline.output.log import require_night, require_table
from pipeline.output.matching import NightRows, NotCompared, RowMatcher
from pipeline.output.nights import read_night
from pipeline.output.row_groups import fit_columns, shared_columns
from pipeline.schema import EMBEDDING, RESERVED_COLUMNS, holds_vectors, is_list, is_text, prefixed
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri

FloatMatrix = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelChanges:
    """Rows of one label column whose label is another: (from, to, rows), the most frequent first."""

    column: str
    num_changed_rows: int
    flips: tuple[tuple[str | None, str | None, int], ...]


@dataclass(frozen=True)
class NumberShift:
    """How far the numbers of one column moved; numbers that are null or not finite in either night are left out."""

    column: str
    num_values: int
    mean_absolute: float | None
    max_absolute: float | None


@dataclass(frozen=True)
class Closeness:
    """Cosine of one column's vectors, of rows that have one of the same width in both nights."""

    column: str
    num_rows: int
    mean_cosine: float | None
    min_cosine: float | None


@dataclass(frozen=True)
class NightComparison:
    """Two nights of a table, or a night and what a bundle said beside it.

    A row is unchanged if it is the same in every column that is compared. `num_rows_both` are those that were compared:
    with `not_compared`, and those only there, they are all rows of a night.
    """

    first: str
    second: str
    num_rows_first: int
    num_rows_second: int
    num_rows_only_first: int
    num_rows_only_second: int
    num_rows_both: int
    num_rows_unchanged: int
    not_compared: NotCompared
    labels: tuple[LabelChanges, ...]
    numbers: tuple[NumberShift, ...]
    vectors: tuple[Closeness, ...]


@dataclass(frozen=True)
class ComparedColumns:
    """The columns of a table that can be compared, by how."""

    labels: tuple[str, ...]
    numbers: tuple[str, ...]
    vectors: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.labels, *self.numbers, *self.vectors]


def choose_columns(schema: pa.Schema) -> ComparedColumns:
    """Labels by name (`label`, `labels` and what ends in `_label`, `_labels`), floats and lists of floats by type."""
    labels = [field.name for field in schema if _is_label(field)]
    numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
    lists = [field.name for field in schema if holds_vectors(field.type)]
    vectors = [name for name in lists if name == EMBEDDING or name.endswith(f"_{EMBEDDING}")]
    numbers += [name for name in lists if name not in vectors]
    return ComparedColumns(*(tuple(names) for names in (labels, numbers, vectors)))


def compare_nights(uri: str, first: str, second: str, storage: Storage) -> NightComparison:
    """Join two nights and count what differs; of a snapshot, the whole table as each night left it.

    Columns that one of the nights has nowhere are not compared, nor rows of corpus files rewritten in between.

    Raises:
        CorpusError: there is no such table, one of the nights is not in it, or vacuum has removed files of a snapshot.
    """
    uri = canonical_uri(uri)
    nights = [read_night(uri, run_date, storage) for run_date in (first, second)]
    there = [night.columns(storage) for night in nights]
    columns = choose_columns(pa.schema([field for field in there[0] if field.name in there[1].names]))
    wanted = pa.schema([there[0].field(name) for name in columns.names])
    rows = [NightRows([file.path for file in night.files], night.etags(storage)) for night in nights]
    totals, matcher = _Totals(columns), RowMatcher(uri, rows[0], rows[1], storage)
    for left, right in matcher.match_rows(columns.names):
        totals.add(fit_columns(left, wanted), fit_columns(right, wanted))
    return totals.summed_up(first, second, nights[0].num_rows, nights[1].num_rows, matcher.not_compared)


def compare_beside(uri: str, run_date: str, bundle_name: str, storage: Storage) -> NightComparison:
    """Compare, within a night, what a bundle that scored beside it says with what the night's own bundle says.

    Raises:
        CorpusError: there is no such table or night, or no such bundle scored beside its own.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    files = require_night(table, uri, run_date, storage)
    there = shared_columns(columns_of(table), [join_uri(uri, path) for path in files], storage)
    both = [field for field in there if prefixed(bundle_name, field.name) in there.names]
    columns = choose_columns(pa.schema(both))
    if not columns.names:
        raise CorpusError(
            f"{uri}: night {run_date} has no two columns NAME and {bundle_name}_NAME that could be compared",
            f"the night's columns are: {', '.join(there.names)}",
        )
    totals, others = _Totals(columns), [prefixed(bundle_name, name) for name in columns.names]
    for path in sorted(files):
        for _, rows in read_row_groups(uri, path, [*columns.names, *others], storage):
            totals.add(rows.select(columns.names), rows.select(others).rename_columns(columns.names))
    return totals.summed_up(run_date, f"{run_date} by {bundle_name}", totals.num_rows, totals.num_rows, NotCompared())


class _Totals:
    """Counts over all joined rows."""

    def __init__(self, columns: ComparedColumns) -> None:
        self._columns = columns
        self.num_rows = 0
        self.num_unchanged = 0
        self._flips: dict[str, Counter[tuple[str | None, str | None]]] = defaultdict(Counter)
        self._numbers: dict[str, _Spread] = defaultdict(_Spread)
        self._vectors: dict[str, _Spread] = defaultdict(_Spread)

    def add(self, left: pa.Table, right: pa.Table) -> None:
        same = np.ones(left.num_rows, np.bool_)
        for name in self._columns.labels:
            same &= self._add_labels(name, _as_text(left[name]), _as_text(right[name]))
        for name in self._columns.numbers:
            same &= self._add_numbers(name, left[name], right[name])
        for name in self._columns.vectors:
            same &= self._add_vectors(name, left[name], right[name])
        self.num_rows += left.num_rows
        self.num_unchanged += int(same.sum())

    def summed_up(
        self, first: str, second: str, num_first: int, num_second: int, not_compared: NotCompared
    ) -> NightComparison:
        """All of it, for two sides of so many rows."""
        num_both = self.num_rows + not_compared.num_rows
        return NightComparison(
            first,
            second,
            num_first,
            num_second,
            num_first - num_both,
            num_second - num_both,
            self.num_rows,
            self.num_unchanged,
            not_compared,
            self.labels(),
            self.numbers(),
            self.vectors(),
        )

    def labels(self) -> tuple[LabelChanges, ...]:
        return tuple(
            LabelChanges(
                name,
                self._flips[name].total(),
                tuple((before, after, count) for (before, after), count in self._flips[name].most_common()),
            )
            for name in self._columns.labels
        )

    def numbers(self) -> tuple[NumberShift, ...]:
        spreads = ((name, self._numbers[name]) for name in self._columns.numbers)
        return tuple(NumberShift(name, spread.count, spread.mean, spread.highest) for name, spread in spreads)

    def vectors(self) -> tuple[Closeness, ...]:
        spreads = ((name, self._vectors[name]) for name in self._columns.vectors)
        return tuple(Closeness(name, spread.count, spread.mean, spread.lowest) for name, spread in spreads)

    def _add_labels(self, name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> BoolArray:
        same = _same(left, right)
        differs = pa.array(~same)
        pairs = zip(left.filter(differs).to_pylist(), right.filter(differs).to_pylist(), strict=True)
        self._flips[name].update(pairs)
        return same

    def _add_numbers(self, name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> BoolArray:
        pairs = _pair_up(left, right)
        shifts = np.abs(pairs.after - pairs.before)
        self._numbers[name].add(shifts[np.isfinite(shifts)])
        return pairs.same_rows()

    def _add_vectors(self, name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> BoolArray:
        pairs = _pair_up(left, right)
        lengths = np.sqrt(pairs.row_sums(pairs.before**2) * pairs.row_sums(pairs.after**2))
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = pairs.row_sums(pairs.before * pairs.after) / lengths
        self._vectors[name].add(cosines[np.isfinite(cosines)])
        return pairs.same_rows()


class _Spread:
    """Count, mean, lowest and highest of numbers that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self.lowest: float | None = None
        self.highest: float | None = None

    def add(self, values: FloatMatrix) -> None:
        if values.size:
            self.count += values.size
            self._sum += float(values.sum())
            self.lowest = min(float(values.min()), self.lowest if self.lowest is not None else np.inf)
            self.highest = max(float(values.max()), self.highest if self.highest is not None else -np.inf)

    @property
    def mean(self) -> float | None:
        return self._sum / self.count if self.count else None


@dataclass(frozen=True)
class _Pairs:
    """The numbers of R rows that have equally many on both sides, side by side.

    Attributes:
        alike: bool [R]; equally many numbers, or null on both sides.
        rows: int [E]; the row of each number.
        before, after: float64 [E]; NaN for null.
    """

    alike: BoolArray
    rows: IntArray
    before: FloatMatrix
    after: FloatMatrix

    def same_rows(self) -> BoolArray:
        """Rows whose numbers are equal (NaN equals NaN), or null on both sides."""
        equal = (self.before == self.after) | (np.isnan(self.before) & np.isnan(self.after))
        same = self.alike.copy()
        same[self.rows[~equal]] = False
        return same

    def row_sums(self, values: FloatMatrix) -> FloatMatrix:
        """Of values [E], the sum of each row [R]."""
        return np.asarray(np.bincount(self.rows, values, len(self.alike)), np.float64)


def _pair_up(left: pa.ChunkedArray, right: pa.ChunkedArray) -> _Pairs:
    widths, other_widths = (_widths(side) for side in (left, right))
    alike = widths == other_widths
    before, after = (_numbers(side.filter(pa.array(alike & (widths > 0)))) for side in (left, right))
    rows = np.repeat(np.arange(len(widths)), np.where(alike, np.maximum(widths, 0), 0))
    return _Pairs(alike, rows, before, after)


def _widths(column: pa.ChunkedArray) -> IntArray:
    """How many numbers each row has; -1 for null."""
    if is_list(column.type):
        return np.asarray(pc.fill_null(pc.list_value_length(column), -1), np.int64)
    return np.where(np.asarray(pc.is_valid(column), np.bool_), 1, -1)


def _numbers(column: pa.ChunkedArray) -> FloatMatrix:
    return np.asarray((pc.list_flatten(column) if is_list(column.type) else column).to_numpy(), np.float64)


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> BoolArray:
    """Equal, or null on both sides."""
    equal = pc.fill_null(pc.equal(left, right), False)
    return np.asarray(pc.or_(equal, pc.and_(pc.is_null(left), pc.is_null(right))), np.bool_)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join(column, ", ") if is_list(column.type) else column


def _is_label(field: pa.Field) -> bool:
    name = field.name.rsplit("_", 1)[-1]
    kind = field.type.value_type if is_list(field.type) else field.type
    return field.name not in RESERVED_COLUMNS and name in ("label", "labels") and is_text(kind)
