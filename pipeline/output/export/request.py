"""What an export is told, and where it puts things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import Problem, SpecError
from pipeline.schema import RUN_DATE
from pipeline.uris import canonical_uri, hide_password, join_uri, overlaps

Format = Literal["parquet", "csv", "iceberg"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "iceberg")
MANIFESTS = (
    "_symlink_format_manifest"  # the name that Delta gave such folders; Trino, Athena and Spark are told a place
)
RECEIPTS = "_export"
_TABLE_NAME = re.compile(r"[\w-]+(\.[\w-]+)+")


@dataclass(frozen=True)
class IcebergPlace:
    """A table of an Iceberg catalog.

    Attributes:
        catalog: A name that pyiceberg's configuration knows, or a URI.
        name: `namespace.table`.
    """

    catalog: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of catalog {hide_password(self.catalog)}"


@dataclass(frozen=True)
class ExportRequest:
    """One night to export.

    Attributes:
        table: The table's URI, canonical.
        run_date: The night.
        target: The export's URI, canonical; it holds a night or many, of one table.
        format: Of the files.
        columns: Which columns, in this order; empty for all.
        part_bytes: A part holds files of the table of about so many bytes together.
        keep_s: What was replaced is removed when its successor has stood for so long.
        iceberg: The table to be, for the format of that name.
    """

    table: str
    run_date: str
    target: str
    format: Format = "parquet"
    columns: tuple[str, ...] = ()
    part_bytes: int = 256 * 2**20
    keep_s: float = 24 * 3_600
    iceberg: IcebergPlace | None = None

    @property
    def start(self) -> str:
        """What a reader starts from."""
        return self.manifest_uri if self.iceberg is None else str(self.iceberg)

    @property
    def ending(self) -> str:
        """Of the files' names."""
        return "csv" if self.format == "csv" else "parquet"

    @property
    def manifest_uri(self) -> str:
        """The one object that says which files are the night's."""
        return join_uri(self.target, MANIFESTS, f"{RUN_DATE}={self.run_date}", "manifest")

    def folder(self, content_id: str) -> str:
        """Where a content's parts stand, relative to the target."""
        return f"{RUN_DATE}={self.run_date}/{content_id}"


def parse_request(
    table: str,
    run_date: str,
    target: str,
    format_: str = "parquet",
    columns: tuple[str, ...] = (),
    iceberg: IcebergPlace | None = None,
) -> ExportRequest:
    """A request from words of the command line.

    Raises:
        SpecError: a format there is none of, a target inside the table or around it, or half an Iceberg table.
    """
    table, target = canonical_uri(table), canonical_uri(target)
    problems = []
    formats = [known for known in FORMATS if known == format_]
    if not formats:
        problems.append(Problem("--format", repr(format_), " or ".join(FORMATS)))
    if (format_ == "iceberg") != (iceberg is not None):
        found = "is missing" if iceberg is None else f"is given, and --format is {format_}"
        problems.append(Problem("--catalog and --as", found, "both, with --format iceberg alone"))
    if iceberg is not None and not _TABLE_NAME.fullmatch(iceberg.name):
        problems.append(Problem("--as", repr(iceberg.name), "namespace.table"))
    if overlaps(table, target):
        problems.append(
            Problem("--to", target, "a place outside the table", "`bertmill table vacuum` owns the table's")
        )
    if problems:
        raise SpecError("command line", tuple(problems))
    return ExportRequest(table, run_date, target, formats[0], columns, iceberg=iceberg)
