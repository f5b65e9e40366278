"""Which version of which file the nights of a table cover, so that the next night takes only what is new.

Written before the night's commit, and believed only if the night shows exactly the files it names: a run killed before
its commit leaves a list that nobody believes. What a list says of an earlier night is believed only while that night's
own list says it too: a night that was run again may hold less, and what it lost is new. Lists are named by what they
say, so that such a run leaves the believed list of an earlier run of its night as it was. Files whose night lies
before one of another fingerprint count as new: a reader who takes the newest night of each file would find the other
model's scores.

    _bertmill/coverage/run_date=2026-11-23/FINGERPRINT-CONTENT.parquet
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.listing import CorpusFile
from pipeline.errors import AccountingError
from pipeline.output.compacted import read_compacted, stand_in
from pipeline.output.current import Current, read_current
from pipeline.output.table import DataFile, live_files, night_of, open_table
from pipeline.output.writer import read_footer
from pipeline.schema import FINGERPRINT_FOOTER, RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

_SCHEMA = pa.schema([("uri", pa.string()), ("etag", pa.string()), ("run_date", pa.string())])
_PATHS = b"bertmill.paths"
_THREADS = 16
_Shown = Mapping[str, Mapping[str, DataFile]]  # night -> path -> file


@dataclass(frozen=True)
class Coverage:
    """Corpus files whose rows stand in a table under one fingerprint.

    Attributes:
        etags: URI -> etag of the version that was scored.
        nights: URI -> the night that holds its rows.
    """

    etags: Mapping[str, str]
    nights: Mapping[str, str]

    def lacks(self, file: CorpusFile) -> bool:
        """Whether a file is new, or another version than the one scored."""
        return self.etags.get(file.uri) != file.etag

    def extended(self, files: Sequence[CorpusFile], run_date: str) -> Coverage:
        """With some more files, covered by a night."""
        return Coverage(
            {**self.etags, **{file.uri: file.etag for file in files}},
            {**self.nights, **{file.uri: run_date for file in files}},
        )

    def within(self, files: Sequence[CorpusFile]) -> Coverage:
        """Only files that are still there; one that comes back is then new."""
        return self.only({file.uri for file in files} & self.etags.keys())

    def after(self, run_date: str) -> Coverage:
        """Only files whose rows stand in later nights."""
        return self.only({uri for uri, night in self.nights.items() if night > run_date})

    def held_by(self, run_date: str) -> set[str]:
        """URIs of the files whose rows stand in a night."""
        return {uri for uri, night in self.nights.items() if night == run_date}

    def without(self, uris: Set[str]) -> Coverage:
        """All but some files."""
        return self.only(self.etags.keys() - uris)

    def only(self, uris: Set[str]) -> Coverage:
        """Some of the files."""
        return Coverage({uri: self.etags[uri] for uri in uris}, {uri: self.nights[uri] for uri in uris})


NOTHING = Coverage({}, {})


@dataclass(frozen=True)
class CoverageStore:
    """The coverage lists of a table under one fingerprint."""

    table_uri: str
    fingerprint: str
    storage: Storage

    def before(self, run_date: str) -> Coverage:
        """What the newest published night before a date covers; nothing if there is none."""
        shown = self._shown_files()
        if shown is None:
            return NOTHING
        for night in sorted((night for night in self._nights() if night < run_date), reverse=True):
            listed = self._believed(night, shown)
            if listed is not None:
                found = self._standing(listed, shown)
                first = min(found.nights.values(), default=night)
                return found.after(self._newest_foreign_night(first, run_date, shown))
        return NOTHING

    def published(self, run_date: str) -> Coverage | None:
        """What a night covers: its newest list that names exactly the files it shows."""
        shown = self._shown_files()
        return None if shown is None else self._believed(run_date, shown)

    def current(self, but_for: str = "") -> Current:
        """Which night holds the current rows of which file, whatever the fingerprint.

        As `_current` says; and as the newest night says, whose run may have been killed before it could say so there.

        Args:
            but_for: A night that is not asked.
        """
        said, shown = read_current(self.table_uri, self.storage), self._shown_files() or {}
        newest = max(shown.keys() - {but_for}, default="")
        own = self._believed(newest, shown, any_model=True) if newest and newest >= said.said_by else None
        return said if own is None else Current({**said.nights, **own.nights}, newest)

    def held(self, nights: Mapping[str, str]) -> dict[str, str]:
        """Of files (URI -> night), those that their nights hold, whatever the fingerprint."""
        shown = self._shown_files() if nights else None
        if shown is None:
            return {}
        lists = self._read_lists(nights, shown, any_model=True)
        return {
            uri: night
            for uri, night in nights.items()
            if (own := lists[night]) is not None and own.nights.get(uri) == night
        }

    def _believed(self, run_date: str, shown: _Shown, any_model: bool = False) -> Coverage | None:
        """The same, where it was read what the table shows; of whichever fingerprint the night is, if any will do."""
        found = self.storage.list_objects(self._folder(run_date))
        lists = [item for item in found if any_model or self._is_own(item.uri)]
        for item in sorted(lists, key=lambda item: (item.modified_s or 0.0, item.uri), reverse=True):
            content = self.storage.read_bytes(item.uri)
            if content is None:
                continue
            table, paths = _parse_list(content, item.uri)
            live = shown.get(run_date, {})
            if live.keys() == stand_in(paths, live, read_compacted(self.table_uri, run_date, self.storage)):
                uris = table["uri"].to_pylist()
                return Coverage(
                    dict(zip(uris, table["etag"].to_pylist(), strict=True)),
                    dict(zip(uris, table["run_date"].to_pylist(), strict=True)),
                )
        return None

    def write(self, run_date: str, coverage: Coverage, paths: Collection[str]) -> None:
        """List what a night covers once its commit shows `paths`."""
        uris = sorted(coverage.etags)
        columns = [uris, [coverage.etags[uri] for uri in uris], [coverage.nights[uri] for uri in uris]]
        schema = _SCHEMA.with_metadata({_PATHS: json.dumps(sorted(paths)).encode()})
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
        name = f"{self._prefix}{hashlib.sha256(sink.getvalue()).hexdigest()[:32]}.parquet"
        self.storage.write_bytes(join_uri(self._folder(run_date), name), sink.getvalue())

    def _read_lists(
        self, nights: Mapping[str, str], shown: _Shown, any_model: bool = False
    ) -> dict[str, Coverage | None]:
        """What each night that holds a file (URI -> night) covers, as `_believed` tells."""
        dates = sorted(set(nights.values()))
        found = map_threads(lambda night: self._believed(night, shown, any_model), dates, _THREADS)
        return dict(zip(dates, found, strict=True))

    def _standing(self, coverage: Coverage, shown: _Shown) -> Coverage:
        """Only files whose night still holds them, in the version that was scored."""
        lists = self._read_lists(coverage.nights, shown)
        there = {
            uri
            for uri, night in coverage.nights.items()
            if (own := lists[night]) is not None
            and (own.nights.get(uri), own.etags.get(uri)) == (night, coverage.etags[uri])
        }
        return coverage.only(there)

    def _newest_foreign_night(self, first: str, before: str, shown: _Shown) -> str:
        """The newest night in [first, before) that shows another fingerprint's files; empty if there is none."""
        nights = [night for night in shown if first <= night < before]
        uris = [join_uri(self.table_uri, next(iter(shown[night]))) for night in nights]
        found = map_threads(lambda uri: read_footer(uri, self.storage).get(FINGERPRINT_FOOTER), uris, _THREADS)
        return max((night for night, name in zip(nights, found, strict=True) if name != self.fingerprint), default="")

    def _shown_files(self) -> _Shown | None:
        """The live files of every night, read once; None where there is no table."""
        table = open_table(self.table_uri, self.storage)
        if table is None:
            return None
        shown: dict[str, dict[str, DataFile]] = {}
        for path, file in live_files(table).items():
            shown.setdefault(night_of(path), {})[path] = file
        return shown

    def _nights(self) -> set[str]:
        root = self._root
        below = (item.uri.removeprefix(root).strip("/") for item in self.storage.list_objects(root))
        return {path.split("/", 1)[0].removeprefix(f"{RUN_DATE}=") for path in below if self._is_own(path)}

    def _is_own(self, uri: str) -> bool:
        name = uri.rsplit("/", 1)[-1]
        return name.startswith(self._prefix) and name.endswith(".parquet")

    @property
    def _prefix(self) -> str:
        return f"{self.fingerprint[:32]}-"

    @property
    def _root(self) -> str:
        return join_uri(self.table_uri, "_bertmill", "coverage")

    def _folder(self, run_date: str) -> str:
        return join_uri(self._root, f"{RUN_DATE}={run_date}")


def _parse_list(content: bytes, uri: str) -> tuple[pa.Table, list[str]]:
    """The covered files, and the paths that the night must show."""
    try:
        table = pq.read_table(io.BytesIO(content))
        return table, json.loads(table.schema.metadata[_PATHS])
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise AccountingError(
            f"{uri}: not a coverage list: {error}", "remove it; its night then counts as not covered"
        ) from None
