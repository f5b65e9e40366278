"""bertmill's rooms, in the order data moves: corpus -> encoder -> (finetune | inference) -> output.

Each package's docstring is its paragraph; `finetune/run.py` and `inference/run.py` show the two planes,
each on one screen. `tasks` says what a task is (columns in, loss, decode, metrics, columns out).
"""

import os

__version__ = "0.1.0"

# OpenMP's threads spin while they wait, which on a shared machine takes the cores from whoever would end the wait:
# beside two busy processes on two cores, fine-tuning ran at 130 tokens/s spinning and at 2,300 sleeping. Read when
# torch is loaded, which happens after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
