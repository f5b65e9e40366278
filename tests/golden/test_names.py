"""Names that must never move: a changed shard name or fingerprint would score every corpus in the world again."""

from __future__ import annotations

from pipeline.corpus.listing import CorpusFile
from pipeline.corpus.shards import FileLayout, RowGroup, ShardSize, cut_shards
from pipeline.encoder.bundle import BundleInfo
from pipeline.inference.plan import fingerprint_run
from pipeline.inference.spec import ScoreSpec

LAYOUTS = [
    FileLayout(CorpusFile("s3://corpus/a.parquet", 10, "e1"), (RowGroup(40, 4_000), RowGroup(60, 6_000))),
    FileLayout(CorpusFile("s3://corpus/b.parquet", 10, "e2"), (RowGroup(900, 90_000),)),
    FileLayout(CorpusFile("s3://corpus/c.parquet", 10, "e3"), (RowGroup(5, 500),)),
]
SHARDS = [
    ("929ddd5a834c232adcb289d204379169", 100),
    ("41651c2203bfcee5e664fe3b6ec41d8f", 225),
    ("646068ee494211e0f490bbe915f58d64", 225),
    ("5053bae6f46179154fe5c7776e017a4f", 225),
    ("3ee7eca6ef2c204ac7e2eca39a70fbb5", 225),
    ("2322de3f0cf6f6c6cfd9a2084ac65ad2", 5),
]


def test_shard_names_are_what_they_have_always_been() -> None:
    shards = cut_shards(LAYOUTS, ShardSize(rows=250, bytes=1_000_000))
    assert [(shard.name, shard.num_rows) for shard in shards] == SHARDS


def test_run_fingerprint_is_what_it_has_always_been() -> None:
    bundle = BundleInfo(
        task="text-classification",
        inputs={"text": "text"},
        labels=("no", "yes"),
        max_length=64,
        stride=0,
        base_model="base",
        data_fingerprint="d",
        run_fingerprint="r",
        metrics={},
        files={"model.safetensors": "abc"},
    )
    spec = ScoreSpec.model_validate(
        {
            "bundle": "/b",
            "corpus": {"uri": "/c", "keep": ["id"]},
            "output": {"uri": "/o"},
            "compute": {"precision": "fp32"},
        }
    )
    assert bundle.fingerprint == "1503a5517543a526c09dc61ef086fff0dd122ec23fb837435d619babbfc3be01"
    assert fingerprint_run(spec, {"": bundle}) == "cc97772b69a346d49e433c4a39f463f969b33f913bbeb32bb560f63ad0cd6c1f"
