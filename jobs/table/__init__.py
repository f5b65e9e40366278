"""`bertmill table ...`: look at a published table, compare nights, check them, keep them tidy."""
