"""Words that tell a topic from the others.

All texts of a topic count as one; a word's weight in it is what it adds to the relative entropy of the topic's words to
all topics' words, p * log(p / q), where p is its share of the topic's words and q its share of all. Words that are as
frequent everywhere, in any language, weigh nothing; class-based tf-idf (arXiv:2203.05794) called topics "the, of, to".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.spec import TopicsSpec

_WORD = r"(?u)\b[^\W\d_][\w'’-]+\b"  # two characters or more, the first a letter
_MAX_WORDS = 50_000  # the most frequent: a matrix of topics and words is in memory


@dataclass(frozen=True)
class TopicWords:
    """The words of one topic, the heaviest first, and their weights; both empty where none tells it from others."""

    words: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        """A name for people: the first four."""
        return ", ".join(self.words[:4])


def find_words(
    texts: Sequence[str], topics: npt.NDArray[np.int32], num_topics: int, spec: TopicsSpec
) -> tuple[TopicWords, ...]:
    """Name each topic.

    Args:
        texts: R texts.
        topics: int32 [R]; the topic of each.
        num_topics: K.
        spec: How many words, and how long phrases may be.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        token_pattern=_WORD,
        ngram_range=(1, spec.phrase_words),
        min_df=2 if len(texts) > 10 * num_topics else 1,
        max_features=_MAX_WORDS,
    )
    try:
        counts_RV = counter.fit_transform(texts)
    except ValueError:  # scikit-learn's word for texts that have no words at all
        return tuple(TopicWords((), ()) for _ in range(num_topics))
    counts_KV = np.zeros((num_topics, counts_RV.shape[1]))
    for topic in range(num_topics):
        counts_KV[topic] = counts_RV[np.flatnonzero(topics == topic)].sum(axis=0)
    totals_K = counts_KV.sum(axis=1, keepdims=True)
    shares_KV = counts_KV / np.maximum(totals_K, 1)
    ratios_KV = shares_KV / (counts_KV.sum(axis=0) / counts_KV.sum())
    weights_KV = shares_KV * np.log(np.where(ratios_KV > 0, ratios_KV, 1))
    names = counter.get_feature_names_out()
    return tuple(_heaviest(weights, names, spec.num_words) for weights in weights_KV)


def _heaviest(weights_V: npt.NDArray[np.float64], names: Sequence[str], most: int) -> TopicWords:
    chosen = np.argsort(-weights_V, kind="stable")[:most]  # of equal weight: by the alphabet
    chosen = chosen[weights_V[chosen] > 0]
    return TopicWords(tuple(str(names[index]) for index in chosen), tuple(float(weights_V[index]) for index in chosen))
