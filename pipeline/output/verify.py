"""Reads a published night again and checks it against everything that was written down about it.

A snapshot is one night, whichever night is asked for: its whole table is compared with the newest manifest.

In memory: one row group, and the ranges of all row groups (see `keys`); where ranges overlap, the row numbers of that
source file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pipeline.errors import BertmillError, first_line
from pipeline.output.columns import same_type
from pipeline.output.compacted import CompactedFile
from pipeline.output.current import read_current
from pipeline.output.keys import KEYS, KeyRange, key_ranges, overlapping, read_row_group, read_row_groups
from pipeline.output.ledger import DoneRecord, Ledger
from pipeline.output.log import last_publication, require_night, require_table
from pipeline.output.manifests import Manifest, read_manifests
from pipeline.output.origins import FileOrigin, origin_of, other_versions
from pipeline.output.table import DataFile, holds_snapshot, live_files, open_table, read_notes
from pipeline.schema import (
    FINGERPRINT_FOOTER,
    QUARANTINE,
    RUN_DATE,
    SOURCE_FILE,
    SOURCE_FOOTER,
    SOURCE_ROW,
    file_schema,
)
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
    vanished: set[str] = field(default_factory=set)
    origins: dict[str, FileOrigin] = field(default_factory=dict)  # by file, but for vanished ones
    lacking: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)  # file, fingerprint, columns
    num_files: int = 0
    num_rows: int = 0
    num_vanished_rows: int = 0


@dataclass(frozen=True)
class _Scope:
    """What is looked at.

    Attributes:
        run_date: One night; None for the whole table, which is a snapshot.
        manifest: The newest manifest of it.
        corpus: Files of the corpus, if a snapshot keeps rows of files that are not among them.
    """

    run_date: str | None
    manifest: Manifest | None
    corpus: frozenset[str] | None = None


@dataclass(frozen=True)
class _Part:
    """One night of the table, or of its quarantine; or the whole of a snapshot."""

    uri: str
    schema: pa.Schema
    files: Mapping[str, DataFile]
    is_quarantine: bool = False


def verify_night(uri: str, run_date: str, storage: Storage) -> VerifiedNight:
    """Check a night's files, rows, manifest and done-records; of a snapshot, the whole table's.

    Raises:
        CorpusError: there is no such table or night.
    """
    uri = canonical_uri(uri)
    table = require_table(uri, storage)
    scope = _scope_of(uri, run_date, table, storage)
    files = require_night(table, uri, run_date, storage) if scope.run_date else live_files(table)
    scored = _Part(uri, pa.schema(table.schema().to_arrow()), files)
    parts = [scored, *_quarantine(uri, scope, storage)]
    findings = [_read_part(part, scope, storage) for part in parts]
    together = _joined(findings, storage)
    if scope.run_date is None:
        together.notes.append("the table is a snapshot: the whole of it was read")
    if together.vanished:
        num_rows = sum(found.num_vanished_rows for found in findings)
        kept = f"{len(together.vanished)} files keep {num_rows} rows of files no longer in the corpus, or corrupt there"
        together.notes.append(kept)
    said = scope.manifest.fingerprint if scope.manifest else ""
    fingerprint = together.fingerprints.most_common(1)[0][0] if together.fingerprints else said
    num_rows, num_bad = [found.num_rows for found in (*findings, _Findings())][:2]
    night = VerifiedNight(run_date, fingerprint, len(files), num_rows, num_bad, (), ())
    in_corpus = [found.num_rows - found.num_vanished_rows for found in (*findings, _Findings())][:2]
    counts: dict[str, int | str] = {
        "num_scored_rows": in_corpus[0],
        "num_quarantined_rows": in_corpus[1],
        FINGERPRINT: fingerprint,
    }
    _check_manifest(uri, scope, counts, together, storage)
    ledger = Ledger(uri, run_date, fingerprint, storage, scope.run_date is None)
    known = [replace(part, files=_without(part, together.vanished)) for part in parts]
    compacted = read_notes(uri, table, scope.run_date, storage)
    together.problems += _check_ledger(ledger, known, compacted, together.origins)
    return replace(night, problems=tuple(together.problems), notes=tuple(together.notes))


def _scope_of(uri: str, run_date: str, table: DeltaTable, storage: Storage) -> _Scope:
    """The night; or the whole table, if the newest manifest (or the log, without any) says that it is a snapshot."""
    manifests = read_manifests(uri, storage)
    own = [manifest for manifest in manifests if manifest.run_date == run_date]
    is_snapshot = manifests[-1].is_snapshot if manifests else holds_snapshot(table)
    if is_snapshot and (own or require_night(table, uri, run_date, storage)):
        newest = manifests[-1] if manifests else None
        return _Scope(None, newest, newest.kept_corpus(storage) if newest else None)
    return _Scope(run_date, own[-1] if own else None)


def _joined(findings: Sequence[_Findings], storage: Storage) -> _Findings:
    together = _Findings()
    for found in findings:
        together.problems += found.problems
        together.ranges += found.ranges
        together.fingerprints += found.fingerprints
        together.vanished |= found.vanished
        together.origins |= found.origins
        _judge_lacking(found.lacking, together)
    together.problems += _doubled_rows(together.ranges, storage)
    if len(together.fingerprints) > 1:
        counts = ", ".join(f"{name or 'none'}: {count} files" for name, count in together.fingerprints.most_common())
        together.problems.append(f"files of more than one fingerprint: {counts}")
    return together


def _without(part: _Part, names: Collection[str]) -> dict[str, DataFile]:
    return {path: file for path, file in part.files.items() if join_uri(part.uri, path) not in names}


def _quarantine(uri: str, scope: _Scope, storage: Storage) -> list[_Part]:
    root = join_uri(uri, QUARANTINE)
    table = open_table(root, storage)
    if table is None:
        return []
    return [_Part(root, pa.schema(table.schema().to_arrow()), live_files(table, scope.run_date), True)]


def _read_part(part: _Part, scope: _Scope, storage: Storage) -> _Findings:
    """Every file stands in its logged size, has the table's columns and the logged rows, and can be read."""
    found = _Findings()
    folder = join_uri(part.uri, f"{RUN_DATE}={scope.run_date}") if scope.run_date else part.uri
    standing = storage.list_objects(folder)
    sizes = {item.uri.removeprefix(part.uri).strip("/"): item.size_bytes for item in standing}
    for path, file in sorted(part.files.items()):
        name = join_uri(part.uri, path)
        if path not in sizes:
            found.problems.append(f"{name}: is missing")
        else:
            if sizes[path] != file.size_bytes:
                found.problems.append(f"{name}: holds {sizes[path]} bytes, the log says {file.size_bytes}")
            try:
                _read_file(part, file, scope.corpus, found, storage)
            except BertmillError:
                raise
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                found.problems.append(f"{name}: cannot be read: {first_line(error)}")
    return found


