"""A corpus that changes from night to night, scored here, without Ray, as `bertmill nightly` would."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pipeline.inference.prepare import PreparedRun, prepare_run
from pipeline.inference.publish import RunReport, publish_run
from pipeline.output.compact import compact_night
from pipeline.output.vacuum import vacuum_table
from pipeline.output.vacuum_plan import VacuumOptions
from pipeline.output.verify import verify_night
from pipeline.storage import Storage
from tests.tiny import make_rows
from tests.unit.inference.scoring import score_all, score_spec

CURRENT = """
    SELECT scored.* FROM scored JOIN current
    ON scored.source_file = current.source_file AND scored.run_date = current.night
"""
Rows = dict[tuple[str, int], str]


@dataclass
class Story:
    """Corpus, bundle and table; `rows` is what the corpus holds now, `vanished` what it no longer holds."""

    root: Path
    bundle: Path
    output: dict[str, Any] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    vanished: Rows = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    @property
    def table(self) -> Path:
        return self.root / "table"

    def put(self, name: str, num_rows: int, seed: int, bad: bool = False) -> None:
        """Write or replace a corpus file; with `bad`, its first row cannot be scored."""
        self.corpus.mkdir(parents=True, exist_ok=True)
        rows = make_rows(num_rows, seed)
        if bad:
            texts = pa.array([None, *rows["text"].to_pylist()[1:]], pa.string())
            rows = rows.set_column(1, "text", texts)
        path = self.corpus / f"{name}.parquet"
        pq.write_table(rows, path)
        self._forget(str(path))
        self.vanished = {key: value for key, value in self.vanished.items() if key[0] != str(path)}
        ids = rows["id"].to_pylist()
        self.rows |= {(str(path), row): ids[row] for row in range(int(bad), num_rows)}

    def split(self, name: str) -> None:
        """Lay a corpus file's rows in row groups of a shard each."""
        path = self.corpus / f"{name}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=20)

    def remove(self, name: str) -> None:
        path = self.corpus / f"{name}.parquet"
        path.unlink()
        self.vanished |= self._forget(str(path))

    def spoil(self, name: str) -> None:
        """Cut a file in half; its rows count as vanished."""
        path = self.corpus / f"{name}.parquet"
        os.truncate(path, path.stat().st_size // 2)
        self.vanished |= self._forget(str(path))

    def _forget(self, path: str) -> Rows:
        gone = {key: value for key, value in self.rows.items() if key[0] == path}
        self.rows = {key: value for key, value in self.rows.items() if key[0] != path}
        return gone

    def verify(self, night: str) -> tuple[str, ...]:
        """What `bertmill table verify` has to say against the table."""
        found = verify_night(str(self.table), night, Storage())
        assert found.num_rows == len(self.shown(night if self.output.get("mode") != "snapshot" else None))
        return (*found.problems, *(note for note in found.notes if "not compared" in note))

    def prepare(self, night: str, rescore: bool = False) -> PreparedRun:
        blocks = {"corpus": {"keep": ["id"], "shard_rows": 20}, **self.blocks}
        return prepare_run(
            score_spec(self.bundle, self.corpus, self.table, output=self.output, **blocks), night, rescore
        )

    def night(self, night: str, rescore: bool = False) -> RunReport:
        run = self.prepare(night, rescore)
        return finish(run)

    def compact_and_vacuum(self, night: str) -> None:
        """Merge a night's files, and delete at once what only older versions name."""
        compact_night(str(self.table), night, 2**20, Storage())
        for _ in range(3):
            vacuum_table(str(self.table), VacuumOptions(retention_s=0, safety_s=0), Storage())

    def live(self, night: str | None = None) -> set[str]:
        paths = {path.removeprefix(f"{self.table}/") for path in DeltaTable(self.table).file_uris()}
        return {path for path in paths if night is None or path.startswith(f"run_date={night}/")}

    def shown(self, night: str | None = None, version: int | None = None) -> Rows:
        """(source file, row) -> id of the whole table or one night; a row that stands twice fails."""
        rows = DeltaTable(self.table, version=version).to_pyarrow_table(
            partitions=[("run_date", "=", night)] if night else None
        )
        return by_key(rows)

    def current(self) -> Rows:
        """The documented query for the newest scores of each file."""
        scored = DeltaTable(self.table).to_pyarrow_dataset()  # DuckDB finds them by these names
        current = DeltaTable(self.table / "_current").to_pyarrow_dataset()
        assert (scored, current) != (None, None)
        return by_key(duckdb.sql(CURRENT).to_arrow_table())

    def quarantined(self) -> set[tuple[str, int]]:
        rows = DeltaTable(self.table / "_quarantine").to_pyarrow_table().to_pylist()
        keys = [(row["source_file"], row["source_row"]) for row in rows]
        assert len(keys) == len(set(keys))
        return set(keys)


def begin(run: PreparedRun) -> None:
    """What a run does before its first shard."""
    if run.starts_anew:
        run.ledger.begin_rescoring()
    run.ledger.drop(run.plan.stale)


def story_of_three(root: Path, bundle: Path) -> Story:
    """Three files, one with a row that cannot be scored; a night holds what is new."""
    story = Story(root, bundle, {"select": "new"})
    for index, name in enumerate("abc"):
        story.put(name, 25 + index, index, bad=name == "b")
    return story


def finish(run: PreparedRun, run_id: str = "run-1") -> RunReport:
    begin(run)
    return publish_run(run, score_all(run, run_id) if run.plan.pending else [], run_id, time.monotonic())


def by_key(rows: pa.Table) -> Rows:
    entries = [((row["source_file"], row["source_row"]), row["id"]) for row in rows.to_pylist()]
    assert len(entries) == len(dict(entries)), "a row of the corpus stands twice"
    return dict(entries)
