"""A Parquet file spoilt anywhere is read, or is a CorpusError; it never ends in another exception."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.column_types import kept_schema
from pipeline.corpus.listing import list_corpus
from pipeline.corpus.reader import REASON, Columns, ReadOptions, read_shard, survey_files
from pipeline.corpus.shards import ShardSize, cut_shards
from pipeline.errors import CorpusError
from pipeline.storage import Storage

COLUMNS = Columns(("text",), ("id", "doc.n"))
NUM_ROWS = 60


def write_one(**options: object) -> bytes:
    rows = {"text": [f"text {row}" for row in range(NUM_ROWS)], "id": list(range(NUM_ROWS))}
    sink = io.BytesIO()
    pq.write_table(pa.table({**rows, "doc": [{"n": row} for row in range(NUM_ROWS)]}), sink, **options)
    return sink.getvalue()


SOUND = [write_one(), write_one(compression="none", use_dictionary=False), write_one(row_group_size=20)]
PLACES = st.floats(0, 1, exclude_max=True)


@st.composite
def spoilt_files(draw: st.DrawFn) -> bytes:
    """Cut short, some bytes changed, or the end of another file put on."""
    content = bytearray(draw(st.sampled_from(SOUND)))
    match draw(st.sampled_from(["cut", "change", "graft"])):
        case "cut":
            del content[int(draw(PLACES) * len(content)) :]
        case "change":
            for place, value in draw(st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=6)):
                content[int(place * len(content))] = value
        case _:
            other = draw(st.sampled_from(SOUND))
            content[int(draw(PLACES) * len(content)) :] = other[int(draw(PLACES) * len(other)) :]
    return bytes(content)


@settings(max_examples=150)
@given(spoilt_files())
def test_a_spoilt_file_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "a.parquet").write_bytes(content)
        files = list_corpus([directory], Storage())
        try:
            survey = survey_files(files, COLUMNS, Storage(), skip_corrupt=True)
            kept = kept_schema(survey.footers, COLUMNS.kept)
        except CorpusError:
            return  # a footer that parses, without one of the columns
        assert len(survey.footers) + len(survey.skipped) == 1
        options = ReadOptions(kept, True, quarantine_corrupt=True)
        for shard in cut_shards([footer.layout for footer in survey.footers], ShardSize(25, 2**20)):
            rows = read_shard(shard, COLUMNS, options, Storage())
            assert rows.num_rows == shard.num_rows
            assert rows[REASON].type == pa.string()
