"""The learning curve as a picture. Needs matplotlib."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.studies.curve import CurvePoint
from pipeline.studies.tables import spread

# Okabe and Ito's colours, which colour-blind readers can tell apart; each line has a marker of its own too
_STYLES = {
    "finetune": ("#D55E00", "o"),
    "frozen": ("#0072B2", "s"),
    "tfidf": ("#009E73", "D"),
    "cnn": ("#CC79A7", "^"),
    "bilstm": ("#555555", "v"),
}
_LABELS = {
    "finetune": "fine-tuned encoder",
    "frozen": "frozen embeddings + logistic regression",
    "tfidf": "TF-IDF + logistic regression",
    "cnn": "CNN from scratch",
    "bilstm": "BiLSTM from scratch",
}


def draw_curve(points: list[CurvePoint]) -> bytes:
    """A PNG: accuracy over training rows (logarithmic), a line per method, bars of one deviation over seeds."""
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    sizes = sorted({point.num_rows for point in points})
    for method in (name for name in _STYLES if any(point.method == name for point in points)):
        own = [point for point in points if point.method == method]
        found = [(size, [point.accuracy for point in own if point.num_rows == size]) for size in sizes]
        spreads = [(size, spread(values)) for size, values in found if values]
        colour, marker = _STYLES[method]
        axes.errorbar(
            [size for size, _ in spreads],
            [item.mean for _, item in spreads],
            yerr=[item.deviation or 0.0 for _, item in spreads],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            label=_LABELS[method],
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training rows")
    axes.set_ylabel("accuracy on the test set")
    axes.grid(alpha=0.3)
    axes.legend()
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()
