"""Topics: k-means over a sample of a night's embeddings, then every row to the nearest centre, block by block.

Centres are scikit-learn's KMeans of unit vectors, brought to length 1 again; a row's topic is the centre of the
greatest cosine. Topics are numbered by their rows, the largest first, so that a seed gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.analysis.spec import TopicsSpec
from pipeline.analysis.texts import read_texts
from pipeline.analysis.vectors import FloatMatrix, IntArray, NightVectors, VectorColumn
from pipeline.analysis.words import TopicWords, find_words
from pipeline.errors import CorpusError
from pipeline.extras import check_extra
from pipeline.storage import Storage
from pipeline.telemetry import ProgressDisplay

NO_TOPIC = -1
_BLOCK_ROWS = 16_384
_STARTS = 3  # k-means is run so often, from other first centres, and the best is kept
_EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Topics:
    """A night's topics.

    Attributes:
        centers_KD: Unit vectors, float32 [K, D].
        assigned: int32 [N]; the topic of each row of the night's vectors.
        similarities: float32 [N]; cosine of each row to its topic's centre.
        words: What names each topic.
        examples: For each topic, the texts nearest to its centre.
    """

    centers_KD: FloatMatrix
    assigned: npt.NDArray[np.int32]
    similarities: npt.NDArray[np.float32]
    words: tuple[TopicWords, ...]
    examples: tuple[tuple[str, ...], ...]

    def table(self) -> pa.Table:
        """One row for each topic."""
        num_topics = len(self.centers_KD)
        rows = np.bincount(self.assigned, minlength=num_topics)
        sums = np.bincount(self.assigned, self.similarities.astype(np.float64), minlength=num_topics)
        texts, numbers = (pa.list_(pa.field("element", kind)) for kind in (pa.string(), pa.float32()))
        return pa.table(
            {
                "topic": pa.array(range(num_topics), pa.int32()),
                "label": pa.array([words.label for words in self.words], pa.string()),
                "words": pa.array([words.words for words in self.words], texts),
                "word_scores": pa.array([words.scores for words in self.words], numbers),
                "num_rows": pa.array(rows, pa.int64()),
                "share": pa.array(rows / max(rows.sum(), 1), pa.float64()),
                "mean_similarity": pa.array(sums / np.maximum(rows, 1), pa.float64()),
                "examples": pa.array(self.examples, texts),
                "center": pa.array(list(self.centers_KD), numbers),
            }
        )


def check_topics() -> None:
    """Make sure that topics can be found.

    Raises:
        InputError: scikit-learn is not installed.
    """
    check_extra("topics need", "topics", {"sklearn": "scikit-learn"})


def find_topics(vectors: NightVectors, spec: TopicsSpec, column: VectorColumn, storage: Storage) -> Topics:
    """Cluster a night's vectors and name the clusters.

    Raises:
        CorpusError: there are fewer different rows than topics, or texts cannot be read.
    """
    sample = _sample_rows(len(vectors), spec)
    texts = read_texts(vectors, sample, spec.text, column, storage) if spec.text is not None else [""] * len(sample)
    centers = _find_centers(vectors.take(sample), spec, column)
    assigned, similarities = _assign(vectors, centers)
    order = np.argsort(-np.bincount(assigned, minlength=len(centers)), kind="stable")
    used = order[: len(np.unique(assigned))]  # a centre may be nearest to no row
    rank = np.zeros(len(centers), np.int32)
    rank[used] = np.arange(len(used), dtype=np.int32)
    topics = rank[assigned]
    words = find_words(texts, topics[sample], len(used), spec)
    examples = _nearest_texts(texts, topics[sample], similarities[sample], len(used), spec.num_examples)
    return Topics(centers[used], topics, similarities, words, examples)


def _sample_rows(num_rows: int, spec: TopicsSpec) -> IntArray:
    if num_rows <= spec.sample_rows:
        return np.arange(num_rows)
    chosen = np.random.default_rng(spec.seed).choice(num_rows, spec.sample_rows, replace=False)
    return np.asarray(np.sort(chosen), np.int64)


def _find_centers(sample_ND: FloatMatrix, spec: TopicsSpec, column: VectorColumn) -> FloatMatrix:
    from sklearn.cluster import KMeans

    num_different = len(np.unique(sample_ND, axis=0)) if len(sample_ND) < 100 * spec.num_topics else spec.num_topics
    if num_different < spec.num_topics:
        raise CorpusError(
            f"{column.night.table}: night {column.night.run_date} has {num_different} different vectors, "
            f"and num_topics is {spec.num_topics}",
            "ask for fewer topics",
        )
    means = KMeans(spec.num_topics, n_init=_STARTS, random_state=spec.seed).fit(sample_ND).cluster_centers_
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _assign(vectors: NightVectors, centers_KD: FloatMatrix) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The nearest centre of each row, and the cosine to it."""
    assigned = np.empty(len(vectors), np.int32)
    similarities = np.empty(len(vectors), np.float32)
    with ProgressDisplay("assigning", len(vectors), "rows") as progress:
        for start in range(0, len(vectors), _BLOCK_ROWS):
            part = slice(start, min(start + _BLOCK_ROWS, len(vectors)))
            found = vectors.take(np.arange(part.start, part.stop)) @ centers_KD.T
            assigned[part] = found.argmax(axis=1)
            similarities[part] = np.clip(found.max(axis=1), -1.0, 1.0)
            progress.update(part.stop, "")
    return assigned, similarities


def _nearest_texts(
    texts: list[str], topics: npt.NDArray[np.int32], similarities: npt.NDArray[np.float32], num_topics: int, most: int
) -> tuple[tuple[str, ...], ...]:
    order = np.lexsort((np.arange(len(texts)), -similarities))
    found: list[dict[str, None]] = [{} for _ in range(num_topics)]
    for row in order.tolist():
        own = found[topics[row]]
        if len(own) < most and texts[row]:
            own[texts[row][:_EXAMPLE_CHARACTERS]] = None  # equal texts are shown once
    return tuple(tuple(own) for own in found)
