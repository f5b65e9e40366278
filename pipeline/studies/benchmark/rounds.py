"""Contenders in turns, so that what else the machine does falls on all of them alike; ratios round by round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

KeyT = TypeVar("KeyT")


@dataclass(frozen=True)
class Contender:
    """One program doing the work.

    Attributes:
        name: Who, and with which settings.
        run: Does all of it once, and returns what it made.
    """

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Lap:
    """What a contender returns whose start-up is told apart.

    Attributes:
        seconds: Those that count.
        before_s: Those before.
    """

    seconds: float
    before_s: float


@dataclass(frozen=True)
class Timing:
    """What one contender took.

    Attributes:
        name: The contender's.
        seconds: Of each round.
        results: What it made in each round.
    """

    name: str
    seconds: tuple[float, ...]
    results: tuple[Any, ...]

    @property
    def result(self) -> Any:
        """What it made in the last round."""
        return self.results[-1]


def take_turns(race: str, contenders: Sequence[Contender], rounds: int, warm_up: bool = True) -> list[Timing]:
    """Run every contender once unmeasured, then all of them in each round; every other round goes backwards.

    Each turn is a line on stderr: not a bar, since contenders may show bars of their own.

    Args:
        race: What it is called in these lines.
        contenders: Who runs.
        rounds: How often.
        warm_up: Whether to run everyone once unmeasured before.
    """
    board = _Board(race, len(contenders) * (rounds + warm_up))
    for contender in contenders if warm_up else ():
        contender.run()
        board.note(f"{contender.name}, unmeasured")
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    results: dict[str, list[Any]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            started = time.perf_counter()
            made = contender.run()
            results[contender.name].append(made)
            taken_s = made.seconds if isinstance(made, Lap) else time.perf_counter() - started
            seconds[contender.name].append(taken_s)
            board.note(f"{contender.name}, {taken_s:,.1f} s")
    return [Timing(name, tuple(taken), tuple(results[name])) for name, taken in seconds.items()]


class _Board:
    """Counts the turns of a race, for people."""

    def __init__(self, race: str, total: int) -> None:
        self._race, self._total, self._done = race, total, 0
        self._began_s = time.monotonic()

    def note(self, turn: str) -> None:
        """One more is over."""
        self._done += 1
        left_s = (time.monotonic() - self._began_s) / self._done * (self._total - self._done)
        left = f", {left_s:,.0f} s left" if self._done < self._total else ""
        print(f"{self._race}: {self._done}/{self._total} turns{left}; {turn}", file=sys.stderr, flush=True)


def speed_ratio(ours: Timing, theirs: Timing) -> tuple[float, float, float]:
    """How many times faster we are: lowest, median and highest over the rounds."""
    ratios = [their / our for our, their in zip(ours.seconds, theirs.seconds, strict=True)]
    return min(ratios), median(ratios), max(ratios)


def find_fastest(candidates: Mapping[KeyT, Callable[[], Any]]) -> KeyT:
    """The candidate that takes least; each runs once unmeasured and then twice in turns, of which the better counts."""
    contenders = {str(key): key for key in candidates}
    named = [Contender(name, candidates[key]) for name, key in contenders.items()]
    timings = take_turns("settings", named, rounds=2)
    return contenders[min(timings, key=lambda timing: min(timing.seconds)).name]
