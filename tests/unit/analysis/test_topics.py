from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.analysis.run import Analysis, analyse_topics
from pipeline.analysis.spec import TopicsSpec
from pipeline.analysis.texts import read_texts
from pipeline.analysis.words import find_words
from pipeline.errors import CorpusError, InputError, SpecError
from tests.unit.analysis.embedded import embedded_rows, make_night, night_column, noisy_copies
from tests.unit.output.scored import NIGHT, STORAGE

THEMES = {
    "engine": "engine brakes gearbox wheel tyre",
    "soup": "soup onion butter oven recipe",
    "striker": "striker goal referee league penalty",
}
COMMON = ["the", "this", "very", "much", "today", "people", "think"]
ROWS_OF_EACH = (90, 60, 30)


def make_themes(tmp_path: Path, source: str = "corpus") -> list[int]:
    """A night of three themes, the largest first, in texts and in vectors; the theme of each row."""
    rng = random.Random(7)
    directions = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    themes = [theme for theme, count in enumerate(ROWS_OF_EACH) for _ in range(count)]
    rng.shuffle(themes)
    noise = noisy_copies(len(themes), 1, 4, 0, seed=1) * 0.1
    texts = []
    for theme in themes:
        words = rng.sample(list(THEMES.values())[theme].split(), 3) + rng.sample(COMMON, 4)
        rng.shuffle(words)
        texts.append(" ".join(words).capitalize())
    vectors = [(directions[theme] + noise[index]).tolist() for index, theme in enumerate(themes)]
    names = [str(tmp_path / source / f"{name}.parquet") for name in "bac"]
    rows = embedded_rows(vectors, names)
    make_night(tmp_path / "scores", rows)
    (tmp_path / source).mkdir()
    for name in names:
        own = [text for text, row in zip(texts, rows, strict=True) if row["source_file"] == name]
        table = pa.table({"text": own, "doc": pa.StructArray.from_arrays([own], ["body"])})
        pq.write_table(table, name, row_group_size=16)
    return themes


def analyse(tmp_path: Path, **fields: Any) -> Analysis:
    raw = {"table": str(tmp_path / "scores"), "output": str(tmp_path / "found"), "keep": ("id",), "num_topics": 3}
    return analyse_topics(TopicsSpec.model_validate({**raw, **fields}), NIGHT)


def read(done: Analysis, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(done.found.files[name], partitioning=None).to_pylist())


@pytest.mark.parametrize("text", ["text", "doc.body"])
def test_topics_are_the_themes_and_are_named_by_their_words(tmp_path: Path, text: str) -> None:
    themes = make_themes(tmp_path)
    done = analyse(tmp_path, text=text, sample_rows=120)
    topics = read(done, "topics.parquet")
    assert [topic["num_rows"] for topic in topics] == list(ROWS_OF_EACH)
    for topic, (word, words) in zip(topics, THEMES.items(), strict=True):
        assert set(topic["words"][:5]) == set(words.split()), word
        assert topic["label"].split(", ") == topic["words"][:4]
        assert topic["word_scores"] == sorted(topic["word_scores"], reverse=True)
        assert len(topic["examples"]) == 3
        assert all(set(example.lower().split()) & set(words.split()) for example in topic["examples"])
        assert np.linalg.norm(topic["center"]) == pytest.approx(1, abs=1e-6)
    rows = read(done, "rows.parquet")
    assert {row["id"]: row["topic"] for row in rows} == {str(index): theme for index, theme in enumerate(themes)}
    assert sum(topic["share"] for topic in topics) == pytest.approx(1)
    means = [np.mean([row["similarity"] for row in rows if row["topic"] == number]) for number in range(3)]
    assert [topic["mean_similarity"] for topic in topics] == pytest.approx(means)


