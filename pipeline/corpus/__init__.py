"""corpus: URIs become files, files become content-named shards, a shard becomes one Arrow table.

`listing` finds files, `reader` reads footers and rows, `shards` (pure) decides who is cut where, and
`stream` runs a worker over shards through Ray Data, one block each.
"""
