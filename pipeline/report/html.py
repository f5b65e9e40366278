"""HTML whose text is always escaped, and the few drawings that reports need, as SVG made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 380, 170, 54, 22  # SVG units: a pixel each on a narrow screen
_LABEL = 16  # characters of a name that stand beside its bars


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element; children that are not Html are text, and escaped, as are the attributes' values.

    `class_` is the attribute class, and `_` in other names stands for `-`.
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    marks = "".join(f' {key}="{escape(str(value))}"' for key, value in named.items())
    inner = "".join(child if isinstance(child, Html) else escape(str(child)) for child in children)
    return Html(f"<{name}{marks}>{inner}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    """Elements one after the other."""
    return Html("".join(parts))


def link(text: str, address: str) -> Html:
    """A link to a page beside this one."""
    return tag("a", text, href=address)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways where the screen is narrow; `numbers` are the columns set to the right."""
    classes = ["number" if index in numbers else "text" for index in range(len(heads))]
    head = tag("tr", *(tag("th", text, class_=kind) for text, kind in zip(heads, classes, strict=True)))
    body = [tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, classes, strict=True))) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


@dataclass(frozen=True)
class Bars:
    """Shares of one or two nights by name: label counts, or bins of a histogram.

    `last` is empty where there is no other night.
    """

    names: Sequence[str]
    now: Sequence[float]
    last: Sequence[float]


def draw_bars(title: str, bars: Bars) -> Html:
    """Rows of bars, this night's above the last one's, with their shares in figures."""
    step, top = 34 if bars.last else 24, 4
    highest = max([*bars.now, *bars.last, 1e-9])
    width, left = 200.0, 120
    parts = []
    for index, name in enumerate(bars.names):
        y = top + index * step
        short = name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"
        parts.append(_text(left - 6, y + 12, short, "end", full=name))
        for offset, values, kind in ((0, bars.now, "now"), (14, bars.last, "last")):
            if len(values):
                length = values[index] / highest * width
                parts.append(tag("rect", x=left, y=y + offset, width=f"{length:.1f}", height=12, class_=kind))
                parts.append(_text(left + length + 4, y + offset + 10, f"{values[index]:.1%}", "start"))
    return _picture(title, parts, top + len(bars.names) * step)


def draw_histogram(title: str, edges: Sequence[float], bars: Bars) -> Html:
    """A histogram; this night filled, the last one as an outline."""
    highest = max([*bars.now, *bars.last, 1e-9])
    plot = _Plot((edges[0], edges[-1]), highest)
    parts = plot.axes(f"{highest:.1%}")
    for low, high, share in zip(edges, edges[1:], bars.now, strict=False):
        x, y = plot.place(low, share)
        width = max(plot.place(high, 0)[0] - x - 0.5, 0.5)
        parts.append(
            tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{plot.floor - y:.1f}", class_="now")
        )
    if len(bars.last):
        steps = [
            (edge, share)
            for low, high, share in zip(edges, edges[1:], bars.last, strict=False)
            for edge, share in ((low, share), (high, share))
        ]
        parts.append(plot.line(steps, "outline"))
    return _picture(title, parts, _HEIGHT)


def draw_series(title: str, points: Sequence[tuple[float, float]], line: Sequence[tuple[float, float]]) -> Html:
    """Points, and a line, over x from 0."""
    everything = [*points, *line] or [(0.0, 0.0)]
    right, highest = max(x for x, _ in everything) or 1.0, max(y for _, y in everything)
    plot = _Plot((0.0, right), highest or 1.0)
    parts = plot.axes(_short(highest))
    for x, y in (plot.place(*point) for point in [*points, *(line if len(line) == 1 else ())]):  # no line to see
        parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.5, class_="point"))
    return _picture(title, [*parts, *([plot.line(line, "outline")] if line else [])], _HEIGHT)


@dataclass(frozen=True)
class Column:
    """One night of a drawing: its date, its value (None: nothing is known), and its report's level."""

    date: str
    value: float | None
    level: str


