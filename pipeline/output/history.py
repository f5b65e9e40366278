"""What a published table holds, night by night, from its log alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import CorpusError
from pipeline.output.table import DataFile, live_files, open_table
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, join_uri


@dataclass(frozen=True)
class NightSummary:
    """One night of a table; `version` and models come from the commits still in the log."""

    run_date: str
    num_rows: int
    num_files: int
    size_bytes: int
    num_quarantined_rows: int
    version: int | None
    model_versions: tuple[str, ...]


def read_nights(uri: str, storage: Storage) -> list[NightSummary]:
    """Every night of a table, by date.

    Raises:
        CorpusError: there is no table at the URI.
    """
    uri = canonical_uri(uri)
    table = open_table(uri, storage)
    if table is None:
        raise CorpusError(f"{uri}: no Delta table there", "check the URI; `bertmill score` creates tables")
    quarantine = open_table(join_uri(uri, "_quarantine"), storage)
    bad = _by_night(live_files(quarantine)) if quarantine is not None else {}
    versions: dict[str, int] = {}
    models: dict[str, str] = {}
    for entry in table.history():
        night = str(entry.get("bertmill.run_date", ""))
        if night and night not in versions:
            versions[night] = int(entry["version"])
            models[night] = str(entry.get("bertmill.model_version", ""))
    return [
        NightSummary(
            night,
            sum(file.num_rows for file in files),
            len(files),
            sum(file.size_bytes for file in files),
            sum(file.num_rows for file in bad.get(night, [])),
            versions.get(night),
            tuple(filter(None, [models.get(night)])),
        )
        for night, files in sorted(_by_night(live_files(table)).items())
    ]


def _by_night(files: dict[str, DataFile]) -> dict[str, list[DataFile]]:
    nights: dict[str, list[DataFile]] = defaultdict(list)
    for path, file in files.items():
        nights[path.split("/", 1)[0].removeprefix(f"{RUN_DATE}=")].append(file)
    return nights


def table_columns(uri: str, storage: Storage) -> pa.Schema:
    """The columns of a table, for `bertmill table`."""
    table = open_table(canonical_uri(uri), storage)
    assert table is not None
    return pa.schema(table.schema().to_arrow())