def test_a_seed_gives_the_same_topics_however_the_night_is_cut(tmp_path: Path) -> None:
    make_themes(tmp_path)
    first = analyse(tmp_path, sample_rows=100)
    make_night(tmp_path / "again", _rows(tmp_path), num_files=7)
    again = analyse(tmp_path, sample_rows=100, table=str(tmp_path / "again"), output=str(tmp_path / "second"))
    assert read(again, "topics.parquet") == read(first, "topics.parquet")


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "scores").glob("run_date=*/*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_a_kept_text_is_taken_from_the_table(tmp_path: Path) -> None:
    make_themes(tmp_path)
    done = analyse(tmp_path, text="label")
    assert {word for topic in read(done, "topics.parquet") for word in topic["words"]} == {"good", "bad"}


def test_without_texts_topics_have_no_words(tmp_path: Path) -> None:
    make_themes(tmp_path)
    topics = read(analyse(tmp_path, text=None), "topics.parquet")
    assert [(topic["label"], topic["words"], topic["examples"]) for topic in topics] == [("", [], [])] * 3


def test_rows_without_a_vector_have_no_topic(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], None, [0.0, 1.0], [0.0, 2.0]]))
    rows = read(analyse(tmp_path, num_topics=2, text=None), "rows.parquet")
    found = {row["id"]: (row["topic"], row["similarity"]) for row in rows}
    assert found == {"0": (1, 1.0), "1": (None, None), "2": (0, 1.0), "3": (0, 1.0)}


def test_phrases_count_where_they_are_asked_for(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0]] * 3))
    rows = [{**row, "label": "new york" if row["embedding"][0] else "old rome"} for row in _rows(tmp_path)]
    make_night(tmp_path / "cities", rows)
    done = analyse(tmp_path, table=str(tmp_path / "cities"), num_topics=2, text="label", phrase_words=2)
    assert {topic["words"][1] for topic in read(done, "topics.parquet")} == {"new york", "old rome"}


def test_words_that_are_as_frequent_everywhere_name_no_topic() -> None:
    texts = ["the cat and the dog"] * 6 + ["the rain and the wind"] * 4
    topics = np.array([0] * 6 + [1] * 4, np.int32)
    spec = TopicsSpec(table="scores", output="found")
    animals, weather = find_words(texts, topics, 2, spec)
    assert (animals.words, weather.words) == (("cat", "dog"), ("rain", "wind"))
    assert animals.scores == pytest.approx([0.2 * np.log(0.2 / 0.12)] * 2)


def test_more_topics_than_different_rows_are_refused(tmp_path: Path) -> None:
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]))
    with pytest.raises(CorpusError, match="has 2 different vectors, and num_topics is 3"):
        analyse(tmp_path, text=None)


def test_a_corpus_that_is_gone_is_named(tmp_path: Path) -> None:
    make_themes(tmp_path)
    with pytest.raises(CorpusError, match=r"a\.parquet: no column 'body'; it has text, doc") as caught:
        analyse(tmp_path, text="body")
    assert "`text` names a column of texts" in caught.value.remedy
    (tmp_path / "corpus" / "a.parquet").unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read again"):
        analyse(tmp_path)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("text", ["source_row", "score", "embedding"])
def test_a_column_of_the_table_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    make_themes(tmp_path)
    with pytest.raises(SpecError, match=f"text: '{text}' is .*; expected a column of texts"):
        analyse(tmp_path, text=text)
    assert not (tmp_path / "found").exists()


def test_a_column_of_the_corpus_that_is_no_text_is_refused(tmp_path: Path) -> None:
    make_themes(tmp_path)
    with pytest.raises(CorpusError, match=r"a\.parquet: doc is struct<body: string>, and not text") as caught:
        analyse(tmp_path, text="doc")
    assert "`text` names a column of texts" in caught.value.remedy


@pytest.mark.parametrize("values", [[b"good"], [["good", "film"]], pa.array(["good"]).dictionary_encode()])
def test_whatever_can_be_scored_as_text_is_text(tmp_path: Path, values: Any) -> None:
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    make_night(tmp_path / "scores", embedded_rows([[1.0, 0.0]], [str(tmp_path / "a.parquet")]))
    column = night_column(tmp_path / "scores")
    with column.read(STORAGE) as vectors:
        (text,) = read_texts(vectors, np.arange(1), "text", column, STORAGE)
    assert text.startswith("good")


def test_the_extra_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match="topics need scikit-learn") as caught:
        analyse(tmp_path)
    assert caught.value.remedy == "pip install 'bertmill[topics]'"
