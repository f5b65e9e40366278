"""Masked-language modelling: which tokens of a window are hidden, and what stands in their place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

# Of the hidden tokens 80% are replaced by the mask, 10% by any token, and 10% stay: the encoder must not learn that
# only masks matter (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1).
_MASKED, _MASKED_OR_REPLACED = 0.8, 0.9
NOT_HIDEABLE = -1
"""The word of a token that is never hidden: special tokens."""
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HidingRules:
    """How tokens are hidden.

    Attributes:
        share: Of each window's tokens, special ones aside.
        whole_words: All tokens of a word, or none.
        mask_id: The mask token.
        replacements: int32; tokens that may take another's place.
        seed: Of the draws.
    """

    share: float
    whole_words: bool
    mask_id: int
    replacements: npt.NDArray[np.int32]
    seed: int

    @classmethod
    def of(cls, tokenizer: Any, share: float, whole_words: bool, seed: int) -> HidingRules:
        """Rules for a tokenizer; any of its tokens but the special ones may replace another.

        Raises:
            ModelError: it has no mask token.
        """
        ids = np.setdiff1d(np.fromiter(tokenizer.get_vocab().values(), np.int32), tokenizer.all_special_ids)
        return cls(share, whole_words, find_mask(tokenizer), ids.astype(np.int32), seed)


def find_mask(tokenizer: Any) -> int:
    """The id of a tokenizer's mask.

    Raises:
        ModelError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "the tokenizer has no mask token, which masked-language modelling puts where a token is hidden",
            "use an encoder of the BERT family that has one, or start from scratch with `model: {config: ...}`",
        )
    return int(tokenizer.mask_token_id)


@dataclass(frozen=True)
class HiddenWindow:
    """A window with tokens hidden.

    Attributes:
        ids: int32 [S], as the encoder sees them.
        places: int64 [M], ascending; where tokens are hidden, those included that stay as they are.
        truth: int32 [M]; what stood there.
    """

    ids: npt.NDArray[np.int32]
    places: IntArray
    truth: npt.NDArray[np.int32]


def hide_tokens(ids: npt.NDArray[np.int32], words: IntArray, rules: HidingRules, key: Sequence[int]) -> HiddenWindow:
    """Hide some of a window's tokens; the same ones for the same key.

    Args:
        ids: int32 [S].
        words: int64 [S]; the word each token is of, `NOT_HIDEABLE` for none.
        rules: How.
        key: With the rules' seed, decides every draw.
    """
    draw = np.random.default_rng([rules.seed, *key])
    units = words if rules.whole_words else np.where(words >= 0, np.arange(len(words)), NOT_HIDEABLE)
    places = _choose(units, rules.share, draw)
    truth, hidden = ids[places], ids.copy()
    fate = draw.random(len(places))
    others = draw.choice(rules.replacements, len(places))
    replaced = np.where(fate < _MASKED_OR_REPLACED, others, truth)
    hidden[places] = np.where(fate < _MASKED, rules.mask_id, replaced)
    return HiddenWindow(hidden, places, truth)


def _choose(units: IntArray, share: float, draw: np.random.Generator) -> IntArray:
    """Places of units drawn at random: as many as fit into a share of all tokens, at least one."""
    known, sizes = np.unique(units[units >= 0], return_counts=True)
    order = draw.permutation(len(known))
    limit = max(1, round(share * int(sizes.sum())))
    num_taken = max(1, int(np.searchsorted(np.cumsum(sizes[order]), limit, side="right")))
    return np.flatnonzero(np.isin(units, known[order[:num_taken]]))
