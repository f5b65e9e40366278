"""`bertmill index` and `bertmill search` on a night that a tiny bundle scored."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.registry.versions import Registry
from pipeline.storage import Storage
from tests.tiny import make_bundle
from tests.unit.inference.nights import Story
from tests.unit.jobs.command_line import Finished, assert_refused, run_command

NIGHT = "2026-11-23"
pytest.importorskip("faiss", reason="the extra `index` is not installed")


@pytest.fixture
def story(tmp_path: Path, bundle_directory: Path) -> Story:
    story = Story(tmp_path, bundle_directory)
    story.put("a", 20, 1)
    story.put("b", 20, 2)
    story.night(NIGHT)
    return story


def index(story: Story, *arguments: str) -> Finished:
    return run_command("index", str(story.table), "--date", NIGHT, "--to", str(story.root / "index"), *arguments)


def search(story: Story, *arguments: str, bundle: Path | None = None) -> Finished:
    place = str(story.root / "index")
    return run_command("search", place, "--date", NIGHT, "--bundle", str(bundle or story.bundle), *arguments)


def test_a_text_of_the_corpus_finds_its_own_row(story: Story) -> None:
    built = index(story, "--keep", "id, label")
    assert built.exit_code == 0, built.stderr
    assert "  40 rows indexed, hnsw; 0 without an embedding" in built.stdout
    texts = pq.read_table(story.corpus / "b.parquet").slice(3, 2).to_pylist()
    queries = [word for row in texts for word in ("--query", row["text"])]
    told = json.loads(search(story, *queries, "-k", "3", "--json").stdout)
    assert [answer["query"] for answer in told] == [row["text"] for row in texts]
    for answer, row in zip(told, texts, strict=True):
        assert len(answer["rows"]) == 3
        nearest = [near["id"] for near in answer["rows"] if near["cosine"] > 0.9999]
        assert row["id"] in nearest
    table = search(story, "--query", texts[0]["text"], "-k", "1").stdout
    assert "cosine" in table
    assert "source_row" in table


def test_the_bundle_may_be_a_registry_s(story: Story, tmp_path: Path) -> None:
    assert index(story).exit_code == 0
    registry = Registry(str(tmp_path / "registry"), Storage())
    registry.publish(str(story.bundle), "sentiment")
    arguments = ["--bundle", "models://sentiment@1", "--registry", registry.uri, "--query", "x"]
    found = run_command("search", str(story.root / "index"), "--date", NIGHT, *arguments)
    assert found.exit_code == 0, found.stderr
    assert "cosine" in found.stdout


def test_mistakes_are_told(story: Story, tmp_path: Path) -> None:
    assert_refused(search(story, "--query", "x"), "no index of night 2026-11-23")
    assert "kind: holds 'annoy'" in index(story, "--kind", "annoy").stderr
    assert index(story).exit_code == 0
    assert "--query: is blank" in search(story, "--query", " ").stderr
    make_bundle(tmp_path / "other", seed=1)
    assert_refused(search(story, "--query", "x", bundle=tmp_path / "other"), "the night was scored with")
