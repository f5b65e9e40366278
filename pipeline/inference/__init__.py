"""inference: a corpus and a bundle in, one night of a table out.

`spec` is what the user writes, `plan` (pure) subtracts what the ledger has, `worker` does one process's work
without knowing of Ray, `run` is the whole plane on one screen, `evaluate` scores labelled data instead.
"""
