"""A cascade: a small bundle answers first, and a larger one the rows of which the small one is not sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from pipeline.encoder.bundle import BundleInfo
from pipeline.errors import Problem, SpecError
from pipeline.inference.reuse import Answers
from pipeline.inference.source import columns_read
from pipeline.inference.spec import FIRST
from pipeline.output.texts import IntArray
from pipeline.tasks import find_task

SCORE = "score"


def check_cascade(bundles: Mapping[str, BundleInfo], inputs: Mapping[str, str], source: str) -> None:
    """A cascade's bundles answer the same question of the same columns, with a score that says how sure they are.

    Args:
        bundles: Both, by name.
        inputs: The spec's `corpus.inputs`.
        source: The spec's name, for errors.

    Raises:
        SpecError: they do not.
    """
    first, last = bundles[FIRST], bundles[""]
    task = find_task(last.task, "bundle")
    problem = None
    if task.classes_of != "rows" or SCORE not in [field.name for field in task.output_fields()]:
        expected = "text-classification or pair-classification"
        problem = Problem("cascade", f"{last.task} has no score that says how sure it is of a row", expected)
    elif first.task != last.task:
        problem = Problem("cascade.first", f"{first.task}", f"as bundle: {last.task}")
    elif first.labels != last.labels:
        found = f"{first.task} with the labels {', '.join(first.labels)}"
        problem = Problem(
            "cascade.first", found, f"as bundle: {last.task} with {', '.join(last.labels)}, in that order"
        )
    elif (read := columns_read(first, inputs)) != (wanted := columns_read(last, inputs)):
        expected = f"what `bundle` reads, {', '.join(wanted)}; or set corpus.inputs"
        problem = Problem("cascade.first", f"reads {', '.join(read)}", expected)
    if problem is not None:
        raise SpecError(source, (problem,))


def ask_in_turn(quick: Answers, min_score: float, ask_again: Callable[[IntArray], Answers]) -> Answers:
    """The first bundle's answers where it is sure, the other's elsewhere.

    Args:
        quick: What the first says of all rows [R].
        min_score: From which score on its answers stand.
        ask_again: What the other one says of some rows, by number.

    Returns:
        One answer for each row; tokens are counted once, as the first read them.
    """
    scores = quick.columns[SCORE].to_numpy()
    unsure = np.flatnonzero(~(quick.finite & (scores >= min_score)))
    if not len(unsure):
        return quick
    slow = ask_again(unsure)
    places = np.arange(len(scores))
    places[unsure] = len(scores) + np.arange(len(unsure))
    columns = pa.concat_tables([quick.columns, slow.columns]).take(pa.array(places))
    finite = np.concatenate([quick.finite, slow.finite])[places]
    return Answers(columns, finite, quick.num_tokens, quick.num_padded_tokens)
