"""analysis: what a night's embeddings say beyond its labels: groups of near-duplicate rows (`duplicates`), topics
(`topics`), an index of nearest neighbours (`neighbours`).

`vectors` reads a night's embeddings once, to a file of this machine's disk; everything that follows works on blocks
or samples of it, so memory is a few dozen bytes for each row and never all of the vectors. Rows are taken in the order
of their source file and row, so that results do not depend on how the night's files are cut.

Under the URI that a job is given (`results`):

    run_date=2026-11-23/CONTENT/NAME.parquet   what was found; a folder for each content, written once
    _current/run_date=2026-11-23.json          which content is current, its files, what it was made from: the switch
"""
