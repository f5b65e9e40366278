"""The texts that everyone works on."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.errors import CorpusError
from pipeline.storage import Storage
from pipeline.studies.benchmark.spec import TextSample


def read_sample(sample: TextSample, storage: Storage) -> pa.Table:
    """The first rows with a text: columns `text` (large string) and, if the spec names one, `label`.

    Raises:
        CorpusError: a column is not there, or holds nothing.
    """
    filesystem, path = storage.open_arrow(sample.uri)
    wanted = {"text": sample.column} if sample.label is None else {"text": sample.column, "label": sample.label}
    try:
        found = ds.dataset(path, filesystem=filesystem).head(sample.rows, columns=list(dict.fromkeys(wanted.values())))
        table = pa.table({name: found[column] for name, column in wanted.items()}).drop_null()
        texts = table["text"].cast(pa.large_string())
    except (OSError, KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        names = " and ".join(repr(name) for name in wanted.values())
        raise CorpusError(f"{sample.uri}: column {names} cannot be read: {error}", "mend `texts`") from None
    table = table.set_column(0, "text", texts)
    table = table.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(table["text"])), 0))
    if not table.num_rows:
        raise CorpusError(f"{sample.uri}: column {sample.column!r} holds no text", "name another column or file")
    return table
