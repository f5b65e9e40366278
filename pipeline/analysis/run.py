"""The jobs on a night's embeddings, each from its spec to a result that readers find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.duplicates import DuplicateGroups, find_groups
from pipeline.analysis.neighbours import INDEX, build_index, check_index, indexed_rows, model_versions
from pipeline.analysis.results import Found, ResultPlace
from pipeline.analysis.spec import DuplicatesSpec, IndexSpec, TopicsSpec, VectorsConfig
from pipeline.analysis.texts import check_text
from pipeline.analysis.topics import NO_TOPIC, Topics, check_topics, find_topics
from pipeline.analysis.vectors import KEYS, NightVectors, VectorColumn
from pipeline.errors import CorpusError
from pipeline.output.nights import read_night
from pipeline.output.writer import write_row_groups
from pipeline.schema import EMBEDDING, MODEL_VERSION_FIELD
from pipeline.storage import Storage

DUPLICATES, ROWS, TOPICS = "duplicates.parquet", "rows.parquet", "topics.parquet"


@dataclass(frozen=True)
class Analysis:
    """What a job did: the night's result, whether it was there already, and what it replaced and removed."""

    found: Found
    is_new: bool
    removed: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """A prepared job: its place, its column, and the version of the model that this is of, where it is known."""

    place: ResultPlace
    column: VectorColumn
    versions: list[str]

    @property
    def storage(self) -> Storage:
        return self.place.storage

    def write(self, name: str, schema: pa.Schema, tables: Callable[[], Iterable[pa.Table]]) -> None:
        marks = {"bertmill.kind": self.place.kind, "bertmill.table_version": str(self.place.night.version)}
        write_row_groups(tables, schema.with_metadata(marks), self.place.uri(name), self.storage)


def analyse_duplicates(spec: DuplicatesSpec, run_date: str) -> Analysis:
    """Find a night's near-duplicates and write them, a row for each member of a group.

    Raises:
        CorpusError: there is no such table or night, or its vectors cannot be compared.
        SpecError: a column is not there.
        OutputTakenError: the output holds something else.
    """

    def work(job: _Job) -> tuple[list[str], Mapping[str, Any]]:
        with job.column.read(job.storage) as vectors:
            groups = find_groups(vectors, spec.threshold, spec.block_rows)
            table = _duplicates_table(vectors, groups, _kept_columns(job, spec, vectors, groups))
            job.write(DUPLICATES, table.schema, lambda: [table])
            return [DUPLICATES], {
                "num_rows": len(vectors),
                "num_without_embedding": vectors.num_without,
                "num_groups": groups.num_groups,
                "num_members": len(groups.rows),
            }

    return _analyse("duplicates", spec, run_date, work)


def analyse_topics(spec: TopicsSpec, run_date: str) -> Analysis:
    """Find a night's topics and write them, and a row for each row of the night.

    Raises:
        InputError: scikit-learn is not installed.
        CorpusError: there is no such table or night, its vectors are of several models, it has fewer rows than
            topics, or its texts are gone.
        SpecError: a column is not there.
        OutputTakenError: the output holds something else.
    """
    check_topics()

    def work(job: _Job) -> tuple[list[str], Mapping[str, Any]]:
        if spec.text is not None:
            check_text(spec.text, job.column)
        with job.column.read(job.storage) as vectors:
            topics = find_topics(vectors, spec, job.column, job.storage)
            fields = [job.column.schema.field(name) for name in (*KEYS, *spec.keep)]
            schema = pa.schema([*fields, pa.field("topic", pa.int32()), pa.field("similarity", pa.float32())])
            job.write(ROWS, schema, partial(_topic_rows, job, spec, vectors, topics))
            table = topics.table()
            job.write(TOPICS, table.schema, lambda: [table])
            return [ROWS, TOPICS], {
                "num_rows": len(vectors),
                "num_without_embedding": vectors.num_without,
                "num_topics_found": table.num_rows,
            }

    return _analyse("topics", spec, run_date, work)