def _read_file(part: _Part, file: DataFile, corpus: frozenset[str] | None, found: _Findings, storage: Storage) -> None:
    name = join_uri(part.uri, file.path)
    filesystem, location = storage.open_arrow(name)
    metadata = pq.read_metadata(location, filesystem=filesystem)
    footer = metadata.metadata or {}
    source = footer.get(SOURCE_FOOTER.encode())
    is_vanished = corpus is not None and source is not None and source.decode() not in corpus
    fingerprint = footer.get(FINGERPRINT_FOOTER.encode(), b"").decode()
    origin = origin_of(footer)
    if is_vanished:
        found.vanished.add(name)
    else:
        found.fingerprints[fingerprint] += 1
        found.origins[name] = origin
    wanted, there = file_schema(part.schema), metadata.schema.to_arrow_schema()
    found.lacking.append((name, fingerprint, tuple(column for column in wanted.names if column not in there.names)))
    different = _different_columns(wanted, there)
    if different:
        found.problems.append(f"{name}: has other columns than the table: {', '.join(different)}")
    num_rows = 0
    for place, rows in read_row_groups(part.uri, file.path, None, storage):
        num_rows += rows.num_rows
        found.ranges += key_ranges(rows, place)
        origin.add(rows)
        if rows.group_by(KEYS).aggregate([]).num_rows < rows.num_rows:
            found.problems.append(f"{name}: row group {place.index} holds a row of the corpus twice")
    found.problems += origin.problems(name, part.is_quarantine)
    if num_rows != file.num_rows:
        found.problems.append(f"{name}: holds {num_rows} rows, the log says {file.num_rows}")
    found.num_rows += num_rows
    found.num_vanished_rows += num_rows if is_vanished else 0


