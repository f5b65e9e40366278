"""Next-sentence prediction: a window is cut in two, and its second part may be another window's. Pure.

As in the original BERT: in half of the windows the second part follows the first, in the others it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig, AutoModelForNextSentencePrediction

from pipeline.encoder.masking import NOT_HIDEABLE
from pipeline.encoder.tokenize import TokenRows
from pipeline.errors import ModelError

_SENTENCE_ENDS = (".", "!", "?", "\u3002")
_STREAM = 1  # keeps these draws apart from those of hidden tokens, which have the same key
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A window of tokens [S].

    Attributes:
        ids: int32, special tokens included.
        words: int64; the word each token is of, below 0 for special tokens.
        types: uint8; the part each token is of. None: all of the first.
    """

    ids: npt.NDArray[np.int32]
    words: IntArray
    types: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PairingRules:
    """How windows become pairs.

    Attributes:
        strangers: Windows that second parts come from, where they do not follow.
        words: int64 [T]; the word each of their tokens is of.
        ends: int32; tokens that end a sentence.
        max_length: Tokens of a pair at most; one more than of a window.
        seed: Of the draws.
    """

    strangers: TokenRows
    words: IntArray
    ends: npt.NDArray[np.int32]
    max_length: int
    seed: int

    def stranger(self, number: int) -> Window:
        """One of the strangers."""
        span = slice(int(self.strangers.offsets[number]), int(self.strangers.offsets[number + 1]))
        return Window(self.strangers.ids[span], self.words[span])


def sentence_ends(tokenizer: Any) -> npt.NDArray[np.int32]:
    """Tokens of a vocabulary that end a sentence."""
    known = tokenizer.get_vocab()
    return np.array([known[end] for end in _SENTENCE_ENDS if end in known], np.int32)


def check_pairs(source: str, tokenizer: Any) -> None:
    """Make sure that a model can tell two parts of a window apart, and say whether they belong together.

    Raises:
        ModelError: its family has no such head, or its tokenizer does not frame texts as BERT's does.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    framed = tokenizer("a")["input_ids"]
    is_framed = (framed[0], framed[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    has_head = type(config) in AutoModelForNextSentencePrediction._model_mapping
    if not has_head or not is_framed or getattr(config, "type_vocab_size", 0) < 2:
        raise ModelError(
            f"{source}: a {config.model_type} model cannot learn next_sentence",
            "leave it out, or use a BERT model with token types, whose tokenizer frames a text by [CLS] and [SEP]",
        )


def pair_window(window: Window, own: int, rules: PairingRules, key: Sequence[int]) -> tuple[Window, bool]:
    """Cut a window in two, [CLS] first [SEP] second [SEP], the second part its own or a stranger's; by the key alone.

    Args:
        window: The window, framed by a first and a last special token.
        own: Its number among the strangers; below 0 if it is none of them.
        rules: How.
        key: With the rules' seed, decides every draw.

    Returns:
        The pair, and whether its second part follows the first. A window of one token has no second part of its own.
    """
    draw = np.random.default_rng([rules.seed, *key, _STREAM])
    cut = _choose_cut(window, rules.ends, draw)
    num_strangers = len(rules.strangers) - (own >= 0)
    follows = bool(draw.random() < 0.5)
    is_next = cut < len(window.ids) - 1 and (follows or num_strangers < 1)
    if is_next or num_strangers < 1:
        second, start = window, cut
    else:
        number = int(draw.integers(num_strangers))
        second = rules.stranger(number + (0 <= own <= number))
        start = _choose_cut(second, rules.ends, draw)
        start = start if start < len(second.ids) - 1 else 1
    stop = min(len(second.ids) - 1, start + rules.max_length - 2 - cut)
    special = np.array([NOT_HIDEABLE])
    after = int(window.words[:cut].max(initial=0)) + 1
    parts = [window.ids[:cut], window.ids[-1:], second.ids[start:stop], window.ids[-1:]]
    words = [window.words[:cut], special, second.words[start:stop] + after, special]
    types = np.repeat(np.array([0, 1], np.uint8), [cut + 1, stop - start + 1])
    return Window(np.concatenate(parts), np.concatenate(words), types), is_next


def _choose_cut(window: Window, ends: npt.NDArray[np.int32], draw: np.random.Generator) -> int:
    """Where the second part of a window begins: after a sentence, else at a word; its length - 1 if it has but one."""
    places = np.arange(2, len(window.ids) - 1)
    after_sentences = places[np.isin(window.ids[places - 1], ends)]
    at_words = places[window.words[places] != window.words[places - 1]]
    for chosen in (after_sentences, at_words):
        if len(chosen):
            return int(draw.choice(chosen))
    return len(window.ids) - 1
