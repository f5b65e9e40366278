"""export: a published night as plain files, for tools that read no Delta.

Under an export's URI:

    run_date=2026-11-23/CONTENT/part-00000-ATTEMPT.parquet   the rows; a folder for each content, written once
    _symlink_format_manifest/run_date=2026-11-23/manifest    the night's files, a URI a line: written last, the switch
    _export/identity.json                                    which table, format and columns this place is for
    _export/run_date=2026-11-23/CONTENT/00000.json           a receipt for each part

Who starts from the manifest reads one content whole. `source` says what a night holds and names the content by it,
`parts` writes it (a part with a receipt is not written again, by anybody), `night` switches, `remove` takes what was
replaced some time ago.
"""