def _judge_lacking(lacking: Sequence[tuple[str, str, tuple[str, ...]]], found: _Findings) -> None:
    """Columns that were added to the table later are in none of a fingerprint's files; else one of them is spoilt."""
    by_fingerprint: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for _, fingerprint, columns in lacking:
        by_fingerprint[fingerprint].add(columns)
    for name, fingerprint, columns in lacking:
        if columns and len(by_fingerprint[fingerprint]) > 1:
            missing = ", ".join(f"{column} is missing" for column in columns)
            found.problems.append(f"{name}: has other columns than the table: {missing}")
    for kinds in by_fingerprint.values():
        if len(kinds) == 1 and any(kinds):
            found.notes.append(f"columns of the table that this night does not have: {', '.join(*kinds)}")


def _different_columns(wanted: pa.Schema, there: pa.Schema) -> list[str]:
    missing = [f"{field.name} is missing" for field in wanted if field.name not in there.names and not field.nullable]
    extra = [f"{name} is not in the table" for name in there.names if name not in wanted.names]
    changed = [
        f"{name} is {there.field(name).type} instead of {wanted.field(name).type}"
        for name in wanted.names
        if name in there.names and not same_type(wanted.field(name).type, there.field(name).type)
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


def _check_manifest(
    uri: str, scope: _Scope, counts: Mapping[str, int | str], found: _Findings, storage: Storage
) -> None:
    """The newest manifest's counts and files, if it is of the newest publication."""
    published = last_publication(uri, storage, scope.run_date)
    manifest = scope.manifest
    if manifest is None:
        found.notes.append("no manifest: the run that published ended before it wrote one; counts were not compared")
        return
    if published is not None and manifest.version < published:
        found.notes.append(f"{manifest.uri} is older than the night's version {published}; counts were not compared")
        return
    found.problems += [
        f"{manifest.uri}: {key} is {manifest.counts.get(key)}, the files say {value}"
        for key, value in counts.items()
        if manifest.counts.get(key) != value
    ]
    if said := manifest.counts.get("model_version"):
        found.problems += other_versions(found.origins, str(said), manifest.uri)
    if scope.run_date and (about := manifest.files(storage)) is not None:
        held = about | {item.source_file for item in found.ranges}
        lost = sorted(read_current(uri, storage).held_by(scope.run_date) - held)
        if lost:
            shown = ", ".join(lost[:_MAX_SHOWN])
            found.problems.append(f"_current reads {len(lost)} files in this night, which does not hold them: {shown}")


def _check_ledger(
    ledger: Ledger, parts: Sequence[_Part], compacted: Sequence[CompactedFile], origins: Mapping[str, FileOrigin]
) -> Iterator[str]:
    """Every live file, or every part of a compacted one, is what a done-record says."""
    records = list(ledger.read(ledger.names()).values())
    notes = {note.path: note.parts for note in compacted}
    for part, columns in zip(parts, (_scored_columns, _quarantine_columns), strict=False):
        is_scored = part.uri == ledger.table_uri
        by_path = {values[0]: values for values in map(columns, records) if values[0] is not None}
        runs = {columns(record)[0]: record.run_id for record in records}
        for path, file in sorted(part.files.items()):
            pieces = notes.get(path, {path: file.size_bytes}) if is_scored else {path: file.size_bytes}
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
            if origin := origins.get(join_uri(part.uri, path)):
                yield from origin.run_problems(join_uri(part.uri, path), {runs[piece] for piece in pieces})


def _scored_columns(record: DoneRecord) -> tuple[str | None, int, int]:
    return record.path, record.size_bytes, record.num_scored_rows


def _quarantine_columns(record: DoneRecord) -> tuple[str | None, int, int]:
    return record.quarantine_path, record.quarantine_size_bytes, record.num_quarantined_rows