def analyse_index(spec: IndexSpec, run_date: str) -> Analysis:
    """Build an index of a night.

    Raises:
        InputError: faiss is not installed.
        CorpusError: there is no such table or night, or it has no vectors, or those of several models.
        SpecError: a column is not there.
        OutputTakenError: the output holds something else.
    """
    check_index()

    def work(job: _Job) -> tuple[list[str], Mapping[str, Any]]:
        with job.column.read(job.storage) as vectors:
            build_index(vectors, spec, job.place.uri(INDEX), job.storage)
            schema = pa.schema([job.column.schema.field(name) for name in (*KEYS, *spec.keep)])
            job.write(ROWS, schema, partial(indexed_rows, vectors, spec, job.column, job.storage))
            return [INDEX, ROWS], {
                "num_rows": len(vectors),
                "num_without_embedding": vectors.num_without,
                "model_versions": job.versions,
            }

    return _analyse("index", spec, run_date, work)


def _analyse(
    kind: str,
    spec: VectorsConfig,
    run_date: str,
    work: Callable[[_Job], tuple[list[str], Mapping[str, Any]]],
) -> Analysis:
    storage = Storage(spec.storage)
    night = read_night(spec.table, run_date, storage)
    column = VectorColumn(night, night.columns(storage), spec.column, spec.work)
    column.check(spec.keep)
    place = ResultPlace(spec.output, kind, night, spec.facts(), storage)
    found = place.standing()
    is_new = found is None
    if found is None:
        names, facts = work(_Job(place, column, _versions_of(column, storage)))
        found = place.switch(names, facts)
    return Analysis(found, is_new, tuple(place.remove_replaced(spec.keep_hours * 3_600)))


def _versions_of(column: VectorColumn, storage: Storage) -> list[str]:
    """The version of the model that a night's vectors are of; none where no column says it.

    Raises:
        CorpusError: they are of several models.
    """
    name = column.column.removesuffix(EMBEDDING) + MODEL_VERSION_FIELD.name
    versions = model_versions(column.row_groups([name], storage), name) if name in column.schema.names else []
    if len(versions) > 1:
        raise CorpusError(
            f"{column.night.table}: night {column.night.run_date} has vectors of {len(versions)} models in "
            f"{column.column!r} ({name} {', '.join(versions)}), which cannot be compared",
            "rows of files that are gone keep their old model's: restore these files, or publish a night with "
            "`output: {vanished: drop}`",
        )
    return versions


def _kept_columns(job: _Job, spec: VectorsConfig, vectors: NightVectors, groups: DuplicateGroups) -> pa.Table:
    """The kept columns of the groups' rows, in the groups' order: they alone are held in memory."""
    schema = pa.schema([job.column.schema.field(name) for name in spec.keep])
    if not spec.keep or not len(groups.rows):
        return schema.empty_table()
    found = list(job.column.chosen_rows(vectors, groups.rows, spec.keep, job.storage))
    order = np.argsort(np.concatenate([places for _, places in found]))
    return pa.concat_tables([table for table, _ in found]).take(order)


def _duplicates_table(vectors: NightVectors, groups: DuplicateGroups, kept: pa.Table) -> pa.Table:
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "group_id": pa.array(groups.group_ids),
        "group_rows": pa.array(groups.group_rows),
        "is_representative": pa.array(groups.is_representative),
        "similarity": pa.array(groups.similarities, pa.float32()),
        **vectors.keys(groups.rows),
    }
    return pa.table({**columns, **dict(zip(kept.column_names, kept.columns, strict=True))})


def _topic_rows(job: _Job, spec: TopicsSpec, vectors: NightVectors, topics: Topics) -> Iterable[pa.Table]:
    for table, rows in job.column.numbered_rows(vectors, [*KEYS, *spec.keep], job.storage):
        has = pa.array(rows >= 0)
        of_rows = np.where(rows >= 0, topics.assigned[rows], NO_TOPIC)
        topic = pc.if_else(has, pa.array(of_rows, pa.int32()), pa.scalar(None, pa.int32()))
        similarity = pc.if_else(has, pa.array(topics.similarities[rows], pa.float32()), pa.scalar(None, pa.float32()))
        yield table.append_column("topic", topic).append_column("similarity", similarity)