def draw_columns(title: str, columns: Sequence[Column], form: str) -> Html:
    """A column for each night, in the colour of its level; each says its night and value where it is pointed at."""
    highest = max([column.value for column in columns if column.value is not None], default=0.0)
    step = (_WIDTH - _LEFT - 6) / max(len(columns), 1)
    floor, parts = _HEIGHT - _BOTTOM, []
    for index, column in enumerate(columns):
        if column.value is not None:
            width, height = min(step * 0.8, 40), max(column.value / (highest or 1.0) * (floor - 10), 0.8)
            x = _LEFT + (index + 0.5) * step - width / 2
            box = {"x": f"{x:.1f}", "y": f"{floor - height:.1f}", "width": f"{width:.1f}"}
            words = tag("title", f"{column.date}: {column.value:{form}}")
            kind = column.level if column.level in ("warn", "fail") else "now"
            parts.append(tag("rect", words, **box, height=f"{height:.1f}", class_=f"column {kind}"))
    ends = [_text(_LEFT, _HEIGHT - 6, columns[0].date, "start")] if columns else []
    if len(columns) > 1:
        ends.append(_text(_WIDTH - 6, _HEIGHT - 6, columns[-1].date, "end"))
    line = tag("line", x1=_LEFT, y1=floor, x2=_WIDTH - 6, y2=floor, class_="axis")
    top = _text(_LEFT - 4, 16 if highest else floor, _short(highest, form), "end")
    return _picture(title, [*parts, line, *ends, top], _HEIGHT)


def draw_shares(title: str, shares: Sequence[tuple[str, float]]) -> Html:
    """One bar cut into parts; the parts' names and shares stand in the legend below it."""
    total, x, parts, legend = sum(share for _, share in shares) or 1.0, 0.0, [], []
    for index, (name, value) in enumerate(shares):
        width = value / total * _WIDTH
        parts.append(tag("rect", x=f"{x:.1f}", y=2, width=f"{width:.1f}", height=26, class_=f"part{index}"))
        legend.append(tag("span", tag("i", class_=f"key part{index}"), f" {name} {value / total:.1%}"))
        x += width
    return join([_picture(title, parts, 30), tag("p", *legend, class_="legend")])


def draw_lanes(title: str, lanes: Sequence[tuple[str, Sequence[tuple[float, float, str]]]], right: float) -> Html:
    """A lane for each name, with stretches (from, to, class) over x from 0."""
    left, step = 120, 18
    scale = (_WIDTH - left - 6) / (right or 1.0)
    parts = []
    for index, (name, stretches) in enumerate(lanes):
        short = name if len(name) <= 18 else f"…{name[-17:]}"
        parts.append(_text(left - 6, index * step + 12, short, "end", full=name))
        for start, stop, kind in stretches:
            x, width = left + start * scale, (stop - start) * scale
            box = {"x": f"{x:.2f}", "width": f"{width:.2f}", "y": index * step + 2, "height": step - 4}
            parts.append(tag("rect", **box, class_=kind))
    floor = len(lanes) * step + 14
    ends = [_text(left, floor, "0", "start"), _text(_WIDTH - 6, floor, f"{right:,.4g} s", "end")]
    return _picture(title, [*parts, *ends], floor + 6)


class _Plot:
    """Where values stand in a picture."""

    def __init__(self, across: tuple[float, float], highest: float) -> None:
        self._low, self._high = across
        self._highest = highest
        self.floor = _HEIGHT - _BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        width = (self._high - self._low) or 1.0
        return _LEFT + (x - self._low) / width * (_WIDTH - _LEFT - 6), self.floor - y / self._highest * (
            self.floor - 10
        )

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> Html:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in points))
        return tag("polyline", points=places, class_=kind)

    def axes(self, top: str) -> list[Html]:
        line = tag("line", x1=_LEFT, y1=self.floor, x2=_WIDTH - 6, y2=self.floor, class_="axis")
        ends = [
            _text(_LEFT, _HEIGHT - 6, _short(self._low), "start"),
            _text(_WIDTH - 6, _HEIGHT - 6, _short(self._high), "end"),
            _text(_LEFT - 4, 16, top, "end"),
        ]
        return [line, *ends]


def _short(value: float, form: str = "") -> str:
    """A number that fits beside an axis; `form` is how it is written elsewhere."""
    if form.endswith("%"):
        return f"{value:.1%}"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


def _text(x: float, y: float, text: str, anchor: str, full: str | None = None) -> Html:
    children: list[object] = [text] if full is None or full == text else [tag("title", full), text]
    return tag("text", *children, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _picture(title: str, parts: Sequence[Html], height: float) -> Html:
    box = f"0 0 {_WIDTH} {height:.0f}"
    return tag("svg", tag("title", title), *parts, viewBox=box, role="img", xmlns="http://www.w3.org/2000/svg")
