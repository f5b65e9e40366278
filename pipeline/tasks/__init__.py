"""tasks: one file per task. A task says which columns go in, what the head and the loss are, how outputs become
columns, and what its metrics are; rooms above and below never name a task.

Adding one is a file that fits `base.Task` and a line in `TASKS`.
"""

from collections.abc import Iterable, Sequence

from pipeline.errors import Problem, SpecError
from pipeline.tasks.base import Task
from pipeline.tasks.distil_embedding import DistilEmbedding
from pipeline.tasks.embedding import Embedding
from pipeline.tasks.masked_lm import MaskedLanguageModel, NextSentenceLanguageModel
from pipeline.tasks.multi_label import MultiLabel
from pipeline.tasks.question_answering import QuestionAnswering
from pipeline.tasks.similarity import Similarity
from pipeline.tasks.text_classification import PairClassification, TextClassification
from pipeline.tasks.token_classification import TokenClassification

_ALL: tuple[Task, ...] = (
    TextClassification(),
    PairClassification(),
    MultiLabel(),
    Similarity(),
    TokenClassification(),
    QuestionAnswering(),
    Embedding(),
    MaskedLanguageModel(),
    NextSentenceLanguageModel(),
    DistilEmbedding(),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def check_inputs(given: Iterable[str], known: Sequence[str], source: str, field: str = "inputs") -> None:
    """Refuse names that are no inputs of a task; `field` is where they stand.

    Raises:
        SpecError: naming them.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SpecError(source, (Problem(field, f"{unknown[0]!r} is no input", f"some of: {', '.join(known)}"),))


def check_long_text(task: Task, long_text: str, source: str) -> None:
    """Refuse windows of pairs: those of two long texts would be every combination of both.

    Raises:
        SpecError: the task's inputs are two texts, neither of which alone is cut into windows.
    """
    if long_text == "window" and len(task.inputs) > 1 and not task.windows_always:
        raise SpecError(source, (Problem("long_text", f"window, for the pairs of task {task.name}", "truncate"),))


def find_task(name: str, source: str, field: str = "task") -> Task:
    """The task of that name; `source` names the spec or bundle in the error, `field` its place there.

    Raises:
        SpecError: there is no such task.
    """
    if name not in TASKS:
        raise SpecError(source, (Problem(field, f"{name!r} is unknown", f"one of: {', '.join(sorted(TASKS))}"),))
    return TASKS[name]
