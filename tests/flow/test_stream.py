"""Workers that fail, through Ray Data: the driver hears exactly what they said."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import Piece, Shard
from pipeline.corpus.stream import stream_shards
from pipeline.errors import TransientStorageError
from tests.flow import helpers

SHARDS = [Shard(f"s{number}", (Piece(CorpusFile("/c", 1, "e"), number, number + 1),), 0) for number in range(3)]


@dataclass(frozen=True)
class FailingWorker:
    """Cannot be built, or fails at one shard; both its recipe and itself."""

    fails_at: str

    def build(self) -> FailingWorker:
        if self.fails_at == "build":
            raise TransientStorageError("no answer", "try again")
        return self

    def process(self, shard: Shard) -> pa.Table:
        if shard.name == self.fails_at:
            raise TransientStorageError("no answer", "try again")
        return pa.table({"shard": [shard.name]})


@pytest.mark.parametrize("fails_at", ["build", "s1"])
def test_a_worker_s_error_reaches_the_driver_unchanged(fails_at: str, ray_local: None) -> None:
    with pytest.raises(TransientStorageError, match=r"^no answer\n  -> try again$") as raised:
        list(stream_shards(SHARDS, FailingWorker(fails_at), helpers.POOL))
    assert raised.value.exit_code == 75
