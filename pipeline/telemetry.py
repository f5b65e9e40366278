"""Progress that people can read: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is, for who wants numbers and not lines; `figures` are totals so far, by name."""

    title: str
    unit: str
    done: int
    total: int
    figures: Mapping[str, float]


watchers: list[Callable[[Progress], None]] = []
"""Called with every news of any ProgressDisplay of this process."""


@dataclass
class Meter:
    """Counts what went through and since when."""

    started_s: float = field(default_factory=time.monotonic)
    num_rows: int = 0
    num_tokens: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the meter was made."""
        return max(time.monotonic() - self.started_s, 1e-9)

    def rates(self) -> str:
        """`123 rows/s, 4,567 tokens/s` since the start."""
        return f"{self.num_rows / self.elapsed_s:,.0f} rows/s, {self.num_tokens / self.elapsed_s:,.0f} tokens/s"


class _Bar(Bar):
    """A bar with its note on a line below: on 80 columns there is no room beside it."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(f"  {self.note}", no_wrap=True, overflow="ellipsis")


class ProgressDisplay:
    """One named piece of work with a known total; used as a context manager.

    On a terminal a bar that stays in place; otherwise a line at most every `PLAIN_INTERVAL_S` seconds, so
    that a log file stays readable.

    Args:
        title: What is being done.
        total: How many units there are.
        unit: What a unit is called, in the plural.
        done: Units that were done before: they tell nothing of the time that is left.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._before, self._done = done, 0
        self._started_s = time.monotonic()
        self._last_line_s = self._started_s
        self._bar: _Bar | None = None
        self._bar_task: TaskID | None = None
        if sys.stderr.isatty():
            self._bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit + " ({task.percentage:.0f}%)"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=Console(stderr=True),
            )

    def __enter__(self) -> ProgressDisplay:
        self._tell_watchers({})
        if self._bar is not None:
            self._bar.start()
            self._bar_task = self._bar.add_task(self._title, total=self._total, completed=self._before)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "", **figures: float) -> None:
        """Say how many units are done in all, with a short note (rates, loss, ...) and figures for watchers."""
        is_news = done != self._done
        self._done = done
        self._tell_watchers(figures)
        if self._bar is not None and self._bar_task is not None:
            self._bar.note = note
            self._bar.update(self._bar_task, completed=done)
            return
        now_s = time.monotonic()
        if is_news and (now_s - self._last_line_s >= PLAIN_INTERVAL_S or done >= self._total):
            self._last_line_s = now_s
            print(self._plain_line(now_s, note), file=sys.stderr, flush=True)

    def say(self, remark: str) -> None:
        """Put a line of its own between those of progress, which it does not have to wait for."""
        line = f"{self._title}, {remark}"
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _tell_watchers(self, figures: Mapping[str, float]) -> None:
        for watch in watchers:
            watch(Progress(self._title, self._unit, self._done, self._total, figures))

    def _plain_line(self, now_s: float, note: str) -> str:
        new = self._done - self._before
        left_s = (now_s - self._started_s) * (self._total - self._done) / max(new, 1)
        share = 100 * self._done / max(self._total, 1)
        left = f", {left_s:,.0f} s left" if new and self._done < self._total else ""
        return f"{self._title}: {self._done:,}/{self._total:,} {self._unit} ({share:.0f}%){left}; {note}".rstrip("; ")
