"""Reads a published night again and checks it against everything that was written down about it.

In memory: one row group, and the ranges of all row groups (see `keys`); where ranges overlap, the row numbers of that
source file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import BertmillError
from pipeline.output.compacted import read_compacted
from pipeline.output.keys import KEYS, KeyRange, key_ranges, overlapping, read_row_group, read_row_groups
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.log import read_commits, require_night, require_table
from pipeline.output.table import DataFile, _same_type, live_files, open_table
from pipeline.schema import RUN_DATE, SOURCE_FILE, SOURCE_ROW, file_schema
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri

FINGERPRINT = "fingerprint"
_MAX_SHOWN = 5


@dataclass(frozen=True)
class VerifiedNight:
    """What was found.

    Attributes:
        problems: Everything that is not as it should be.
        notes: What could not be checked, and why.
    """

    run_date: str
    fingerprint: str
    num_files: int
    num_rows: int
    num_quarantined_rows: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ranges: list[KeyRange] = field(default_factory=list)
    fingerprints: Counter[str] = field(default_factory=Counter)
    num_files: int = 0
    num_rows: int = 0


@dataclass(frozen=True)
class _Part:
    """One night of the table, or of its quarantine."""

    uri: str
    schema: pa.Schema
    files: Mapping[str, DataFile]


def verify_night(uri: str, run_date: str, storage: Storage) -> VerifiedNight:
    """Check a night's files, rows, manifest and done-records.

    Raises:
        CorpusError: there is no such table or night.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    scored = _Part(uri, pa.schema(table.schema().to_arrow()), require_night(table, uri, run_date))
    parts = [scored, *_quarantine(uri, run_date, storage)]
    findings = [_read_part(part, run_date, storage) for part in parts]
    together = _Findings()
    for found in findings:
        together.problems += found.problems
        together.ranges += found.ranges
        together.fingerprints += found.fingerprints
    together.problems += _doubled_rows(together.ranges, storage)
    if len(together.fingerprints) > 1:
        counts = ", ".join(f"{name or 'none'}: {count} files" for name, count in together.fingerprints.most_common())
        together.problems.append(f"files of more than one fingerprint: {counts}")
    fingerprint = together.fingerprints.most_common(1)[0][0] if together.fingerprints else ""
    num_bad = findings[1].num_rows if len(findings) > 1 else 0
    night = VerifiedNight(run_date, fingerprint, len(scored.files), findings[0].num_rows, num_bad, (), ())
    _check_manifest(uri, night, together, storage)
    together.problems += _check_ledger(uri, night, parts, storage)
    return VerifiedNight(
        run_date,
        fingerprint,
        night.num_files,
        night.num_rows,
        num_bad,
        tuple(together.problems),
        tuple(together.notes),
    )


def _quarantine(uri: str, run_date: str, storage: Storage) -> list[_Part]:
    root = join_uri(uri, "_quarantine")
    table = open_table(root, storage)
    if table is None:
        return []
    return [_Part(root, pa.schema(table.schema().to_arrow()), live_files(table, run_date))]


def _read_part(part: _Part, run_date: str, storage: Storage) -> _Findings:
    """Every file stands in its logged size, has the table's columns and the logged rows, and can be read."""
    found = _Findings()
    standing = storage.list_objects(join_uri(part.uri, f"{RUN_DATE}={run_date}"))
    sizes = {item.uri.removeprefix(part.uri).strip("/"): item.size_bytes for item in standing}
    for path, file in sorted(part.files.items()):
        name = join_uri(part.uri, path)
        if path not in sizes:
            found.problems.append(f"{name}: is missing")
        else:
            if sizes[path] != file.size_bytes:
                found.problems.append(f"{name}: holds {sizes[path]} bytes, the log says {file.size_bytes}")
            try:
                _read_file(part, file, found, storage)
            except BertmillError:
                raise
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                found.problems.append(f"{name}: cannot be read: {str(error).splitlines()[0]}")
    return found


def _read_file(part: _Part, file: DataFile, found: _Findings, storage: Storage) -> None:
    name = join_uri(part.uri, file.path)
    filesystem, location = storage.open_arrow(name)
    metadata = pq.read_metadata(location, filesystem=filesystem)
    found.fingerprints[(metadata.metadata or {}).get(b"bertmill.fingerprint", b"").decode()] += 1
    different = _different_columns(file_schema(part.schema), metadata.schema.to_arrow_schema())
    if different:
        found.problems.append(f"{name}: has other columns than the table: {', '.join(different)}")
    num_rows = 0
    for place, rows in read_row_groups(part.uri, file.path, None, storage):
        num_rows += rows.num_rows
        found.ranges += key_ranges(rows, place)
        if rows.group_by(KEYS).aggregate([]).num_rows < rows.num_rows:
            found.problems.append(f"{name}: row group {place.index} holds a row of the corpus twice")
    if num_rows != file.num_rows:
        found.problems.append(f"{name}: holds {num_rows} rows, the log says {file.num_rows}")
    found.num_rows += num_rows


