"""output: scored rows become Parquet files (`writer`), each with a done-record (`ledger`), and one Delta commit
shows a whole night at once (`table`).

Under a table's URI:

    _delta_log/                                what readers go by
    run_date=2026-11-23/SHARD-ATTEMPT.parquet  scored rows; invisible until committed
    _quarantine/                               a Delta table of the rows that could not be scored, and why
    _bertmill/ledger/...                       one done-record per shard
    _bertmill/layouts/...                      footers already read, so that finished files are not opened again
    _manifests/run_date=2026-11-23/RUN.json    what each publishing run did
"""
