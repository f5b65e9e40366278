"""What `bertmill plan` says of work before it is done, beside the work."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import MPNetConfig, MPNetModel

from pipeline.config import PoolOptions
from pipeline.encoder.loading import load_counting_tokenizer, load_tokenizer
from pipeline.encoder.tokenize import TextTokenizer, TokenOptions
from pipeline.errors import ModelError
from pipeline.inference import pace
from pipeline.inference import probed as probed_file
from pipeline.inference.estimate import Estimate, estimate_tokens, estimate_work, sample_spots
from pipeline.inference.pace import Pace
from pipeline.inference.publish import publish_run
from tests.tiny import make_bundle, tiny_config
from tests.unit.inference.nights import Story
from tests.unit.inference.scoring import score_all

POOL = PoolOptions(1, 1, 0.0)
NIGHTS = ["2026-11-23", "2026-11-24"]


def a_corpus(root: Path, bundle: Path) -> Story:
    story = Story(root, bundle, blocks={"compute": {"price_per_hour": 3600.0}})
    for index, (name, num_rows) in enumerate({"a": 300, "b": 20, "c": 90}.items()):
        story.put(name, num_rows, index, bad=True)
    return story


def test_the_estimate_is_near_what_then_happens(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_PROBE_S", 0.1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    found = estimate_work(run, POOL)
    records = score_all(run)
    assert not (tmp_path / "table").exists() or not list((tmp_path / "table").glob("run_date=*/probe*"))
    assert found.num_rows == sum(record.num_rows for record in records)
    assert found.num_tokens == pytest.approx(sum(record.num_tokens for record in records), rel=0.25)
    assert found.seconds is not None
    assert found.seconds > pace.RAY_START_S
    assert found.cost == pytest.approx(found.seconds)
    assert "a probe of" in found.basis


def test_an_earlier_night_of_the_same_kind_tells_the_pace(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MIN_TOKENS", 1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    report = publish_run(run, score_all(run), "run-1", time.monotonic() - 50, POOL)
    found = estimate_work(story.prepare(NIGHTS[1]), POOL)
    usage = report.usage
    assert "night 2026-11-23" in found.basis
    tokens_of_all = usage.num_tokens * report.num_rows / (report.num_rows - report.num_reused_rows)
    expected_s = usage.before_s + usage.after_s + found.num_tokens / (tokens_of_all / usage.busy_s)
    assert found.seconds == pytest.approx(expected_s, rel=0.01)


def test_what_a_probe_found_is_remembered_for_the_same_model_and_workers(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_PROBE_S", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = a_corpus(tmp_path, bundle_directory).prepare(NIGHTS[0])
    probed = estimate_work(run, POOL)
    known = probed_file.recall_probe(run, POOL)
    assert known is not None
    assert f"here, on {known.day}, with" in estimate_work(run, POOL).basis
    assert "here, with" in estimate_work(run, POOL, probes_anew=True).basis
    assert "here, with" in probed.basis
    assert probed_file.recall_probe(run, PoolOptions(1, 2, 0.0)) is None
    monkeypatch.setattr(time, "time", lambda: known.at_s + 31 * 86_400)
    assert probed_file.recall_probe(run, POOL) is None


def test_of_a_padded_family_a_probe_is_corrected_by_what_the_sample_is_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_PROBE_S", 0.1)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = MPNetModel(MPNetConfig(vocab_size=tiny_config().vocab_size, max_position_embeddings=64, **shape))
    make_bundle(tmp_path / "bundle", (), network=network.eval(), task="embedding")
    run = a_corpus(tmp_path, tmp_path / "bundle").prepare(NIGHTS[0])
    sampled = estimate_tokens(run, sample_spots(run))
    found = pace.pace_of_probe(run, sampled, POOL, 0.0)
    known = probed_file.recall_probe(run, POOL)
    assert known is not None
    assert known.padding_factor > 1.0
    assert found.worker_tokens_per_s == known.tokens_per_s_of(sampled.lengths)
    alike, unlike = np.full(32, 10), np.arange(1, 33)  # one batch on any machine
    by_alike, by_unlike = (known.tokens_per_s_of(lengths) for lengths in (alike, unlike))
    assert by_alike == pytest.approx(known.tokens_per_s * known.padding_factor)
    assert by_unlike == pytest.approx(by_alike * unlike.mean() / 32)
    assert replace(known, batch=None).tokens_per_s_of(unlike) == known.tokens_per_s


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_tokens": 1, "tokens_per_s": 0, "load_s": 1, "at_s": 1}'])
def test_a_probe_whose_file_cannot_be_read_is_made_again(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = a_corpus(tmp_path, bundle_directory).prepare(NIGHTS[0])
    probed_file.keep_probe(run, POOL, probed_file.Probed(1, 1.0, 1.0, time.time(), 1.0, None))
    (file,) = (tmp_path / "cache" / "bertmill" / "probes").iterdir()
    assert probed_file.recall_probe(run, POOL) is not None
    file.write_text(content)
    assert probed_file.recall_probe(run, POOL) is None


def test_counting_takes_the_same_tokens_as_scoring(encoder_directory: Path) -> None:
    texts = pa.array(["the film was good", "", "Ünïcödé \u200d e-mail " * 9, "xyz", "שלום עולם"], pa.large_string())
    for options in (TokenOptions(16), TokenOptions(16, "window", 4), TokenOptions(16, with_spans=True)):
        counting = TextTokenizer(load_counting_tokenizer(encoder_directory), options).encode(texts, texts)
        scoring = TextTokenizer(load_tokenizer(encoder_directory), options).encode(texts, texts)
        assert counting.ids.tolist() == scoring.ids.tolist()
        assert counting.offsets.tolist() == scoring.offsets.tolist()


def test_a_bundle_without_its_tokenizers_file_is_said_to_lack_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_counting_tokenizer(tmp_path)


def test_a_night_on_other_workers_tells_nothing_of_these(
    bundle_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MIN_TOKENS", 1)
    story = a_corpus(tmp_path, bundle_directory)
    run = story.prepare(NIGHTS[0])
    publish_run(run, score_all(run), "run-1", time.monotonic(), PoolOptions(2, 8, 1.0))
    following = story.prepare(NIGHTS[1])
    assert pace.pace_of_nights(following, POOL) is None
    of_a_cluster = pace.pace_of_nights(following, None)
    assert of_a_cluster is not None
    assert of_a_cluster.num_workers == 2


def test_on_a_cluster_without_an_earlier_night_the_time_is_unknown(bundle_directory: Path, tmp_path: Path) -> None:
    found = estimate_work(a_corpus(tmp_path, bundle_directory).prepare(NIGHTS[0]), None)
    assert (found.seconds, found.cost) == (None, None)
    assert "time unknown, by no earlier night" in "\n".join(found.describe())


def test_more_workers_are_faster_until_one_shard_is_what_is_waited_for() -> None:
    alone, four, many = (Pace(100.0, 10.0, num, "") for num in (1, 4, 64))
    assert [item.seconds(4_000, 0.25) for item in (alone, four, many)] == [50.0, 20.0, 20.0]


def test_an_estimate_reads_as_lines() -> None:
    lines = Estimate(1_000_000, 2.5e7, 2_048, 3_600.0, "a guess", 2.5).describe()
    assert lines == [
        "estimate: 1,000,000 rows, about 25,000,000 tokens (from 2,048 sampled rows)",
        "  about 3,600 s from command to commit, by a guess",
        "  cost about 2.5, 2.5 a million rows",
    ]