def _different_columns(wanted: pa.Schema, there: pa.Schema) -> list[str]:
    missing = [f"{name} is missing" for name in wanted.names if name not in there.names]
    extra = [f"{name} is not in the table" for name in there.names if name not in wanted.names]
    changed = [
        f"{name} is {there.field(name).type} instead of {wanted.field(name).type}"
        for name in wanted.names
        if name in there.names and not _same_type(wanted.field(name).type, there.field(name).type)
    ]
    return missing + extra + changed


def _doubled_rows(ranges: list[KeyRange], storage: Storage) -> Iterator[str]:
    """Rows of the corpus that stand in more than one row group, scored or quarantined."""
    for group in overlapping(ranges):
        source_file = group[0].source_file
        numbers = []
        for item in group:
            keys = read_row_group(item.place, KEYS, storage)
            numbers.append(keys.filter(pc.equal(keys[SOURCE_FILE], source_file))[SOURCE_ROW].to_numpy())
        rows, counts = np.unique(np.concatenate(numbers), return_counts=True)
        doubled = rows[counts > 1]
        if len(doubled):
            shown = ", ".join(map(str, doubled[:_MAX_SHOWN]))
            places = ", ".join(sorted({join_uri(item.place.root, item.place.path) for item in group})[:_MAX_SHOWN])
            yield f"{source_file}: {len(doubled)} rows stand in the night more than once (rows {shown}; in {places})"


def _check_manifest(uri: str, night: VerifiedNight, found: _Findings, storage: Storage) -> None:
    """The newest manifest's counts, if it is of the newest publication."""
    manifests = []
    for item in storage.list_objects(join_uri(uri, "_manifests", f"{RUN_DATE}={night.run_date}")):
        content = storage.read_bytes(item.uri) if item.uri.endswith(".json") else None
        if content is not None:
            manifests.append((item.uri, json.loads(content)))
    published = [
        commit.version
        for commit in read_commits(uri, storage)
        if commit.facts.get("run_date") == night.run_date and not commit.facts.get("run_id", "").startswith("compact-")
    ]
    if not manifests:
        found.notes.append("no manifest: the run that published ended before it wrote one; counts were not compared")
        return
    name, newest = max(manifests, key=lambda entry: int(entry[1]["table_version"]))
    if published and int(newest["table_version"]) < published[-1]:
        found.notes.append(f"{name} is older than the night's version {published[-1]}; counts were not compared")
        return
    wanted = {
        "num_scored_rows": night.num_rows,
        "num_quarantined_rows": night.num_quarantined_rows,
        FINGERPRINT: night.fingerprint,
    }
    found.problems += [
        f"{name}: {key} is {newest.get(key)}, the files say {value}"
        for key, value in wanted.items()
        if newest.get(key) != value
    ]


def _check_ledger(uri: str, night: VerifiedNight, parts: list[_Part], storage: Storage) -> Iterator[str]:
    """Every live file, or every part of a compacted one, is what a done-record says."""
    ledger = Ledger(uri, night.run_date, night.fingerprint, storage)
    records = list(ledger.read(ledger.names()).values())
    notes = {note.path: note.parts for note in read_compacted(uri, night.run_date, storage)}
    for part, columns in zip(parts, (_scored_columns, _quarantine_columns), strict=False):
        by_path = {values[0]: values for values in map(columns, records) if values[0] is not None}
        for path, file in sorted(part.files.items()):
            pieces = notes.get(path, {path: file.size_bytes}) if part.uri == uri else {path: file.size_bytes}
            unknown = [piece for piece in pieces if piece not in by_path]
            if unknown:
                name = join_uri(part.uri, unknown[0])
                yield f"{name}: no done-record names it; a second run of this night would score its rows again"
                continue
            resized = [piece for piece, size in pieces.items() if by_path[piece][1] != size]
            num_rows = sum(by_path[piece][2] for piece in pieces)
            if resized:
                yield f"{join_uri(part.uri, resized[0])}: its done-record says {by_path[resized[0]][1]} bytes"
            if num_rows != file.num_rows:
                yield f"{join_uri(part.uri, path)}: done-records say {num_rows} rows, the log says {file.num_rows}"


def _scored_columns(record: DoneRecord) -> tuple[str | None, int, int]:
    return record.path, record.size_bytes, record.num_scored_rows


def _quarantine_columns(record: DoneRecord) -> tuple[str | None, int, int]:
    return record.quarantine_path, record.quarantine_size_bytes, record.num_quarantined_rows
