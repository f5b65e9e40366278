import pipeline  # noqa: F401  (before torch: it says how torch's threads wait)
