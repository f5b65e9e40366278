"""output: scored rows become Parquet files (`writer`), each with a done-record (`ledger`), and one Delta commit
shows a whole night at once (`table`). What is published can be looked at (`history`), compared (`compare`), checked
(`verify`), merged into larger files (`compact`) and rid of files that nobody needs any more (`vacuum`).
`export` writes a night as plain files elsewhere.

Under a table's URI:

    _delta_log/                                what readers go by
    run_date=2026-11-23/SHARD-ATTEMPT.parquet  scored rows; invisible until committed
    _quarantine/                               a Delta table of the rows that could not be scored, and why
    _current/                                  where nights hold what is new: which night holds each corpus file
    _bertmill/ledger/...                       one done-record per shard
    _bertmill/compacted/...                    which of the ledger's files a compacted one stands for
    _bertmill/forgotten/...                    files whose done-records a vacuum has dropped, until they go
    _bertmill/texts/...                        hashes of the texts that scored files are of, where results are reused
    _bertmill/layouts/...                      footers already read, so that finished files are not opened again
    _manifests/run_date=2026-11-23/RUN.json    what each publishing run did
"""
