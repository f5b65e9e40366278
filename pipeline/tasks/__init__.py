"""tasks: one file per task. A task says which columns go in, what the head and the loss are, how logits become
columns, and what its metrics are; rooms above and below never name a task.

Adding one is a file that fits `base.Task` and a line in `TASKS`.
"""

from pipeline.errors import Problem, SpecError
from pipeline.tasks.base import Task
from pipeline.tasks.text_classification import TextClassification

TASKS: dict[str, Task] = {task.name: task for task in (TextClassification(),)}


def find_task(name: str, source: str) -> Task:
    """The task of that name; `source` names the spec or bundle in the error.

    Raises:
        SpecError: there is no such task.
    """
    if name not in TASKS:
        raise SpecError(source, (Problem("task", f"{name!r} is unknown", f"one of: {', '.join(sorted(TASKS))}"),))
    return TASKS[name]
