"""bertmill's rooms, in the order data moves: corpus -> encoder -> (finetune | inference) -> output.

Each package's docstring is its paragraph; `finetune/run.py` and `inference/run.py` show the two planes,
each on one screen. `tasks` says what a task is (columns in, loss, decode, metrics, columns out).
"""

import os

__version__ = "0.1.0"

# OpenMP's threads spin for milliseconds while they wait, which on a shared machine takes the cores from whoever would
# end the wait; asleep at once, they wake too late for the many short operations of a step. So they spin for some tens
# of microseconds (docs/decisions.md). Read when torch is loaded, which happens after this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
