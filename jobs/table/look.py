"""`bertmill table nights|files|history URI`: what a table holds; reads its log, never its rows."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from jobs.nights import parse_date
from jobs.session import Debug, guarded
from jobs.table.options import AnyNight, AsJson, Endpoint, TableUri, open_storage
from pipeline.uris import canonical_uri


def nights(uri: TableUri, endpoint_url: Endpoint = None, debug: Debug = False) -> None:
    """Show a table's nights: rows, files, versions, models."""
    with guarded(debug):
        from jobs.table.printing import print_nights
        from pipeline.output.history import read_nights, table_columns

        storage = open_storage(endpoint_url)
        found = read_nights(uri, storage)
        columns = table_columns(uri, storage)
        print(canonical_uri(uri))
        print_nights(found)
        print("columns: " + ", ".join(f"{field.name} {field.type}" for field in columns))


def files(
    uri: TableUri, date_: AnyNight = None, json_: AsJson = False, endpoint_url: Endpoint = None, debug: Debug = False
) -> None:
    """Print the Parquet files that hold the table's rows now, one URI a line: for readers that do not know Delta."""
    with guarded(debug):
        from pipeline.output.history import list_live_files

        night = parse_date(date_) if date_ is not None else None
        found = list_live_files(uri, open_storage(endpoint_url), night)
        if not found:
            print("no file holds rows of it now: it had none, or later nights have replaced them", file=sys.stderr)
        if json_:
            print(json.dumps([asdict(file) for file in found], indent=2))
        else:
            for file in found:
                print(file.uri)


def history(uri: TableUri, endpoint_url: Endpoint = None, debug: Debug = False) -> None:
    """Show a table's versions, the newest first: when, which night and run, rows added and removed."""
    with guarded(debug):
        from jobs.table.printing import print_versions
        from pipeline.output.history import read_versions

        found = read_versions(uri, open_storage(endpoint_url))
        print(canonical_uri(uri))
        print_versions(found)
