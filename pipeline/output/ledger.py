"""One done-record per shard, created with `If-None-Match: *`: the first finished attempt is the only one.

A record names the file that holds the shard's rows. A retry, a second run or a racing driver that finishes
later finds the record, throws its own file away and takes the first one's. So every publisher of a night
commits the same files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from json import dumps, loads

import pyarrow as pa

from pipeline.errors import AccountingError
from pipeline.output.usage import ShardUsage, parse_usage
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage, map_threads
from pipeline.uris import join_uri

_THREADS = 16
SNAPSHOT = "snapshot"
_BEGUN, _DONE = b"begun", b"done"


@dataclass(frozen=True, slots=True)
class DoneRecord:
    """What became of one shard.

    Paths are relative to the table (or its quarantine table); None where there were no such rows. `num_tokens` counts
    what was computed: not the `num_reused_rows`, whose results were copied. `reasons` counts the quarantined rows by
    what is wrong with them.
    """

    shard: str
    path: str | None
    size_bytes: int
    num_scored_rows: int
    quarantine_path: str | None
    quarantine_size_bytes: int
    num_quarantined_rows: int
    num_tokens: int
    num_padded_tokens: int
    num_truncated_rows: int
    run_id: str
    elapsed_s: float
    reasons: Mapping[str, int] = field(default_factory=dict)
    num_reused_rows: int = 0
    usage: ShardUsage = field(default_factory=ShardUsage)

    @property
    def num_rows(self) -> int:
        """Rows the shard accounts for."""
        return self.num_scored_rows + self.num_quarantined_rows

    def to_table(self) -> pa.Table:
        """The record as a receipt of one row."""
        return pa.table({"record": [dumps(asdict(self))]})


def records_from(receipt: pa.Table) -> list[DoneRecord]:
    """The records in a receipt."""
    return [parse_record(text, "receipt") for text in receipt["record"].to_pylist()]


def parse_record(text: str | bytes, source: str) -> DoneRecord:
    """Read a record's JSON.

    Raises:
        AccountingError: it is not one; `source` says where it stands.
    """
    try:
        values = loads(text)
        known = {item.name: values[item.name] for item in fields(DoneRecord)}
        return DoneRecord(**known | {"usage": parse_usage(values["usage"])})
    except (ValueError, KeyError, TypeError) as error:
        raise AccountingError(
            f"{source}: not a done-record: {error}", "remove it; the shard is then scored again"
        ) from None


@dataclass(frozen=True)
class Ledger:
    """The done-records of one night (or of a snapshot, whose shards outlive nights) under one fingerprint.

    `run_date` is the night in which new files are written; `scope` the folder of the records.
    """

    table_uri: str
    run_date: str
    fingerprint: str
    storage: Storage
    is_snapshot: bool = False

    @property
    def scope(self) -> str:
        """What the records are of: a night, or the whole table."""
        return SNAPSHOT if self.is_snapshot else f"{RUN_DATE}={self.run_date}"

    @property
    def root(self) -> str:
        """Where the records stand."""
        return join_uri(self.table_uri, "_bertmill", "ledger", self.scope, self.fingerprint[:32])

    def claim(self, record: DoneRecord) -> DoneRecord:
        """Create the record unless one exists.

        Returns:
            The one that stands: `record` itself, or an earlier attempt's.

        Raises:
            AccountingError: the one that stood was deleted meanwhile.
        """
        uri = self._uri(record.shard)
        if self.storage.create_bytes(uri, dumps(asdict(record)).encode()):
            return record
        standing = self.storage.read_bytes(uri)
        if standing is None:
            raise AccountingError(f"{uri}: vanished while it was being claimed", "run the same command again")
        return parse_record(standing, uri)

    def names(self) -> set[str]:
        """Names of all shards that have a record: one listing."""
        found = self.storage.list_objects(self.root)
        names = (item.uri.rsplit("/", 1)[-1] for item in found)
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."}

    def read(self, names: Iterable[str]) -> dict[str, DoneRecord]:
        """The records of some shards, read in parallel; names without one are left out."""
        wanted = list(names)
        contents = map_threads(lambda name: self.storage.read_bytes(self._uri(name)), wanted, _THREADS)
        return {
            name: parse_record(content, self._uri(name))
            for name, content in zip(wanted, contents, strict=True)
            if content is not None
        }

    def drop(self, names: Iterable[str]) -> None:
        """Forget records, so that their shards are scored again."""
        deque(map_threads(lambda name: self.storage.delete(self._uri(name)), names, _THREADS), maxlen=0)

    def is_rescored(self) -> bool:
        """Whether this night was ever begun to be scored again: done or not, it stays whole."""
        return self.storage.read_bytes(self._rescore_mark) is not None

    def is_rescoring(self) -> bool:
        """Whether this night was begun to be scored again, and not published since."""
        return self.storage.read_bytes(self._rescore_mark) == _BEGUN

    def begin_rescoring(self) -> None:
        """Forget every record; killed meanwhile, it is begun again."""
        self.drop(self.names())
        self.storage.write_bytes(self._rescore_mark, _BEGUN)

    def end_rescoring(self) -> None:
        """The night is published: asked for again, everything is scored again."""
        if self.is_rescoring():
            self.storage.write_bytes(self._rescore_mark, _DONE)

    @property
    def _rescore_mark(self) -> str:
        night = f"{RUN_DATE}={self.run_date}"
        return join_uri(self.table_uri, "_bertmill", "rescored", self.scope, night, self.fingerprint[:32])

    def _uri(self, name: str) -> str:
        return join_uri(self.root, f"{name}.json")
