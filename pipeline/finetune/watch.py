"""Numbers that tell a run is going wrong."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

_REMEMBERED = 100
_NEEDED = 10
_MANY_TIMES = 10.0
_HARMLESS = 0.1  # where nothing is left to learn, norms jump between next to nothing and ten times that


class NormWatch:
    """Compares each step's gradient norm, before clipping, with the median of the last 100."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, step: int, norm: float) -> str | None:
        """Take a step's norm into account; a remark if it is far above the usual."""
        usual = median(self._norms) if len(self._norms) >= _NEEDED else math.inf
        if math.isfinite(norm):
            self._norms.append(norm)
        if norm <= max(_MANY_TIMES * usual, _HARMLESS):
            return None
        return f"gradient norm {norm:.3g} at step {step}, usually {usual:.3g}"
