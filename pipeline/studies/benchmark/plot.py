"""The races as a picture. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.studies.benchmark.lines import Line

_OURS, _OTHERS = "#D55E00", "#0072B2"  # Okabe and Ito's, which colour-blind readers can tell apart


def draw_races(lines: Sequence[Line]) -> bytes:
    """A PNG: a panel for each race, a bar for each contender, its tokens/s and how many times bertmill's that is."""
    races = list(dict.fromkeys(line.race for line in lines))
    sizes = [sum(line.race == race for line in lines) for race in races]
    figure = Figure(figsize=(10.0, 0.8 + 0.32 * sum(sizes) + 0.75 * len(races)), layout="constrained")
    panels = figure.subplots(len(races), 1, squeeze=False, gridspec_kw={"height_ratios": [size + 1 for size in sizes]})
    for axes, race in zip(panels[:, 0], races, strict=True):
        own = [line for line in lines if line.race == race]
        rates = [line.tokens_per_s for line in own]
        colours = [_OURS if place == 0 else _OTHERS for place in range(len(own))]
        bars = axes.barh(range(len(own)), rates, color=colours, height=0.7)
        shown = [f"{line.tokens_per_s:,.0f}  ({1 / line.ratio_median:.2f}x)" for line in own]
        axes.bar_label(bars, shown, padding=3, fontsize=8)
        axes.set_yticks(range(len(own)), [line.contender for line in own], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, max(rates) * 1.22)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(race, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel(
        "tokens/s without padding, median over the rounds (in brackets: beside bertmill)", fontsize=8
    )
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()
