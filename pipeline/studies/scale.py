"""What planning costs the driver at a million files: real listing, cache, cutting and subtracting of made-up files.

No Parquet is written and no row exists: a made-up store lists files, and footers say how many rows they hold. Each
case is measured in a process of its own, so that one peak of memory does not hide another.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from pipeline.config import CorpusConfig
from pipeline.corpus.layouts import LayoutCache
from pipeline.corpus.listing import CorpusFile, list_corpus
from pipeline.corpus.reader import Columns, FileFooter
from pipeline.corpus.shards import FileLayout, RowGroup, Shard, ShardSize, cut_shards
from pipeline.inference.plan import plan_scoring
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.storage import Storage, StoredObject
from pipeline.uris import join_uri

_ROOT, _TABLE = "s3://made-up-bucket/corpus", "s3://made-up-bucket/scores"
_GROUP_ROWS, _ROW_BYTES = 65_536, 512
_DEFAULTS = {name: CorpusConfig.model_fields[name].default for name in ("shard_rows", "shard_bytes")}
_SCHEMA = pa.schema([("text", pa.string()), ("id", pa.string())])
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class ScaleCase:
    """A corpus that might be."""

    num_files: int
    rows_per_file: int
    shard_rows: int = _DEFAULTS["shard_rows"]
    shard_bytes: int = _DEFAULTS["shard_bytes"]

    @property
    def num_rows(self) -> int:
        """Rows of the corpus."""
        return self.num_files * self.rows_per_file

    def layout_of(self, file: CorpusFile) -> FileLayout:
        """What the file's footer would tell."""
        sizes = [_GROUP_ROWS] * (self.rows_per_file // _GROUP_ROWS) + [self.rows_per_file % _GROUP_ROWS]
        return FileLayout(file, tuple(RowGroup(rows, rows * _ROW_BYTES) for rows in sizes if rows))


@dataclass(frozen=True)
class ScaleFigures:
    """Seconds of CPU of each step of a plan, which a busy machine does not change, and how much the process grew.

    Attributes:
        case: What was planned.
        num_shards: Shards it was cut into.
        list_s: Listing, without the store's own time.
        remember_s: Writing the cache of footers, as a first night does.
        recall_s: Reading it, as every later night does instead of opening files.
        cut_s: Cutting shards and naming them.
        records_s: Reading a done-record for every shard, without the store's own time.
        subtract_s: Plan with nothing done, and with everything done.
        peak_mb: Peak resident memory above that of the process with its libraries loaded.
    """

    case: ScaleCase
    num_shards: int
    list_s: float
    remember_s: float
    recall_s: float
    cut_s: float
    records_s: float
    subtract_s: float
    peak_mb: float

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return self.list_s + self.remember_s + self.recall_s + self.cut_s + self.records_s + self.subtract_s


@dataclass(frozen=True)
class MadeUpStorage(Storage):
    """A store that lists a case's files and keeps what is written in memory; its done-records are all there."""

    num_files: int = 0
    shard_rows: dict[str, int] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)

    def list_level(self, uri: str) -> tuple[list[StoredObject], list[str]]:
        """The files, under names as long as Spark gives them, in one folder."""
        return [
            StoredObject(f"{uri}/part-{index:08d}-0f2e7a9c-4f1d-4a77-9b53.c000.parquet", 10_000_000, f"{index:032x}")
            for index in range(self.num_files)
        ], []

    def read_bytes(self, uri: str) -> bytes | None:
        """What was written, or the done-record of a shard."""
        name = uri.rsplit("/", 1)[-1].removesuffix(".json")
        if name not in self.shard_rows:
            return self.contents.get(uri)
        return str(done_record(name, self.shard_rows[name]).to_table()["record"][0]).encode()

    def write_bytes(self, uri: str, content: bytes) -> None:
        """Keep it."""
        self.contents[uri] = content


def done_record(name: str, num_rows: int) -> DoneRecord:
    """The record of a shard whose rows were all scored."""
    return DoneRecord(name, f"run_date=2026-11-23/{name}.parquet", 1, num_rows, None, 0, 0, 1, 1, 0, "run", 1.0)


def measure_alone(cases: Iterable[ScaleCase]) -> Iterable[ScaleFigures]:
    """Measure cases one after the other, each in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            yield pool.submit(measure_case, case).result()


def measure_case(case: ScaleCase) -> ScaleFigures:
    """Plan a case as a first and as a second night would; memory means something in a fresh process only."""
    storage, before_mb = MadeUpStorage(num_files=case.num_files), peak_mb()
    files, list_s = _timed(lambda: list_corpus([_ROOT], storage))
    cache = LayoutCache(join_uri(_TABLE, "layouts"), Columns(("text",), ("id",)), storage)
    _, remember_s = _timed(lambda: cache.save(FileFooter(case.layout_of(file), _SCHEMA) for file in files))
    survey, recall_s = _timed(lambda: cache.survey(files))
    size = ShardSize(case.shard_rows, case.shard_bytes)
    shards, cut_s = _timed(lambda: cut_shards((footer.layout for footer in survey.footers), size))
    storage.shard_rows.update({shard.name: shard.num_rows for shard in shards})
    ledger = Ledger(_TABLE, "2026-11-23", "0" * 64, storage)
    records, records_s = _timed(lambda: ledger.read(shard.name for shard in shards))
    _, subtract_s = _timed(lambda: _subtract(shards, records))
    grown_mb = peak_mb() - before_mb
    return ScaleFigures(case, len(shards), list_s, remember_s, recall_s, cut_s, records_s, subtract_s, grown_mb)


def usual_cases(num_files: int) -> list[ScaleCase]:
    """A hundredth, a tenth and all of so many files of 10,000 rows; then more rows in as many files.

    The last two have ten times the rows per file: once in shards ten times as large, once in shards as usual.
    """
    tenth = ScaleCase(num_files // 10, 10_000)
    more = replace(tenth, rows_per_file=100_000)
    large = replace(more, shard_rows=10 * more.shard_rows, shard_bytes=10 * more.shard_bytes)
    return [ScaleCase(num_files // 100, 10_000), tenth, ScaleCase(num_files, 10_000), large, more]


def scale_table(figures: Sequence[ScaleFigures]) -> str:
    """The figures as a Markdown table."""
    steps = [known.name for known in fields(ScaleFigures) if known.name.endswith("_s")] + ["total_s"]
    names = ["files", "rows", "shard_rows", "shards", *steps, "peak_mb", "bytes_per_file"]
    lines = [" | ".join(names), "|".join("---:" for _ in names)]
    for item in figures:
        case = item.case
        counts = [f"{count:,}" for count in (case.num_files, case.num_rows, case.shard_rows, item.num_shards)]
        seconds = [f"{getattr(item, name):.2f}" for name in steps]
        each = item.peak_mb * 2**20 / case.num_files
        lines.append(" | ".join([*counts, *seconds, f"{item.peak_mb:,.0f}", f"{each:,.0f}"]))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _subtract(shards: Sequence[Shard], records: dict[str, DoneRecord]) -> None:
    first = plan_scoring(shards, {}, {})
    assert len(first.pending) == len(shards)
    assert first.num_pending_rows == first.num_rows
    sizes = {record.path: record.size_bytes for record in records.values() if record.path is not None}
    assert not plan_scoring(shards, records, sizes).pending


def _timed(call: Callable[[], ResultT]) -> tuple[ResultT, float]:
    started_s = time.process_time()
    result = call()
    return result, time.process_time() - started_s


def peak_mb() -> float:
    """Peak resident memory of this process; unlike getrusage's, not its parent's before `exec`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
