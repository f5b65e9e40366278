"""bertmill's rooms, in the order data moves: corpus -> encoder -> (finetune | inference) -> output.

Each package's docstring is its paragraph; `finetune/run.py` and `inference/run.py` show the two planes,
each on one screen. `tasks` says what a task is (columns in, loss, decode, metrics, columns out).
"""
