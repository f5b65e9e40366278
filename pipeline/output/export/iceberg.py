"""An export as an Apache Iceberg table: the parts are its data files, and one transaction of its catalog is the switch.

The transaction takes the night's old files out of the table, puts the new ones in and notes the night's content in the
table's properties, so that the same night asked for again is known to stand. Columns that the table does not have yet
are added by the same transaction; columns that a night does not have are null there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import BertmillError, CommitConflictError, InputError, OutputTakenError
from pipeline.extras import check_extra
from pipeline.output.export.request import ExportRequest, IcebergPlace
from pipeline.output.export.source import NightContent
from pipeline.schema import RUN_DATE
from pipeline.storage import Storage, classify_error
from pipeline.uris import join_uri

_TABLE_ID, _CHOSEN, _NIGHT = "bertmill.table_id", "bertmill.columns", "bertmill.night."
_S3_NAMES = {
    "AWS_ENDPOINT_URL": "s3.endpoint",
    "AWS_REGION": "s3.region",
    "AWS_ACCESS_KEY_ID": "s3.access-key-id",
    "AWS_SECRET_ACCESS_KEY": "s3.secret-access-key",
    "AWS_SESSION_TOKEN": "s3.session-token",
}


class IcebergTable:
    """The table of an export, created where it is not there; partitioned by the night.

    Args:
        request: What is exported, and where.
        content: The night.
        columns: Of the files, the night among them.
        storage: The store.

    Raises:
        InputError: pyiceberg is not installed, or the catalog cannot be used.
        OutputTakenError: a table of that name is not an export of this table, or of other columns of it.
    """

    def __init__(self, request: ExportRequest, content: NightContent, columns: pa.Schema, storage: Storage) -> None:
        assert request.iceberg is not None
        self._request, self._content, self._columns = request, content, columns
        self._place = request.iceberg
        self._table = _open(request, request.iceberg, content, columns, storage)
        found = self._table.properties.get(_TABLE_ID)
        if found != content.night.table_id:
            raise OutputTakenError(
                f"{self._place}: a table is there that is no export of {request.table}", "choose another --as"
            )
        chosen, wanted = self._table.properties.get(_CHOSEN, ""), _as_words(request.columns)
        if chosen != wanted:
            raise OutputTakenError(
                f"{self._place}: holds {chosen or 'all columns'}; the export is asked for {wanted or 'all columns'}",
                "choose another --as and --to",
            )

    def stands(self) -> bool:
        """Whether the table shows this content of the night already."""
        return bool(self._table.properties.get(self._mark) == self._content.content_id)

    def switch(self, paths: Sequence[str]) -> bool:
        """Make these files the night's, in one transaction; whether there was anything to do.

        Args:
            paths: Relative to the export's URI.

        Raises:
            CommitConflictError: somebody else committed the night meanwhile; of another night, pyiceberg tries again.
            OutputTakenError: the table cannot take the files.
        """
        if self.stands():
            return False
        from pyiceberg.exceptions import CommitFailedException, ValidationException
        from pyiceberg.expressions import EqualTo

        files = [join_uri(self._request.target, path) for path in paths]
        try:
            with warnings.catch_warnings(), self._table.transaction() as transaction:
                warnings.simplefilter("ignore")  # that a new night replaces nothing
                if set(self._columns.names) - set(self._table.schema().as_arrow().names):
                    with transaction.update_schema() as schema:
                        schema.union_by_name(self._columns)
                transaction.delete(EqualTo(RUN_DATE, self._request.run_date))
                # It would warn of each column that is written without statistics on purpose, such as embeddings.
                logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
                transaction.add_files(files)
                transaction.set_properties({self._mark: self._content.content_id})
        except (CommitFailedException, ValidationException) as error:
            raise CommitConflictError(
                f"{self._place}: somebody else committed the night meanwhile: {_first_line(error)}",
                "run the same command again",
            ) from None
        except BertmillError:
            raise
        except Exception as error:
            raise _explain(error, f"commit to {self._place}") from None
        return True

    @property
    def _mark(self) -> str:
        return f"{_NIGHT}{self._request.run_date}"


def _open(
    request: ExportRequest, place: IcebergPlace, content: NightContent, columns: pa.Schema, storage: Storage
) -> Any:
    check_extra("--format iceberg needs", "iceberg", {"pyiceberg": "pyiceberg"})
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NoSuchTableError

    options = storage.delta_options(request.target)
    properties = {name: options[key] for key, name in _S3_NAMES.items() if key in options}
    try:
        if "://" in place.catalog:
            catalog = load_catalog("default", uri=place.catalog, warehouse=request.target, **properties)
        else:
            catalog = load_catalog(place.catalog, **properties)
        try:
            return catalog.load_table(place.name)
        except NoSuchTableError:
            catalog.create_namespace_if_not_exists(place.name.rpartition(".")[0])
        with (
            catalog.create_table_transaction(
                place.name,
                columns,
                location=request.target,
                properties={_TABLE_ID: content.night.table_id, _CHOSEN: _as_words(request.columns)},
            ) as creation,
            creation.update_spec() as partitions,
        ):
            partitions.add_identity(RUN_DATE)
        return catalog.load_table(place.name)
    except BertmillError:
        raise
    except Exception as error:
        raise _explain(error, f"open {place}") from None


def _as_words(columns: Sequence[str]) -> str:
    return ", ".join(columns)


def _explain(error: Exception, what: str) -> BertmillError:
    return classify_error(error, what) or InputError(
        f"cannot {what}: {_first_line(error)}",
        "a catalog is a name that pyiceberg's configuration knows, or a URI: sqlite:////path/catalog.db, https://...",
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
