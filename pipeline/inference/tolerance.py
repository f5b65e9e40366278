"""How far a stored number may be from what fp32 says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """How far a stored number may be from fp32. The defaults leave room for bf16, twice what it was seen to take.

    Attributes:
        score: Of a probability; for `similarity`, of the label's range, or of the number itself (of 1 if smaller).
        cosine: The least cosine of two embeddings of one row. A label may differ only where the probabilities of the
            two labels are within twice `score`.
        logit: By how much a stored answer to a question may be less likely than fp32's, as a difference of logits.
    """

    score: float = 0.05
    cosine: float = 0.999
    logit: float = 0.25
